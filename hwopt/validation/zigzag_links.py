"""What a nest moves between the memories of ZigZag's machine: one link for each pair of neighbours.

A nest is one order of temporal loops (innermost first) and, for each operand and memory, how many
of them that memory or one below it holds. A *link* joins a stop (the MACs, then each memory of an
operand, from the inside out) to the next memory. Below a link a tile lasts a *period*, the product
of the loops held there; loops in which the operand does not change and that would be the innermost
of a memory count for the memory below it (its tile simply stays). Whole tiles are fetched: nothing
is kept of overlapping windows. Sums that are not final go back down as often as they come up, and
are wider than results.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from hwopt.validation.zigzag_machine import Array, Layer, Store

Loop = tuple[str, int]


@dataclass(frozen=True)
class Nest:
    """Loops, innermost first; `held[operand][i]`: so many of them, from the inside, stay in its
    memory i or one below (`holds`: the same as sorted pairs, so that nests can be compared).
    """

    loops: tuple[Loop, ...]
    holds: tuple[tuple[str, tuple[int, ...]], ...]

    @cached_property
    def held(self) -> dict[str, tuple[int, ...]]:
        """By operand, from its innermost memory to the outermost."""
        return dict(self.holds)

    def __str__(self) -> str:
        loops = " ".join(f"{loop}:{size}" for loop, size in self.loops)
        holds = " ".join(f"{name} {'/'.join(map(str, ends))}" for name, ends in self.holds)
        return f"{loops} ({holds})"


def as_holds(held: Mapping[str, Sequence[int]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """`Nest.held` as pairs."""
    return tuple(sorted((name, tuple(ends)) for name, ends in held.items()))


@dataclass(frozen=True, slots=True)
class End:
    """What one memory does for a link: elements per period, the cycles they take there, and the
    picojoules of all periods and copies. `upper`: it is the outer end.
    """

    store: Store
    way: str
    amount: int
    cycles: int
    picojoules: float
    upper: bool


@dataclass(frozen=True, slots=True)
class Link:
    """One operand between two stops; `memory` numbers the upper one from the inside out.

    `tile` and `width`: elements in one lower copy, and how many different ones the upper end feeds;
    `still`: the loops of the lower memory, from the outermost, in which its tile stays as it is.
    """

    operand: str
    memory: int
    period: int
    count: int
    tile: int
    width: int
    bits: int
    still: int
    ends: tuple[End, ...]


def unrolled(layer: Layer, array: Array, *, whole: bool) -> dict[str, dict[str, float]]:
    """Copies by array dimension and loop: a loop is cut evenly, so 1000 over 32 is 32 x 31.25.

    `whole` cuts that down to 31, which is what the latency of ZigZag uses.
    """
    found: dict[str, dict[str, float]] = {}
    for dim, loops in array.spread.items():
        found[dim] = {}
        for loop, most in loops.items():
            if (size := layer.sizes.get(loop, 1)) > 1:
                share = size / math.ceil(size / min(most, size, array.dims[dim]))
                found[dim][loop] = int(share) if whole else share
    return found


def temporal_sizes(layer: Layer, array: Array) -> dict[str, int]:
    """Iterations that each loop has left after spreading, without those of one."""
    left = dict(layer.sizes)
    for loops in unrolled(layer, array, whole=False).values():
        for loop, share in loops.items():
            left[loop] = math.ceil(left[loop] / share - 1e-9)
    return {loop: size for loop, size in left.items() if size > 1}


Spread = list[list[tuple[str, float]]]


def spreads(layer: Layer, array: Array, *, whole: bool) -> dict[str, Spread]:
    """By operand: spatial loops between each memory and the stop below it; last: above all."""
    found = {}
    for name in layer.operands:
        left = unrolled(layer, array, whole=whole)
        levels = [
            [pair for dim in store.serves for pair in left.pop(dim, {}).items()]
            for store in array.path[name]
        ]
        found[name] = [*levels, [pair for loops in left.values() for pair in loops.items()]]
    return found


class Links:
    """The links of one operand in a nest, and what its memories hold."""

    def __init__(
        self, name: str, nest: Nest, layer: Layer, path: tuple[Store, ...], spread: Spread
    ) -> None:
        self.name, self.layer, self.path, self.spread = name, layer, path, spread
        self.irrelevant = layer.irrelevant[name]
        ends = (0, *nest.held[name])
        self.loops = self._settled([list(nest.loops[a:b]) for a, b in itertools.pairwise(ends)])
        self.total = math.prod(size for _, size in nest.loops)
        self.copies = [
            round(math.prod(size for level in spread[stop:] for _, size in level))
            for stop in range(len(path) + 1)
        ]

    def _settled(self, levels: list[list[Loop]]) -> list[list[Loop]]:
        """Innermost loops that leave the tile as it is move down, as far as they go."""
        for number in range(1, len(levels)):
            for lower in range(number, 0, -1):
                while levels[lower] and levels[lower][0][0] in self.irrelevant:
                    levels[lower - 1].append(levels[lower].pop(0))
        return levels

    @cached_property
    def tiles(self) -> list[int]:
        """Elements of one tile in one copy of each stop, the MACs first."""
        sizes: dict[str, float] = {}
        found = [1]
        for spatial, temporal in zip(self.spread, self.loops, strict=False):
            for loop, size in (*spatial, *temporal):
                sizes[loop] = sizes.get(loop, 1) * size
            found.append(round(self.layer.tile(self.name, sizes)))
        return found

    @cached_property
    def bits(self) -> list[int]:
        """Bits of an element as it leaves each stop upwards."""
        final = self.layer.bits[self.name]
        return [
            self.layer.partial_bits if self._unfinished(stop) else final
            for stop in range(len(self.path) + 1)
        ]

    def _unfinished(self, stop: int) -> bool:
        """Whether outputs that leave a stop still have to be added up: in time above, or in space
        beyond the next memory (sums over what lies between stop and memory are made on the way).
        """
        return self.name == "O" and any(
            loop in self.irrelevant and size > 1
            for number in range(stop, len(self.path))
            for loop, size in (*self.loops[number], *self.spread[number + 1])
        )

    @cached_property
    def busy_bits(self) -> list[int]:
        """For each memory: the part of its tile that is in use at a time (outermost loops that
        index the operand leave the rest of it free for the next tile).
        """
        relevant = self.layer.relevant[self.name]
        return [
            tile * bits // _outer(loops, relevant)
            for tile, bits, loops in zip(self.tiles[1:], self.bits[1:], self.loops, strict=True)
        ]

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """From the inside out."""
        period = 1
        for loop, size in self.loops[0] if self.name != "O" else ():
            if loop not in self.irrelevant:
                break
            period *= size
        found = []
        spatial: dict[str, float] = {}
        reach = 1.0
        for stop in range(len(self.path)):
            for loop, copies in self.spread[stop]:
                spatial[loop] = spatial.get(loop, 1) * copies
            before, reach = reach, self.layer.tile(self.name, spatial)
            width = round(reach / before)
            count = self.total // period
            ends = tuple(self._ends(stop, width, count))
            below = self.loops[stop - 1] if stop else []
            found.append(
                Link(
                    self.name, stop, period, count, self.tiles[stop], width, self.bits[stop],
                    _outer(below, self.irrelevant), ends,
                )
            )  # fmt: skip
            period = math.prod(size for level in self.loops[: stop + 1] for _, size in level)
        return tuple(found)

    def _ends(self, stop: int, width: int, count: int) -> Iterator[End]:
        """Both memories of the link above a stop, in each direction that it has."""
        ways = ("fl", "th") if self.name == "O" else ()
        if self.name != "O" or self._unfinished(stop):
            ways = (*ways, "tl", "fh")
        for way in ways:
            upper = way in ("fl", "tl")
            if not upper and not stop:
                continue
            store = self.path[stop if upper else stop - 1]
            amount = self.tiles[stop] * (width if upper else 1)
            port = store.port.get((self.name, way))
            cycles, picojoules = 0, 0.0
            if port is not None:
                cycles = math.ceil(amount * self.bits[stop] / port.width_bits)
                steps = math.ceil(amount * self.bits[stop] / port.least_bits)
                words = steps * (port.least_bits / port.width_bits) * count
                each = store.read_pj if way in ("tl", "th") else store.write_pj
                picojoules = int(words * self.copies[stop + upper]) * each
            yield End(store, way, amount, cycles, picojoules, upper)


def _outer(loops: list[Loop], chosen: frozenset[str]) -> int:
    """Iterations of the loops on the outside that are all of the chosen ones."""
    product = 1
    for loop, size in reversed(loops):
        if loop not in chosen:
            break
        product *= size
    return product
