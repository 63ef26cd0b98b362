"""Elasticity of latency, energy and area to each parameter of a machine and of a model.

An elasticity is `d ln(metric) / d ln(parameter)`, measured between half and twice the value:
`ln(f(2x) / f(x/2)) / ln 4` (only one side where the other does not exist or does not fit). -1 on
latency means: twice the parameter, half the time; 0 means it does not matter. Every point is a
whole evaluation: the program is mapped anew. This is the analysis of arXiv 1903.07676, on the
general model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from hwopt.cost.cost import Cost, evaluate
from hwopt.cost.parameters import Parameter, parameters, whole
from hwopt.errors import HwoptError, InfeasibleError
from hwopt.hardware.accelerator import ROLES, Accelerator, OperandRole
from hwopt.hardware.table import COLUMNS, hardware_row, skeleton_key
from hwopt.ir.graph import Graph
from hwopt.ir.op import Nest
from hwopt.ir.program import Program
from hwopt.ir.tensor import DTYPE_BITS

METRICS = ("latency", "energy", "area")
FACTORS = (0.5, 2.0)
Metrics: TypeAlias = tuple[float, float, float]
Model: TypeAlias = Mapping[str, tuple[int, Callable[[int], Program]]]
"""Model dimensions: per name its value, and the program at another value (it may raise)."""
Progress: TypeAlias = Callable[[int, int, str], None]
"""Told before each parameter: how many are done, how many there are, its name."""


@dataclass(frozen=True)
class Elasticity:
    """One parameter: its dotted name, its value as text, and an elasticity per `METRICS`.

    `factors`: the multiples of the value between which it was measured. Not a number where nothing
    but the value itself was possible.
    """

    parameter: str
    value: str
    elasticity: Metrics
    factors: tuple[float, float] = FACTORS

    @property
    def is_known(self) -> bool:
        """Whether there was a second point."""
        return not math.isnan(self.elasticity[0])

    def shown(self) -> list[str]:
        """The three numbers as text."""
        if not self.is_known:
            return ["-"] * len(METRICS)
        return ["0" if abs(e) < 0.005 else f"{e:+.2f}" for e in self.elasticity]

    @property
    def note(self) -> str:
        """What is unusual about the measurement, in a few words."""
        low, high = self.factors
        if not self.is_known:
            return "no other value fits"
        return "" if self.factors == FACTORS else f"measured from x{low:.3g} to x{high:.3g} of it"

    def to_json(self) -> dict[str, Any]:
        """Flat, for `hwopt sensitivity --json`; null where there is no number."""
        known = zip(METRICS, self.elasticity, strict=True)
        metrics = {name: value if self.is_known else None for name, value in known}
        return {
            "parameter": self.parameter, "value": self.value, **metrics,
            "between": list(self.factors),
        }  # fmt: skip


def elasticities(
    program: Program,
    accelerator: Accelerator,
    model: Model | None = None,
    progress: Progress | None = None,
) -> list[Elasticity]:
    """One row per parameter, those that matter most to latency (then energy, area) first.

    A model dimension that changes nothing about the program has no row. Raises `DoesNotFitError`
    where the program itself does not fit.
    """
    base = _Base(program, accelerator)
    jobs: list[tuple[str, Callable[[], Elasticity | None]]] = [
        (parameter.name, partial(base.hardware, parameter))
        for parameter in parameters(accelerator, widths_of(program.graph))
    ]
    jobs += [
        (f"model.{name}", partial(base.model, name, size, build))
        for name, (size, build) in (model or {}).items()
    ]
    rows = []
    for number, (name, job) in enumerate(jobs):
        if progress is not None:
            progress(number, len(jobs), name)
        if (row := job()) is not None:
            rows.append(row)
    return sorted(rows, key=_importance)


def _importance(row: Elasticity) -> tuple[float, ...]:
    """Latency first, then energy, then area; to the two digits that are shown."""
    return tuple(-round(abs(e), 2) for e in row.elasticity) if row.is_known else (1.0,)


class _Base:
    """The program on the machine as they are, beside which everything is measured."""

    def __init__(self, program: Program, accelerator: Accelerator) -> None:
        self._program = program
        self._accelerator = accelerator
        self._cost = evaluate(program, accelerator)
        self._key = _priced(accelerator)

    def hardware(self, parameter: Parameter) -> Elasticity:
        """One number of the machine at half and twice its value."""
        points: dict[float, Metrics | None] = {1.0: _metrics(self._cost)}
        for factor in FACTORS:
            machine = parameter.scaled(factor)
            points[factor] = None if machine is None else self._on(machine)
        return _elasticity(parameter.name, parameter.value, points)

    def model(self, name: str, size: int, build: Callable[[int], Program]) -> Elasticity | None:
        """One dimension of the model likewise; None where the program stays as it is."""
        points: dict[float, Metrics | None] = {1.0: _metrics(self._cost)}
        same = 0
        for factor in FACTORS:
            changed = whole(size * factor)
            if changed == size:
                continue
            try:
                program = build(changed)
                same += program.graph.digest == self._program.graph.digest
                points[changed / size] = _metrics(evaluate(program, self._accelerator))
            except HwoptError:  # no such model, or it does not fit
                points[changed / size] = None
        if same:
            return None
        return _elasticity(f"model.{name}", str(size), points)

    def _on(self, machine: Accelerator) -> Metrics | None:
        """The program on a changed machine.

        Where only area and leakage differ, no mapping changes: among equally fast ones leakage
        takes the same energy.
        """
        key = _priced(machine)
        if key[0] == self._key[0] and np.array_equal(key[1], self._key[1]):
            leakage = key[2] - self._key[2]
            joules = self._cost.joules + leakage * self._cost.seconds
            return self._cost.seconds, joules, machine.resolved().area_m2
        try:
            return _metrics(evaluate(self._program, machine))
        except InfeasibleError:
            return None


def _priced(machine: Accelerator) -> tuple[tuple[object, ...], Any, float]:
    """What latency and energy depend on: structure and numbers, and the leakage apart."""
    row = hardware_row(machine)
    leakage = float(row[COLUMNS.index("leakage_watts")])
    row[[COLUMNS.index("leakage_watts"), COLUMNS.index("area_m2")]] = 0.0
    return skeleton_key(machine), row, leakage


def _metrics(cost: Cost) -> Metrics:
    return cost.seconds, cost.joules, cost.area_m2


def _elasticity(name: str, value: str, points: Mapping[float, Metrics | None]) -> Elasticity:
    """Over the widest span of factors that exist; NaN when only one does."""
    found = [(factor, metrics) for factor, metrics in sorted(points.items()) if metrics]
    (low, first), (high, last) = found[0], found[-1]
    if len(found) < 2:
        return Elasticity(name, value, (math.nan,) * 3, (low, high))
    slopes = [
        math.log(b / a) / math.log(high / low) if a > 0 and b > 0 else 0.0
        for a, b in zip(first, last, strict=True)
    ]
    return Elasticity(name, value, (slopes[0], slopes[1], slopes[2]), (low, high))


def widths_of(graph: Graph) -> dict[OperandRole, int]:
    """Bits per element of the operands of a graph's products, by role, where they all agree."""
    found: dict[OperandRole, set[int]] = {}
    for role, bits in _operand_widths(graph):
        found.setdefault(role, set()).add(bits)
    return {role: bits.pop() for role, bits in found.items() if len(bits) == 1}


def _operand_widths(graph: Graph) -> Iterator[tuple[OperandRole, int]]:
    for op in graph.ops:
        if op.macs and isinstance(op.body, Nest):
            for role, tensor in zip(ROLES, (*op.reads, *op.writes), strict=False):
                yield role, DTYPE_BITS[graph.tensor[tensor].dtype]
