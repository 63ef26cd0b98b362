"""ZigZag's accounting of a nest: energy in pJ and latency in cycles, as its releases count them.

A nest is one order of temporal loops (innermost first) and, for each operand and memory, how many
of them that memory or one below it holds. A *link* joins a stop (the MACs, then each memory of an
operand, from the inside out) to the next memory. Below a link a tile lasts a *period*, the product
of the loops held there; loops in which the operand does not change and that would be the innermost
of a memory count for the memory below it (its tile simply stays).

Energy: over every link and period each end pays for one tile: bits in steps of the port's least
access, each the fraction least/width of the energy of a full word, times the copies of the memory.
The MACs read an input once for as long as it stays; outputs are read and written in their register
at each step. Whole tiles are fetched: nothing is kept of overlapping windows. Sums that are not
final go back down as often as they come up, and are wider than results.

Latency = temporal loops + stall + onload + offload + drain. A link may use its whole period if its
lower memory can hold two tiles, else the part of it in which the tile is not needed again; what a
port is busy beyond that, for all but the first period, stalls. All ports work at once: the worst
counts. Before: the first tiles of inputs and weights (of two operands that share one port only on
one side the longer, of a memory the slower side); what is loaded only once may use idle bandwidth
of the computation, except the tile of the innermost memory. After: the last outputs, one link after
another; release 3.9 adds one cycle for each MAC along a systolic dimension.

Source: Mei et al., "ZigZag: Enlarging Joint Architecture-Mapping Design Space Exploration for DNN
Accelerators", IEEE Trans. Computers 2021, and "A Uniform Latency Model for DNN Accelerators with
Diverse Architectures and Dataflows", DATE 2022; checked against zigzag-dse 3.8.5 and 3.9.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from hwopt.validation.zigzag_machine import Array, Layer, Port, Store

Loop = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Nest:
    """Loops, innermost first; `held[operand][i]`: the first so many stay in its memory i."""

    loops: tuple[Loop, ...]
    held: dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Release:
    """What changed between releases: the drain of the array, and how idle bandwidth is shared out
    among first tiles: "ordered" (largest first) or "balanced" (all alike).
    """

    name: str
    drain: bool
    loading: str


RELEASES = {"3.8": Release("3.8", drain=False, loading="balanced"),
            "3.9": Release("3.9", drain=True, loading="ordered")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cost:
    """Picojoules and cycles of a nest. `offload` includes the drain of the array."""

    energy: float
    latency: float
    temporal: int
    stall: float
    onload: float
    offload: float


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


class _Operand:
    """The links of one operand."""

    def __init__(self, name: str, nest: Nest, layer: Layer, array: Array, *, whole: bool) -> None:
        self.name, self.layer, self.path = name, layer, array.path(name)
        self.irrelevant = layer.irrelevant(name)
        ends = (0, *nest.held[name])
        self.loops = self._settled(
            [list(nest.loops[a:b]) for a, b in zip(ends, ends[1:], strict=False)]
        )
        self.total = math.prod(size for _, size in nest.loops)
        self.spread = self._spread(unrolled(layer, array, whole=whole))

    def _settled(self, levels: list[list[Loop]]) -> list[list[Loop]]:
        """Innermost loops that leave the tile as it is move down, as far as they go."""
        for number in range(1, len(levels)):
            for lower in range(number, 0, -1):
                while levels[lower] and levels[lower][0][0] in self.irrelevant:
                    levels[lower - 1].append(levels[lower].pop(0))
        return levels

    def _spread(self, dims: dict[str, dict[str, float]]) -> list[list[tuple[str, float]]]:
        """Spatial loops between each memory and the stop below it (the last: above all)."""
        left, found = dict(dims), []
        for store in self.path:
            loops = [pair for dim in store.serves for pair in left.pop(dim, {}).items()]
            found.append(loops)
        return [*found, [pair for loops in left.values() for pair in loops.items()]]

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
        cycles = 1
        for number, store in enumerate(self.path):
            below = self.loops[number - 1] if number else []
            tile = round(self.layer.tile(self.name, sizes))
            before = self.layer.tile(self.name, spatial)
            for loop, size in self.spread[number]:
                spatial[loop] = spatial.get(loop, 1) * size
                sizes[loop] = sizes.get(loop, 1) * size
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
                cycles *= size
            period = cycles

    def _unfinished(self, stop: int) -> bool:
        """Whether what leaves a stop still has to be added up: in time above, or in space beyond
        the next memory (sums over what lies between stop and memory are made on the way)."""
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
        operand leave the rest of it free for the next tile."""
        relevant = self.layer.relevant(self.name)
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


Transfer = tuple[str, int, str]
"""Operand, memory of the operand from the inside out, way."""


@dataclass(frozen=True, slots=True)
class _Duty:
    """What a port does over and over: cycles it needs and may take per period."""

    needed: int
    allowed: int
    period: int
    count: int

    @property
    def excess(self) -> int:
        return (self.needed - self.allowed) * (self.count - 1)


class Accounting:
    """A nest priced on an array; `cost` is the result."""

    def __init__(self, nest: Nest, layer: Layer, array: Array, release: Release) -> None:
        self.nest, self.layer, self.array, self.release = nest, layer, array, release
        exact, whole = ({
            name: _Operand(name, nest, layer, array, whole=cut) for name in layer.operands
        } for cut in (False, True))  # fmt: skip
        self.energy_links = [link for operand in exact.values() for link in operand.links()]
        self.links = [link for operand in whole.values() for link in operand.links()]
        self.busy = {name: operand.busy_bits() for name, operand in exact.items()}
        self.innermost = {name: operand.tile_bits()[0] for name, operand in whole.items()}
        self.total = math.prod(size for _, size in nest.loops)

    @cached_property
    def cost(self) -> Cost:
        """Energy and latency."""
        stall = self._stall()
        first = self._first_tiles(stall)
        onload, offload = self._onload(first), self._offload(first) + self._drain()
        latency = self.total + stall + onload + offload
        return Cost(self.energy(), latency, self.total, stall, onload, offload)

    def energy(self) -> float:
        """Picojoules of all transfers and of the MACs."""
        total = self.layer.macs * self.array.mac_pj
        for link in self.energy_links:
            for store, way, amount, copies in link.ends:
                if (port := store.port(link.operand, way)) is not None:
                    steps = math.ceil(amount * link.bits / port.least_bits)
                    share = port.least_bits / port.width_bits
                    each = store.read_pj if way in ("tl", "th") else store.write_pj
                    total += int(steps * share * link.count * copies) * each
        return total

    def _needed(self, link: Link, store: Store, way: str, amount: int) -> int:
        port = store.port(link.operand, way)
        return math.ceil(amount * link.bits / port.width_bits) if port else 0

    @cached_property
    def _doubled(self) -> set[tuple[str, int]]:
        """(operand, memory) with room for the next tile, in the order in which they claim it."""
        shared: dict[str, float] = {}
        own: dict[tuple[str, int], float] = {}
        for name, busy in self.busy.items():
            for number, store in enumerate(self.array.path(name)):
                own[name, number] = busy[number] / store.bits
                shared[store.name] = shared.get(store.name, 0.0) + own[name, number]
        found = set()
        for (name, number), part in own.items():
            store = self.array.path(name)[number].name
            if shared[store] <= 0.5:  # noqa: PLR2004
                found.add((name, number))
            elif part <= 1 - shared[store]:
                found.add((name, number))
                shared[store] += part
        return found

    def _allowed(self, link: Link) -> int:
        if (link.operand, link.number - 1) in self._doubled:
            return link.period
        return int(link.period / link.still)

    @cached_property
    def _traffic(self) -> list[tuple[Port, list[tuple[Link, Store, str, int]]]]:
        """For each port: link, memory, way and elements per period of what it carries."""
        found = []
        ends = {
            (store.name, link.operand, way): (link, store, way, amount)
            for link in self.links
            for store, way, amount, _ in link.ends
        }
        for store in self.array.stores:
            for port in store.ports:
                keys = [(store.name, operand, way) for operand, way in port.serves]
                found.append((port, [ends[key] for key in keys if key in ends]))
        return found

    def _stall(self) -> float:
        """Cycles by which the busiest port lengthens the computation."""
        worst = 0
        for _, traffic in self._traffic:
            duties = [
                _Duty(self._needed(link, store, way, amount), self._allowed(link),
                      link.period, link.count)
                for link, store, way, amount in traffic
            ]  # fmt: skip
            if len(duties) == 1:
                worst = max(worst, duties[0].excess)
            elif duties:
                late = sum(max(0, duty.excess) for duty in duties)
                slack = sum(min(0, duty.excess) for duty in duties)
                windows = sum(duty.allowed * (duty.count - 1) for duty in duties)
                worst = max(worst, late + max(0, slack + windows - _covered(duties)))
        return worst

    def _first_tiles(self, stall: float) -> dict[Transfer, float]:
        """Cycles of the first (of outputs: the last) tile of each transfer, as far as they are not
        hidden in the computation."""
        found: dict[Transfer, float] = {}
        for port, traffic in self._traffic:
            once, average = [], 0
            for link, store, way, amount in traffic:
                if link.operand == "O" and way in ("tl", "fh"):
                    continue
                memory = link.number - (store is link.below)
                key = (link.operand, memory, way)
                found[key] = self._needed(link, store, way, amount)
                if link.count == 1:
                    once.append(key)
                else:
                    average += int(link.tile * link.bits / link.period
                                   * (1 if store is link.below else link.width))  # fmt: skip
            computing = self.total + stall
            idle = max(0, (port.width_bits - average) / port.width_bits * computing)
            floor = [math.ceil(self.innermost[key[0]] / port.width_bits) for key in once]
            left = _hide([found[key] for key in once], floor, idle, self.release.loading)
            found.update(zip(once, left, strict=True))
        return found

    def _onload(self, first: dict[Transfer, float]) -> float:
        parts = {}
        for name in ("I", "W"):
            alone = half = shared = 0.0
            path = self.array.path(name)
            for number in range(len(path) - 1):
                longer = max(first.get((name, number, "fh"), 0), first.get((name, number + 1, "tl"), 0))
                both = [
                    port is not None and port.feeds_both_inputs
                    for port in (path[number].port(name, "fh"), path[number + 1].port(name, "tl"))
                ]
                if all(both):
                    shared += longer
                elif any(both):
                    half = longer
                else:
                    alone += longer
            parts[name] = (shared, half + alone)
        (shared_i, rest_i), (shared_w, rest_w) = parts["I"], parts["W"]
        return min(
            shared_i + max(shared_w + rest_w, rest_i), shared_w + max(shared_i + rest_i, rest_w)
        )

    def _offload(self, first: dict[Transfer, float]) -> float:
        levels = range(len(self.array.path("O")) - 1)
        return sum(max(first.get(("O", n, "th"), 0), first.get(("O", n + 1, "fl"), 0)) for n in levels)

    def _drain(self) -> int:
        """Cycles in which the last sums leave a systolic array."""
        if not self.release.drain:
            return 0
        lengths = [
            math.prod(min(most, self.layer.sizes.get(loop, 1)) for loop, most in loops.items())
            for dim, loops in self.array.spread.items()
            if dim in self.array.systolic
        ]
        return sum(length - 1 for length in lengths)


def _covered(duties: list[_Duty]) -> int:
    """Cycles of the computation that lie in the window of at least one duty.

    Windows begin with their periods, and each period divides the next longer one.
    """
    if any(duty.period == duty.allowed for duty in duties):
        return next(d.period * d.count for d in duties if d.period == d.allowed)
    chain = sorted(duties, key=lambda duty: duty.period)

    def until(number: int, cycles: int) -> int:
        """Covered cycles of the first `cycles`, by the first `number` + 1 duties."""
        if number < 0:
            return 0
        duty = chain[number]
        rounds, rest = divmod(cycles, duty.period)

        def within(end: int) -> int:
            if end <= duty.allowed:
                return end
            return duty.allowed + until(number - 1, end) - until(number - 1, duty.allowed)

        return rounds * (within(duty.period) if rounds else 0) + within(rest)

    longest = max(duties, key=lambda duty: duty.period)
    return until(len(chain) - 1, longest.period) * longest.count


def _hide(cycles: list[float], floor: list[int], idle: float, way: str) -> list[float]:
    """What is left of loads when `idle` cycles of a port are used for them, down to `floor`."""
    if idle <= 0 or not cycles:
        return cycles
    left = list(cycles)
    order = sorted(range(len(cycles)), key=lambda i: cycles[i], reverse=True)
    for place, i in enumerate(order):
        if way == "ordered":
            part = min(max(0.0, left[i] - floor[i]), idle)
            left[i] -= part
            idle -= part
        else:  # all that came before give up as much as this one can
            part = min(left[i] - floor[i], idle / (place + 1))
            for j in order[: place + 1]:
                left[j] -= part
            idle -= part * (place + 1)
    return left


def account(nest: Nest, layer: Layer, array: Array, release: Release) -> Cost:
    """Energy and latency of a nest as a release of ZigZag counts them."""
    return Accounting(nest, layer, array, release).cost
