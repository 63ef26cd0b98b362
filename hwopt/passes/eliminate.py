"""Eliminate: operators without a reader, duplicates, and copies or casts that change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from hwopt.ir.graph import Graph
from hwopt.ir.op import Gather, Nest, Op, Opaque
from hwopt.ir.program import Program
from hwopt.ir.scalar import IDENTITY, Apply
from hwopt.passes.manager import Pass, passes
from hwopt.passes.rewriting import Bodies, regraphed, renamed, without_dead

if TYPE_CHECKING:
    from hwopt.hardware.accelerator import Accelerator


@passes.register("eliminate")
@dataclass(frozen=True)
class Eliminate(Pass):
    """Remove operators whose result nobody reads, that repeat another one, or that do nothing.

    Before: `a = relu(x); b = relu(x); c = clone(b); dead = exp(x); y = add(a, c)`.
    After:  `a = relu(x); y = add(a, a)`.

    `duplicates=False` keeps repeated operators. Random numbers are never merged.
    """

    duplicates: bool = True

    @override
    def run(self, program: Program, target: Accelerator | None) -> Program:
        """One walk for copies and duplicates, one backwards for what is dead."""
        graph = without_copies(program.graph)
        if self.duplicates:
            graph = _without_duplicates(graph)
        graph = without_dead(graph, graph.ops)
        # A canonical graph has no copies left that could hide a view from its reader.
        return regraphed(program, graph, keeps={"canonical"})


def is_copy(graph: Graph, op: Op) -> bool:
    """Whether the operator writes exactly what it reads: a clone, a cast to the same type,
    dropout in inference. (Tensors have no strides here, so a dense copy is one too.)
    """
    body = op.body
    if not isinstance(body, Nest) or len(op.reads) != 1:
        return False
    same = body.scalar == IDENTITY or (
        isinstance(body.scalar, Apply)
        and body.scalar.function == "cast"
        and body.scalar.arguments == (IDENTITY,)
    )
    if not same or body.reads[0].index != body.write.index or body.write.fill is not None:
        return False
    if any(axis.size > 1 and axis.name not in body.write.axes for axis in body.axes):
        return False
    source, result = graph.tensor[op.reads[0]], graph.tensor[op.writes[0]]
    return source.shape == result.shape and source.dtype == result.dtype


def without_copies(graph: Graph) -> Graph:
    """Readers of a copy read the original; a copy that is an output takes the original's place
    where the original is neither given nor an output itself, and stays otherwise.
    """
    outputs = set(graph.outputs)
    alias: dict[str, str] = {}
    taken: dict[str, str] = {}
    ops: list[Op] = []
    for op in graph.ops:
        if not is_copy(graph, op):
            ops.append(op)
            continue
        (copy,) = op.writes
        original = alias.get(op.reads[0], op.reads[0])
        if copy not in outputs:
            alias[copy] = original
        elif original in graph.producer and original not in outputs and original not in taken:
            taken[original] = copy
        else:
            ops.append(op)
    if not alias and not taken:
        return graph
    names = {name: taken.get(original, original) for name, original in alias.items()} | taken
    tensors = tuple(tensor for tensor in graph.tensors if tensor.name not in names)
    return Graph(graph.name, tensors, tuple(renamed(ops, names)), graph.outputs)


def _without_duplicates(graph: Graph) -> Graph:
    """Of operators with the same body, reads and result types only the first stays."""
    outputs = set(graph.outputs)
    alias: dict[str, str] = {}
    first: dict[tuple[object, ...], Op] = {}
    bodies = Bodies()
    ops: list[Op] = []
    for before in graph.ops:
        op = before
        if not alias.keys().isdisjoint(op.reads):
            reads = tuple(alias.get(name, name) for name in op.reads)
            op = Op(op.name, op.kind, op.body, op.resource, reads, op.writes, op.phase, op.source)
        types = tuple((graph.tensor[n].shape, graph.tensor[n].dtype) for n in op.writes)
        key = (bodies(op.body), op.reads, op.resource, op.phase, op.kind, types)
        known = first.setdefault(key, op) if _is_pure(op) else op
        if known is not op and outputs.isdisjoint(op.writes):
            alias.update(zip(op.writes, known.writes, strict=True))
            continue
        ops.append(op)
    if not alias:
        return graph
    tensors = tuple(tensor for tensor in graph.tensors if tensor.name not in alias)
    return Graph(graph.name, tensors, tuple(ops), graph.outputs)


def _is_pure(op: Op) -> bool:
    """Whether running it twice gives the same: not random, not unknown."""
    if isinstance(op.body, Opaque):
        return False
    return not (isinstance(op.body, Gather) and op.body.function == "random")
