"""The definition of a mapping's traffic: walk every step of every copy, with sets of elements.

Time. The temporal loops, in the order of the nodes, count like an odometer. All copies of the
machine walk in lockstep: a copy whose (edge) tile has no part at the present indices idles and
keeps what it holds. A step is one reading of the odometer at which some compute unit works.

Tiles. At a keep, the tile of an operand is the set of its elements that stay reachable when the
indices of the loops above it, and of all spreads over the fan-outs above its memory, are fixed:
a memory above a fan-out holds what all copies below it need together, wherever the keep stands.
Sets are exact: holes between strided positions are not in them (`strided="bounding"`: the bounding
box of what each copy reads is), positions outside the tensor are not in them (`padding="counted"`:
they are), edge tiles are smaller (`edges="padded"`: every axis is first grown until all its tiles
are full, and the tensors with it).

Moves. Of the loops above a keep that take more than one trip, the innermost that indexes the
operand, and all outside it, are its *fetch loops*: each of their iterations fetches the tile anew;
loops inside them do not touch it. A *composite axis* of an operand is a class of axes that share a
tensor dimension (`p` and `r` of a convolution's input). When the innermost fetch loop steps on,
only
the elements that the tile before lacks are fetched; when an outer one does, the whole tile is.
(`halo="none"`: always the whole tile. `fetch="counted"`: all loops above the keep are fetch
loops, and the whole
tile is fetched. `fetch="changed"`: the tile is fetched when its sets along the composite axes
differ from those of the step before; if exactly one differs, only the elements that the old tile
lacks.) Data comes from the nearest outer keep of the operand: it is written into every copy that
fetches it, and read above once for all copies, below one copy of that outer memory, that fetch the
same element in the same step, as far as the fan-outs between them multicast it (over dimensions of
a fan-out that does not, each copy reads for itself). The compute units read their operands at every
step from the innermost keep, in the same way; padding is never read.

Outputs. Each entry of an element into a keep (as above) later leaves it again: it is read there in
every copy and written to the outer keep. A fan-out that `reduces` adds up, on the way, copies that
differ only in axes that the output lacks: one write above; otherwise there is one write for each
copy. An element entered for the first time since it came to the outer keep without a value is
*fresh*: nothing is read. Every later entry reads the element back: one read above, one write below
(at the copy that reduces: the one at the origin of those axes; without reduction each copy). Other
copies start at nothing. When several copies enter an element in one step, the first is fresh. At
the outermost keep an element has no value at first. `first_write="zero"`: every entry reads back.

Resident operands. An operand that never leaves a memory has no traffic above it; its whole tensor
is charged there; at first it has no value in each copy that holds it.

Columns. `footprint`: the largest tile over time and copies. `total_*`: all copies. `busiest_*`: one
copy. Of a memory that exists several times, that is the copy at the origin of all fan-outs above
it, walked by itself as if there were no other, with padding counted: no copy has more or larger
tiles than it, and copies away from the border of the tensor have no padding.

This file shares no code with `traffic`, `plan` and `sums`. It costs time and memory in proportion
to steps x copies: use it for small problems.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field, replace

from hwopt.hardware.accelerator import Accelerator, Fanout, OperandRole
from hwopt.hardware.conventions import NATIVE, Conventions
from hwopt.ir.access import Affine, Axis
from hwopt.mapping.analysis import Analysis, Flow
from hwopt.mapping.mapping import Keep, Loop, Mapping, Spread
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.verify import verify_mapping

Pieces = dict[str, list[tuple[int, int]]]
"""Start and extent of the parts of each axis that the current tile reaches."""
Element = tuple[int, ...]
"""Indices along the dimensions of one composite axis."""
Item = tuple[Element, ...]
"""An element of a tensor: one `Element` per composite axis."""


def simulate(
    problem: Problem,
    mapping: Mapping,
    accelerator: Accelerator,
    conventions: Conventions = NATIVE,
    resident: MappingType[OperandRole, str] | None = None,
) -> Analysis:
    """Steps, footprints and traffic by walking; equal to `traffic.analyse`."""
    verify_mapping(problem, mapping, accelerator)
    if conventions.edges == "padded":
        run_problem, run_mapping = _grown(problem, mapping)
    else:
        run_problem, run_mapping = problem, mapping
    walk = _Walk(run_problem, run_mapping, accelerator, conventions, dict(resident or {}))
    whole = walk.run(frozenset(), conventions)
    counted = replace(conventions, padding="counted")
    flows: dict[str, dict[OperandRole, Flow]] = {}
    above: set[str] = set()
    for level in accelerator.levels:
        if isinstance(level, Fanout):
            above |= {level.name} if level.size > 1 else set()
            continue
        alone = walk.run(frozenset(above), counted) if above else whole
        flows[level.name] = {}
        for role, operand in problem.operand.items():
            key = level.name, role
            footprint = whole.largest[key]
            if (resident or {}).get(role) == level.name:
                footprint = math.prod(operand.shape)
            flows[level.name][role] = Flow(
                footprint, alone.reads[key], alone.writes[key], whole.reads[key], whole.writes[key]
            )
    bits = {role: operand.bits for role, operand in problem.operand.items()}
    return Analysis(whole.steps, problem.points, flows, bits)


def _grown(problem: Problem, mapping: Mapping) -> tuple[Problem, Mapping]:
    """The problem and mapping in which every tile is full."""
    inner = {axis.name: 1 for axis in problem.axes}
    extent, counts = dict(problem.sizes), []
    for node in mapping.nodes:
        if isinstance(node, Keep):
            counts.append(1)
            continue
        counts.append(-(-extent[node.axis] // node.tile))
        extent[node.axis] = min(extent[node.axis], node.tile)
    nodes = list(mapping.nodes)
    for number in reversed(range(len(nodes))):
        node = nodes[number]
        if not isinstance(node, Keep):
            nodes[number] = replace(node, tile=inner[node.axis])
            inner[node.axis] *= counts[number]
    operands = tuple(
        replace(
            operand,
            shape=tuple(
                size
                + sum(max(c, 0) * (inner[axis] - problem.sizes[axis]) for axis, c in affine.terms)
                for size, affine in zip(operand.shape, operand.access.index, strict=True)
            ),
        )
        for operand in problem.operands
    )
    axes = tuple(Axis(axis.name, inner[axis.name]) for axis in problem.axes)
    return replace(problem, axes=axes, operands=operands), Mapping(tuple(nodes))


@dataclass
class _Counts:
    """What one walk counts, by memory and operand."""

    steps: int = 0
    reads: Counter[tuple[str, OperandRole]] = field(default_factory=Counter)
    writes: Counter[tuple[str, OperandRole]] = field(default_factory=Counter)
    largest: Counter[tuple[str, OperandRole]] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Stop:
    """A keep of one operand, or (node = number of nodes, no memory) the compute units."""

    node: int
    memory: str | None


class _Walk:
    """One problem, mapping and machine, to be walked with or without other copies."""

    def __init__(
        self, problem: Problem, mapping: Mapping, accelerator: Accelerator,
        conventions: Conventions, resident: dict[OperandRole, str],
    ) -> None:  # fmt: skip
        self.problem, self.nodes = problem, mapping.nodes
        self.conventions, self.resident = conventions, resident
        self.fanouts = {fanout.name: fanout for fanout in accelerator.fanouts}
        self.loops = [n for n, node in enumerate(self.nodes) if isinstance(node, Loop)]
        self.spreads = [n for n, node in enumerate(self.nodes) if isinstance(node, Spread)]
        self.above: dict[str, frozenset[str]] = {}
        found: frozenset[str] = frozenset()
        for level in accelerator.levels:
            if isinstance(level, Fanout):
                found |= {level.name}
            else:
                self.above[level.name] = found
        self.every = found
        self.limits: dict[int, int] = {}
        extent = dict(problem.sizes)
        for number, node in enumerate(self.nodes):
            if not isinstance(node, Keep):
                self.limits[number] = -(-extent[node.axis] // node.tile)
                extent[node.axis] = min(extent[node.axis], node.tile)

    def above_of(self, stop: _Stop) -> frozenset[str]:
        """Fan-outs above a stop's memory (all, for the compute units)."""
        return self.every if stop.memory is None else self.above[stop.memory]

    def run(self, solo: frozenset[str], conventions: Conventions) -> _Counts:
        """Walk with only copy 0 of the fan-outs in `solo`."""
        counts = _Counts()
        for times in self.times():
            copy = dict.fromkeys(self.spreads, 0)
            if self.pieces(times, copy, _Stop(len(self.nodes), None)) is not None:
                counts.steps += 1
        for operand in self.problem.operands:
            _Operand(self, operand, solo, conventions, counts).walk()
        return counts

    def times(self) -> Iterator[dict[int, int]]:
        limits = [range(self.limits[n]) for n in self.loops]
        for indices in itertools.product(*limits):
            yield dict(zip(self.loops, indices, strict=True))

    def pieces(self, times: dict[int, int], copy: dict[int, int], stop: _Stop) -> Pieces | None:
        """Start and extent of the parts of each axis that a copy of a stop's memory reaches; None
        where it reaches none.
        """
        above = self.above_of(stop)
        found: Pieces = {axis.name: [(0, axis.size)] for axis in self.problem.axes}
        for number, node in enumerate(self.nodes):
            if isinstance(node, Keep):
                continue
            if isinstance(node, Spread):
                mine = node.fanout in above
                if (not mine and number > stop.node) or self.limits[number] == 1:
                    continue
                indices = [copy[number]] if mine else list(range(self.limits[number]))
            elif number < stop.node:
                indices = [times[number]]
            elif any(
                isinstance(later, Spread) and later.fanout in above and later.axis == node.axis
                and self.limits[at] > 1
                for at, later in enumerate(self.nodes) if at > number
            ):  # fmt: skip
                indices = [0]  # whether the copy has a part at all shows at the first index
            else:
                continue
            found[node.axis] = [
                (start + i * node.tile, min(node.tile, extent - i * node.tile))
                for start, extent in found[node.axis]
                for i in indices
                if i * node.tile < extent
            ]
        return found if all(found.values()) else None


class _Operand:
    """The walk of one operand."""

    def __init__(
        self, walk: _Walk, operand: Operand, solo: frozenset[str], conventions: Conventions,
        counts: _Counts,
    ) -> None:  # fmt: skip
        self.machine, self.operand = walk, operand
        self.conventions, self.counts = conventions, counts
        self.solo = solo
        self.axes = operand.access.axes
        self.parts = self._parts()
        stops = [
            _Stop(number, node.memory)
            for number, node in enumerate(walk.nodes)
            if isinstance(node, Keep) and operand.role in node.roles
        ]
        if operand.role in walk.resident:
            while stops[0].memory != walk.resident[operand.role]:
                stops.pop(0)
        outer = [n for n, stop in enumerate(stops) if not walk.above[str(stop.memory)] >= solo]
        self.stops = [*stops[outer[-1] if outer else 0 :], _Stop(len(walk.nodes), None)]
        self.cache: dict[tuple[int, tuple[tuple[tuple[int, int], ...], ...]], frozenset[Element]]
        self.cache = {}
        self.held: dict[tuple[int, tuple[int, ...]], list[frozenset[Element]]] = {}
        self.fresh: dict[tuple[int, tuple[int, ...]], set[Item]] = defaultdict(set)
        self.valued: dict[tuple[int, ...], set[Item]] = defaultdict(set)

    def _parts(self) -> list[tuple[tuple[str, ...], list[int]]]:
        """Composite axes: names of the axes and the tensor dimensions they share."""
        parts: list[tuple[set[str], list[int]]] = []
        for dim, affine in enumerate(self.operand.access.index):
            if affine.axes:
                joined = [part for part in parts if part[0] & set(affine.axes)]
                parts = [part for part in parts if part not in joined]
                names = set(affine.axes).union(*(part[0] for part in joined))
                parts.append((names, [d for part in joined for d in part[1]] + [dim]))
        return [(tuple(sorted(names)), sorted(dims)) for names, dims in parts]

    def _set(self, number: int, pieces: Pieces) -> frozenset[Element]:
        """Indices of one composite axis that a tile reaches."""
        axes, dims = self.parts[number]
        key = number, tuple(tuple(pieces[axis]) for axis in axes)
        if key not in self.cache:
            boxes = itertools.product(*(pieces[axis] for axis in axes))
            self.cache[key] = frozenset(
                element for box in boxes for element in self._elements(axes, dims, box)
            )
        return self.cache[key]

    def _elements(
        self, axes: tuple[str, ...], dims: list[int], box: tuple[tuple[int, int], ...]
    ) -> Iterator[Element]:
        index = [self.operand.access.index[dim] for dim in dims]
        shape = [self.operand.shape[dim] for dim in dims]
        spans = [range(start, start + extent) for start, extent in box]
        points = [
            tuple(_value(affine, dict(zip(axes, point, strict=True))) for affine in index)
            for point in itertools.product(*spans)
        ]
        if self.conventions.strided == "bounding" and self.operand.role != "output":
            lows, highs = map(min, zip(*points, strict=True)), map(max, zip(*points, strict=True))
            boxes = [range(low, high + 1) for low, high in zip(lows, highs, strict=True)]
            points = list(itertools.product(*boxes))
        for point in points:
            inside = all(0 <= x < size for x, size in zip(point, shape, strict=True))
            if inside or self.conventions.padding == "counted":
                yield point

    def _copies(self, stop: _Stop) -> Iterator[dict[int, int]]:
        """Copies of a stop's memory."""
        above = self.machine.above_of(stop)
        spreads, ranges = [], []
        for number in self.machine.spreads:
            node = self.machine.nodes[number]
            assert isinstance(node, Spread)
            if node.fanout in above:
                spreads.append(number)
                one = node.fanout in self.solo
                ranges.append(range(1 if one else self.machine.limits[number]))
        for indices in itertools.product(*ranges):
            yield dict(zip(spreads, indices, strict=True))

    def walk(self) -> None:
        """Let the odometer run, the links from the outside in at each reading."""
        first = self.stops[0]
        for times in self.machine.times():
            if first.memory is not None and self._starts(times, first):
                for copy in self._copies(first):
                    if (pieces := self.machine.pieces(times, copy, first)) is not None:
                        self._tile(first, pieces)
            for parent, child in itertools.pairwise(self.stops):
                if self._starts(times, child):
                    self._link(parent, child, times)

    def _starts(self, times: dict[int, int], stop: _Stop) -> bool:
        """A tile can change only where all loops below its keep are at their start."""
        return not any(times[n] for n in self.machine.loops if n >= stop.node)

    def _tile(self, stop: _Stop, pieces: Pieces) -> list[frozenset[Element]]:
        """The tile at a stop, as a set per composite axis; its size is noted."""
        sets = [self._set(n, pieces) for n in range(len(self.parts))]
        if stop.memory is not None:
            key = stop.memory, self.operand.role
            self.counts.largest[key] = max(self.counts.largest[key], math.prod(map(len, sets)))
        return sets

    def _link(self, parent: _Stop, child: _Stop, times: dict[int, int]) -> None:
        """What the copies of `child` fetch from `parent` at this reading, merged as it may be."""
        requests: dict[tuple[int, ...], list[tuple[dict[int, int], set[Item]]]] = defaultdict(list)
        above = self.machine.above_of(parent)
        for copy in self._copies(child):
            if (pieces := self.machine.pieces(times, copy, child)) is None:
                continue
            if fetched := self._fetch(child, copy, times, self._tile(child, pieces)):
                key = tuple(i for n, i in copy.items() if not self._merges(n, above))
                requests[key].append((copy, fetched))
        for copies in requests.values():
            outer = tuple(i for n, i in copies[0][0].items() if self._fanout(n).name in above)
            if self.operand.role == "output":
                self._enter(parent, child, outer, copies)
            else:
                together = set().union(*(fetched for _, fetched in copies))
                self._count(self.counts.reads, parent, len(together))
                self._count(self.counts.writes, child, sum(len(f) for _, f in copies))

    def _fanout(self, number: int) -> Fanout:
        node = self.machine.nodes[number]
        assert isinstance(node, Spread)
        return self.machine.fanouts[node.fanout]

    def _merges(self, number: int, above: frozenset[str]) -> bool:
        """Whether copies along one spread are served together by a memory below `above`."""
        node, fanout = self.machine.nodes[number], self._fanout(number)
        assert isinstance(node, Spread)
        if fanout.name in above:
            return False
        if self.operand.role == "output":
            return fanout.reduces and node.axis not in self.axes
        return self.operand.role in fanout.multicast

    def _fetch(
        self, child: _Stop, copy: dict[int, int], times: dict[int, int],
        sets: list[frozenset[Element]],
    ) -> set[Item]:  # fmt: skip
        """Elements of the new tile that one copy takes in."""
        if child.memory is not None and self.conventions.fetch == "hoisted":
            walked = [
                n for n in self.machine.loops if n < child.node and self.machine.limits[n] > 1
            ]
            inner = max((n for n in walked if self._axis(n) in self.axes), default=-1)
            if any(times[n] for n in walked if n > inner):
                return set()
            if inner >= 0 and times[inner] and self.conventions.halo == "shift":
                sets = self._slid(child, copy, times, inner, sets)
        elif child.memory is not None and self.conventions.fetch == "changed":
            key = child.node, tuple(copy.values())
            old, self.held[key] = self.held.get(key), sets
            if old is not None:
                changed = [n for n, part in enumerate(sets) if part != old[n]]
                if not changed:
                    return set()
                if len(changed) == 1 and self.conventions.halo == "shift":
                    sets = list(sets)
                    sets[changed[0]] = sets[changed[0]] - old[changed[0]]
        return set(itertools.product(*sets))

    def _axis(self, number: int) -> str:
        node = self.machine.nodes[number]
        assert not isinstance(node, Keep)
        return node.axis

    def _slid(
        self, child: _Stop, copy: dict[int, int], times: dict[int, int], inner: int,
        sets: list[frozenset[Element]],
    ) -> list[frozenset[Element]]:  # fmt: skip
        """The sets without what the tile one step of loop `inner` before had."""
        number = next(n for n, part in enumerate(self.parts) if self._axis(inner) in part[0])
        before = self.machine.pieces({**times, inner: times[inner] - 1}, copy, child)
        assert before is not None, "earlier tiles are no smaller"
        sets = list(sets)
        sets[number] = sets[number] - self._set(number, before)
        return sets

    def _enter(
        self, parent: _Stop, child: _Stop, outer: tuple[int, ...],
        copies: list[tuple[dict[int, int], set[Item]]],
    ) -> None:  # fmt: skip
        """Partial sums enter copies that reduce together (and will leave them again)."""
        above = parent.node, outer
        items = set().union(*(fetched for _, fetched in copies))
        back = items
        if self.conventions.first_write == "nothing":
            if parent is self.stops[0]:
                back = items & self.valued[outer]
                self.valued[outer] |= items
            else:
                back = items - self.fresh[above]
                self.fresh[above] -= items
        self._count(self.counts.writes, parent, len(items))
        self._count(self.counts.reads, parent, len(back))
        self._count(self.counts.writes, child, len(back))
        for copy, fetched in copies:
            self._count(self.counts.reads, child, len(fetched))
            here = self.fresh[child.node, tuple(copy.values())]
            valued = back if copy is copies[0][0] else set()
            here -= fetched & valued
            here |= fetched - valued

    def _count(self, counter: Counter[tuple[str, OperandRole]], stop: _Stop, number: int) -> None:
        if stop.memory is not None:
            counter[stop.memory, self.operand.role] += number


def _value(affine: Affine, point: dict[str, int]) -> int:
    return affine.offset + sum(c * point[axis] for axis, c in affine.terms)
