"""The definition of a mapping's traffic: walk every step of every copy, with sets of elements.

Time. The temporal loops, in the order of the nodes, count like an odometer. All copies of the
machine walk in lockstep: a copy whose (edge) tile has no part at the present indices idles and
keeps what it holds. A step is one reading of the odometer at which some compute unit works.

Tiles. At a keep, the tile of an operand is the set of its elements that the indices of the nodes
above it leave reachable. Sets are exact: holes between strided positions are not in them
(`strided="bounding"`: the bounding box of what is read is), positions outside the tensor are not
in them (`padding="counted"`: they are), edge tiles are smaller (`edges="padded"`: every axis is
first grown until all its tiles are full, and the tensors with it).

Moves. A *composite axis* of an operand is a class of axes that share a tensor dimension (`p` and
`r` of a convolution's input). When the tile at a keep changes from one working step to the next,
compare its sets of indices along the composite axes: if several changed, the whole new tile is
fetched; if exactly one did, only the elements that the old tile lacks (`halo="none"`: the whole
tile); if none, nothing. Data comes from the nearest outer keep of the operand: it is written into
every copy that fetches it, and read above once for all copies, below one copy of that outer
memory, that fetch the same element in the same step, as far as the fan-outs between them multicast
it (over dimensions of a fan-out that does not, each copy reads for itself). The compute units read
their operands at every step from the innermost keep, in the same way; padding is never read.

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

Ranges = dict[str, tuple[int, int]]
"""Start and extent of the current tile along each axis."""
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
                found |= {level.name} if level.size > 1 else set()
            else:
                self.above[level.name] = found
        self.limits: dict[int, int] = {}
        extent = dict(problem.sizes)
        for number, node in enumerate(self.nodes):
            if not isinstance(node, Keep):
                self.limits[number] = -(-extent[node.axis] // node.tile)
                extent[node.axis] = min(extent[node.axis], node.tile)

    def run(self, solo: frozenset[str], conventions: Conventions) -> _Counts:
        """Walk with only copy 0 of the fan-outs in `solo`."""
        counts = _Counts()
        for times in self.times():
            if self.ranges(times, dict.fromkeys(self.spreads, 0), len(self.nodes)) is not None:
                counts.steps += 1
        for operand in self.problem.operands:
            _Operand(self, operand, solo, conventions, counts).walk()
        return counts

    def times(self) -> Iterator[dict[int, int]]:
        limits = [range(self.limits[n]) for n in self.loops]
        for indices in itertools.product(*limits):
            yield dict(zip(self.loops, indices, strict=True))

    def ranges(self, times: dict[int, int], copy: dict[int, int], end: int) -> Ranges | None:
        """The tile that the first `end` nodes leave, None where it is empty."""
        ranges = {axis.name: (0, axis.size) for axis in self.problem.axes}
        for number, node in enumerate(self.nodes[:end]):
            if isinstance(node, Keep):
                continue
            index = times[number] if isinstance(node, Loop) else copy[number]
            start, extent = ranges[node.axis]
            if index * node.tile >= extent:
                return None
            ranges[node.axis] = (
                start + index * node.tile, min(node.tile, extent - index * node.tile)
            )  # fmt: skip
        return ranges


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
        outer = [n for n, stop in enumerate(stops) if walk.above[str(stop.memory)] < solo]
        self.stops = [*stops[outer[-1] if outer else 0 :], _Stop(len(walk.nodes), None)]
        self.cache: dict[tuple[int, tuple[tuple[int, int], ...]], frozenset[Element]] = {}
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

    def _set(self, number: int, ranges: Ranges) -> frozenset[Element]:
        """Indices of one composite axis that a tile reaches."""
        axes, dims = self.parts[number]
        key = number, tuple(ranges[axis] for axis in axes)
        if key not in self.cache:
            self.cache[key] = frozenset(self._elements(axes, dims, ranges))
        return self.cache[key]

    def _elements(
        self, axes: tuple[str, ...], dims: list[int], ranges: Ranges
    ) -> Iterator[Element]:
        index = [self.operand.access.index[dim] for dim in dims]
        shape = [self.operand.shape[dim] for dim in dims]
        spans = [range(ranges[a][0], ranges[a][0] + ranges[a][1]) for a in axes]
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

    def _copies(self, end: int) -> Iterator[dict[int, int]]:
        """Copies of the machine as far as the spreads above node `end` tell them apart."""
        spreads = [n for n in self.machine.spreads if n < end]
        ranges = []
        for number in spreads:
            node = self.machine.nodes[number]
            assert isinstance(node, Spread)
            ranges.append(range(1 if node.fanout in self.solo else self.machine.limits[number]))
        for indices in itertools.product(*ranges):
            yield dict(zip(spreads, indices, strict=True))

    def walk(self) -> None:
        """Let the odometer run, the links from the outside in at each reading."""
        first = self.stops[0]
        for times in self.machine.times():
            if first.memory is not None and self._starts(times, first):
                for copy in self._copies(first.node):
                    if (ranges := self.machine.ranges(times, copy, first.node)) is not None:
                        self._tile(first, ranges)
            for parent, child in itertools.pairwise(self.stops):
                if self._starts(times, child):
                    self._link(parent, child, times)

    def _starts(self, times: dict[int, int], stop: _Stop) -> bool:
        """A tile can change only where all loops below its keep are at their start."""
        return not any(times[n] for n in self.machine.loops if n >= stop.node)

    def _tile(self, stop: _Stop, ranges: Ranges) -> list[frozenset[Element]]:
        """The tile at a stop, as a set per composite axis; its size is noted."""
        sets = [self._set(n, ranges) for n in range(len(self.parts))]
        if stop.memory is not None:
            key = stop.memory, self.operand.role
            self.counts.largest[key] = max(self.counts.largest[key], math.prod(map(len, sets)))
        return sets

    def _link(self, parent: _Stop, child: _Stop, times: dict[int, int]) -> None:
        """What the copies of `child` fetch from `parent` at this reading, merged as it may be."""
        requests: dict[tuple[int, ...], list[tuple[dict[int, int], set[Item]]]] = defaultdict(list)
        for copy in self._copies(child.node):
            if (ranges := self.machine.ranges(times, copy, child.node)) is None:
                continue
            if fetched := self._fetch(child, copy, self._tile(child, ranges)):
                key = tuple(i for n, i in copy.items() if not self._merges(n, parent))
                requests[key].append((copy, fetched))
        for copies in requests.values():
            outer = tuple(i for n, i in copies[0][0].items() if n < parent.node)
            if self.operand.role == "output":
                self._enter(parent, child, outer, copies)
            else:
                together = set().union(*(fetched for _, fetched in copies))
                self._count(self.counts.reads, parent, len(together))
                self._count(self.counts.writes, child, sum(len(f) for _, f in copies))

    def _merges(self, number: int, parent: _Stop) -> bool:
        """Whether copies along one spread are served together by an outer keep."""
        node = self.machine.nodes[number]
        assert isinstance(node, Spread)
        fanout = self.machine.fanouts[node.fanout]
        if number < parent.node:
            return False
        if self.operand.role == "output":
            return fanout.reduces and node.axis not in self.axes
        return self.operand.role in fanout.multicast

    def _fetch(
        self, child: _Stop, copy: dict[int, int], sets: list[frozenset[Element]]
    ) -> set[Item]:
        """Elements of the new tile that one copy takes in."""
        if child.memory is not None:
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
