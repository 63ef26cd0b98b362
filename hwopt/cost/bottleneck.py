"""Why a stage is not faster: what it waits for, which lanes idle, what more of a part would bring.

Every answer maps the nest again on the changed machine, with the same objective and conventions,
and prices it with the stage's side work: it is what `evaluate` would say of that machine. A part is
doubled first; where that helps, it is grown without limit, and the least of it that does as well is
found by bisection (`RESOLUTION`): beyond that point something else binds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hwopt.cost.cost import homes_of
from hwopt.cost.reference import Machine, price_row
from hwopt.errors import InfeasibleError
from hwopt.hardware.accelerator import Accelerator, Fanout, Memory
from hwopt.mapping.analysis import PER_LEVEL
from hwopt.mapping.best import Best, best_mapping
from hwopt.mapping.mapping import Keep, Loop, Mapping, Spread
from hwopt.mapping.problem import Problem
from hwopt.quantities import show, show_bytes

if TYPE_CHECKING:
    from hwopt.cost.cost import Cost
    from hwopt.cost.tables import Stage

RATES = ("bytes_per_s", "read_bytes_per_s", "write_bytes_per_s")
WORTH = 1e-3
"""The least share of its time that a stage must save for a lever to be named."""
RESOLUTION = 1.02
"""The point beyond which more brings nothing is found to within this factor."""
ENDLESS = 2.0**60
"""Bytes that hold everything (a memory without limit cannot be a home of resident operands)."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One resource and how long it is busy during one repetition of a stage.

    All overlap, except launch, fill and drain, which come on top.
    """

    resource: str
    seconds: float
    overlaps: bool = True


@dataclass(frozen=True, slots=True)
class Lever:
    """What more of one part brings: with twice of it, and at most.

    `part`: "GLB.capacity". `now` and `enough` are in the part's unit; `enough` is the least with
    which the stage takes `least_seconds`, more of it brings nothing; there `then` binds. None where
    the part comes in whole numbers of lanes, which are only doubled.
    """

    part: str
    unit: str
    now: float
    twice_seconds: float
    enough: float | None = None
    least_seconds: float | None = None
    then: str = ""

    def __str__(self) -> str:
        level, _, what = self.part.rpartition(".")
        name = f"the {what} of {level}" if self.unit else self.part
        text = f"twice {name} ({self._shown(2 * self.now)}): {show(self.twice_seconds, 's')}"
        if self.enough is not None and self.least_seconds is not None:
            text += (
                f"; up to {self._shown(self.enough)} it helps: "
                f"{show(self.least_seconds, 's')}, then bound by {self.then}"
            )
        return text

    def _shown(self, value: float) -> str:
        if self.unit == "B":
            return show_bytes(value)
        return f"{value:g}" if not self.unit else show(value, self.unit)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "part": self.part, "unit": self.unit, "now": self.now, "twice": 2 * self.now,
            "twice_seconds": self.twice_seconds, "enough": self.enough,
            "least_seconds": self.least_seconds, "then_bound_by": self.then or None,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lanes:
    """Where lanes idle: copies in use by fan-out dimension, and steps lost to edge tiles by axis.

    `dims`: name, copies used, copies there are, axes spread over it. `edges`: axis and the share of
    its slots (steps x copies) that hold a point. Their product is `used`.
    """

    used: float
    dims: tuple[tuple[str, int, int, tuple[str, ...]], ...]
    edges: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        parts = [
            f"{name} has {used} of {size} at work"
            + (f" ({' x '.join(axes)})" if axes else " (no axis is spread over it)")
            for name, used, size, axes in self.dims
            if used < size
        ]
        parts += [
            f"tiles of {axis} that are not full leave {1 - share:.1%} idle"
            for axis, share in self.edges
            if share < 1
        ]
        return "; ".join(parts) or "every lane works in every step"


@dataclass(frozen=True)
class Priced:
    """A stage on some machine: its nest's mapping, its time, what binds, what is busy how long."""

    best: Best | None
    seconds: float
    waits: tuple[Wait, ...]

    @property
    def bound(self) -> str:
        """What the stage waits for."""
        return self.waits[0].resource if self.waits else "capacity"


def waits_of(row: npt.NDArray[np.float64], stage: Stage, machine: Machine) -> tuple[Wait, ...]:
    """How long each resource is busy, the longest first."""
    side, value = stage.side, machine.value
    found = [
        Wait("compute", float(row[0]) / value["clock_hz"]),
        Wait("vector unit", side.vector_operations / value["vector_operations_per_s"]),
    ]
    for index, memory in enumerate(machine.memory):
        reads, writes = float(row[2 + 5 * index]), float(row[3 + 5 * index])
        if index == 0:
            reads, writes = reads + side.outer_read_bytes, writes + side.outer_write_bytes
        elif index == machine.vector_memory:
            reads, writes = reads + side.chip_read_bytes, writes + side.chip_write_bytes
        name = machine.names[index]
        found += [
            Wait(f"{name} port", (reads + writes) * memory["port_seconds_per_byte"]),
            Wait(f"{name} read port", reads * memory["read_seconds_per_byte"]),
            Wait(f"{name} write port", writes * memory["write_seconds_per_byte"]),
        ]
    launch = stage.launches * value["launch_seconds"]
    fill = value["fill_seconds"] if stage.request is not None else 0.0
    found += [
        Wait("launch", launch, overlaps=False), Wait("fill and drain", fill, overlaps=False)
    ]  # fmt: skip
    return tuple(sorted((w for w in found if w.seconds > 0), key=lambda w: -w.seconds))


def priced(stage: Stage, accelerator: Accelerator, best: Best | None) -> Priced:
    """A stage with a mapping of its nest (None: it has no nest) on a machine."""
    machine = Machine(accelerator)
    row = _row(best, accelerator)
    seconds, _, _ = price_row(row, stage, machine)
    return Priced(best, seconds, waits_of(row, stage, machine))


def _row(best: Best | None, accelerator: Accelerator) -> npt.NDArray[np.float64]:
    if best is not None:
        return best.analysis.row(accelerator)
    return np.zeros(1 + len(PER_LEVEL) * len(accelerator.memories))


def on_another(cost: Cost, stage: Stage, accelerator: Accelerator) -> Priced:
    """A stage mapped anew on a changed machine; infinite time where nothing fits."""
    if stage.request is None:
        return priced(stage, accelerator, None)
    request = stage.request
    try:
        best = best_mapping(
            request.problem, accelerator, objective=cost.objective,
            conventions=cost.conventions, constraint=request.constraint,
            resident=homes_of(request, accelerator) or {},
        )  # fmt: skip
    except InfeasibleError:
        return Priced(None, math.inf, ())
    return priced(stage, accelerator, best)


def levers(cost: Cost, stage: Stage, now: Priced) -> list[Lever]:
    """The parts of which more would make a stage faster, those that bring most first."""
    found: list[Lever] = []
    for part in _parts(cost.accelerator):
        twice = on_another(cost, stage, part.grown(2.0))
        if twice.seconds >= now.seconds * (1 - WORTH):
            continue
        if part.enough is None:
            found.append(Lever(part.name, part.unit, part.now, twice.seconds))
            continue
        factor, least = _saturation(cost, stage, part, twice)
        # its own ports are just fast enough there: what binds is the longest of the others
        others = [w for w in least.waits if w.resource not in part.resources]
        then = others[0].resource if others else least.bound
        found.append(
            Lever(part.name, part.unit, part.now, twice.seconds, factor * part.now,
                  least.seconds, then)
        )  # fmt: skip
    return sorted(found, key=lambda lever: (lever.twice_seconds, lever.part))


@dataclass(frozen=True)
class _Part:
    """A number of a machine: `grown(factor)` is the machine with more of it.

    `enough(stage, endless)`: a factor at which a stage that was mapped with endless much of it
    takes no longer; None for what is only doubled. `resources`: the waits that it shortens itself.
    """

    name: str
    unit: str
    now: float
    grown: Callable[[float], Accelerator]
    enough: Callable[[Stage, Priced], float] | None = None
    resources: tuple[str, ...] = ()


def _saturation(cost: Cost, stage: Stage, part: _Part, twice: Priced) -> tuple[float, Priced]:
    """The least factor that brings all that more of a part can bring, and the stage there."""
    assert part.enough is not None, "only what has a limit is grown without end"
    endless = on_another(cost, stage, part.grown(math.inf))
    if twice.seconds < endless.seconds:  # the mapper does not always prove its result the best
        endless = twice
    good = endless.seconds * (1 + WORTH)
    low, high, mapping = 1.0, max(part.enough(stage, endless), RESOLUTION), endless.best
    if twice.seconds <= good and high > 2.0:
        high, mapping = 2.0, twice.best
    while high / low > RESOLUTION:
        middle = math.sqrt(low * high)
        there = on_another(cost, stage, part.grown(middle))
        if there.seconds <= good:
            high, mapping = middle, there.best
        else:
            low = middle
    return high, priced(stage, part.grown(high), mapping)


def _parts(machine: Accelerator) -> Iterator[_Part]:
    """Capacity and ports of each memory, copies of each fan-out, vector lanes, clock."""
    for index, level in enumerate(machine.levels):
        if isinstance(level, Fanout):
            yield from _dimensions(machine, index, level)
            continue
        if level.capacity_bytes is not None:
            yield _capacity(machine, index, level, level.capacity_bytes)
        rates = {key: rate for key in RATES if (rate := getattr(level, key)) is not None}
        if rates:
            yield _bandwidth(machine, index, level, rates)
    lanes = machine.vector.lanes

    def wider(factor: float) -> Accelerator:
        vector = machine.vector.model_copy(update={"lanes": round(lanes * factor)})
        return machine.model_copy(update={"vector": vector})

    yield _Part("vector.lanes", "", lanes, wider)


def _capacity(machine: Accelerator, index: int, memory: Memory, now: float) -> _Part:
    def grown(factor: float) -> Accelerator:
        return _changed(machine, index, {"capacity_bytes": min(now * factor, ENDLESS)})

    def enough(stage: Stage, endless: Priced) -> float:
        assert endless.best is not None, f"{stage.name} has no nest and needs no capacity"
        footprint = endless.best.analysis.bytes_of(memory.name, "footprint")
        return footprint / memory.usable_bytes * (1 + 1e-12)  # not a rounding error too little

    return _Part(f"{memory.name}.capacity", "B", now, grown, enough)


def _bandwidth(machine: Accelerator, index: int, memory: Memory, rates: dict[str, float]) -> _Part:
    ports = tuple(f"{memory.name} {port}" for port in ("port", "read port", "write port"))

    def grown(factor: float) -> Accelerator:
        endless = math.isinf(factor)
        return _changed(
            machine, index, {key: None if endless else rate * factor for key, rate in rates.items()}
        )

    def enough(stage: Stage, endless: Priced) -> float:
        """Its ports, as they are, against the slowest of the others."""
        waits = waits_of(_row(endless.best, machine), stage, Machine(machine))
        busy = max((w.seconds for w in waits if w.resource in ports), default=0.0)
        others = (w.seconds for w in endless.waits if w.overlaps and w.resource not in ports)
        longest = max(others, default=0.0)
        return busy / longest if longest else ENDLESS

    return _Part(f"{memory.name}.bandwidth", "B/s", max(rates.values()), grown, enough, ports)


def _dimensions(machine: Accelerator, index: int, fanout: Fanout) -> Iterator[_Part]:
    for position, dim in enumerate(fanout.dims):

        def grown(factor: float, position: int = position) -> Accelerator:
            dims = list(fanout.dims)
            size = round(dims[position].size * factor)
            dims[position] = dims[position].model_copy(update={"size": size})
            return _changed(machine, index, {"dims": tuple(dims)})

        yield _Part(f"{fanout.name}.{dim.name}", "", dim.size, grown)


def _changed(machine: Accelerator, index: int, update: dict[str, Any]) -> Accelerator:
    levels = list(machine.levels)
    levels[index] = levels[index].model_copy(update=update)
    return machine.model_copy(update={"levels": tuple(levels)})


def lanes_of(cost: Cost, stage: Stage, best: Best) -> Lanes:
    """Where the lanes of a nest idle."""
    assert stage.request is not None, "only nests have lanes"
    problem = stage.request.problem
    used: dict[str, int] = {}
    axes: dict[str, list[str]] = {}
    extent = dict(problem.sizes)
    for node in best.mapping.nodes:
        if isinstance(node, Keep):
            continue
        if isinstance(node, Spread):
            name = f"{node.fanout}.{node.dim}"
            copies = -(-extent[node.axis] // node.tile)
            used[name] = used.get(name, 1) * copies
            if copies > 1:
                axes.setdefault(name, []).append(node.axis)
        extent[node.axis] = min(extent[node.axis], node.tile)
    dims = tuple(
        (name, used.get(name, 1), dim.size, tuple(axes.get(name, ())))
        for fanout in cost.accelerator.fanouts
        for dim in fanout.dims
        for name in (f"{fanout.name}.{dim.name}",)
        if dim.size > 1
    )
    walked = slots(problem, best.mapping, padded=cost.conventions.edges == "padded")
    edges = tuple((axis, size / math.prod(walked[axis])) for axis, size in problem.sizes.items())
    share = problem.points / (best.analysis.steps * cost.accelerator.lanes)
    return Lanes(share, dims, edges)


def slots(problem: Problem, mapping: Mapping, *, padded: bool) -> dict[str, tuple[int, int]]:
    """Steps that the first copy takes along each axis, and copies along it."""
    cuts: dict[str, list[Loop | Spread]] = {axis.name: [] for axis in problem.axes}
    for node in mapping.nodes:
        if not isinstance(node, Keep):
            cuts[node.axis].append(node)
    return {axis: _slots(problem.sizes[axis], cuts[axis], padded=padded) for axis in cuts}


def _slots(extent: int, cuts: list[Loop | Spread], *, padded: bool) -> tuple[int, int]:
    """Those of one axis, of which an extent is left to cut."""
    if not cuts:
        return 1, 1
    cut, rest = cuts[0], cuts[1:]
    count = -(-extent // cut.tile)
    steps, copies = _slots(min(extent, cut.tile), rest, padded=padded)
    if isinstance(cut, Spread):
        return steps, copies * count
    edge = extent - (count - 1) * cut.tile
    last = steps if padded else _slots(edge, rest, padded=padded)[0]
    return steps * (count - 1) + last, copies
