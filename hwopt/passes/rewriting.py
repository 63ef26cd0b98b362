"""What passes share in rewriting graphs: dropping what is dead, renaming tensors, fresh names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hwopt.ir.graph import Graph
from hwopt.ir.op import Body, Op
from hwopt.ir.program import Program
from hwopt.ir.tensor import Tensor


def without_dead(
    graph: Graph, ops: Iterable[Op], tensors: Sequence[Tensor] = (), *, only_views: bool = False
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
    if tensors:
        declared = in_order(declared, kept)
    return Graph(graph.name, declared, tuple(kept), graph.outputs)


def in_order(tensors: Iterable[Tensor], ops: Iterable[Op]) -> tuple[Tensor, ...]:
    """Tensors in the order in which they come to be: sources as they were, then results."""
    place = {name: number for number, name in enumerate(n for op in ops for n in op.writes)}
    return tuple(sorted(tensors, key=lambda tensor: place.get(tensor.name, -1)))


def renamed(ops: Iterable[Op], names: Mapping[str, str]) -> list[Op]:
    """Operators that read and write other tensors; those not concerned stay the same object."""
    return [
        op if names.keys().isdisjoint((*op.reads, *op.writes)) else op.renamed(names, op.name)
        for op in ops
    ]


def regraphed(program: Program, graph: Graph, *, keeps: Iterable[str] = ()) -> Program:
    """The program of a rewritten graph: groups and classes are found anew, constraints of
    operators that are still there stay, of its properties only `keeps`.
    """
    if graph is program.graph:
        return program
    constraints = {n: rule for n, rule in program.constraints.items() if n in graph.op}
    properties = program.properties & frozenset(keeps)
    return Program(graph, constraints=constraints, properties=properties)


class Bodies:
    """Numbers bodies: equal ones get the same number. Shared objects are compared by identity
    first, so that a graph of thousands of equal layers costs one comparison each.
    """

    def __init__(self) -> None:
        self._known: dict[Body, int] = {}
        self._object: dict[int, tuple[Body, int]] = {}

    def __call__(self, body: Body) -> int:
        """The number of a body."""
        if (known := self._object.get(id(body))) is None:
            known = body, self._known.setdefault(body, len(self._known))
            self._object[id(body)] = known
        return known[1]


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
