"""What a run records of itself: `metrics.jsonl`, `samples.jsonl`, TensorBoard, Weights & Biases.

    metrics.jsonl  {"stage": "ppo", "step": 3, "time": 1760000000.0, "reward": 0.71, "kl": 0.02}
    samples.jsonl  {"stage": "ppo", "step": 0, "time": ..., "prompt": "...", "answer": "..."}

One strict JSON object a line, unbuffered, so that a killed run keeps all but its last
line; a torn last line is no error. Numbers that JSON has no word for are the strings "NaN",
"Infinity" and "-Infinity", and read back as numbers: a diverged run shows as one.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, Self

from hwopt import inside, read_text, write_text
from rlhf.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

    from rlhf.algorithm import Loss, Reduce
    from rlhf.plan import Watch

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
TENSORBOARD = "tensorboard"
WANDB_ID = "wandb-id"
PLACE = ("stage", "step", "time")
"""Keys of every line; no metric may bear these names."""
_NOT_IN_JSON = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsWriter:
    """Writes the metrics and samples of a run; only the process with `active` writes anything.

    Opening a run that was killed first removes the torn end of its files.
    """

    def __init__(self, run: Path, watch: Watch, *, active: bool) -> None:
        self.run, self.watch, self.active = Path(run), watch, active
        self._boards: dict[str, SummaryWriter] = {}
        self._purge: dict[str, int] = {}
        self._wandb: Any = None
        if active:
            self.run.mkdir(parents=True, exist_ok=True)
            for name in (METRICS, SAMPLES):
                _cut_torn_line(self.run / name)
            if watch.wandb is not None:
                self._wandb = _start_wandb(self.run, watch.wandb)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of one step; a second line of the same step adds to the first."""
        if not self.active:
            return
        self._line(METRICS, stage, step, {name: float(value) for name, value in metrics.items()})
        if self.watch.tensorboard:
            with _writing(self.run / TENSORBOARD):
                board = self._board(stage)
                for name, value in metrics.items():
                    board.add_scalar(f"{stage}/{name}", float(value), step)
                board.flush()
        if self._wandb is not None:
            tagged = {f"{stage}/{name}": float(value) for name, value in metrics.items()}
            self._wandb.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._wandb.log({**tagged, f"{stage}/step": step})

    def sample(self, stage: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record answers of the model: prompt, answer, score, and whatever else a row has."""
        if not self.active:
            return
        for row in rows:
            self._line(SAMPLES, stage, step, row)
        if self.watch.tensorboard and rows:
            texts = [f"{row.get('prompt', '')}{row.get('answer', '')}" for row in rows]
            # four spaces: a code block, so that the answers' own markup stays text
            blocks = [indent(text, "    ", lambda _: True) for text in texts]
            with _writing(self.run / TENSORBOARD):
                self._board(stage).add_text(f"{stage}/samples", "\n\n-\n\n".join(blocks), step)

    def rewind(self, stage: str, step: int) -> None:
        """Forget what was recorded after a checkpoint: call on resume, before writing.

        Drops the lines of `stage` after `step` and every line of stages that began later (atomic
        rewrite); TensorBoard is told to purge the same.
        """
        if not self.active:
            return
        later: list[str] = []
        for name in (METRICS, SAMPLES):
            lines = _read_lines(self.run / name)
            order = list(dict.fromkeys(line["stage"] for line in lines))
            dropped = order[order.index(stage) + 1 :] if stage in order else []
            later += [title for title in dropped if title not in later]
            kept = [
                line
                for line in lines
                if line["stage"] not in later and (line["stage"] != stage or line["step"] <= step)
            ]
            if len(kept) < len(lines):
                write_text(self.run / name, "".join(_dump(line) for line in kept))
        for title in (stage, *later):
            if title in self._boards:
                self._boards.pop(title).close()
        self._purge[stage] = step + 1
        for title in later:
            shutil.rmtree(inside(self.run, f"{TENSORBOARD}/{title}"), ignore_errors=True)

    def close(self) -> None:
        """Flush and close everything."""
        for board in self._boards.values():
            board.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._boards.clear()
        self._wandb = None

    def _line(self, name: str, stage: str, step: int, values: Mapping[str, Any]) -> None:
        if taken := set(PLACE) & set(values):
            raise ValueError(f"a metric may not be called {', '.join(sorted(taken))}")
        path = self.run / name
        line = _dump({"stage": stage, "step": step, "time": time.time(), **values})
        # opened anew each time: a line is on its way to the disk when this returns
        with _writing(path), path.open("ab", buffering=0) as file:
            if file.write(line.encode()) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _board(self, stage: str) -> SummaryWriter:
        """One folder a stage: a purge forgets later steps of all tags of a folder."""
        if stage not in self._boards:
            from torch.utils.tensorboard import SummaryWriter

            folder = inside(self.run, f"{TENSORBOARD}/{stage}")
            self._boards[stage] = SummaryWriter(str(folder), purge_step=self._purge.get(stage))
        return self._boards[stage]


class Aggregate:
    """Sums and maxima of the losses of many micro-batches.

    The mean of a metric is the sum of its sums over the sum of its counts, over all micro-batches
    and processes: never a mean of means, which weighs a short micro-batch like a long one.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}

    def add(self, loss: Loss) -> None:
        """Take in one micro-batch; nothing leaves its device."""
        import torch

        for name, values in loss.sums.items():
            pair = torch.stack([torch.as_tensor(v).detach().double().reshape(()) for v in values])
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair
        for name, value in loss.largest.items():
            value = value.detach().double().reshape(())
            known = self._largest.get(name, value)
            self._largest[name] = torch.maximum(known, value)

    def result(
        self, reduce: Reduce | None = None, largest: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, float]:
        """Means and maxima by name, over all processes when these give sum and maximum over them.

        Every process must have added the same metrics. One exchange for all sums and one for all
        maxima. A metric that counted nothing has no mean and is left out.
        """
        import torch

        metrics: dict[str, float] = {}
        if self._sums:
            names = sorted(self._sums)
            pairs = torch.stack([self._sums[name] for name in names])
            pairs = reduce(pairs) if reduce is not None else pairs
            for name, (total, count) in zip(names, pairs.tolist(), strict=True):
                if count != 0:
                    metrics[name] = total / count
        if self._largest:
            names = sorted(self._largest)
            values = torch.stack([self._largest[name] for name in names])
            values = largest(values) if largest is not None else values
            metrics.update(zip(names, values.tolist(), strict=True))
        return metrics


@dataclass(frozen=True)
class Throughput:
    """Rates of a whole job.

    processes: of the job. peak_flops_per_s: of one process's device at the dtype in use; None:
    unknown, and no utilisation is told.
    """

    processes: int
    peak_flops_per_s: float | None = None

    def metrics(
        self, tokens: float, seconds: float, flops: float | None = None
    ) -> dict[str, float]:
        """`tokens_per_s` and `mfu` of one iteration.

        tokens, flops: of *all* processes together, counted, not one process's times their number
        (rows differ in length). seconds: on the wall. Model FLOPs utilisation is
        flops / (seconds x peak x processes) (Chowdhery et al., PaLM, arXiv 2204.02311, appendix B),
        with the FLOPs of every pass of the iteration, scoring and generation included.
        """
        if seconds <= 0:
            return {}
        found = {"tokens_per_s": tokens / seconds}
        if flops is not None and self.peak_flops_per_s:
            found["mfu"] = flops / (seconds * self.peak_flops_per_s * self.processes)
        return found


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` in order; empty when there are none yet."""
    return _read_lines(Path(run) / METRICS)


def read_samples(run: Path) -> list[dict[str, Any]]:
    """The lines of `samples.jsonl` in order; empty when there are none yet."""
    return _read_lines(Path(run) / SAMPLES)


def series(rows: Iterable[Mapping[str, Any]], stage: str, name: str) -> list[tuple[int, float]]:
    """(step, value) of one metric of one stage by step; of a step written twice, the last."""
    found = {row["step"]: row[name] for row in rows if row["stage"] == stage and name in row}
    return sorted(found.items())


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A full disk or a lost folder as one clear error."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write: {error.strerror or error}", where=str(path),
            fix="make room there, then go on with `rlhf train --resume`",
        ) from error  # fmt: skip


def _dump(line: Mapping[str, Any]) -> str:
    return json.dumps(_strict(line), allow_nan=False, ensure_ascii=True) + "\n"


def _strict(value: Any) -> Any:
    """The same without numbers that JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Raises `RunError` with file and line for a broken line that is not the last."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, text in enumerate(file, 1):
            if text.endswith("\n"):  # else torn while it was written
                rows.append(_parse(text, f"{path}:{number}"))
    if path.name == METRICS:
        rows = [{k: _number(k, v) for k, v in row.items()} for row in rows]
    return rows


def _number(key: str, value: Any) -> Any:
    return _NOT_IN_JSON.get(value, value) if key not in PLACE and isinstance(value, str) else value


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(
            f"broken line: {error.msg}", where=where, value=text[:80],
            fix="remove the line, or resume from a checkpoint before it",
        ) from error  # fmt: skip
    if not (isinstance(row, dict) and isinstance(row.get("stage"), str)
            and isinstance(row.get("step"), int)):  # fmt: skip
        raise RunError("a line without stage and step", where=where, value=text[:80])
    return row


def _cut_torn_line(path: Path) -> None:
    """Remove what follows the last newline, so that the next line starts on its own."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, 2)
        at = end
        while at > 0:
            start = max(0, at - 65536)
            file.seek(start)
            newline = file.read(at - start).rfind(b"\n")
            if newline >= 0:
                at = start + newline + 1
                break
            at = start
        if at < end:
            file.truncate(at)


def _start_wandb(run: Path, project: str) -> Any:
    """A W&B run that a resumed training continues: its id is kept in the run folder."""
    try:
        wandb = import_module("wandb")
    except ImportError as error:
        raise RunError(
            "the wandb package is not installed", where="plan.watch.wandb", value=project,
            fix="pip install 'hwopt[wandb]', or leave watch.wandb out of the plan",
        ) from error  # fmt: skip
    path = run / WANDB_ID
    if not path.exists():
        write_text(path, secrets.token_hex(4) + "\n")
    name = run.resolve().name
    return wandb.init(
        project=project, name=name, id=read_text(path).strip(), resume="allow", dir=str(run)
    )
