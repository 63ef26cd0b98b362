"""Templates: the orders of keeps, loops and spreads that are worth searching.

A template is an order of storage nodes, outermost first: "operand T stays in memory M from here
inwards". Inside one stage (the memories between two fan-outs) every order of the nodes is tried,
and every choice of bypass. A temporal loop over axis `a` stands between two nodes only if

* `a` does not index the operand stored just above, or indexes it through a sliding window
  (else that node moves below the loop: same traffic, smaller tile), and
* `a` indexes the operand stored just below (else that node moves above the loop: same tile, fewer
  fills). The last gap, above the compute units, takes any axis; the first gap any that is used.

Spreads stand after the loops above a fan-out. Within a gap the order of the loops matters only
through the composite axis that ends up directly above a sliding window: one template for each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from hwopt.hardware.accelerator import ROLES, Accelerator, Fanout, Memory, OperandRole
from hwopt.hardware.conventions import NATIVE
from hwopt.ir.program import Constraint
from hwopt.mapping.mapping import Keep, Loop, Mapping, Node, Spread
from hwopt.mapping.plan import groups_of
from hwopt.mapping.problem import Problem, may_spread

Storage = tuple[Memory, OperandRole]
MOST = 24
"""Orders of storage nodes that are searched at most."""


@dataclass(frozen=True)
class Template:
    """Nodes with tiles left open (1), and the room of each spread."""

    nodes: tuple[Node, ...]
    rooms: dict[int, tuple[str, int]]

    def mapping(self, tiles: tuple[int, ...], sizes: dict[str, int]) -> Mapping:
        """The mapping at these tiles, without loops that walk a single tile."""
        nodes: list[Node] = []
        extent = dict(sizes)
        for node, tile in zip(self.nodes, tiles, strict=True):
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


def templates(
    problem: Problem, accelerator: Accelerator, constraint: Constraint,
    resident: dict[OperandRole, str],
) -> list[Template]:  # fmt: skip
    """Templates of a problem on a machine's structure (sizes of memories do not matter).

    Of more than `MOST` orders an even selection is searched, the first (the fewest copies) always.
    """
    found: dict[tuple[Node, ...], Template] = {}
    orders = list(_storages(problem, accelerator, resident))
    step = max(1.0, len(orders) / MOST)
    for stages in (orders[int(number * step)] for number in range(min(len(orders), MOST))):
        for first in _windows(problem):
            template = _template(problem, accelerator, constraint, stages, first)
            found.setdefault(template.nodes, template)
    return list(found.values())


def _storages(
    problem: Problem, accelerator: Accelerator, resident: dict[OperandRole, str]
) -> Iterator[tuple[tuple[Storage, ...], ...]]:
    """Orders of storage nodes below the outermost memory: one tuple per stage."""
    choices: list[list[tuple[Storage, ...]]] = []
    stage: list[Memory] = []
    for level in [*accelerator.levels[1:], None]:
        if isinstance(level, Memory):
            stage.append(level)
        else:
            choices.append(list(_orders(problem, stage, resident)))
            stage = []
    yield from itertools.product(*choices)


def _orders(
    problem: Problem, stage: list[Memory], resident: dict[OperandRole, str]
) -> Iterator[tuple[Storage, ...]]:
    """Orders of one stage: all subsets of what may bypass, all orders within each memory; no copy
    of an operand directly above another one.
    """
    must, may = list[Storage](), list[Storage]()
    for memory in stage:
        for role in (r for r in ROLES if r in problem.operand and r in memory.keeps):
            stays = resident.get(role) == memory.name
            (may if role in memory.bypass and not stays else must).append((memory, role))
    for count in range(len(may) + 1):
        for extra in itertools.combinations(may, count):
            each = [
                [item for item in (*must, *extra) if item[0].name == memory.name]
                for memory in stage
            ]
            for orders in itertools.product(*(itertools.permutations(one) for one in each)):
                order = tuple(itertools.chain.from_iterable(orders))
                if all(one[1] != two[1] for one, two in itertools.pairwise(order)):
                    yield order


def _windows(problem: Problem) -> list[tuple[str, ...]]:
    """Sliding windows (composite axes with several axes), or one empty window."""
    found: dict[tuple[str, ...], None] = {}
    for operand in problem.operands:
        for group in groups_of(operand, problem, NATIVE):
            if len(group.axes) > 1:
                found[group.axes] = None
    return list(found) or [()]


def _relevance(problem: Problem) -> dict[OperandRole, dict[str, int]]:
    """By operand and axis: 0 not indexed, 1 through a sliding window, 2 plainly."""
    relevance: dict[OperandRole, dict[str, int]] = {}
    for role, operand in problem.operand.items():
        relevance[role] = dict.fromkeys(problem.sizes, 0)
        for group in groups_of(operand, problem, NATIVE):
            for axis in group.axes:
                relevance[role][axis] = 2 if len(group.axes) == 1 else 1
    return relevance


def _template(
    problem: Problem, accelerator: Accelerator, constraint: Constraint,
    stages: tuple[tuple[Storage, ...], ...], window: tuple[str, ...],
) -> Template:  # fmt: skip
    relevance = _relevance(problem)
    roles = tuple(role for role in ROLES if role in problem.operand)
    nodes: list[Node] = [Keep(accelerator.memories[0].name, roles)]
    nodes += [Loop(axis, 1) for axis in problem.sequential]
    free = [axis.name for axis in problem.axes if axis.name not in problem.sequential]
    free.sort(key=lambda axis: (axis in window, problem.sizes[axis]))
    fanouts = [level for level in accelerator.levels if isinstance(level, Fanout)]
    flat = [item for stage in stages for item in stage]
    spatial = dict(constraint.spatial)
    rooms: dict[int, tuple[str, int]] = {}
    above: OperandRole | None = None
    position = 0
    for number, stage in enumerate(stages):
        for memory, role in stage:
            if position == 0 or not _open_gap(nodes):
                nodes += _loops(free, relevance, above, role)
            nodes.append(Keep(memory.name, (role,)))
            above, position = role, position + 1
        below = flat[position][1] if position < len(flat) else None
        if number < len(fanouts):
            if not _open_gap(nodes):
                nodes += _loops(free, relevance, above, below)
            for dim in fanouts[number].dims:
                names = spatial.get(dim.name, spatial.get(f"{fanouts[number].name}.{dim.name}"))
                for axis in free:
                    if may_spread(axis, dim.axes) and may_spread(axis, names or ()):
                        rooms[len(nodes)] = (f"{fanouts[number].name}.{dim.name}", dim.size)
                        nodes.append(Spread(fanouts[number].name, dim.name, axis, 1))
    nodes += [Loop(axis, 1) for axis in free]
    return Template(tuple(nodes), rooms)


def _open_gap(nodes: list[Node]) -> bool:
    """Whether the loops of the present gap are already there (they stand before the spreads)."""
    return isinstance(nodes[-1], Spread)


def _loops(
    free: list[str], relevance: dict[OperandRole, dict[str, int]],
    above: OperandRole | None, below: OperandRole | None,
) -> list[Node]:  # fmt: skip
    """Loops of a gap."""
    return [
        Loop(axis, 1)
        for axis in free
        if (above is None or relevance[above][axis] < 2)
        and (below is None or relevance[below][axis] > 0)
    ]
