"""How the counts of a mapping are made of sums over single axes: the same for every tile size.

A `Plan` depends on the order of the nodes and on what they keep and spread, not on tiles. It is a
list of *factors* (one sum over the tiles of one axis, or of axes that share a tensor dimension),
of *terms* (products of factors) and of columns (integer combinations of terms). `traffic` fills in
the tiles of one mapping; the mapper fills in tables of tiles.

Of one operand, a *link* is the way from a keep to the next one inwards, or to the compute units.
Outputs use the same sums as inputs: what enters a keep later leaves it. Of the `entries` of
partial sums, `fresh` ones find nothing to read. At the outermost keep each element is fresh once;
one link further in

    read back = entries (merged where copies are reduced) - fresh above
    fresh     = entries (of every copy) - read back
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

from hwopt.hardware.accelerator import ROLES, Accelerator, OperandRole
from hwopt.hardware.conventions import Conventions
from hwopt.mapping.mapping import Keep, Loop, Mapping
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.sums import ADVANCE, AFTER, BEFORE, COPIES, ORIGIN, POOL, UNION


@dataclass(frozen=True, slots=True)
class KeepNode:
    """A `Keep`."""

    memory: str
    roles: tuple[OperandRole, ...]


@dataclass(frozen=True, slots=True)
class LoopNode:
    """A temporal loop of any tile size."""

    axis: str


@dataclass(frozen=True, slots=True)
class SpreadNode:
    """A spatial loop of any tile size, with what its fan-out can do."""

    axis: str
    fanout: str
    multicast: tuple[OperandRole, ...]
    reduces: bool


Node: TypeAlias = KeepNode | LoopNode | SpreadNode
Column: TypeAlias = tuple[str, OperandRole, str]
"""Memory, operand, and "total_read", "total_write", "busiest_read" or "busiest_write"."""


@dataclass(frozen=True, slots=True)
class Group:
    """Axes of one operand that share tensor dimensions, and the index along these dimensions.

    `plain`: one axis, every index inside the tensor, no overlap: extents simply add up. `role`:
    the operand, where it is not plain.
    `coefficients[d][a]`, `offsets[d]`, `shape[d]`, `bounding` as in `sums.shared_sum`.
    """

    axes: tuple[str, ...]
    coefficients: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    plain: bool
    bounding: bool = False
    role: OperandRole | None = None


@dataclass(frozen=True, slots=True)
class Factor:
    """One sum. `group` None: an axis that the operand lacks, whose states are counted.

    `nodes[a]` are the node positions that cut axis `a`, `kinds[a]` what each does.
    """

    axes: tuple[str, ...]
    nodes: tuple[tuple[int, ...], ...]
    kinds: tuple[tuple[int, ...], ...]
    group: Group | None = None
    clip: bool = True


@dataclass(frozen=True, slots=True)
class Term:
    """A product of factors. `whole`: all that is wanted; else what transitions fetch."""

    factors: tuple[int, ...]
    whole: bool


Form: TypeAlias = dict[int, int]
"""An integer combination of terms: coefficient by term."""


@dataclass(frozen=True)
class Plan:
    """Factors, terms and what they add up to. `footprints`: factors whose largest tiles multiply
    to the footprint of an operand in a memory, or a constant for an operand that is resident.
    `slots`: all nodes that cut an axis. `entries`: terms of what enters a keep (by operand, node).
    """

    factors: tuple[Factor, ...]
    terms: tuple[Term, ...]
    steps: int
    slots: dict[str, tuple[int, ...]]
    columns: dict[Column, Form]
    footprints: dict[tuple[str, OperandRole], tuple[int, ...] | int]
    entries: dict[tuple[OperandRole, int], frozenset[int]]


@dataclass(frozen=True, slots=True)
class _World:
    """All copies (`solo` empty), or the copy of a memory at the origin of the fan-outs `solo`."""

    solo: frozenset[str] = frozenset()
    clip: bool = True


def structure(mapping: Mapping, accelerator: Accelerator) -> tuple[Node, ...]:
    """The nodes of a mapping without their tiles."""
    nodes: list[Node] = []
    fanouts = {fanout.name: fanout for fanout in accelerator.fanouts}
    for node in mapping.nodes:
        if isinstance(node, Keep):
            nodes.append(KeepNode(node.memory, node.roles))
        elif isinstance(node, Loop):
            nodes.append(LoopNode(node.axis))
        else:
            fanout = fanouts[node.fanout]
            nodes.append(SpreadNode(node.axis, fanout.name, fanout.multicast, fanout.reduces))
    return tuple(nodes)


def above(accelerator: Accelerator) -> tuple[tuple[str, frozenset[str]], ...]:
    """For each memory the fan-outs above it, where these make more than one copy of it."""
    found, pairs = frozenset[str](), []
    for level in accelerator.levels:
        if level.type == "fanout":
            found |= {level.name} if level.size > 1 else set()
        else:
            pairs.append((level.name, found))
    return tuple(pairs)


def groups_of(operand: Operand, problem: Problem, conventions: Conventions) -> tuple[Group, ...]:
    """The composite axes of an operand: classes of axes that share a dimension."""
    sizes = problem.sizes
    classes: list[tuple[set[str], list[int]]] = []
    for dim, affine in enumerate(operand.access.index):
        names, dims = set(affine.axes), [dim]
        if not names:
            continue
        for other in [c for c in classes if c[0] & names]:
            classes.remove(other)
            names, dims = names | other[0], other[1] + dims
        classes.append((names, dims))
    groups = []
    for names, dims in classes:
        axes = tuple(axis.name for axis in problem.axes if axis.name in names)
        index = [operand.access.index[dim] for dim in sorted(dims)]
        shape = tuple(operand.shape[dim] for dim in sorted(dims))
        bounds = [affine.bounds(sizes) for affine in index]
        inside = all(low >= 0 and high < n for (low, high), n in zip(bounds, shape, strict=True))
        bounding = conventions.strided == "bounding" and operand.role != "output"
        dense = not bounding or all(abs(c) == 1 for affine in index for _, c in affine.terms)
        plain = len(axes) == 1 and dense and (inside or conventions.padding == "counted")
        groups.append(
            Group(
                axes,
                tuple(tuple(affine.coefficient(axis) for axis in axes) for affine in index),
                tuple(affine.offset for affine in index),
                shape,
                plain,
                bounding,
                None if plain else operand.role,
            )
        )
    return tuple(groups)


@dataclass
class _Builder:
    """Collects factors, terms and columns, each once."""

    problem: Problem
    nodes: tuple[Node, ...]
    conventions: Conventions
    copies: dict[str, frozenset[str]]
    groups: dict[OperandRole, tuple[Group, ...]]
    cuts: dict[str, tuple[int, ...]]
    factors: dict[Factor, int] = field(default_factory=dict)
    terms: dict[Term, int] = field(default_factory=dict)
    entries: dict[tuple[OperandRole, int], frozenset[int]] = field(default_factory=dict)

    def factor(self, factor: Factor) -> int:
        return self.factors.setdefault(factor, len(self.factors))

    def term(self, factors: list[int], *, whole: bool) -> int:
        return self.terms.setdefault(Term(tuple(sorted(factors)), whole), len(self.terms))

    def slots(self, axis: str, child: int) -> tuple[int, ...]:
        """Nodes that cut an axis above `child`, and below it as far as copies of its memory do."""
        above, last = self.above(child), child
        for number in self.cuts[axis]:
            node = self.nodes[number]
            if number >= child and isinstance(node, SpreadNode) and node.fanout in above:
                last = number + 1
        return tuple(number for number in self.cuts[axis] if number < last)

    def above(self, child: int) -> frozenset[str]:
        """Fan-outs above the memory of a keep (all, for the compute units)."""
        if child == len(self.nodes):
            return frozenset(n.fanout for n in self.nodes if isinstance(n, SpreadNode))
        return self.copies[_memory(self.nodes[child])]

    def product(
        self, groups: tuple[Group, ...], child: int, kind: Kind, world: _World
    ) -> list[int]:
        """Factors of one term: one per group, one per axis that the operand lacks."""
        clip = world.clip and self.conventions.padding == "free"
        factors, relevant = [], set[str]()
        for group in groups:
            relevant.update(group.axes)
            nodes = tuple(self.slots(axis, child) for axis in group.axes)
            way: Relevance = "plain" if group.plain else "shared"
            kinds = tuple(tuple(kind(number, way) for number in slots) for slots in nodes)
            factors.append(self.factor(Factor(group.axes, nodes, kinds, group, clip)))
        for axis in self.problem.axes:
            if axis.name not in relevant:
                slots = self.slots(axis.name, child)
                ways = tuple(kind(number, "none") for number in slots)
                if any(way in (BEFORE, ADVANCE, COPIES) for way in ways):
                    factors.append(self.factor(Factor((axis.name,), (slots,), (ways,))))
        return factors


Relevance: TypeAlias = Literal["plain", "shared", "none"]
Kind: TypeAlias = Callable[[int, Relevance], int]


def _spatial(
    build: _Builder, role: OperandRole, parent: int, child: int, world: _World, *, merged: bool
) -> Kind:
    """Kinds of spatial slots on a link: `merged` as the parent sees them, else every copy."""
    outer, inner = build.above(parent), build.above(child)

    def kind(number: int, way: Relevance) -> int:
        node = build.nodes[number]
        assert isinstance(node, SpreadNode)
        if node.fanout in world.solo:
            return ORIGIN
        if node.fanout not in inner:
            return POOL if way == "shared" else _MERGED[way]
        if node.fanout in outer or not merged:
            return COPIES
        if role == "output":
            return ORIGIN if way == "none" and node.reduces else COPIES
        return _MERGED[way] if role in node.multicast else COPIES

    return kind


_MERGED: dict[Relevance, int] = {"none": ORIGIN, "plain": COPIES, "shared": UNION}
"""Kind of a spread whose copies are served together."""


def _entries(  # noqa: C901 - three ways to fetch, side by side
    build: _Builder, operand: Operand, parent: int, child: int, world: _World, *, merged: bool
) -> Form:
    """Elements that enter the keep at node `child` (the compute units when it is the last)."""
    groups = build.groups[operand.role]
    spatial = _spatial(build, operand.role, parent, child, world, merged=merged)
    leaf, fetch = child == len(build.nodes), build.conventions.fetch
    loops = [n for n in range(child) if isinstance(build.nodes[n], LoopNode)]
    inner = max((n for n in loops if _axis(build.nodes[n]) in operand.access.axes), default=-1)
    if leaf or fetch == "counted":
        inner = child

    def hoisted(at_inner: int) -> Kind:
        def kind(number: int, way: Relevance) -> int:
            if isinstance(build.nodes[number], SpreadNode):
                return spatial(number, way)
            if number == inner:
                return at_inner
            return BEFORE if number < inner else ORIGIN

        return kind

    def at(advancing: int) -> Kind:
        def kind(number: int, way: Relevance) -> int:
            if isinstance(build.nodes[number], SpreadNode):
                return spatial(number, way)
            if number >= child:
                return ORIGIN
            if number < advancing:
                return BEFORE
            return ADVANCE if number == advancing else AFTER

        return kind

    def whole(kind: Kind) -> int:
        return build.term(build.product(groups, child, kind, world), whole=True)

    def moved(kind: Kind) -> int:
        return build.term(build.product(groups, child, kind, world), whole=False)

    if fetch == "changed" and not leaf:
        return _add(({whole(at(-1)): 1}, 1), *(({moved(at(loop)): 1}, 1) for loop in loops))
    if inner < child and _slides(build, groups, inner):
        return _add(({whole(hoisted(ORIGIN)): 1}, 1), ({moved(hoisted(ADVANCE)): 1}, 1))
    return {whole(hoisted(BEFORE)): 1}


def _slides(build: _Builder, groups: tuple[Group, ...], inner: int) -> bool:
    """Whether steps of the innermost fetch loop find part of the new tile in place."""
    if build.conventions.halo == "none" or inner < 0:
        return False
    return not next(g for g in groups if _axis(build.nodes[inner]) in g.axes).plain


def _distinct(build: _Builder, operand: Operand, keep: int, world: _World) -> Form:
    """Elements that an operand's outermost keep ever holds, in each of its copies."""
    above = build.above(keep)

    def kind(number: int, way: Relevance) -> int:
        node = build.nodes[number]
        if isinstance(node, LoopNode):
            return {"none": ORIGIN, "plain": BEFORE, "shared": UNION}[way]
        assert isinstance(node, SpreadNode)
        if node.fanout in world.solo:
            return ORIGIN
        return COPIES if node.fanout in above else _MERGED[way]

    groups = build.groups[operand.role]
    return {build.term(build.product(groups, len(build.nodes), kind, world), whole=True): 1}


def _add(*forms: tuple[Form, int]) -> Form:
    total: Form = {}
    for form, sign in forms:
        for term, coefficient in form.items():
            total[term] = total.get(term, 0) + sign * coefficient
    return {term: coefficient for term, coefficient in total.items() if coefficient}


def _flows(
    build: _Builder, operand: Operand, keeps: list[int], world: _World
) -> dict[tuple[str, str], Form]:
    """Reads and writes of one operand by (memory, "read" | "write") in one world."""
    flows: dict[tuple[str, str], Form] = {}

    def add(keep: int, way: str, form: Form) -> None:
        node = build.nodes[keep]
        assert isinstance(node, KeepNode)
        key = node.memory, way
        flows[key] = _add((flows.get(key, {}), 1), (form, 1))

    output = operand.role == "output"
    zero = build.conventions.first_write == "zero"
    fresh: Form = {}
    if output and not zero:
        fresh = _distinct(build, operand, keeps[0], world)
    for parent, child in zip(keeps, [*keeps[1:], len(build.nodes)], strict=True):
        up = _entries(build, operand, parent, child, world, merged=True)
        down = _entries(build, operand, parent, child, world, merged=False)
        known = build.entries.get((operand.role, child), frozenset())
        build.entries[operand.role, child] = known | set(up) | set(down)
        if not output:
            add(parent, "read", up)
            if child < len(build.nodes):
                add(child, "write", down)
            continue
        back = _add((up, 1), (fresh, -1))
        add(parent, "write", up)
        add(parent, "read", back)
        if child < len(build.nodes):
            add(child, "read", down)
            add(child, "write", back)
            fresh = {} if zero else _add((down, 1), (back, -1))
    return flows


@lru_cache(maxsize=4096)
def make_plan(
    problem: Problem,
    nodes: tuple[Node, ...],
    copies: tuple[tuple[str, frozenset[str]], ...],
    conventions: Conventions,
    resident: tuple[tuple[OperandRole, str], ...] = (),
) -> Plan:
    """The plan of all mappings of one structure; `copies` as `above` gives them."""
    stays, solo_of = dict(resident), dict(copies)
    groups = {o.role: groups_of(o, problem, conventions) for o in problem.operands}
    cuts = {
        axis.name: tuple(
            n for n, k in enumerate(nodes) if not isinstance(k, KeepNode) and k.axis == axis.name
        )
        for axis in problem.axes
    }
    build = _Builder(problem, nodes, conventions, solo_of, groups, cuts)
    columns: dict[Column, Form] = {}
    footprints: dict[tuple[str, OperandRole], tuple[int, ...] | int] = {}
    for role in (role for role in ROLES if role in problem.operand):
        operand = problem.operand[role]
        keeps = [n for n, k in enumerate(nodes) if isinstance(k, KeepNode) and role in k.roles]
        if role in stays:
            memory = next(n for n in keeps if _memory(nodes[n]) == stays[role])
            keeps = keeps[keeps.index(memory) :]
        for world in dict.fromkeys([_World(), *(_World(s, not s) for s in solo_of.values())]):
            outer = [n for n in keeps if not solo_of[_memory(nodes[n])] >= world.solo]
            start = keeps.index(outer[-1]) if outer else 0
            for (memory_name, way), form in _flows(build, operand, keeps[start:], world).items():
                if not world.solo:
                    columns[memory_name, role, f"total_{way}"] = form
                if solo_of[memory_name] == world.solo:
                    columns[memory_name, role, f"busiest_{way}"] = form
        for keep in keeps:
            footprints[_memory(nodes[keep]), role] = _footprint(build, operand, keep)
        if role in stays:
            elements = 1
            for size in operand.shape:
                elements *= size
            footprints[stays[role], role] = elements
    steps = build.term(
        build.product(
            (), len(nodes), lambda n, _: BEFORE if isinstance(nodes[n], LoopNode) else ORIGIN,
            _World(),
        ),
        whole=True,
    )  # fmt: skip
    slots = {axis.name: build.slots(axis.name, len(nodes)) for axis in problem.axes}
    return Plan(
        tuple(build.factors), tuple(build.terms), steps, slots, columns, footprints, build.entries
    )


def _footprint(build: _Builder, operand: Operand, keep: int) -> tuple[int, ...]:
    """Factors whose largest tiles multiply to the operand's footprint: those of the first indices
    where tiles only shrink, the largest of all where padding may cut the first.
    """
    groups = build.groups[operand.role]
    above = build.above(keep)

    def kind(number: int, way: Relevance) -> int:
        node = build.nodes[number]
        if isinstance(node, SpreadNode) and node.fanout not in above:
            return _MERGED[way]
        if way == "plain" or number >= keep:
            return ORIGIN
        return BEFORE if isinstance(node, LoopNode) else COPIES

    return tuple(build.product(groups, keep, kind, _World())[: len(groups)])


def _axis(node: Node) -> str:
    assert not isinstance(node, KeepNode)
    return node.axis


def _memory(node: Node) -> str:
    assert isinstance(node, KeepNode)
    return node.memory
