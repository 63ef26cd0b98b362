"""What passes share in rewriting graphs: dropping what is dead, renaming tensors, fresh names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hwopt.ir.graph import Graph
from hwopt.ir.op import Op
from hwopt.ir.tensor import Tensor


def without_dead(
    graph: Graph, ops: Iterable[Op], tensors: Iterable[Tensor] = (), *, only_views: bool = False
) -> Graph:
    """The graph of `ops` less those whose results nobody reads, with the tensors they need.

    `tensors` are declared in addition. Sources stay, read or not: they are the graph's signature.
    `only_views`: operators that cost something stay even where nobody reads them. The same graph
    is returned where nothing changes, so that facts cached on it live on.
    """
    needed = set(graph.outputs)
    kept: list[Op] = []
    for op in reversed(tuple(ops)):
        if (only_views and not op.is_view) or not needed.isdisjoint(op.writes):
            kept.append(op)
            needed.update(op.reads)
    kept.reverse()
    written = {name for op in graph.ops for name in op.writes}
    live = needed.union(*(op.writes for op in kept)) if kept else needed
    declared = tuple(
        tensor
        for tensor in (*graph.tensors, *tensors)
        if tensor.name in live or (tensor.name in graph.tensor and tensor.name not in written)
    )
    if tuple(kept) == graph.ops and declared == graph.tensors:
        return graph
    return Graph(graph.name, declared, tuple(kept), graph.outputs)


def renamed(ops: Iterable[Op], names: Mapping[str, str]) -> list[Op]:
    """Operators that read and write other tensors; those not concerned stay the same object."""
    return [
        op if names.keys().isdisjoint((*op.reads, *op.writes)) else op.renamed(names, op.name)
        for op in ops
    ]


class Names:
    """Hands out names that neither a tensor nor an operator of the graph bears."""

    def __init__(self, graph: Graph) -> None:
        self._taken = set(graph.tensor) | set(graph.op)

    def fresh(self, stem: str) -> str:
        """`stem`, or `stem2`, `stem3`, ... where it is taken."""
        name, count = stem, 1
        while name in self._taken:
            count += 1
            name = f"{stem}{count}"
        self._taken.add(name)
        return name
