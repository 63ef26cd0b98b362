"""Accesses as Timeloop's model counts them, where they differ from our definition on purpose.

`simulate` and `traffic` count what a machine would move. Timeloop's nest analysis (Parashar et al.,
ISPASS 2019; NVlabs/timeloop) answers the same question with rules of its own, stated here as far as
published counts depend on them. Bounds must be perfect (no remainders).

* A tile is the bounding box of its elements; padding and holes of strides count.
* **Sampled loops.** Every temporal loop is walked at its first two indices alone; what the second
  one moves stands for all later ones (weight bound - 1).
* **Halo.** The tile is compared with the last tile *walked*. An overlap is reused only where the
  shift is along one dimension of the tensor and equals the shift remembered; a first shift is
  remembered; a different one charges the whole tile and forgets. `Counting.stationary` says what a
  tile that did not move does to the memory: newer versions leave it alone ("kept"), older ones
  treat standing still as one more shift ("shift").
* **Multicast.** Copies below a fan-out that receive the same box are served by one read; boxes that
  overlap in part are not.
* **Bypass.** What a bypassed memory would have been asked for, its outer memory is asked for.
* **Outputs.** Each arrival of a partial sum is an update; all but the first of an element read it.
  Writing out a tile reads nothing below. Partial sums come back (fills) to every copy, the first
  time excepted (`Counting.first_fill` "free") or not ("counted", older versions).

    reads, fills, updates are words per copy; content(m) = words asked of memory m
    reads(m)   = content(m)                       outputs: content(m) - elements that m ever holds
    updates(m) = 0                                outputs: content(m)
    fills(m)   = words that m asks of its parent  outputs: less the elements, where free
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hwopt.errors import MappingError, SizeError
from hwopt.hardware.accelerator import OperandRole
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.timeloop import Levels, check_bounds

MAX_LOOPS = 20
"""Loops above one tile that are walked: 2**20 readings; Timeloop's own cost grows alike."""


@dataclass(frozen=True, slots=True)
class Counting:
    """Which version's rules count (see above); `name` is what a validation reports."""

    name: str
    stationary: Literal["kept", "shift"]
    first_fill: Literal["free", "counted"]


TIMELOOP_2025 = Counting("timeloop", stationary="kept", first_fill="free")
"""NVlabs/timeloop 4cf6d4c (2025-03-31)."""
TIMELOOP_2022 = Counting("timeloop-2022", stationary="shift", first_fill="counted")
"""As in the mappings published with DOSA (Hong et al., MICRO 2023), whose build is not stated."""


@dataclass(frozen=True, slots=True)
class Accesses:
    """One operand in one memory: copies in use, words of its tile, accesses of each copy."""

    instances: int
    tile: int
    reads: int
    fills: int
    updates: int

    @property
    def total(self) -> int:
        """All accesses of one copy."""
        return self.reads + self.fills + self.updates


@dataclass(frozen=True)
class TimeloopCounts:
    """`steps`: the product of the temporal bounds; `lanes`: that of the spatial ones."""

    steps: int
    lanes: int
    accesses: dict[str, dict[OperandRole, Accesses]]


def count(levels: Levels, problem: Problem, counting: Counting = TIMELOOP_2025) -> TimeloopCounts:
    """Accesses of every operand in every memory that keeps it.

    Raises `MappingError` for bounds with remainders or that do not make up the problem, `SizeError`
    for more loops than can be walked.
    """
    check_bounds(levels, problem)
    for level in levels:
        for loop in level.loops:
            if loop.bound != loop.remainder:
                raise MappingError(
                    "Timeloop's counts are modelled for perfect bounds", where=level.memory,
                    value=str(loop), fix="native conventions count edge tiles exactly",
                )  # fmt: skip
    nest = _Nest(levels)
    accesses: dict[str, dict[OperandRole, Accesses]] = {level.memory: {} for level in levels}
    for operand in problem.operands:
        for name, counted in _Counter(nest, operand, counting).accesses().items():
            accesses[name][operand.role] = counted
    return TimeloopCounts(nest.steps, nest.copies(len(levels)), accesses)


@dataclass(frozen=True)
class _Stride:
    """A loop with the extent of its axis inside it."""

    axis: str
    bound: int
    step: int


class _Nest:
    """All loops of a mapping, each with the extent that one iteration covers."""

    def __init__(self, levels: Levels) -> None:
        self.levels = levels
        extent: dict[str, int] = {}
        self.temporal: list[list[_Stride]] = []
        self.spatial: list[list[_Stride]] = []
        self.extents: list[dict[str, int]] = [{}]
        self.spread_extents: list[dict[str, int]] = []
        for level in reversed(levels):
            here: list[list[_Stride]] = []
            for loops in (level.spatial, level.temporal):
                here.append([])
                for loop in reversed(loops):
                    here[-1].insert(0, _Stride(loop.axis, loop.bound, extent.get(loop.axis, 1)))
                    extent[loop.axis] = extent.get(loop.axis, 1) * loop.bound
                if loops is level.spatial:
                    self.spread_extents.insert(0, dict(extent))
            self.spatial.insert(0, here[0])
            self.temporal.insert(0, here[1])
            self.extents.insert(0, dict(extent))
        self.steps = math.prod(loop.bound for loops in self.temporal for loop in loops)

    def copies(self, number: int) -> int:
        """Copies in use of memory `number` (of the compute units: the number of memories)."""
        return math.prod(loop.bound for loops in self.spatial[:number] for loop in loops)


class _Counter:
    """The counts of one operand."""

    def __init__(self, nest: _Nest, operand: Operand, counting: Counting) -> None:
        self.nest, self.operand, self.counting = nest, operand, counting
        self.dims = [dict(affine.terms) for affine in operand.access.index]

    def accesses(self) -> dict[str, Accesses]:
        """By memory, for the memories that keep the operand."""
        nest, role = self.nest, self.operand.role
        kept = [n for n, level in enumerate(nest.levels) if role in level.keeps]
        elements = self._elements_held()
        asked = {number: self._asked(number) for number in kept[1:]}
        result = {}
        for number, inner in itertools.zip_longest(kept, kept[1:]):
            fanouts = range(number, len(nest.levels) if inner is None else inner)
            content = math.prod(self._distinct(nest.spatial[n]) for n in fanouts)
            content *= nest.steps if inner is None else asked[inner]
            reads, updates, fills = content, 0, asked.get(number, 0)
            if role == "output":
                reads, updates = content - elements[number], content
                if fills and self.counting.first_fill == "free":
                    fills -= elements[number]
            result[nest.levels[number].memory] = Accesses(
                nest.copies(number), math.prod(self._box(nest.extents[number])), reads, fills,
                updates,
            )  # fmt: skip
        return result

    def _box(self, extent: dict[str, int]) -> list[int]:
        """Sides of the bounding box of a tile."""
        return [
            1 + sum(abs(c) * (extent.get(axis, 1) - 1) for axis, c in dim.items())
            for dim in self.dims
        ]

    def _elements_held(self) -> list[int]:
        """Per memory, the elements that one copy ever holds."""
        nest = self.nest
        held = [math.prod(self._box(nest.extents[0]))]
        for number in range(1, len(nest.levels)):
            share = held[-1]
            if nest.spatial[number - 1]:
                share *= math.prod(self._box(nest.extents[number]))
                share //= math.prod(self._box(nest.spread_extents[number - 1]))
            held.append(share)
        return held

    def _distinct(self, loops: Sequence[_Stride]) -> int:
        """Different boxes among the copies of one spatial nest."""
        offsets = {(0,) * len(self.dims)}
        for loop in loops:
            move = [loop.step * dim.get(loop.axis, 0) for dim in self.dims]
            if any(move):
                offsets = {
                    tuple(o + index * m for o, m in zip(offset, move, strict=True))
                    for offset in offsets
                    for index in range(loop.bound)
                }
        return len(offsets)

    def _asked(self, number: int) -> int:
        """Words that one copy of memory `number` asks of its parent, over all time."""
        loops = [loop for loops in self.nest.temporal[:number] for loop in loops if loop.bound > 1]
        box = self._box(self.nest.extents[number])
        moves = [[loop.step * dim.get(loop.axis, 0) for dim in self.dims] for loop in loops]
        # Inside all loops that move the tile, one in which it stands still is like several.
        while len(moves) > 1 and not any(moves[-1]) and not any(moves[-2]):
            moves.pop()
            loops.pop()
        if all(len(dim) <= 1 for dim in self.dims):
            return self._without_halo(loops, moves, math.prod(box))
        if len(loops) > MAX_LOOPS:
            raise SizeError("too many loops for Timeloop's analysis", where=self.operand.role,
                            value=len(loops), allowed=f"at most {MAX_LOOPS}")  # fmt: skip
        return self._walked(loops, moves, box)

    @staticmethod
    def _without_halo(loops: list[_Stride], moves: list[list[int]], words: int) -> int:
        """Without a window tiles never overlap: each is fetched anew whenever it changed."""
        inner = max((n for n, move in enumerate(moves) if any(move)), default=-1)
        return words * math.prod(loop.bound for loop in loops[: inner + 1])

    def _walked(self, loops: list[_Stride], moves: list[list[int]], box: list[int]) -> int:
        """Walk the two sampled indices of every loop with the rule for halos."""
        words = math.prod(box)
        total = words  # the first tile
        place, remembered = [0] * len(box), None
        readings = itertools.product((0, 1), repeat=len(loops))
        next(readings)
        for reading in readings:
            weight, now = 1, [0] * len(box)
            for index, loop, move in zip(reading, loops, moves, strict=True):
                if index:
                    weight *= loop.bound - 1
                    now = [a + b for a, b in zip(now, move, strict=True)]
            shift = [a - b for a, b in zip(now, place, strict=True)]
            place = now
            if not any(shift) and self.counting.stationary == "kept":
                continue
            if remembered is not None and shift != remembered:
                remembered = None
                total += weight * words
                continue
            remembered = shift
            total += weight * (words - _overlap(shift, box))
        return total


def _overlap(shift: list[int], box: list[int]) -> int:
    """Words of a moved box that it shares with itself before, when it moved along one dimension."""
    moved = [(abs(by), side) for by, side in zip(shift, box, strict=True) if by]
    words = math.prod(box)
    if not moved:
        return words
    by, side = moved[0]
    return words // side * (side - by) if len(moved) == 1 and by < side else 0


@dataclass(frozen=True, slots=True)
class Port:
    """Words per cycle of one copy of a memory; `shared` covers reads, fills and updates together.
    None is unlimited.
    """

    read: float | None = None
    write: float | None = None
    shared: float | None = None


def cycles(counts: TimeloopCounts, ports: dict[str, Port]) -> dict[str, int]:
    """Cycles that each memory would make the computation take; the longest is the mapping's.

    Timeloop slows the computation down by `bandwidth / (words / steps)` and rounds up; this is done
    here in the same order of floating-point operations, for its result is at times one more than
    the quotient of whole numbers. Operands add up in Timeloop's order: weights, inputs, outputs.
    """
    order: tuple[OperandRole, ...] = ("weight", "input", "output")
    result = {}
    for memory, port in ports.items():
        flows = [counts.accesses[memory][r] for r in order if r in counts.accesses[memory]]
        read = sum(flow.reads / counts.steps for flow in flows)
        write = sum((flow.updates + flow.fills) / counts.steps for flow in flows)
        limits = (port.read, read), (port.write, write), (port.shared, read + write)
        slowdown = min((limit / wanted for limit, wanted in limits
                        if limit is not None and limit < wanted), default=1.0)  # fmt: skip
        result[memory] = math.ceil(counts.steps / slowdown)
    return result


def longest(took: dict[str, int], steps: int) -> tuple[int, str]:
    """Cycles of a mapping, and what they are bound by: "compute" or a memory."""
    memory = max(took, key=lambda name: took[name])
    return (took[memory], memory) if took[memory] > steps else (steps, "compute")
