"""Fuse: which operators run as one, so that tensors between them need not leave the chip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import networkx as nx

from hwopt.hardware.accelerator import Accelerator
from hwopt.ir.graph import Graph
from hwopt.ir.op import Nest, Op, Scan
from hwopt.ir.program import Group, Program
from hwopt.passes.manager import Pass, compiler_pass


@compiler_pass("fuse")
class Fuse(Pass):
    """Find producer-consumer groups.

    * attention: a product (scores), pointwise work (scale, mask), a softmax, a product (values),
      when nothing else reads the tensors between them;
    * epilogue: a product or convolution and the pointwise operators applied to its output, element
      by element (bias, normalisation folded to a scale, activation, residual sum);
    * pointwise: pointwise operators over the same points (an optimizer's updates, gated units).

    Groups are convex (no path leaves one and comes back), and contracting all of them leaves a
    graph without cycles: an edge is contracted only when no other path joins its ends.

    Before: conv -> batch_norm -> add -> relu. After: one group anchored at conv.
    """

    attention: bool = True
    epilogues: bool = True
    pointwise: bool = True
    ensures = frozenset({"fused"})

    def run(self, program: Program, target: Accelerator | None) -> Program:  # noqa: ARG002
        """The same graph with groups, in graph order."""
        merger = _Merger(program.graph)
        if self.attention:
            for chain in _attentions(program.graph, merger.view):
                merger.merge_chain(chain)
        for producer, consumer in list(merger.view.edges):
            if self._joins(merger, producer, consumer):
                merger.merge(producer, consumer)
        return replace(program, groups=tuple(merger.groups()))

    def _joins(self, merger: _Merger, producer: str, consumer: str) -> bool:
        """Whether the edge may lie inside a group (convexity apart)."""
        ops = merger.graph.op
        first, second = ops[producer], ops[consumer]
        if not _is_pointwise(second) or first.phase != second.phase:
            return False
        if merger.kind(producer) == "attention" or merger.kind(consumer) == "attention":
            return False
        points = _elements(merger.graph, first)
        if _points(second) != points or points is None:
            return False
        if merger.anchor(consumer) is not None:
            return False
        if merger.anchor(producer) is not None:
            return self.epilogues
        return self.pointwise and _is_pointwise(first)


def _is_pointwise(op: Op) -> bool:
    """A vector nest that writes each element once, from the operands at that point."""
    return op.resource == "vector" and isinstance(op.body, Nest) and op.body.reduction == "none"


def _points(op: Op) -> int | None:
    return op.body.points if isinstance(op.body, Nest) else None


def _elements(graph: Graph, op: Op) -> int | None:
    """Elements of an operator's only result."""
    return graph.tensor[op.writes[0]].elements if len(op.writes) == 1 else None


def _contracted(graph: Graph) -> nx.DiGraph:
    """Operators that cost something, in graph order; edges go through views."""
    view = nx.DiGraph()
    free = graph.static
    origin: dict[str, str] = {}
    for op in graph.ops:
        sources = dict.fromkeys(origin[name] for name in op.reads if name in origin)
        if op.name in free:
            continue
        if op.is_view:
            if sources:
                origin.update(dict.fromkeys(op.writes, next(iter(sources))))
            continue
        view.add_node(op.name)
        view.add_edges_from((source, op.name) for source in sources)
        origin.update(dict.fromkeys(op.writes, op.name))
    return view


def _attentions(graph: Graph, view: nx.DiGraph) -> Iterator[list[str]]:
    """Chains product -> pointwise* -> softmax -> pointwise* -> product with no other reader."""
    for op in graph.ops:
        if not (isinstance(op.body, Scan) and op.body.function == "softmax" and op.name in view):
            continue
        before = _walk(graph, view, op.name, forward=False)
        after = _walk(graph, view, op.name, forward=True)
        if before is not None and after is not None:
            yield [*reversed(before), op.name, *after]


def _walk(graph: Graph, view: nx.DiGraph, start: str, *, forward: bool) -> list[str] | None:
    """Pointwise operators from a softmax to the next product, that product included.

    None when the chain branches: another operator (or the caller) reads a tensor in between.
    """
    path: list[str] = []
    here = start
    while True:
        upstream = here if forward else None
        if forward:
            nexts = list(view.successors(here))
        else:
            data = _elements(graph, graph.op[here])
            nexts = [p for p in view.predecessors(here) if _elements(graph, graph.op[p]) == data]
            upstream = nexts[0] if len(nexts) == 1 else None
        if len(nexts) != 1 or upstream is None:
            return None
        if view.out_degree(upstream) != 1 or set(graph.op[upstream].writes) & set(graph.outputs):
            return None
        here = nexts[0]
        path.append(here)
        op = graph.op[here]
        if op.macs:
            return path if isinstance(op.body, Nest) else None
        if not _is_pointwise(op):
            return None


class _Merger:
    """Groups under construction: union of operators, kept acyclic when contracted."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.view = _contracted(graph)
        self._index = {name: i for i, name in enumerate(self.view.nodes)}
        self._leader = {name: name for name in self.view.nodes}
        self._members: dict[str, list[str]] = {name: [name] for name in self.view.nodes}
        self._kind: dict[str, str] = {}
        self._anchor = {name: name for name in self.view.nodes if graph.op[name].macs}

    def kind(self, name: str) -> str | None:
        """Kind of the group an operator is in, once it has one."""
        return self._kind.get(self._leader[name])

    def anchor(self, name: str) -> str | None:
        """The product of the group an operator is in."""
        return self._anchor.get(self._leader[name])

    def merge_chain(self, chain: list[str]) -> None:
        """Make one attention group of a chain, unless that would close a cycle."""
        if any(len(self._members[self._leader[name]]) > 1 for name in chain):
            return
        if any(self._detour(a, b) for a, b in pairwise(chain)):
            return
        for a, b in pairwise(chain):
            self._join(a, b)
        leader = self._leader[chain[0]]
        self._kind[leader] = "attention"
        self._anchor[leader] = chain[0]

    def merge(self, producer: str, consumer: str) -> None:
        """Contract an edge, unless another path joins its ends."""
        if self._leader[producer] != self._leader[consumer] and not self._detour(
            producer, consumer
        ):
            self._join(producer, consumer)

    def _detour(self, producer: str, consumer: str) -> bool:
        """Whether some path between the two groups passes through a third."""
        goal, start = self._leader[consumer], self._leader[producer]
        last = max(self._index[name] for name in self._members[goal])
        seen = {start}
        stack = [leader for leader in self._after(start) if leader not in (goal, start)]
        while stack:
            leader = stack.pop()
            if leader == goal:
                return True
            if leader in seen or min(self._index[n] for n in self._members[leader]) > last:
                continue
            seen.add(leader)
            stack.extend(self._after(leader))
        return False

    def _after(self, leader: str) -> Iterator[str]:
        for name in self._members[leader]:
            for successor in self.view.successors(name):
                yield self._leader[successor]

    def _join(self, producer: str, consumer: str) -> None:
        keep, drop = self._leader[producer], self._leader[consumer]
        if keep == drop:
            return
        for name in self._members[drop]:
            self._leader[name] = keep
        self._members[keep] += self._members.pop(drop)
        if drop in self._anchor:
            self._anchor.setdefault(keep, self._anchor.pop(drop))

    def groups(self) -> Iterator[Group]:
        """Groups of two and more, ordered by their first operator; members in graph order."""
        found = []
        for leader, members in self._members.items():
            if len(members) < 2:
                continue
            names = tuple(sorted(members, key=self._index.__getitem__))
            anchor = self._anchor.get(leader)
            kind = self._kind.get(leader, "epilogue" if anchor else "pointwise")
            found.append(Group(names, anchor or names[0], kind))
        return iter(sorted(found, key=lambda group: self._index[group.ops[0]]))
