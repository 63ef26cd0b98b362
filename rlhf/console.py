"""What a person at the terminal sees of a training run.

On a terminal one live line per stage (step, bar, time left, a sparkline of the main curve, a few
metrics) under the messages; elsewhere (a file, a job's log) a plain line every so many steps. Only
the process that is `active` prints. Text of models is escaped (`rlhf.escaping`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from rlhf.escaping import visible

if TYPE_CHECKING:
    import rich.console
    from rich.progress import Progress
    from rich.table import Table

MAIN_CURVE = ("reward", "accuracy", "loss", "actor/loss")
"""The first of these that a stage has is drawn as its sparkline."""
SHOWN = (
    "loss", "actor/loss", "reward", "accuracy", "margin", "kl", "entropy", "clip_fraction",
    "value_loss", "response_length", "eos_rate", "tokens_per_s", "mfu",
)  # fmt: skip
"""Metrics of the live line, as far as a stage has them and the line is wide enough."""
BLOCKS = "▁▂▃▄▅▆▇█"
SPARK = 16
LONGEST = 600
"""Characters of a prompt or answer that a table shows."""


class Console:
    """Shows the progress of the stages of a run.

    active: whether this process prints (rank 0). every: steps between lines where no terminal is.
    console: where to; None: standard error, which leaves standard output to results.
    """

    def __init__(
        self,
        *,
        active: bool = True,
        every: int = 10,
        console: rich.console.Console | None = None,
    ) -> None:
        self.active, self.every = active, max(1, every)
        self._console = console
        self._progress: Progress | None = None
        self._title, self._steps, self._start = "", 0, 0
        self._began = time.monotonic()
        self._history: dict[str, list[float]] = {}
        self._before: dict[str, Mapping[str, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def console(self) -> rich.console.Console:
        """Where it prints."""
        if self._console is None:
            from rich.console import Console as Rich

            self._console = Rich(stderr=True, highlight=False)
        return self._console

    def stage_started(self, title: str, steps: int, start: int = 0) -> None:
        """A stage of `steps` steps begins, or goes on after step `start`."""
        self._title, self._steps, self._start = title, steps, start
        self._began = time.monotonic()
        self._history, self._before = {}, {}
        if not self.active:
            return
        self.close()
        resumed = f", going on after step {start}" if start else ""
        self._print(f"stage {title}: {steps} steps{resumed}", style="bold")
        if self.console.is_terminal:
            self._progress = _live(self.console)
            self._progress.start()
            self._progress.add_task(title, total=steps, completed=start, spark="", metrics="")

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step` (counted from 1) is done."""
        if not self.active:
            return
        for name in MAIN_CURVE:
            if name in metrics:
                self._history.setdefault(name, []).append(metrics[name])
        if self._progress is not None:
            task = self._progress.tasks[0].id
            self._progress.update(
                task, completed=step, metrics=told(metrics, most=4), spark=self._spark()
            )
        elif step % self.every == 0 or step in (self._start + 1, self._steps):
            self._print(
                f"{self._title} {step}/{self._steps}  {told(metrics)}  {self._left(step)} left"
            )

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Figures on held-out rows."""
        if self.active:
            values = "  ".join(f"{name} {figure(value)}" for name, value in metrics.items())
            self._print(f"{self._title} held out at step {step}: {values}", style="cyan")

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Answers to held-out prompts; later ones of a stage stand beside its first ones."""
        if not self.active or not rows:
            return
        self.console.print(samples_table(rows, self._before, title=f"{self._title}: answers"))
        for row in rows:
            self._before.setdefault(str(row.get("prompt", "")), row)

    def notice(self, text: str) -> None:
        """Something that is done otherwise than asked, or that people should know."""
        if self.active:
            self._print(f"note: {text}", style="yellow")

    def stage_finished(self, metrics: Mapping[str, float] | None = None) -> None:
        """The stage is done; `metrics` sum it up."""
        if not self.active:
            return
        self.close()
        took = duration(time.monotonic() - self._began)
        told_ = f"  {told(metrics)}" if metrics else ""
        self._print(f"stage {self._title}: done in {took}{told_}", style="bold")

    def close(self) -> None:
        """Take the live line away; printing goes on to work."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _print(self, text: str, style: str | None = None) -> None:
        self.console.print(
            visible(text), style=style, markup=False, highlight=False, soft_wrap=True
        )

    def _left(self, step: int) -> str:
        done = step - self._start
        each = (time.monotonic() - self._began) / max(done, 1)
        return duration(each * (self._steps - step))

    def _spark(self) -> str:
        name = next((name for name in MAIN_CURVE if name in self._history), None)
        return f"{name} {sparkline(self._history[name])}" if name is not None else ""


def sparkline(values: Sequence[float], width: int = SPARK) -> str:
    """The curve as block characters: means of `width` parts; a gap where nothing is finite."""
    width = min(width, len(values))
    parts = [
        values[len(values) * i // width : len(values) * (i + 1) // width] for i in range(width)
    ]
    finite = [[v for v in part if math.isfinite(v)] for part in parts]
    means = [sum(part) / len(part) if part else math.nan for part in finite]
    known = [mean for mean in means if math.isfinite(mean)]
    if not known:
        return " " * width
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    return "".join(
        " " if math.isnan(mean) else BLOCKS[min(7, int((mean - low) / span * 8))] for mean in means
    )


def figure(value: float) -> str:
    """A number in few characters: 0.0312, 12.3, 45,120, 1.2e-05, nan."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3g}"
    return f"{value:.3g}"


def told(metrics: Mapping[str, float], most: int = 8) -> str:
    """The metrics that people watch, of those given."""
    names = [name for name in SHOWN if name in metrics] or sorted(metrics)
    return "  ".join(f"{name} {figure(metrics[name])}" for name in names[:most])


def duration(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def samples_table(
    rows: Sequence[Mapping[str, Any]],
    before: Mapping[str, Mapping[str, Any]],
    *,
    title: str,
    names: tuple[str, str] = ("before", "after"),
) -> Table:
    """Prompt and answer a row, beside the earlier answer to the same prompt where there is one."""
    from rich.table import Table
    from rich.text import Text

    earlier = any(str(row.get("prompt", "")) in before for row in rows)
    table = Table(title=Text(title), title_justify="left", show_lines=True)
    for column in ("prompt", *(names if earlier else ("answer",))):
        table.add_column(column, overflow="fold")
    for row in rows:
        prompt = str(row.get("prompt", ""))
        old = before.get(prompt)
        cells = [cut(prompt)]
        cells += [answer_cell(old) if old else ""] if earlier else []
        cells.append(answer_cell(row))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def answer_cell(row: Mapping[str, Any]) -> str:
    """An answer with its score under it."""
    score = row.get("score")
    below = f"\n(score {figure(score)})" if isinstance(score, int | float) else ""
    return cut(str(row.get("answer", ""))) + below


def cut(text: str) -> str:
    """Escaped, and no longer than a table can show."""
    shown = visible(text)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}… ({len(text):,} characters)"


def _live(console: rich.console.Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16), MofNCompleteColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[spark]}", style="cyan", markup=False),
        TextColumn("{task.fields[metrics]}", markup=False), console=console,
    )  # fmt: skip
