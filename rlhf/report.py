"""The page of a run: curves, phases predicted beside measured, evaluations, samples, data, plan.

One file that needs nothing but itself: inline SVG, no script, no network. Whatever a model or a
data set says is escaped twice over: what a terminal or a reader's eye would obey is named
(`rlhf.escaping`), and HTML is text. A run that is not finished has a page too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from hwopt import HwoptError, document, read_json, read_text, show, show_bytes, table, write_text
from rlhf.console import answer_cell, duration, figure
from rlhf.curves import curves, phase_bars, phase_figures
from rlhf.escaping import visible
from rlhf.evaluated import result_tables
from rlhf.metrics import read_metrics, read_samples, series
from rlhf.runs import PLAN, STAGES, Run

PAGE = "report.html"
EVALUATION = "evaluation.json"
DATA = "data.json"
MOST_SAMPLES = 8
STYLE = """
h3{font-size:1em;margin:1em 0 .2em}.bars{width:100%;max-width:860px;font:12px system-ui,sans-serif}
table.texts td,table.texts th{white-space:pre-wrap;text-align:left;vertical-align:top;
max-width:420px;overflow-wrap:anywhere;border-bottom:1px solid #eee}
.columns>*{max-width:540px}
"""
Rows = Sequence[Mapping[str, Any]]


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write the page of a run, finished or not, and return its path.

    `output`: another place than `run/report.html`. Raises `RunError` when `run` is not a run.
    """
    run = Path(run)
    path = Path(output) if output is not None else run / PAGE
    write_text(path, report_page(Run(run)))
    return path


def report_page(run: Run) -> str:
    """The page as text."""
    rows, samples = read_metrics(run.path), read_samples(run.path)
    known = tuple(dict.fromkeys(row["stage"] for row in rows))
    stages = (*_planned(run), *(s for s in known if s not in _planned(run)))
    body = ["<h2>Stages</h2>", _stages_table(run, rows, stages)]
    if (held_out := _held_out(rows, stages)) is not None:
        body += ["<h2>Held-out rows, before and after each stage</h2>", held_out]
    if (evaluated := _json(run.path / EVALUATION)) is not None:
        body += ["<h2>Evaluation</h2>", evaluation_section(evaluated)]
    for stage in known:
        body.append(f"<h2>Stage {escape(visible(stage))}</h2>")
        body.append(f'<div class="columns">{curves(rows, stage)}</div>')
        body += _phases(rows, stage)
        body += _samples(samples, stage)
    if (data := _json(run.path / DATA)) is not None:
        body += ["<h2>Data</h2>", *_data(data)]
    body += ["<h2>Plan</h2>", f"<pre>{_text(read_text(run.path / PLAN))}</pre>"]
    written = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    body.append(f'<p class="note">Written {escape(written)} from {_text(str(run.path))}.</p>')
    return document(f"run {visible(run.path.resolve().name)}", body, STYLE)


def _text(text: str) -> str:
    return escape(visible(text))


def _planned(run: Run) -> tuple[str, ...]:
    """The plan's stages; none when the plan is of another version of its schema."""
    try:
        return run.titles
    except HwoptError:
        return ()


def _json(path: Path) -> Any:
    """A JSON file of the run; None when there is none, or it is broken."""
    try:
        return read_json(path) if path.is_file() else None
    except HwoptError:
        return None


def _stages_table(run: Run, rows: Rows, stages: Iterable[str]) -> str:
    cells = []
    for stage in stages:
        mine = [row for row in rows if row["stage"] == stage]
        folder = run.path / STAGES / stage
        finished = (folder / "finished.json").is_file()
        state = "finished" if finished else "under way" if mine else "not started"
        steps = str(max((row["step"] for row in mine), default=0)) if mine else "-"
        spent = sum(value for _, value in series(rows, stage, "seconds"))
        ago = f"{duration(time.time() - mine[-1]['time'])} ago" if mine else "-"
        bad = sum(
            isinstance(v, float) and not math.isfinite(v) for row in mine for v in row.values()
        )
        cells.append(
            [visible(stage), state, steps, duration(spent) if spent else "-", ago, str(bad or "")]
        )
    return table(["stage", "state", "steps", "training", "last line", "not finite"], cells)


def _held_out(rows: Rows, stages: Iterable[str]) -> str | None:
    """First and last value of each held-out figure."""
    cells = []
    for stage in stages:
        names = dict.fromkeys(
            name for row in rows if row["stage"] == stage for name in row
            if name.startswith("held_out/")
        )  # fmt: skip
        for name in names:
            found = series(rows, stage, name)
            (first, before), (last, after) = found[0], found[-1]
            change = f"{after - before:+.4g}" if last > first else "-"
            cells.append(
                [visible(f"{stage}: {name.removeprefix('held_out/')}"),
                 f"{figure(before)} (step {first})", f"{figure(after)} (step {last})", change]
            )  # fmt: skip
    return table(["", "before", "after", "change"], cells) if cells else None


def _phases(rows: Rows, stage: str) -> list[str]:
    figures = phase_figures(rows, stage)
    if not figures:
        return []
    header = ["phase", "seconds", "predicted", "measured / predicted", "memory", "predicted",
              "measured / predicted"]  # fmt: skip
    cells = []
    for name, found in figures.items():
        cells.append([visible(name)])
        for kind, told in (("seconds", _seconds), ("memory", show_bytes)):
            measured, predicted = found.get(kind), found.get(f"predicted_{kind}")
            cells[-1] += ["-" if value is None else told(value) for value in (measured, predicted)]
            ratio = measured / predicted if measured and predicted else None
            cells[-1].append("-" if ratio is None else f"{ratio:.2f}")
    note = (
        "Seconds: the median over steps. Memory: the largest of all steps; on a CPU of the whole "
        "process, libraries included."
    )
    return [
        "<h3>Phases of a step</h3>", phase_bars(figures, "seconds"),
        table(header, cells), "<h3>Memory of a process</h3>", phase_bars(figures, "memory"),
        f'<p class="note">{note}</p>',
    ]  # fmt: skip


def _seconds(value: float) -> str:
    return show(value, "s")


def _samples(samples: Rows, stage: str) -> list[str]:
    """Answers to the same prompts at the stage's first and last evaluation, side by side."""
    mine = [row for row in samples if row["stage"] == stage]
    steps = sorted({row["step"] for row in mine})
    if not steps:
        return []
    shown = [steps[0], steps[-1]] if len(steps) > 1 else steps
    by_prompt: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in mine:  # of a step that was looked at twice, the last
        if row["step"] in shown:
            by_prompt.setdefault(str(row.get("prompt", "")), {})[row["step"]] = row
    cells = [
        [visible(prompt), *(answer_cell(found[s]) if s in found else "" for s in shown)]
        for prompt, found in list(by_prompt.items())[:MOST_SAMPLES]
    ]
    return ["<h3>Answers</h3>", texts_table(["prompt", *(f"step {s}" for s in shown)], cells)]


def texts_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of long texts, wrapped; escaped here."""
    return table(header, rows).replace("<table>", '<table class="texts">', 1)


def evaluation_section(result: Mapping[str, Any]) -> str:
    """What `rlhf evaluate` found."""
    parts = []
    for title, header, cells in result_tables(result):
        made = texts_table(header, cells) if title == "Answers" else table(header, cells)
        parts.append(f"<h3>{_text(title)}</h3>{made}")
    notes = "".join(f"<li>{_text(str(note))}</li>" for note in result.get("notes", ()))
    return "".join(parts) + (f'<ul class="note">{notes}</ul>' if notes else "")


def _data(reports: Any) -> list[str]:
    """Of each stage and set: what was read, dropped, cut and kept."""
    header = ["stage: set", "rows", "to train on", "held out", "an epoch", "dropped", "cut",
              "duplicates", "answer tokens"]  # fmt: skip
    names = ("rows", "train", "held_out", "drawn", "dropped", "truncated", "duplicates",
             "answer_tokens")  # fmt: skip
    cells, dropped = [], []
    for stage, report in reports.items() if isinstance(reports, dict) else ():
        for one in report.get("sets", ()):
            source = visible(f"{stage}: {one.get('source', '')}", lines=False)
            if one.get("skipped"):
                cells.append([f"{source} (not used: {visible(str(one['skipped']))})"])
                continue
            counts = {**one, "dropped": sum(d["count"] for d in one.get("dropped", {}).values())}
            cells.append([source, *(f"{counts.get(name, 0):,}" for name in names)])
            for reason, found in one.get("dropped", {}).items():
                example = (found.get("examples") or [""])[0]
                dropped.append([source, visible(str(reason)), f"{found['count']:,}",
                                visible(str(example))])  # fmt: skip
    made = [table(header, cells)]
    if dropped:
        made += ["<h3>Dropped rows</h3>",
                 texts_table(["stage: set", "reason", "rows", "for example"], dropped)]  # fmt: skip
    return made
