"""Learning curves and phase bars of a run as inline SVG.

Every metric of a stage is drawn, known or not: one chart per quantity, with its held-out figure and
its close relatives in the same axes. Long curves are drawn as means of equal parts; values that are
not finite leave a gap and are counted under the chart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from hwopt import Line, chart, show, show_bytes
from rlhf.metrics import PLACE, series

POINTS = 240
"""Of a drawn curve at most."""
COLOURS = ("#1f6fb4", "#d9730d", "#2e8b57", "#8a4fbe", "#b3282d", "#6b6b6b", "#159a9c",
           "#d0559a", "#a08a1f")  # fmt: skip
HELD_OUT = "held_out/"
APART = ("seconds", "memory", "predicted_seconds", "predicted_memory")
"""Metrics of phases: bars and a table instead of curves."""
TOGETHER = {
    "reward/shaped": "reward", "critic/loss": "critic loss", "value_loss": "critic loss",
    "actor/loss": "actor loss", "score/chosen": "score", "score/rejected": "score",
    "score/mean": "score", "value": "value and return", "return": "value and return",
    "clip_fraction": "clip fraction", "value_clip_fraction": "clip fraction",
}  # fmt: skip
"""Metrics that share a chart, by its title; others have their own."""
ORDER = (
    "loss", "perplexity", "accuracy", "margin", "score", "reward", "kl", "entropy",
    "response_length", "eos_rate", "actor loss", "critic loss", "clip fraction", "approx_kl",
    "ratio_max", "value and return", "calibration_error", "length_correlation", "gradient norm",
    "learning rate", "tokens_per_s", "mfu", "tokens_computed_over_needed",
)  # fmt: skip
UNITS = {
    "loss": "nats", "kl": "nats per response", "entropy": "nats per token", "approx_kl": "nats",
    "response_length": "tokens", "tokens_per_s": "tokens/s", "mfu": "share of the peak",
    "actor loss": "", "eos_rate": "share", "clip fraction": "share of tokens", "margin": "score",
}  # fmt: skip


def curves(rows: Sequence[Mapping[str, Any]], stage: str) -> str:
    """All charts of one stage."""
    charts: dict[str, list[str]] = {}
    for name in _names(rows, stage):
        charts.setdefault(_title(name), []).append(name)
    ranked = sorted(charts, key=lambda title: (_rank(title), title))
    return "".join(_chart(rows, stage, title, charts[title]) for title in ranked)


def _names(rows: Sequence[Mapping[str, Any]], stage: str) -> list[str]:
    names: dict[str, None] = {}
    for row in rows:
        if row["stage"] == stage:
            names.update(dict.fromkeys(row))
    return [n for n in names if n not in PLACE and n.split("/")[0] not in APART]


def _title(name: str) -> str:
    base = name.removeprefix(HELD_OUT)
    for ending in ("learning_rate", "gradient_norm"):
        if base.endswith(ending):
            return ending.replace("_", " ")
    return TOGETHER.get(base, base)


def _rank(title: str) -> int:
    return ORDER.index(title) if title in ORDER else len(ORDER)


def _chart(rows: Sequence[Mapping[str, Any]], stage: str, title: str, names: list[str]) -> str:
    lines, keys, missing = [], [], 0
    for colour, name in zip(_cycled(len(names)), names, strict=True):
        points = [(float(step), value) for step, value in series(rows, stage, name)]
        missing += sum(not math.isfinite(value) for _, value in points)
        dash = ";stroke-dasharray:6 3" if name.startswith(HELD_OUT) else ""
        style = f"stroke:{colour};stroke-width:1.6{dash}"
        lines += [Line(part, name, style) for part in _parts(points)]
        keys.append(f'<span class="key" style="--c:{colour}">{escape(name)}</span>')
    picture = chart("step", UNITS.get(title, "") or title, lines, told=lambda v: f"{v:.4g}")
    note = f"; {missing} values are not finite" if missing else ""
    return (
        f"<div><h3>{escape(title.replace('_', ' '))}</h3>{picture}"
        f'<div class="keys">{" ".join(keys)}{note}</div></div>'
    )


def _cycled(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _parts(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The curve cut where a value is not finite; a lone point becomes a short dash."""
    parts: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            parts[-1].append(point)
        elif parts[-1]:
            parts.append([])
    found = [thinned(part) for part in parts if part]
    return [_dash(part[0]) if len(part) == 1 else part for part in found]


def _dash(point: tuple[float, float]) -> list[tuple[float, float]]:
    return [(point[0] - 0.2, point[1]), (point[0] + 0.2, point[1])]


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """At most so many points: each the mean of an equal part of the curve."""
    if len(points) <= most:
        return list(points)
    found = []
    for i in range(most):
        part = points[len(points) * i // most : len(points) * (i + 1) // most]
        found.append(tuple(math.fsum(p[axis] for p in part) / len(part) for axis in (0, 1)))
    return [(x, y) for x, y in found]


# ---- phases -------------------------------------------------------------------------------------


def phase_figures(rows: Sequence[Mapping[str, Any]], stage: str) -> dict[str, dict[str, float]]:
    """Of each phase: seconds (median over steps), memory (largest), and both as predicted.

    The median leaves out what only the first steps pay (compilation, warm caches).
    """
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["stage"] != stage:
            continue
        for name, value in row.items():
            kind, _, phase = name.partition("/")
            if kind in APART and phase and math.isfinite(value):
                found.setdefault(phase, {}).setdefault(kind, []).append(value)
    return {
        phase: {
            kind: max(values) if "memory" in kind else sorted(values)[len(values) // 2]
            for kind, values in kinds.items()
        }
        for phase, kinds in found.items()
    }


def phase_bars(figures: Mapping[str, Mapping[str, float]], kind: str) -> str:
    """Measured and predicted `kind` ("seconds" or "memory") of all phases.

    Seconds follow one another and are stacked; of memory each phase has its own peak, side by side.
    """
    names = [name for name in figures if figures[name].get(kind)]
    if not names:
        return ""
    told = show if kind == "seconds" else (lambda value, _: show_bytes(value))
    colours = dict(zip(names, _cycled(len(names)), strict=True))
    if kind == "seconds":
        bars = [
            (label, [(name, figures[name].get(key, 0.0)) for name in names])
            for label, key in (("measured", kind), ("predicted", f"predicted_{kind}"))
        ]
    else:
        bars = [
            (f"{name} {label}", [(name, figures[name].get(key, 0.0))])
            for name in names
            for label, key in (("measured", kind), ("predicted", f"predicted_{kind}"))
        ]
    bars = [(label, parts) for label, parts in bars if any(value for _, value in parts)]
    longest = max(sum(value for _, value in parts) for _, parts in bars)
    lines = []
    for at, (label, parts) in enumerate(bars):
        x, y = 170.0, 4 + 24 * at
        lines.append(f'<text x="164" y="{y + 13}" text-anchor="end">{escape(label)}</text>')
        for name, value in parts:
            width = 560 * value / longest
            faded = "0.45" if label.endswith("predicted") else "0.9"
            lines.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="18" '
                f'fill="{colours[name]}" fill-opacity="{faded}">'
                f"<title>{escape(name)}: {told(value, 's')}</title></rect>"
            )
            x += width
        total = told(sum(value for _, value in parts), "s")
        lines.append(f'<text x="{x + 5:.1f}" y="{y + 13}">{total}</text>')
    keys = " ".join(
        f'<span class="key" style="--c:{colours[name]}">{escape(name)}</span>' for name in names
    )
    height = 24 * len(bars) + 6
    return f'<svg class="bars" viewBox="0 0 810 {height}" role="img">{"".join(lines)}</svg>' + (
        f'<div class="keys">{keys}</div>' if kind == "seconds" else ""
    )
