"""What a search loop needs of a problem: knob sizes, columns, and the prices of designs.

`CoDesign` (in `codesign`) is the evaluator of hardware and models; tests and benchmarks give
others. An evaluator is a pure function of the codes: the same design costs the same in any batch,
process and order, which is what makes runs repeatable and distributable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hwopt.dse.space import Codes, Value

if TYPE_CHECKING:
    from hwopt.hardware.accelerator import Accelerator

Array = npt.NDArray[np.float64]
SMALLEST = float(np.finfo(np.float64).tiny)
"""Physical values below it count as it, so that logarithms are finite."""


@dataclass(frozen=True, slots=True)
class Goal:
    """An objective of a search: name, unit, and which way is better."""

    name: str
    unit: str = ""
    larger_is_better: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Prices of a batch. `objectives` (designs, goals) as people read them, infinite where a design
    does not run; `violations` (designs, constraints), at most 0 where one holds; `details`
    (designs, detail columns).
    """

    objectives: Array
    violations: Array
    details: Array

    @property
    def feasible(self) -> npt.NDArray[np.bool_]:
        """Designs that run and hold every constraint: (designs,)."""
        runs = np.isfinite(self.objectives).all(axis=1)
        return np.asarray(runs & (self.violations <= 0).all(axis=1))


class Evaluator(ABC):
    """Prices designs given as integer codes."""

    counts: npt.NDArray[np.int64]
    goals: tuple[Goal, ...]
    details: tuple[str, ...] = ()

    @abstractmethod
    def evaluate(self, codes: Codes) -> Evaluation:
        """Prices of designs by row: (designs, knobs) to an `Evaluation` of as many rows."""

    def costs(
        self, knobs: Mapping[str, Mapping[str, Value]], machine: Accelerator
    ) -> list[dict[str, Any]]:
        """Every model on one design, operator by operator (`Cost.to_json` and "model")."""
        del knobs, machine
        return []


def for_optimizer(evaluation: Evaluation, goals: tuple[Goal, ...]) -> tuple[Array, Array]:
    """Objectives to minimise and violations, all finite.

    Columns with a physical unit (all positive) enter as logarithms: which design beats which is the
    same, and crowding then measures ratios (1 ms is as far from 2 ms as 1 s from 2 s). A design
    that does not run violates a constraint of its own by more than any other can.
    """
    values = evaluation.objectives.copy()
    runs: npt.NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=1))
    values[~runs] = 1.0
    for column, goal in enumerate(goals):
        if goal.unit:
            values[:, column] = np.log(np.maximum(values[:, column], SMALLEST))
        if goal.larger_is_better:
            values[:, column] *= -1.0
    violations = np.where(np.isfinite(evaluation.violations), evaluation.violations, 0.0)
    violations = np.where(runs[:, None], violations, 0.0)
    return values, np.column_stack([np.where(runs, -1.0, 1e6), violations])
