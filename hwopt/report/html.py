"""Pages that need nothing but themselves: the report of a study, and of one cost.

One file each, no network: inline SVG, a small script for the interactive front, the data as JSON.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwopt.dse import front as pareto
from hwopt.dse.constraints import show_value
from hwopt.dse.objectives import objectives
from hwopt.dse.quality import quality_source
from hwopt.dse.study import CHOSEN, Design, Study, reports
from hwopt.dse.text import cells_of, spread
from hwopt.files import write_text
from hwopt.hardware.accelerator import Accelerator
from hwopt.quantities import show, show_area
from hwopt.report.page import SCRIPT, document, row_of, table
from hwopt.report.pareto import SHOWN_UNITS
from hwopt.report.rooflines import roofline
from hwopt.report.svg import Line, chart

if TYPE_CHECKING:
    from hwopt.cost.cost import Cost

PAGE = "report.html"
MOST_POINTS = 3000
"""Designs of a front that the interactive picture holds at most (evenly chosen of larger ones)."""
MOST_TASKS = 30
STEPS = 30
"""Points of the convergence curve."""


@reports.register(PAGE)
def write_page(study: Study) -> None:
    """`report.html` of a finished study."""
    write_text(study.path / PAGE, study_page(study))


def study_page(study: Study) -> str:
    """The page as text."""
    chosen = study.chosen
    machine = study.accelerator("chosen").resolved()
    priced, feasible = len(study.history.codes), int(study.feasible.sum())
    better = ", ".join(
        f"{goal.name} ({'more' if goal.larger_is_better else 'less'} is better)"
        for goal in study.goals
    )
    summary = (
        f"Objectives: {better}. {len(study.front())} designs in the Pareto set; {priced:,} of "
        f"{study.file.size:,} priced with {study.file.search.optimizer}, {feasible:,} hold every "
        f"constraint. Constraints: {', '.join(study.file.constraints) or 'none'}. Models are "
        f"joined by {study.file.aggregate}."
    )
    body = [
        f"<p>{escape(summary)}</p>", "<h2>Pareto set</h2>", _interactive(study),
        "<h2>Chosen design</h2>",
        f'<p class="note">Number {chosen.number}: {escape(pareto.KNEE_RULE)}.</p>',
        _chosen(study, chosen, machine), "<h2>Designs</h2>", _front_table(study),
        "<h2>Convergence</h2>", _convergence(study),
    ]  # fmt: skip
    for cost in study.model_costs():
        body += [f"<h2>{escape(cost['model'])} on the chosen design</h2>",
                 _cost_section(cost, machine)]  # fmt: skip
    return document(study.name, body)


def write_cost_page(cost: Cost, path: str | Path) -> None:
    """One model on one accelerator: totals, roofline, operators."""
    data = cost.to_json()
    body = [_cost_section(data, cost.accelerator), "<h2>Accelerator</h2>",
            _machine(cost.accelerator)]  # fmt: skip
    write_text(path, document(f"{cost.name} on {cost.accelerator.name}", body))


def _interactive(study: Study) -> str:
    knobs = study.file.knobs
    goals = []
    for goal in study.goals:
        unit, factor = SHOWN_UNITS.get(goal.unit, (goal.unit, 1.0))
        goals.append({"name": goal.name, "unit": unit, "factor": factor, "log": bool(goal.unit)})
    rows = [
        {
            "n": design.number,
            "v": [float(f"{design.values[goal.name]:.6g}") for goal in study.goals],
            "k": [design.knobs[knob.owner][knob.name] for knob in knobs],
        }
        for design in spread(study.front(), MOST_POINTS, study.chosen)
    ]
    data = {
        "goals": goals, "knobs": [knob.label for knob in knobs], "rows": rows,
        "chosen": study.chosen.number,
    }  # fmt: skip
    # "</" would end the script element early
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return (
        '<p>x <select id="x"></select> y <select id="y"></select> colour <select id="c"></select>'
        ' <span class="note">ringed: the chosen design; point at a dot for its knobs</span></p>'
        '<svg id="front" class="chart" style="max-width:860px" viewBox="0 0 720 420"></svg>'
        f'<p id="tip"></p><script type="application/json" id="data">{text}</script>'
        f"<script>{SCRIPT}</script>"
    )


def _chosen(study: Study, chosen: Design, machine: Accelerator) -> str:
    rows = [[goal.name, show_value(objectives[goal.name], chosen.values[goal.name])]
            for goal in study.goals]  # fmt: skip
    rows += [
        [f"{owner}.{name}", str(value)]
        for owner, values in chosen.knobs.items() for name, value in values.items()
    ]  # fmt: skip
    models, notes = [], []
    for model in study.file.models:
        detail = {
            name: chosen.details.get(f"{model.label}.{name}", 0.0)
            for name in ("seconds", "joules", "parameters", "quality", "extrapolated")
        }
        quality = f"{detail['quality']:.4f}" if model.quality else "-"
        if detail["extrapolated"]:
            quality += " (extrapolated)"
        models.append(
            [
                model.label, model.model, show(detail["seconds"], "s"),
                show(detail["joules"], "J"), f"{detail['parameters']:,.0f}", quality,
            ]
        )  # fmt: skip
        if (source := quality_source(model)) is not None:
            notes.append(f"Quality of {model.label}: {source.note()}")
    return (
        '<div class="columns"><div>' + table(["", "value"], rows) + "</div><div>"
        + table(["", "model", "latency", "energy", "parameters", "quality"], models)
        + "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
        + f'<p class="note">The accelerator is in <code>{CHOSEN}</code>.</p>' + _machine(machine)
        + "</div></div>"
    )  # fmt: skip


def _machine(machine: Accelerator) -> str:
    from hwopt.files import dump_yaml
    from hwopt.hardware.library import dump

    text = escape(dump_yaml(dump(machine)))
    return f"<details><summary>{escape(machine.name)}</summary><pre>{text}</pre></details>"


def _front_table(study: Study) -> str:
    knobs = study.file.knobs
    header = ["#", *(goal.name for goal in study.goals), *(knob.label for knob in knobs)]
    lines = []
    shown = spread(study.front(), 200, study.chosen)
    for design in shown:
        row = cells_of(study, design)
        mark = ' class="chosen"' if design.number == study.chosen.number else ""
        lines.append(f'<tr id="d{design.number}"{mark}>{row_of(row, "td")}</tr>')
    note = "" if len(shown) == len(study.front()) else (
        f'<p class="note">{len(shown)} of {len(study.front())}; all are in study.json.</p>'
    )  # fmt: skip
    return (
        f'<div class="tall"><table><tr>{row_of(header, "th")}</tr>{"".join(lines)}</table></div>'
        + note
    )


def _convergence(study: Study) -> str:
    """Hypervolume of the best designs so far, against the number priced."""
    rows = np.flatnonzero(study.feasible)
    if len(rows) < 2:
        return "<p>too few feasible designs</p>"
    scaled = pareto.scaled(study.costs[rows])
    front = scaled[pareto.non_dominated(scaled)]
    worst = front.max(axis=0)
    reference = worst + 0.1 * np.where(worst > front.min(axis=0), worst - front.min(axis=0), 1.0)
    total = pareto.hypervolume(front, reference) or 1.0
    points = []
    best, done = scaled[:0], 0
    for step in range(1, STEPS + 1):
        priced = round(len(study.history.codes) * step / STEPS)
        best = np.concatenate([best, scaled[(rows >= done) & (rows < priced)]])
        best, done = best[pareto.non_dominated(best)], priced
        points.append((float(priced), pareto.hypervolume(best, reference) / total))
    return chart("designs priced", "hypervolume, share of the final", [Line(points)]) + (
        '<p class="note">Volume of objective space (each scaled as for the choice) that the best '
        "designs so far dominate, up to a tenth beyond the worst of the final front.</p>"
    )


def _cost_section(cost: dict[str, Any], machine: Accelerator) -> str:
    rows = sorted(cost["rows"], key=lambda row: -row["seconds"])
    total = cost["seconds"] or 1.0
    header = ["operator", "kind", "count", "latency", "share", "energy", "MACs", "lanes used",
              "outer bytes", "bound", "how"]  # fmt: skip
    cells = [
        [row["name"], row["kind"], str(row["count"]), show(row["seconds"], "s"),
         f"{row['seconds'] / total:.1%}", show(row["joules"], "J"),
         show(row["macs"], "") if row["macs"] else "-",
         f"{row['utilisation']:.0%}" if row["macs"] else "-", show(row["outer_bytes"], "B"),
         row["bound"], row["how"]]
        for row in rows[:MOST_TASKS]
    ]  # fmt: skip
    rest = sum(row["seconds"] for row in rows[MOST_TASKS:])
    more = f'<p class="note">and {len(rows) - MOST_TASKS} more, {show(rest, "s")} together</p>'
    bound = " A lower bound: the graph has opaque operators." if cost["is_bound"] else ""
    summary = (
        f"{show(cost['seconds'], 's')}, {show(cost['joules'], 'J')}, "
        f"{show_area(cost['area_m2'])}, {show(cost['macs'], 'MAC')}, "
        f"{cost['utilisation']:.1%} of the lanes used, mappings for {cost['objective']}.{bound}"
    )
    return (
        f"<p>{escape(summary)}</p>" + roofline(cost["rows"], machine) + table(header, cells)
        + (more if len(rows) > MOST_TASKS else "")
    )  # fmt: skip
