"""Pareto fronts: which designs no other beats, the knee among them, and how much they dominate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

KNEE_RULE = (
    "the design nearest to the ideal point, with every objective scaled to 0..1 between its best "
    "and worst value on the front (logarithms where all values are positive)"
)
"""How one design is chosen from a front; `knee` is the code."""


def oriented(values: Array, larger_is_better: tuple[bool, ...]) -> Array:
    """The same columns with less being better everywhere: (designs, objectives)."""
    return values * np.where(np.array(larger_is_better, dtype=bool), -1.0, 1.0)


def non_dominated(costs: Array) -> npt.NDArray[np.int64]:
    """Rows that no other row equals or beats in every column; of equal rows the first stays.

    Ascending row numbers. Lexicographic order puts every dominator before what it dominates, so
    each row is compared with the front so far only.
    """
    if not len(costs):
        return np.empty(0, dtype=np.int64)
    order = np.lexsort((np.arange(len(costs)), *costs.T[::-1]))
    front = np.empty_like(costs)
    kept: list[int] = []
    for index in order:
        row = costs[index]
        if not (front[: len(kept)] <= row).all(axis=1).any():
            front[len(kept)] = row
            kept.append(int(index))
    return np.sort(np.array(kept, dtype=np.int64))


def scaled(costs: Array) -> Array:
    """Each column mapped to 0..1 between its smallest and largest value (0 where they agree)."""
    columns = np.array(costs, dtype=np.float64)
    positive = (columns > 0).all(axis=0)
    columns[:, positive] = np.log(columns[:, positive])
    low, high = columns.min(axis=0), columns.max(axis=0)
    return np.asarray((columns - low) / np.where(high > low, high - low, 1.0))


def knee(costs: Array) -> int:
    """The row of a front that `KNEE_RULE` chooses; the first of equals."""
    return int(np.argmin((scaled(costs) ** 2).sum(axis=1)))


def hypervolume(costs: Array, reference: Array) -> float:
    """Volume dominated by a set of points and bounded by `reference` (less is better).

    Exact, by pymoo. Points outside the reference add nothing.
    """
    from pymoo.indicators.hv import HV

    inside = costs[(costs < reference).all(axis=1)]
    return float(HV(ref_point=reference)(inside)) if len(inside) else 0.0
