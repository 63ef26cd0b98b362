"""Mappings of our mapper for a layer on ZigZag's machine, priced by ZigZag's accounting.

The file fixes what is laid out over the array, so the array is *folded*: its MACs work in step on
one element of each operand, as wide as what they use together; what is left are temporal loops and
memories in a row, which is what `best_mapping` gets. It minimises latency, energy and EDP of our
own model, with all of the memories, with half of the one-operand memories inside the array (which
leaves room to load the next tile), and with ever less of the others (which makes first tiles
short). Our model overlaps all transfers and has no first tiles, so each result, and one plain nest,
is then improved under ZigZag's accounting by single steps: swap two neighbouring loops, move a keep
by one loop or all the way out, cut a loop in two. From the best by each objective, a loop or a part
of it is put outside all others and keeps are moved again. Every nest on the way counts: `front`
keeps those that no other one betters in latency and energy at once, and tries all steps from each
of these.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from hwopt.errors import InfeasibleError
from hwopt.hardware.accelerator import Accelerator, Compute, Memory, OperandRole
from hwopt.hardware.conventions import ZIGZAG
from hwopt.ir.access import Axis, parse_access
from hwopt.mapping.analysis import OBJECTIVES, Objective
from hwopt.mapping.best import best_mapping
from hwopt.mapping.mapping import Keep, Loop, Mapping
from hwopt.mapping.problem import Operand, Problem
from hwopt.validation.zigzag_accounting import Accountant, Cost, Release
from hwopt.validation.zigzag_links import Nest, as_holds, spreads, temporal_sizes, unrolled
from hwopt.validation.zigzag_machine import Array, Layer, Store

ROLE: dict[str, OperandRole] = {"I": "input", "W": "weight", "O": "output"}
LETTER = {role: letter for letter, role in ROLE.items()}
ROOMS = ((1.0, 1.0), (1.0, 0.5), (1 / 16, 0.5), (1 / 256, 0.5))
"""Parts of the shared memories and of the memories inside the array that the mapper may fill."""
MOST_LOOPS = 9
"""Loops of a nest beyond which none is cut any further."""
PICO = 1e-12
HERTZ = 1e9


@dataclass(frozen=True)
class Folded:
    """A layer as the whole array sees it: bits that its MACs use of each operand at a time."""

    layer: Layer
    array: Array
    spatial: dict[str, float]
    bits: dict[str, int]

    @property
    def macs(self) -> float:
        """MACs in use."""
        return math.prod(self.spatial.values())


def fold(layer: Layer, array: Array) -> Folded:
    """See the top of this file. Sums are as wide as they are before they are final."""
    spatial: dict[str, float] = {}
    for loops in unrolled(layer, array, whole=False).values():
        for loop, size in loops.items():
            spatial[loop] = spatial.get(loop, 1) * size
    width = {**layer.bits, "O": layer.partial_bits}
    bits = {name: math.ceil(layer.tile(name, spatial) * width[name]) for name in layer.operands}
    return Folded(layer, array, spatial, bits)


def problem_of(folded: Folded) -> Problem:
    """The temporal loops as a nest over folded elements."""
    layer = folded.layer
    sizes = temporal_sizes(layer, folded.array)
    axes = tuple(Axis(loop.lower(), size) for loop, size in sizes.items())
    operands = []
    for name in ("I", "W", "O"):
        index = [loop.lower() for loop in sizes if loop in layer.relevant[name]]
        shape = [sizes[loop.upper()] for loop in index]
        if name == "I" and "OX" in layer.sizes:
            for axis, (out, kernel) in enumerate((("OX", "FX"), ("OY", "FY"))):
                terms = [f"{layer.stride[axis]}*{out.lower()}"] * (out in sizes)
                terms += [f"{layer.dilation[axis]}*{kernel.lower()}"] * (kernel in sizes)
                if terms:
                    index.append(" + ".join(terms))
                    shape.append(_reach(layer, sizes, axis))
        access = parse_access(*index, fill=0.0)
        operands.append(Operand(ROLE[name], access, tuple(shape), folded.bits[name]))
    return Problem(axes, tuple(operands))


def _reach(layer: Layer, sizes: dict[str, int], axis: int) -> int:
    """Positions from the first to the last that an input is read at, padding included."""
    out, kernel = (("OX", "FX"), ("OY", "FY"))[axis]
    outputs, taps = sizes.get(out, 1), sizes.get(kernel, 1)
    return (outputs - 1) * layer.stride[axis] + (taps - 1) * layer.dilation[axis] + 1


def machine_of(folded: Folded, shared: float, inside: float) -> Accelerator:
    """The memories from the outside in, with parts of their capacity: `shared` of those that serve
    the whole array (but not the outermost), `inside` of the others. One cycle is 1 ns. What is
    written to the outermost memory are results, so it costs what they are wide.
    """
    array, layer = folded.array, folded.layer
    levels = []
    for store in outside_in(array):
        outermost = store is array.stores[-1]
        width, energy = _folding(folded, store)
        part = shared if set(store.serves) >= set(array.dims) else inside
        least = sum(folded.bits[name] for name in store.operands)
        narrow = layer.bits["O"] / layer.partial_bits if outermost else 1.0
        per_byte = 8 * energy * PICO
        levels.append(
            Memory(
                name=store.name,
                capacity_bytes=None if outermost else max(least, part * store.bits * width) / 8,
                keeps=tuple(ROLE[name] for name in ("I", "W", "O") if name in store.operands),
                read_joules_per_byte=store.read_pj / _width(store, "tl", "th") * per_byte,
                write_joules_per_byte=store.write_pj / _width(store, "fl", "fh")
                * per_byte * narrow,
                leakage_watts=0.0, area_m2=0.0,
                **_ports(store, width),
            )
        )  # fmt: skip
    compute = Compute(
        joules_per_mac=array.mac_pj * folded.macs * PICO, leakage_watts=0.0, area_m2=0.0
    )
    return Accelerator(name=array.name, clock_hz=HERTZ, levels=tuple(levels), compute=compute)


def outside_in(array: Array) -> list[Store]:
    """The memories, each after those that feed it; of others the largest first, so that an
    operand's small register does not stand above another's large one.
    """
    waiting, found = list(array.stores), []
    while waiting:
        ready = [
            store for store in waiting
            if not any(
                other is not store and set(store.operands) & set(other.operands)
                for other in waiting[waiting.index(store) + 1 :]
            )
        ]  # fmt: skip
        found.append(max(ready, key=lambda store: store.bits))
        waiting.remove(found[-1])
    return found


def _folding(folded: Folded, store: Store) -> tuple[float, float]:
    """How much wider a folded element is than what one copy of a memory holds of it, and how many
    times its bits are moved by all copies together.
    """
    name = store.operands[0]
    path = folded.array.path[name]
    levels = spreads(folded.layer, folded.array, whole=False)[name]
    place = path.index(store)
    below = {loop: size for level in levels[: place + 1] for loop, size in level}
    copies = math.prod(size for level in levels[place + 1 :] for _, size in level)
    bits = folded.layer.tile(name, below) * (
        folded.layer.partial_bits if name == "O" else folded.layer.bits[name]
    )
    return folded.bits[name] / bits, copies * bits / folded.bits[name]


def _width(store: Store, *ways: str) -> int:
    """Bits of one access in these ways (the widest, where ports differ)."""
    return max(p.width_bits for p in store.ports if any(way in ways for _, way in p.serves))


def _ports(store: Store, width: float) -> dict[str, float]:
    """Bandwidths in bytes per second: of ports that read, that write, and that do both."""
    found: dict[str, float] = {}
    for port in store.ports:
        ways = {way for _, way in port.serves}
        reads, writes = bool(ways & {"tl", "th"}), bool(ways & {"fl", "fh"})
        name = "bytes_per_s" if reads and writes else f"{'read' if reads else 'write'}_bytes_per_s"
        found[name] = found.get(name, 0.0) + port.width_bits * width / 8 * HERTZ
    return found


def nest_of(mapping: Mapping, problem: Problem, array: Array) -> Nest:
    """A mapping in ZigZag's terms: what a memory does not keep is held by the one below it."""
    extent = dict(problem.sizes)
    loops: list[tuple[str, int]] = []
    outside: dict[tuple[str, str], int] = {}
    for node in mapping.nodes:
        if isinstance(node, Keep):
            outside.update(((node.memory, LETTER[role]), len(loops)) for role in node.roles)
        elif isinstance(node, Loop):
            count = -(-extent[node.axis] // node.tile)
            extent[node.axis] = min(extent[node.axis], node.tile)
            loops += [(node.axis.upper(), count)] * (count > 1)
    held: dict[str, list[int]] = {}
    for role in problem.operand:
        ends, last = [], 0
        for store in array.path[LETTER[role]]:
            key = store.name, LETTER[role]
            last = len(loops) - outside[key] if key in outside else last
            ends.append(last)
        held[LETTER[role]] = [*ends[:-1], len(loops)]
    return Nest(tuple(reversed(loops)), as_holds(held))


def starts(
    layer: Layer, array: Array, rooms: tuple[tuple[float, float], ...] = ROOMS,
    objectives: tuple[Objective, ...] = OBJECTIVES,
) -> tuple[Nest, ...]:  # fmt: skip
    """What the mapper finds best in each of the rooms, by each objective."""
    folded = fold(layer, array)
    problem = problem_of(folded)
    if not problem.axes:
        return ()  # all of the layer is laid out in space
    found: dict[Nest, None] = {}
    for shared, inside in rooms:
        machine = machine_of(folded, shared, inside)
        for objective in objectives:
            try:
                best = best_mapping(
                    problem, machine, objective=objective, conventions=ZIGZAG, factors="perfect"
                )
            except InfeasibleError:
                continue
            found[nest_of(best.mapping, problem, array)] = None
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Point:
    """A nest and what it costs."""

    cost: Cost
    nest: Nest


KEYS: dict[Objective, Callable[[Cost], tuple[float, float]]] = {
    "latency": lambda cost: (cost.latency, cost.energy),
    "energy": lambda cost: (cost.energy, cost.latency),
    "edp": lambda cost: (cost.energy * cost.latency, cost.latency),
}


def front(
    begin: tuple[Nest, ...], layer: Layer, array: Array, release: Release
) -> tuple[Point, ...]:
    """Nests that no other one found betters in latency and energy, by latency."""
    cost, known = _remembered(Accountant(layer, array, release))
    for nest, objective in itertools.product((*begin, plain(layer, array)), OBJECTIVES):
        descend(nest, cost, KEYS[objective], neighbours)
    for key in KEYS.values():
        best = min(_unbettered(known), key=lambda point: key(point.cost))
        for nest in kicks(best.nest):
            descend(nest, cost, KEYS["latency"], moves)
    seen: set[Nest] = set()
    while fresh := [point.nest for point in _unbettered(known) if point.nest not in seen]:
        for nest in fresh:
            seen.add(nest)
            for step in neighbours(nest):
                cost(step)
    return _unbettered(known)


def quick(layer: Layer, array: Array, release: Release, objective: Objective) -> Point:
    """One good nest: the mapper's with all and with half of the inner memories, keeps moved."""
    cost, known = _remembered(Accountant(layer, array, release))
    for nest in starts(layer, array, ROOMS[:2], (objective,)) or (plain(layer, array),):
        descend(nest, cost, KEYS[objective], moves)
    points = [Point(found, nest) for nest, found in known.items() if found is not None]
    return min(points, key=lambda point: KEYS[objective](point.cost))


def _remembered(
    accountant: Accountant,
) -> tuple[Callable[[Nest], Cost | None], dict[Nest, Cost | None]]:
    """A price for each nest that fits (None: it does not), and all that were asked for."""
    known: dict[Nest, Cost | None] = {}

    def cost(nest: Nest) -> Cost | None:
        if nest not in known:
            known[nest] = accountant.price(nest) if accountant.fits(nest) else None
        return known[nest]

    return cost, known


def _unbettered(known: dict[Nest, Cost | None]) -> tuple[Point, ...]:
    """The front of what has been priced, by latency."""
    kept: list[Point] = []
    points = [Point(found, nest) for nest, found in known.items() if found is not None]
    for point in sorted(points, key=lambda point: KEYS["latency"](point.cost)):
        if not kept or point.cost.energy < kept[-1].cost.energy:
            kept.append(point)
    return tuple(kept)


def descend(
    nest: Nest, cost: Callable[[Nest], Cost | None],
    key: Callable[[Cost], tuple[float, float]], steps: Callable[[Nest], Iterator[Nest]],
) -> None:  # fmt: skip
    """Take the best step until none is better."""
    here = cost(nest)
    while here is not None:
        found = [(key(there), step) for step in steps(nest) if (there := cost(step))]
        best = min(found, key=lambda item: item[0], default=None)
        if best is None or not best[0] < key(here):
            return
        nest = best[1]
        here = cost(nest)


def neighbours(nest: Nest) -> Iterator[Nest]:
    """Nests that are one step away (see the top of this file)."""
    for i, ((loop, _), (outer, _)) in enumerate(itertools.pairwise(nest.loops)):
        if loop != outer:
            swapped = (*nest.loops[:i], nest.loops[i + 1], nest.loops[i], *nest.loops[i + 2 :])
            yield replace(nest, loops=swapped)
    yield from moves(nest)
    for cut, place in _cuts(nest):
        yield cut
        yield from moves(cut, (place,))


def kicks(nest: Nest) -> Iterator[Nest]:
    """With one loop, or a part of it, outside all others, and out of every memory that held it."""
    for cut, place in [(nest, i) for i in range(len(nest.loops) - 1)] + list(_cuts(nest)):
        loops = (*cut.loops[:place], *cut.loops[place + 1 :], cut.loops[place])
        holds = tuple(
            (name, (*(end - (end > place) for end in ends[:-1]), ends[-1]))
            for name, ends in cut.holds
        )
        yield Nest(loops, holds)


def _cuts(nest: Nest) -> Iterator[tuple[Nest, int]]:
    """With one loop in two, and the place of the outer part."""
    if len(nest.loops) >= MOST_LOOPS:
        return
    for i, (loop, size) in enumerate(nest.loops):
        for part in _parts(size):
            loops = (*nest.loops[:i], (loop, part), (loop, size // part), *nest.loops[i + 1 :])
            holds = tuple((n, tuple(e + (e > i) for e in ends)) for n, ends in nest.holds)
            yield Nest(loops, holds), i + 1


def moves(nest: Nest, to: tuple[int, ...] | None = None) -> Iterator[Nest]:
    """The nests in which one memory, but not an operand's outermost, holds one loop more or fewer,
    or all; `to` allows only so many loops.
    """
    if to is None:
        to = tuple(range(len(nest.loops) + 1))
    for number, (name, ends) in enumerate(nest.holds):
        for place, end in enumerate(ends[:-1]):
            least, most = (ends[place - 1] if place else 0), ends[place + 1]
            for new in to:
                if least <= new <= most and (abs(new - end) == 1 or new == len(nest.loops) != end):
                    changed = (name, (*ends[:place], new, *ends[place + 1 :]))
                    yield replace(
                        nest, holds=(*nest.holds[:number], changed, *nest.holds[number + 1 :])
                    )


def _parts(size: int) -> tuple[int, ...]:
    """Prime factors of a size and what each leaves, in order, without 1 and the size itself."""
    found, rest, prime = set(), size, 2
    while rest > 1:
        if rest % prime:
            prime += 1
        else:
            found |= {prime, size // prime}
            rest //= prime
    return tuple(sorted(found - {1, size}))


def plain(layer: Layer, array: Array) -> Nest:
    """The baseline, without a search: kernel and input channels inside, then rows and columns, then
    the rest; from the inside out each memory holds all that it has room for.
    """
    accountant = Accountant(layer, array, Release("plain", drain=False, loading="ordered"))
    order = ("FX", "FY", "C", "OX", "OY")
    sizes = temporal_sizes(layer, array)
    names = sorted(sizes, key=lambda loop: order.index(loop) if loop in order else len(order))
    loops = tuple((name, sizes[name]) for name in names)
    held = {
        name: [0] * (len(array.path[name]) - 1) + [len(loops)] for name in layer.operands
    }  # fmt: skip
    for store in array.stores[:-1]:
        for name in store.operands:
            place = array.path[name].index(store)
            for end in range(len(loops) + 1):
                tried = {n: list(ends) for n, ends in held.items()}
                tried[name][place:-1] = [end] * (len(tried[name]) - 1 - place)
                if accountant.fits(Nest(loops, as_holds(tried))):
                    held = tried
    return Nest(loops, as_holds(held))
