"""The roofline of one model on one accelerator: which tasks compute, which wait for memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwopt.hardware.accelerator import Accelerator
from hwopt.quantities import show
from hwopt.report.svg import Dot, Line, chart

COLOURS = ("#1f6fb4", "#d1792b", "#3a923a", "#8a5bb0", "#b04a4a", "#666666")


def roofline(rows: Sequence[dict[str, Any]], machine: Accelerator) -> str:
    """MACs per second over MACs per byte of the outermost memory, as SVG.

    `rows` are the rows of `Cost.to_json`; tasks without MACs are left out. The roof is the lower of
    lanes x clock and bandwidth x intensity. A dot's area grows with its share of the time.
    """
    tasks = [row for row in rows if row["macs"] and row["seconds"] and row["outer_bytes"]]
    if not tasks:
        return "<p>no matrix work</p>"
    total = sum(row["seconds"] for row in rows)
    bounds = list(dict.fromkeys(row["bound"] for row in tasks))
    colour = {bound: COLOURS[i % len(COLOURS)] for i, bound in enumerate(bounds)}
    dots = [
        Dot(
            row["macs"] / row["outer_bytes"], row["macs"] / row["seconds"],
            f"{row['name']} ({row['kind']}) x {row['count']}: {show(row['seconds'], 's')}, "
            f"bound by {row['bound']}",
            3 + 14 * (row["seconds"] / total) ** 0.5, colour[row["bound"]],
        )
        for row in tasks
    ]  # fmt: skip
    peak = machine.peak_macs_per_s
    rate = outer_bytes_per_s(machine)
    lowest = min(dot.x for dot in dots) / 2
    highest = max(*(dot.x for dot in dots), peak / rate if rate else 0.0) * 2
    roof = [(lowest, peak), (highest, peak)]
    if rate:
        knee = peak / rate
        start = min(lowest, knee / 2)
        roof = [(start, start * rate), (knee, peak), (max(highest, knee * 2), peak)]
    legend = " ".join(f'<span class="key" style="--c:{colour[b]}">{b}</span>' for b in bounds)
    line = Line(roof, "roof", "stroke:#333;stroke-width:1.6")
    picture = chart(
        "MACs per byte of the outermost memory", "MACs per second", [line], dots,
        x_log=True, y_log=True,
    )  # fmt: skip
    return f'{picture}<p class="keys">bound by: {legend}</p>'


def outer_bytes_per_s(machine: Accelerator) -> float:
    """The widest port of the outermost memory; 0 when it is not limited."""
    memory = machine.memories[0]
    rates = (memory.bytes_per_s, memory.read_bytes_per_s, memory.write_bytes_per_s)
    return max((rate for rate in rates if rate is not None), default=0.0)
