"""ZigZag's accounting of a nest: energy in pJ and latency in cycles, as its releases count them.

Energy: over every link (see `zigzag_links`) and period each end pays for one tile: bits in steps of
the port's least access, each the fraction least/width of the energy of a full word, times the
copies of the memory. The MACs read an input once for as long as it stays; outputs are read and
written in their register at each step.

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
from dataclasses import dataclass
from functools import cached_property

from hwopt.validation.zigzag_links import End, Link, Links, Loop, Nest, spreads
from hwopt.validation.zigzag_machine import Array, Layer, Port


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


class Accountant:
    """Prices nests of one layer on one array as one release does."""

    def __init__(self, layer: Layer, array: Array, release: Release) -> None:
        self.layer, self.array, self.release = layer, array, release
        self.exact = spreads(layer, array, whole=False)
        self.whole = spreads(layer, array, whole=True)
        self.known: dict[tuple[bool, str, tuple[Loop, ...], tuple[int, ...]], Links] = {}

    def price(self, nest: Nest) -> Cost:
        """Energy and latency."""
        return _Accounting(nest, self).cost

    def links(self, nest: Nest, name: str, *, whole: bool) -> Links:
        """The links of an operand, which depend on its own keeps alone: made once."""
        whole = whole and self.whole != self.exact
        key = whole, name, nest.loops, nest.held[name]
        if key not in self.known:
            spread = (self.whole if whole else self.exact)[name]
            self.known[key] = Links(name, nest, self.layer, self.array.path[name], spread)
        return self.known[key]

    def fits(self, nest: Nest) -> bool:
        """Whether every memory holds its tiles. Sums are wide where something is still added to
        them, be it on their way up from that memory.
        """
        used = dict.fromkeys((store.name for store in self.array.stores), 0.0)
        for name in self.layer.operands:
            sizes: dict[str, float] = {}
            spread, done = self.exact[name], 0
            for number, store in enumerate(self.array.path[name]):
                end = nest.held[name][number]
                for loop, size in (*spread[number], *nest.loops[done:end]):
                    sizes[loop] = sizes.get(loop, 1) * size
                done = end
                bits = self.layer.bits[name]
                if name == "O":
                    above = {loop for level in spread[number + 1 :] for loop, _ in level}
                    above.update(loop for loop, _ in nest.loops[end:])
                    if above & self.layer.irrelevant[name]:
                        bits = self.layer.partial_bits
                used[store.name] += self.layer.tile(name, sizes) * bits
                if used[store.name] > store.bits:
                    return False
        return True


class _Accounting:
    """One nest."""

    def __init__(self, nest: Nest, accountant: Accountant) -> None:
        self.layer, self.array = accountant.layer, accountant.array
        self.release = accountant.release
        self.exact, self.whole = (
            {name: accountant.links(nest, name, whole=cut) for name in self.layer.operands}
            for cut in (False, True)
        )
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
        moved = sum(
            end.picojoules
            for links in self.exact.values()
            for link in links.links
            for end in link.ends
        )
        return moved + self.layer.macs * self.array.mac_pj

    @cached_property
    def _doubled(self) -> set[tuple[str, int]]:
        """(operand, memory) with room for the next tile, in the order in which they claim it."""
        shared: dict[str, float] = {}
        own: dict[tuple[str, int], float] = {}
        for name, links in self.exact.items():
            for number, store in enumerate(links.path):
                own[name, number] = links.busy_bits[number] / store.bits
                shared[store.name] = shared.get(store.name, 0.0) + own[name, number]
        found = set()
        for (name, number), part in own.items():
            memory = self.array.path[name][number].name
            if shared[memory] <= 0.5:
                found.add((name, number))
            elif part <= 1 - shared[memory]:
                found.add((name, number))
                shared[memory] += part
        return found

    def _allowed(self, link: Link) -> int:
        if (link.operand, link.memory - 1) in self._doubled:
            return link.period
        return int(link.period / link.still)

    @cached_property
    def _traffic(self) -> list[tuple[Port, list[tuple[Link, End]]]]:
        """What each port carries, in the order in which it lists it."""
        found = []
        ends = {
            (end.store.name, link.operand, end.way): (link, end)
            for links in self.whole.values()
            for link in links.links
            for end in link.ends
        }
        for store in self.array.stores:
            for port in store.ports:
                keys = [(store.name, *served) for served in port.serves]
                found.append((port, [ends[key] for key in keys if key in ends]))
        return found

    def _stall(self) -> float:
        """Cycles by which the busiest port lengthens the computation."""
        worst = 0
        for _, traffic in self._traffic:
            duties = [
                _Duty(end.cycles, self._allowed(link), link.period, link.count)
                for link, end in traffic
            ]
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
        hidden in the computation.
        """
        found: dict[Transfer, float] = {}
        for port, traffic in self._traffic:
            once, average = [], 0
            for link, end in traffic:
                if link.operand == "O" and end.way in ("tl", "fh"):
                    continue
                key = (link.operand, link.memory - (not end.upper), end.way)
                found[key] = end.cycles
                if link.count == 1:
                    once.append(key)
                else:
                    average += int(end.amount * link.bits / link.period)
            computing = self.total + stall
            idle = max(0, (port.width_bits - average) / port.width_bits * computing)
            floor = [math.ceil(self._innermost(key[0]) / port.width_bits) for key in once]
            left = _hide([found[key] for key in once], floor, idle, self.release.loading)
            found.update(zip(once, left, strict=True))
        return found

    def _innermost(self, name: str) -> int:
        """Bits of one tile in one copy of an operand's innermost memory."""
        return self.whole[name].tiles[1] * self.whole[name].bits[1]

    def _onload(self, first: dict[Transfer, float]) -> float:
        parts = {}
        for name in ("I", "W"):
            alone = half = shared = 0.0
            path = self.array.path[name]
            for number in range(len(path) - 1):
                longer = max(
                    first.get((name, number, "fh"), 0), first.get((name, number + 1, "tl"), 0)
                )
                ports = path[number].port.get((name, "fh")), path[number + 1].port.get((name, "tl"))
                both = [port is not None and port.feeds_both_inputs for port in ports]
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
        levels = range(len(self.array.path["O"]) - 1)
        return sum(
            max(first.get(("O", n, "th"), 0), first.get(("O", n + 1, "fl"), 0)) for n in levels
        )

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
