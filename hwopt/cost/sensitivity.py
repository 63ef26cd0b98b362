"""Elasticity of latency, energy and area to each parameter of a machine and of a model.

An elasticity is `d ln(metric) / d ln(parameter)`, measured between half and twice the value:
`ln(f(2x) / f(x/2)) / ln 4` (only one side where the other does not fit). -1 on latency means:
twice the parameter, half the time; 0 means it does not matter. This is the analysis of
arXiv 1903.07676, on the general model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hwopt.cost.cost import evaluate
from hwopt.errors import HwoptError, InfeasibleError
from hwopt.hardware.accelerator import Accelerator, Fanout, Memory
from hwopt.ir.program import Program
from hwopt.quantities import show, show_bytes

METRICS = ("latency", "energy", "area")


@dataclass(frozen=True)
class Elasticity:
    """One parameter: its dotted name, its value as text, and an elasticity per `METRICS`."""

    parameter: str
    value: str
    elasticity: tuple[float, float, float]

    def to_json(self) -> dict[str, Any]:
        """Flat, for `hwopt sensitivity --json`."""
        metrics = dict(zip(METRICS, self.elasticity, strict=True))
        return {"parameter": self.parameter, "value": self.value, **metrics}


def elasticities(
    program: Program,
    accelerator: Accelerator,
    model: dict[str, tuple[int, Callable[[int], Program]]] | None = None,
) -> list[Elasticity]:
    """One row per parameter, those that matter most to latency first.

    `model` gives model dimensions: per name its value and the program at another value.
    """
    rows = []
    for name, value, scaled in _hardware_parameters(accelerator):
        points = {factor: _metrics(program, scaled(factor)) for factor in (0.5, 1.0, 2.0)}
        rows.append(Elasticity(name, value, _slope(points)))
    for name, (size, build) in (model or {}).items():
        points = {}
        for factor in (0.5, 1.0, 2.0):
            if (changed := round(size * factor)) >= 1:
                points[changed / size] = _metrics(_built(build, changed), accelerator)
        rows.append(Elasticity(f"model.{name}", str(size), _slope(points)))
    return sorted(rows, key=lambda row: -abs(row.elasticity[0]))


def _built(build: Callable[[int], Program], size: int) -> Program | None:
    """The program at another size, or None where the model cannot have that size."""
    try:
        return build(size)
    except HwoptError:
        return None


def _metrics(program: Program | None, accelerator: Accelerator) -> tuple[float, ...] | None:
    """Latency, energy, area; None where it does not fit."""
    if program is None:
        return None
    try:
        cost = evaluate(program, accelerator)
    except InfeasibleError:
        return None
    return cost.seconds, cost.joules, cost.area_m2


def _slope(points: dict[float, tuple[float, ...] | None]) -> tuple[float, float, float]:
    """Elasticities over the widest span of factors that fit; NaN when only one does."""
    fitting = [(factor, metrics) for factor, metrics in sorted(points.items()) if metrics]
    if len(fitting) < 2:
        return (math.nan,) * 3
    (low, first), (high, last) = fitting[0], fitting[-1]
    slopes = [
        math.log(b / a) / math.log(high / low) if a > 0 and b > 0 else 0.0
        for a, b in zip(first, last, strict=True)
    ]
    return slopes[0], slopes[1], slopes[2]


def _hardware_parameters(
    accelerator: Accelerator,
) -> Iterator[tuple[str, str, Callable[[float], Accelerator]]]:
    """Name, value as text, and the accelerator with the parameter multiplied."""

    def top(**update: Any) -> Accelerator:
        return accelerator.model_copy(update=update)

    def level(index: int, **update: Any) -> Accelerator:
        levels = list(accelerator.levels)
        levels[index] = levels[index].model_copy(update=update)
        return top(levels=tuple(levels))

    clock = accelerator.clock_hz
    yield "clock", show(clock, "Hz"), lambda f: top(clock_hz=clock * f)
    lanes = accelerator.vector.lanes
    yield (
        "vector.lanes", str(lanes),
        lambda f: top(vector=accelerator.vector.model_copy(update={"lanes": _whole(lanes * f)})),
    )  # fmt: skip
    for index, part in enumerate(accelerator.levels):
        if isinstance(part, Memory):
            yield from _memory_parameters(index, part, level)
        else:
            yield from _fanout_parameters(index, part, level)


def _memory_parameters(
    index: int, memory: Memory, level: Callable[..., Accelerator]
) -> Iterator[tuple[str, str, Callable[[float], Accelerator]]]:
    if (capacity := memory.capacity_bytes) is not None:
        yield (
            f"{memory.name}.capacity", show_bytes(capacity),
            lambda f: level(index, capacity_bytes=capacity * f),
        )  # fmt: skip
    ports = {
        key: rate
        for key in ("bytes_per_s", "read_bytes_per_s", "write_bytes_per_s")
        if (rate := getattr(memory, key)) is not None
    }
    if ports:
        yield (
            f"{memory.name}.bandwidth", show(max(ports.values()), "B/s"),
            lambda f: level(index, **{key: rate * f for key, rate in ports.items()}),
        )  # fmt: skip


def _fanout_parameters(
    index: int, fanout: Fanout, level: Callable[..., Accelerator]
) -> Iterator[tuple[str, str, Callable[[float], Accelerator]]]:
    for position, dim in enumerate(fanout.dims):

        def scaled(factor: float, position: int = position) -> Accelerator:
            dims = list(fanout.dims)
            size = _whole(dims[position].size * factor)
            dims[position] = dims[position].model_copy(update={"size": size})
            return level(index, dims=tuple(dims))

        yield f"{fanout.name}.{dim.name}", str(dim.size), scaled


def _whole(value: float) -> int:
    return max(1, round(value))
