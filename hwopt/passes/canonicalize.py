"""Canonicalize: one form for what can be written in many."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from hwopt.hardware.accelerator import Accelerator
from hwopt.ir.graph import Graph
from hwopt.ir.op import Nest, Op
from hwopt.ir.program import Program
from hwopt.passes.batchnorm import fold_batch_norms
from hwopt.passes.eliminate import drop_dead
from hwopt.passes.manager import Pass, compiler_pass
from hwopt.passes.views import compose


@compiler_pass("canonicalize")
class Canonicalize(Pass):
    """Views composed into the accesses of their readers; batch norms folded for inference.

    A nest reads the tensor that is in memory, however it was transposed, sliced, reshaped or
    expanded on the way: keys and values of grouped-query attention are read at their own size, not
    at that of the query heads. Views that cannot be composed (into a gather or a scan, across
    padding, of incompatible sizes), and those of the graph's outputs, stay: they are free.

    Before: k = transpose(view(linear)); scores = q x k. After: scores read the linear's output.
    Before: y = batch_norm(conv(x, w)). After: y = conv(x, w * scale) + shift, both computed once.
    """

    fold: bool = True
    ensures = frozenset({"canonical"})

    def run(self, program: Program, target: Accelerator | None) -> Program:  # noqa: ARG002
        """The same results from fewer operators."""
        graph = fold_batch_norms(program.graph) if self.fold else program.graph
        graph = drop_dead(_composed(graph))
        return program if graph is program.graph else program.with_graph(graph)


Cache: TypeAlias = dict[tuple[object, ...], tuple[Nest | None, Nest, Nest]]
"""Compositions by identity of the bodies, which it keeps alive: equal layers share bodies."""


def _composed(graph: Graph) -> Graph:
    views: dict[str, Op] = {}
    cache: Cache = {}
    ops: list[Op] = []
    changed = False
    for op in graph.ops:
        moved = _through_views(op, views, graph, cache)
        changed = changed or moved is not op
        ops.append(moved)
        if moved.is_view and isinstance(moved.body, Nest) and len(moved.reads) == 1:
            views[moved.writes[0]] = moved
    return replace(graph, ops=tuple(ops)) if changed else graph


def _through_views(op: Op, views: dict[str, Op], graph: Graph, cache: Cache) -> Op:
    """The operator reading the sources of the views it reads, as far as that is affine."""
    body = op.body
    if not isinstance(body, Nest):
        return op
    reads = list(op.reads)
    for position, name in enumerate(op.reads):
        view = views.get(name)
        if view is None or not isinstance(view.body, Nest):
            continue
        source = graph.tensor[view.reads[0]]
        if source.dtype != graph.tensor[name].dtype:
            continue
        key = (id(body), position, id(view.body), source.shape)
        if key not in cache:
            cache[key] = (compose(body, position, view.body, source.shape), body, view.body)
        composed = cache[key][0]
        if composed is not None:
            body = composed
            reads[position] = view.reads[0]
    if body is op.body:
        return op
    return replace(op, body=body, reads=tuple(reads))
