"""The rules of a program beyond those of its graph: groups, classes and constraints.

Groups partition the operators that are not views (or there are none); each is in graph order, holds
its anchor, and all groups together are *convex*: run one after the other, none waits for another in
a circle. Classes name an operator of the same body and resource; constraints name operators.
"""

from __future__ import annotations

from hwopt.errors import GraphError
from hwopt.ir.graph import Graph
from hwopt.ir.program import Group, Program


def verify_program(program: Program) -> None:
    """Raise `GraphError` naming the group, class or constraint that breaks a rule."""
    known = program.graph.op
    for table, what in ((program.constraints, "constraint"), (program.class_of, "class")):
        for name in table:
            if name not in known:
                raise GraphError(f"a {what} for an operator that is not there", value=name)
    for name, leader in program.class_of.items():
        if leader not in known or known[leader].resource != known[name].resource:
            raise GraphError("a class whose first operator differs", where=name, value=leader)
    if program.groups:
        _verify_partition(program)
        circle = circular_groups(program.graph, program.groups)
        if circle:
            raise GraphError(
                "fusion groups wait for one another in a circle", value=circle,
                fix="group operators without paths that leave and come back",
            )  # fmt: skip


def _verify_partition(program: Program) -> None:
    place = {op.name: number for number, op in enumerate(program.graph.ops)}
    seen: set[str] = set()
    for group in program.groups:
        if unknown := [name for name in group.ops if name not in place]:
            raise GraphError("a group of operators that are not there", value=unknown)
        order = [place[name] for name in group.ops]
        if not order or order != sorted(set(order)) or group.anchor not in group.ops:
            raise GraphError("a group must be in graph order and hold its anchor", value=group)
        if twice := seen & set(group.ops):
            raise GraphError("operators in two groups", value=sorted(twice))
        seen.update(group.ops)
    whole = {op.name for op in program.graph.ops if not op.is_view}
    if seen != whole:
        raise GraphError(
            "groups must partition the operators that are not views",
            value=sorted(seen ^ whole)[:8],
        )


def circular_groups(graph: Graph, groups: tuple[Group, ...]) -> list[str]:
    """Anchors of groups that wait for one another, or nothing: convexity of all groups at once.

    The quotient of the operator graph by its groups is free of circles exactly if no path leaves
    a group and comes back, directly or through other groups.
    """
    import networkx as nx

    group_of = {name: group.anchor for group in groups for name in group.ops}
    quotient = nx.DiGraph()
    origin: dict[str, list[str]] = {}  # the groups that a tensor comes from, through views
    for op in graph.ops:
        sources = list(dict.fromkeys(o for name in op.reads for o in origin.get(name, ())))
        if op.name not in group_of:
            origin.update((name, sources) for name in op.writes)
            continue
        node = group_of[op.name]
        quotient.add_edges_from((source, node) for source in sources if source != node)
        origin.update((name, [node]) for name in op.writes)
    if nx.is_directed_acyclic_graph(quotient):
        return []
    circles = [sorted(part) for part in nx.strongly_connected_components(quotient)]
    return max(circles, key=len)
