"""The picture of a Pareto front, and what `hwopt report` prints and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hwopt.dse.study import Study, reports
from hwopt.dse.text import comparison_text, front_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["comparison_text", "front_text", "plot_front", "write_report"]

PICTURE = "pareto.png"
SHOWN_UNITS = {"s": ("ms", 1e3), "J": ("mJ", 1e3), "m2": ("mm²", 1e6), "J s": ("mJ ms", 1e6)}
"""Unit and factor on axes, by SI unit; others as they are."""


def write_report(study: Study) -> None:
    """Write every registered report of a study again."""
    for name in reports:
        reports[name](study)


@reports.register(PICTURE)
def plot_front(study: Study) -> None:
    """`pareto.png`: the first objective against each other one, coloured by the last.

    Grey: designs priced that hold every constraint. Coloured: the Pareto set (a point may look
    beaten in one panel; it is better in another). Star: the chosen design.
    """
    from matplotlib.figure import Figure

    names = [goal.name for goal in study.goals]
    others = list(range(1, len(names))) or [0]
    figure = Figure(figsize=(1.2 + 4.3 * len(others), 4.2), layout="constrained")
    axes = figure.subplots(1, len(others), squeeze=False)[0]
    everything = study.objectives[study.feasible]
    front = np.array([[design.values[name] for name in names] for design in study.front()])
    chosen = [study.chosen.values[name] for name in names]
    colour = len(names) - 1 if len(names) > 2 else 0
    points: Any = None
    for panel, other in zip(axes, others, strict=True):
        x, y, c = (_shown(study, i) for i in (0, other, colour))
        panel.scatter(everything[:, 0] * x[1], everything[:, other] * y[1], s=4, color="0.85",
                      linewidths=0, rasterized=True)  # fmt: skip
        points = panel.scatter(front[:, 0] * x[1], front[:, other] * y[1], s=14,
                               c=front[:, colour] * c[1], cmap="viridis")  # fmt: skip
        panel.plot(chosen[0] * x[1], chosen[other] * y[1], marker="*", markersize=15, color="red",
                   markeredgecolor="white", linestyle="none", label="chosen")  # fmt: skip
        _label(panel, study, 0, other)
    axes[0].legend(frameon=False)
    figure.colorbar(points, ax=list(axes), label=_shown(study, colour)[0])
    figure.suptitle(
        f"{study.name}: {len(front)} Pareto-optimal of {len(study.history.codes):,} designs priced"
    )
    figure.savefig(study.path / PICTURE, dpi=150, metadata={"Software": None})


def _shown(study: Study, index: int) -> tuple[str, float]:
    """Axis label and factor of an objective."""
    goal = study.goals[index]
    unit, factor = SHOWN_UNITS.get(goal.unit, (goal.unit, 1.0))
    return (f"{goal.name} ({unit})" if unit else goal.name), factor


def _label(panel: Axes, study: Study, x: int, y: int) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.set_xlabel(_shown(study, x)[0])
    panel.set_ylabel(_shown(study, y)[0])
    if study.goals[x].unit:
        panel.set_xscale("log")
    if study.goals[y].unit:
        panel.set_yscale("log")
    for axis, goal in ((panel.xaxis, study.goals[x]), (panel.yaxis, study.goals[y])):
        if goal.unit:
            axis.set_major_locator(LogLocator(10, (1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
    panel.grid(alpha=0.25, which="both", linewidth=0.5)
