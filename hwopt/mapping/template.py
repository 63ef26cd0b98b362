"""Templates: the orders of keeps, loops and spreads that are worth searching.

A template is an order of storage nodes, outermost first: "operand T stays in memory M from here
inwards". Keeps of one operand follow the machine; those of different operands stand in every order
(under conventions that do not hoist fetches: in the machine's order, and in every order inside one
memory), with every choice of bypass. A temporal loop over axis `a` stands in the gap between two
nodes only if

* `a` does not index the operand stored just above, or that operand has a sliding window
  (else that node moves below the loop: same traffic, smaller tile), and
* `a` indexes the operand stored just below (else that node moves above the loop: same tile, no more
  fills); below the last node, every axis is walked one by one, unless the first rule says that
  nothing is left of it. The outermost memory can not move: the first gap has the second rule alone.

Axes of a sliding window may always stand just above a keep of their operand, for there the window
may slide. Within a gap the order of the loops matters only through that: which loop, innermost of
those that index the operand, slides it (a `Slide`).

The spread of an axis over a fan-out stands above the first keep below the fan-out that the axis
indexes, after the loops of that gap; where there is none, above the last gap.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from hwopt.hardware.accelerator import ROLES, Accelerator, Fanout, FanoutDim, Memory, OperandRole
from hwopt.hardware.conventions import Conventions
from hwopt.ir.program import Constraint
from hwopt.mapping.mapping import Keep, Loop, Mapping, Node, Spread
from hwopt.mapping.plan import groups_of
from hwopt.mapping.problem import Problem, may_spread

Storage = tuple[Memory, OperandRole]
Relevance = dict[OperandRole, dict[str, int]]
"""By operand and axis: 0 not indexed, 1 through a sliding window, 2 plainly."""


@dataclass(frozen=True, slots=True)
class Slide:
    """Loop `loop` slides the window of `role`'s keep at node `keep`, whose axes are `axes`.

    Holds where the loops `idle` take one trip each and no other composite axis slides in `gap`.
    """

    role: OperandRole
    keep: int
    axes: tuple[str, ...]
    loop: int
    gap: int
    idle: tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """Nodes with tiles left open (1); the dimension and room of each spread; the gap of each loop;
    the ways in which windows may slide.
    """

    nodes: tuple[Node, ...]
    rooms: dict[int, tuple[str, int]]
    gaps: dict[int, int]
    slides: tuple[Slide, ...] = ()

    def mapping(
        self, tiles: tuple[int, ...], sizes: dict[str, int], slid: tuple[int, ...] = ()
    ) -> Mapping:
        """The mapping at these tiles, without loops that walk a single tile; the loops in `slid`
        are innermost in their gaps.
        """
        numbers = sorted(
            range(len(self.nodes)),
            key=lambda n: (n, 0) if n not in slid else (self._last(self.gaps[n]), 1),
        )
        nodes: list[Node] = []
        extent = dict(sizes)
        for number in numbers:
            node, tile = self.nodes[number], tiles[number]
            if isinstance(node, Keep):
                last = nodes[-1] if nodes else None
                if isinstance(last, Keep) and last.memory == node.memory:
                    nodes[-1] = Keep(node.memory, (*last.roles, *node.roles))
                else:
                    nodes.append(node)
            elif tile < extent[node.axis]:
                extent[node.axis] = tile
                nodes.append(
                    Loop(node.axis, tile)
                    if isinstance(node, Loop)
                    else Spread(node.fanout, node.dim, node.axis, tile)
                )
        return Mapping(tuple(nodes))

    def _last(self, gap: int) -> int:
        return max(number for number, other in self.gaps.items() if other == gap)


def templates(
    problem: Problem, accelerator: Accelerator, constraint: Constraint,
    resident: dict[OperandRole, str], conventions: Conventions,
) -> list[Template]:  # fmt: skip
    """Templates of a problem on a machine's structure (sizes of memories do not matter)."""
    relevance, windows = relevance_of(problem, conventions), windows_of(problem, conventions)
    found: dict[tuple[Node, ...], Template] = {}
    for order in orders(problem, accelerator, resident, conventions):
        for late in range(len(order) + 1 if problem.sequential else 1):
            build = _Build(
                problem, accelerator, constraint, conventions, relevance, windows, order, late
            )
            template = build.template()
            found.setdefault(template.nodes, template)
    return list(found.values())


def orders(
    problem: Problem, accelerator: Accelerator, resident: dict[OperandRole, str],
    conventions: Conventions,
) -> Iterator[tuple[Storage, ...]]:  # fmt: skip
    """Orders of the storage nodes below the outermost memory."""
    stages, place = dict[str, int](), {m.name: n for n, m in enumerate(accelerator.memories)}
    stage = 0
    for level in accelerator.levels:
        if isinstance(level, Fanout):
            stage += level.size > 1
        else:
            stages[level.name] = stage
    must, may = list[Storage](), list[Storage]()
    for memory in accelerator.memories[1:]:
        for role in (r for r in ROLES if r in problem.operand and r in memory.keeps):
            stays = resident.get(role) == memory.name
            (may if role in memory.bypass and not stays else must).append((memory, role))
    for count in range(len(may) + 1):
        for extra in itertools.combinations(may, count):
            chains = {role: [item for item in (*must, *extra) if item[1] == role] for role in ROLES}
            for chain in chains.values():
                chain.sort(key=lambda item: place[item[0].name])
            for order in _interleaved([chain for chain in chains.values() if chain]):
                depth = [place[memory.name] for memory, _ in order]
                if conventions.fetch != "hoisted" and depth != sorted(depth):
                    continue
                if any(
                    one[1] == two[1] and one in extra
                    and stages[one[0].name] == stages[two[0].name]
                    for one, two in itertools.pairwise(order)
                ):  # fmt: skip
                    continue  # the outer copy serves nothing that the inner one does not
                yield order


def _interleaved(chains: list[list[Storage]]) -> Iterator[tuple[Storage, ...]]:
    """All orders that keep each chain's own."""
    if not any(chains):
        yield ()
        return
    for number, chain in enumerate(chains):
        if chain:
            rest = [*chains[:number], chain[1:], *chains[number + 1 :]]
            for order in _interleaved(rest):
                yield (chain[0], *order)


def relevance_of(problem: Problem, conventions: Conventions) -> Relevance:
    """How each axis indexes each operand."""
    relevance: Relevance = {}
    for role, operand in problem.operand.items():
        relevance[role] = dict.fromkeys(problem.sizes, 0)
        for group in groups_of(operand, problem, conventions):
            for axis in group.axes:
                relevance[role][axis] = 2 if group.plain else 1
    return relevance


def windows_of(
    problem: Problem, conventions: Conventions
) -> dict[OperandRole, list[tuple[str, ...]]]:
    """Composite axes along which tiles may slide, of the operands that have some."""
    if conventions.fetch != "hoisted" or conventions.halo == "none":
        return {}
    found = {
        role: [g.axes for g in groups_of(operand, problem, conventions) if not g.plain]
        for role, operand in problem.operand.items()
    }
    return {role: windows for role, windows in found.items() if windows}


@dataclass
class _Build:
    """One template in the making."""

    problem: Problem
    accelerator: Accelerator
    constraint: Constraint
    conventions: Conventions
    relevance: Relevance
    windows: dict[OperandRole, list[tuple[str, ...]]]
    order: tuple[Storage, ...]
    late: int
    """Storage nodes above the sequential loops."""
    nodes: list[Node] = field(default_factory=list)
    rooms: dict[int, tuple[str, int]] = field(default_factory=dict)
    gaps: dict[int, int] = field(default_factory=dict)

    def template(self) -> Template:
        """Nodes from the outside in."""
        roles = tuple(role for role in ROLES if role in self.problem.operand)
        self.nodes.append(Keep(self.accelerator.memories[0].name, roles))
        free = [a.name for a in self.problem.axes if a.name not in self.problem.sequential]
        spreads = self._spreads(free)
        keeps: list[tuple[int, OperandRole, int]] = []
        above: OperandRole | None = None
        for gap, storage in enumerate([*self.order, None]):
            below = None if storage is None else storage[1]
            if gap == self.late and self.problem.sequential:
                self._loops(gap, list(self.problem.sequential))
            if gap >= self.late or not self.problem.sequential:
                self._loops(gap, [a for a in free if self._allowed(a, above, below)])
            here = [spread for spread in spreads if spread[0] == gap]
            for _, fanout, dim, axis in here:
                self.rooms[len(self.nodes)] = (f"{fanout.name}.{dim.name}", dim.size)
                self.nodes.append(Spread(fanout.name, dim.name, axis, 1))
            if storage is None:
                if here:
                    self._loops(gap + 1, free)
            else:
                keeps.append((len(self.nodes), storage[1], gap))
                self.nodes.append(Keep(storage[0].name, (storage[1],)))
                above = storage[1]
        return Template(tuple(self.nodes), self.rooms, self.gaps, tuple(self._slides(keeps)))

    def _loops(self, gap: int, axes: list[str]) -> None:
        for axis in axes:
            self.gaps[len(self.nodes)] = gap
            self.nodes.append(Loop(axis, 1))

    def _open(self, axis: str, above: OperandRole) -> bool:
        """Whether part of an axis may be left below a keep of an operand."""
        return self.relevance[above][axis] < 2 or above in self.windows

    def _allowed(self, axis: str, above: OperandRole | None, below: OperandRole | None) -> bool:
        """Whether a loop over an axis may stand in a gap."""
        if below is not None:
            wanted = self.relevance[below][axis]
            if wanted == 0:
                return False
            if wanted == 1 and below in self.windows:
                return True
        return above is None or self._open(axis, above)

    def _spreads(self, free: list[str]) -> list[tuple[int, Fanout, FanoutDim, str]]:
        """Gap, fan-out, dimension and axis of each spread, in the machine's order."""
        found = []
        spatial = dict(self.constraint.spatial)
        below = set[str]()
        levels = list(self.accelerator.levels)
        for number, fanout in enumerate(levels):
            if not isinstance(fanout, Fanout):
                continue
            below = {level.name for level in levels[number + 1 :]}
            for dim in fanout.dims:
                names = spatial.get(dim.name, spatial.get(f"{fanout.name}.{dim.name}"))
                for axis in free:
                    if (
                        dim.size > 1
                        and may_spread(axis, dim.axes)
                        and may_spread(axis, names or ())
                    ):
                        found += [(self._gap(axis, below), fanout, dim, axis)]
        return found

    def _gap(self, axis: str, below: set[str]) -> int:
        """The gap above the first keep, in a memory of `below`, that an axis indexes."""
        ordered = self.conventions.fetch != "hoisted"
        for gap, (memory, role) in enumerate(self.order):
            if memory.name in below and (ordered or self.relevance[role][axis]):
                return gap
        return len(self.order)

    def _slides(self, keeps: list[tuple[int, OperandRole, int]]) -> Iterator[Slide]:
        """Every way in which the window of a keep may slide."""
        for number, (node, role, gap) in enumerate(keeps):
            first = number
            while first > 0 and keeps[first - 1][1] == role:
                first -= 1  # the window may slide above adjacent keeps of its own operand
            for axes in self.windows.get(role, ()):
                for at in range(keeps[first][2], gap + 1):
                    idle = tuple(
                        n
                        for n, g in self.gaps.items()
                        if at < g <= gap and n < node and self.relevance[role][self._axis(n)]
                    )
                    for loop, place in self.gaps.items():
                        if place == at and loop < node and self._axis(loop) in axes:
                            yield Slide(role, node, axes, loop, at, idle)

    def _axis(self, number: int) -> str:
        node = self.nodes[number]
        assert not isinstance(node, Keep)
        return node.axis
