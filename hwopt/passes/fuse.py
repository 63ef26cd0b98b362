"""Fuse: which operators run as one, so that tensors between them need not leave the chip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from hwopt.ir.graph import Graph
from hwopt.ir.op import Nest, Op, Scan
from hwopt.ir.program import Group, Program
from hwopt.passes.manager import Pass, passes

if TYPE_CHECKING:
    import networkx as nx

    from hwopt.hardware.accelerator import Accelerator


@passes.register("fuse")
@dataclass(frozen=True)
class Fuse(Pass):
    """Find producer-consumer groups; views between their operators count as nothing.

    * attention: a product (scores), pointwise work (scale, mask), a softmax, pointwise work, a
      product (values), when nothing else reads the tensors between them;
    * epilogue: a product or convolution and the pointwise operators applied to its output, element
      by element (bias, what is left of a normalisation, activation, residual sum);
    * pointwise: pointwise operators over the same points (an optimizer's updates, gated units);
    * single: an operator by itself.

    Groups partition the operators that are not views. They are convex, also together: an edge is
    contracted only when no other path joins its ends, so that the graph of groups has no circles.
    Operators of different phases, or of which only one is static, stay apart.

    Before: `c = conv(x, w)`, `b = add(c, bias)`, `y = relu(b)`.
    After:  one group (c, b, y) of kind "epilogue" anchored at c.
    """

    ensures: ClassVar[frozenset[str]] = frozenset({"fused"})
    attention: bool = True
    epilogues: bool = True
    pointwise: bool = True

    @override
    def run(self, program: Program, target: Accelerator | None) -> Program:
        """The same graph with groups, in graph order."""
        graph = program.graph
        merger = _Merger(graph)
        if self.attention:
            for chain in _attentions(graph):
                merger.merge_chain(chain)
        for producer, consumer in list(merger.view.edges):
            if self._joins(merger, producer, consumer):
                merger.merge(producer, consumer)
        # Classes tell operators of different groups apart, so they are found anew.
        properties = program.properties - {"classified"}
        groups = tuple(merger.groups())
        return replace(program, groups=groups, class_of={}, properties=properties)

    def _joins(self, merger: _Merger, producer: str, consumer: str) -> bool:
        """Whether the edge may lie inside a group (convexity apart)."""
        graph = merger.graph
        first, second = graph.op[producer], graph.op[consumer]
        if not _is_pointwise(second) or first.phase != second.phase:
            return False
        if (producer in graph.static) != (consumer in graph.static):
            return False
        if "attention" in (merger.kind(producer), merger.kind(consumer)):
            return False
        points = graph.tensor[first.writes[0]].elements if len(first.writes) == 1 else None
        if points is None or graph.tensor[second.writes[0]].elements != points:
            return False
        if merger.anchor(consumer) is not None:
            return False
        if merger.anchor(producer) is not None:
            return self.epilogues
        return self.pointwise and _is_pointwise(first)


def _is_pointwise(op: Op) -> bool:
    """A vector nest that writes each element once, from the operands at that point."""
    return op.resource == "vector" and isinstance(op.body, Nest) and op.body.reduction == "none"


def _attentions(graph: Graph) -> Iterator[list[str]]:
    """Chains product -> pointwise* -> softmax -> pointwise* -> product with no other reader.

    A second result of the softmax (the log-sum-exp that is saved for backward) may be read
    anywhere: it is small, and leaves the group.
    """
    for op in graph.ops:
        if isinstance(op.body, Scan) and op.body.function == "softmax":
            before = _upstream(graph, op.reads[0], op)
            after = _downstream(graph, op.writes[0])
            if before is not None and after is not None:
                yield [*before, op.name, *after]


def _readers(graph: Graph, tensor: str) -> list[Op | None]:
    """Operators that read a tensor, through views; None stands for the caller (an output)."""
    readers: list[Op | None] = [None] if tensor in graph.outputs else []
    for op in graph.consumers[tensor]:
        if op.is_view:
            for name in op.writes:
                readers += _readers(graph, name)
        else:
            readers.append(op)
    return readers


def _writer(graph: Graph, tensor: str) -> tuple[Op, str] | None:
    """The operator that computes a tensor, through views, and the tensor that it writes."""
    while (op := graph.producer.get(tensor)) is not None:
        if not op.is_view:
            return op, tensor
        if not op.reads:
            return None
        tensor = op.reads[0]
    return None


def _upstream(graph: Graph, tensor: str, reader: Op) -> list[str] | None:
    """From the product that computes a tensor to just before its only reader."""
    found = _writer(graph, tensor)
    if found is None:
        return None
    op, written = found
    if _readers(graph, written) != [reader] or op.phase != reader.phase:
        return None
    if op.macs:
        return [op.name] if isinstance(op.body, Nest) else None
    if not _is_pointwise(op):
        return None
    elements = graph.tensor[written].elements
    for name in op.reads:  # the scores among scale, mask and bias: as large, and from a product
        if graph.tensor[name].elements == elements:
            path = _upstream(graph, name, op)
            if path is not None:
                return [*path, op.name]
    return None


def _downstream(graph: Graph, tensor: str) -> list[str] | None:
    """From the only reader of a tensor to the product that takes it as its first operand."""
    readers = _readers(graph, tensor)
    op = readers[0] if len(readers) == 1 else None
    if op is None:
        return None
    if op.macs:
        found = _writer(graph, op.reads[0])
        first = isinstance(op.body, Nest) and found is not None and found[1] == tensor
        return [op.name] if first else None
    if (
        not _is_pointwise(op)
        or graph.tensor[op.writes[0]].elements != graph.tensor[tensor].elements
    ):
        return None
    path = _downstream(graph, op.writes[0])
    return None if path is None else [op.name, *path]


def _contracted(graph: Graph) -> nx.DiGraph:
    """Operators that are not views, in graph order; edges go through views."""
    import networkx as nx

    view = nx.DiGraph()
    origin: dict[str, list[str]] = {}
    for op in graph.ops:
        sources = list(dict.fromkeys(o for name in op.reads for o in origin.get(name, ())))
        if op.is_view:
            origin.update((name, sources) for name in op.writes)
            continue
        view.add_node(op.name)
        view.add_edges_from((source, op.name) for source in sources)
        origin.update((name, [op.name]) for name in op.writes)
    return view


class _Merger:
    """Groups under construction: union of operators, kept free of circles when contracted."""

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
        """Make one attention group of a chain, unless an operator is taken or a path leaves it."""
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
        apart = self._leader[producer] != self._leader[consumer]
        if apart and not self._detour(producer, consumer):
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
        """Groups ordered by their first operator; members in graph order."""
        found = []
        for leader, members in self._members.items():
            names = tuple(sorted(members, key=self._index.__getitem__))
            anchor = self._anchor.get(leader)
            kind = self._kind.get(leader, "epilogue" if anchor else "pointwise")
            found.append(Group(names, anchor or names[0], kind if len(names) > 1 else "single"))
        return iter(sorted(found, key=lambda group: self._index[group.ops[0]]))
