"""A bar chart of elasticities: which parameter moves latency, energy and area, and how much."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwopt.cost.sensitivity import METRICS, Elasticity


def plot(rows: Sequence[Elasticity], path: Path, title: str = "") -> None:
    """Write the chart (format by suffix: png, svg, pdf)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 1.2 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(METRICS)
    for offset, metric in enumerate(METRICS):
        positions = [index + (offset - 1) * height for index in range(len(rows))]
        axes.barh(positions, [row.elasticity[offset] for row in rows], height, label=metric)
    axes.set_yticks(range(len(rows)), [f"{row.parameter} = {row.value}" for row in rows])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("elasticity (d ln metric / d ln parameter)")
    axes.set_title(title)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
