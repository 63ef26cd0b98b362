"""Canonicalize: one form for what can be written in many: no copies, no views between nests,
no batch normalisation after a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from hwopt.ir.graph import Graph
from hwopt.ir.op import Nest, Op
from hwopt.ir.program import Program
from hwopt.passes.composition import Shape, compose, is_plain_view
from hwopt.passes.eliminate import without_copies
from hwopt.passes.folding import fold_batch_norms
from hwopt.passes.manager import Pass, passes
from hwopt.passes.rewriting import regraphed, without_dead

if TYPE_CHECKING:
    from hwopt.hardware.accelerator import Accelerator


@passes.register("canonicalize")
@dataclass(frozen=True)
class Canonicalize(Pass):
    """Read through views, drop copies and no-ops, fold batch normalisation for inference.

    Before: `t = permute(x); r = reshape(t); y = matmul(r, w)`.
    After:  `y = matmul(x, w)`, whose read of x is the composed affine index; axes are split where
            the reshape needs it. Keys and values of grouped-query attention are read at their own
            size, not repeated.
    Before: `c = conv(x, w); y = batch_norm(c, g, b, mean, var)`.
    After:  `w2 = w * s; b2 = b - mean * s` with `s = g * rsqrt(var + eps)`, which depend on
            parameters alone (`Graph.static`: done once at load), and `y = conv(x, w2) + b2`.

    A view that cannot be composed (its reader is a gather or scan, or the index would not be
    affine) stays, at no cost. `views=False` and `fold=False` leave these parts out.
    """

    ensures: ClassVar[frozenset[str]] = frozenset({"canonical"})
    views: bool = True
    fold: bool = True

    @override
    def run(self, program: Program, target: Accelerator | None) -> Program:
        """Copies, then views, then batch normalisation."""
        graph = without_copies(program.graph)
        if self.views:
            graph = _read_through_views(graph)
        if self.fold:
            graph = fold_batch_norms(graph)
        return regraphed(program, graph)


class _Composer:
    """Composes bodies, each combination once: equal layers share the result."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[Nest, Nest, Nest | None]] = {}

    def __call__(
        self, reader: Nest, position: int, view: Nest, source: Shape, result: Shape
    ) -> Nest | None:
        key = (id(reader), position, id(view), source, result)
        if (known := self._known.get(key)) is None:
            composed = compose(reader, position, view, source, result)
            known = self._known[key] = reader, view, composed  # keeps both alive, hence the ids
        return known[2]


def _read_through_views(graph: Graph) -> Graph:
    """Every nest reads the source of the views it reads; views without a reader are gone."""
    composer = _Composer()
    views: dict[str, Op] = {}
    ops: list[Op] = []
    for before in graph.ops:
        op = _composed(graph, before, views, composer) if isinstance(before.body, Nest) else before
        ops.append(op)
        if op.is_view and isinstance(op.body, Nest) and is_plain_view(op.body):
            views[op.writes[0]] = op
    if all(new is old for new, old in zip(ops, graph.ops, strict=True)):
        return graph
    return without_dead(graph, ops, only_views=True)


def _composed(graph: Graph, op: Op, views: dict[str, Op], composer: _Composer) -> Op:
    """The operator on the sources of the views it reads, as far as they compose."""
    body = op.body
    assert isinstance(body, Nest)
    reads = list(op.reads)
    for position in range(len(reads)):
        while (view := views.get(reads[position])) is not None:
            inner = view.body
            assert isinstance(inner, Nest)
            source, result = graph.tensor[view.reads[0]], graph.tensor[view.writes[0]]
            composed = composer(body, position, inner, source.shape, result.shape)
            if composed is None:
                break
            body, reads[position] = composed, view.reads[0]
    if body is op.body:
        return op
    return Op(op.name, op.kind, body, op.resource, tuple(reads), op.writes, op.phase, op.source)
