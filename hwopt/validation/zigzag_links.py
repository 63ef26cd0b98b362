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
class Link:
    """One operand between two stops. `below` is None where the lower one is the MACs.

    `tile` and `width`: elements in one lower copy, and how many different ones the upper end feeds;
    `still`: the loops of the lower memory, from the outermost, in which its tile stays as it is.
    """

    operand: str
    number: int
    below: Store | None
    store: Store
    period: int
    count: int
    tile: int
    width: int
    copies_below: int
    copies: int
    bits: int
    returns: bool
    still: int

    @property
    def ends(self) -> tuple[tuple[Store, str, int, int], ...]:
        """(memory, way, elements per period, copies) of every transfer of this link."""
        up, down = self.operand == "O", self.operand != "O" or self.returns
        found = []
        for store, ways, amount, copies in (
            (self.store, ("fl", "tl"), self.tile * self.width, self.copies),
            (self.below, ("th", "fh"), self.tile, self.copies_below),
        ):
            if store is not None:
                found += [(store, ways[0], amount, copies)] * up
                found += [(store, ways[1], amount, copies)] * down
        return tuple(found)


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
            for store in array.path(name)
        ]
        found[name] = [*levels, [pair for loops in left.values() for pair in loops.items()]]
    return found


class Links:
    """The links of one operand."""

    def __init__(
        self, name: str, nest: Nest, layer: Layer, path: tuple[Store, ...], spread: Spread
    ) -> None:
        self.name, self.layer, self.path, self.spread = name, layer, path, spread
        self.irrelevant = layer.irrelevant[name]
        ends = (0, *nest.held[name])
        self.loops = self._settled([list(nest.loops[a:b]) for a, b in itertools.pairwise(ends)])
        self.total = math.prod(size for _, size in nest.loops)

    def _settled(self, levels: list[list[Loop]]) -> list[list[Loop]]:
        """Innermost loops that leave the tile as it is move down, as far as they go."""
        for number in range(1, len(levels)):
            for lower in range(number, 0, -1):
                while levels[lower] and levels[lower][0][0] in self.irrelevant:
                    levels[lower - 1].append(levels[lower].pop(0))
        return levels

    def links(self) -> Iterator[Link]:
        """From the inside out."""
        copies = [
            round(math.prod(size for level in self.spread[stop:] for _, size in level))
            for stop in range(len(self.path) + 1)
        ]
        spatial: dict[str, float] = {}
        sizes: dict[str, float] = {}
        period = 1
        for loop, size in self.loops[0] if self.name != "O" else ():
            if loop not in self.irrelevant:
                break
            period *= size
        for number, store in enumerate(self.path):
            below = self.loops[number - 1] if number else []
            tile = round(self.layer.tile(self.name, sizes))
            before = self.layer.tile(self.name, spatial)
            for loop, copies_of in self.spread[number]:
                spatial[loop] = spatial.get(loop, 1) * copies_of
                sizes[loop] = sizes.get(loop, 1) * copies_of
            width = round(self.layer.tile(self.name, spatial) / before)
            partial = self.name == "O" and self._unfinished(number)
            bits = self.layer.partial_bits if partial else self.layer.bits[self.name]
            yield Link(
                self.name, number, self.path[number - 1] if number else None, store, period,
                self.total // period, tile, width, copies[number], copies[number + 1], bits,
                returns=partial, still=_outer(below, self.irrelevant),
            )  # fmt: skip
            for loop, size in self.loops[number]:
                sizes[loop] = sizes.get(loop, 1) * size
            period = math.prod(size for level in self.loops[: number + 1] for _, size in level)

    def _unfinished(self, stop: int) -> bool:
        """Whether what leaves a stop still has to be added up: in time above, or in space beyond
        the next memory (sums over what lies between stop and memory are made on the way).
        """
        for number in range(stop, len(self.path)):
            loops = [*self.loops[number], *self.spread[number + 1]]
            if any(loop in self.irrelevant and size > 1 for loop, size in loops):
                return True
        return False

    def tile_bits(self) -> list[int]:
        """Bits of one tile in one copy of each memory."""
        sizes: dict[str, float] = {}
        found = []
        for number in range(len(self.path)):
            for loop, size in (*self.spread[number], *self.loops[number]):
                sizes[loop] = sizes.get(loop, 1) * size
            partial = self.name == "O" and self._unfinished(number + 1)
            bits = self.layer.partial_bits if partial else self.layer.bits[self.name]
            found.append(round(self.layer.tile(self.name, sizes)) * bits)
        return found

    def busy_bits(self) -> list[int]:
        """The part of each of these tiles that is in use at a time: outermost loops that index the
        operand leave the rest of it free for the next tile.
        """
        relevant = self.layer.relevant[self.name]
        return [
            bits // _outer(loops, relevant)
            for bits, loops in zip(self.tile_bits(), self.loops, strict=True)
        ]


def _outer(loops: list[Loop], chosen: frozenset[str]) -> int:
    """Iterations of the loops on the outside that are all of the chosen ones."""
    product = 1
    for loop, size in reversed(loops):
        if loop not in chosen:
            break
        product *= size
    return product
