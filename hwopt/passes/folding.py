"""Batch normalisation after a contraction, folded into its weights for inference.

Normalisation with running statistics is affine in its input, `y = a * x + b` with `a` and `b` per
channel, so `a * conv(x, w) + b = conv(x, a * w) + b`. `a` and `b` are found symbolically in the
scalar bodies (of the normalisation, and of a bias between the two), never by numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwopt.ir.access import Access, Affine, Axis
from hwopt.ir.graph import Graph
from hwopt.ir.nestrules import check_nest, leaves
from hwopt.ir.op import Nest, Op
from hwopt.ir.scalar import Apply, Iota, Literal, Operand, Scalar, apply, substitute
from hwopt.ir.tensor import Tensor
from hwopt.passes.rewriting import Names, without_dead

_ZERO, _ONE = Literal(0.0), Literal(1.0)


def fold_batch_norms(graph: Graph) -> Graph:
    """The graph with each batch normalisation that follows a contraction folded into it.

    Nothing is folded in a graph with a backward pass: there the statistics and weights move.
    """
    if any(op.phase != "forward" for op in graph.ops):
        return graph
    fixed = {t.name for t in graph.sources if t.role in ("parameter", "buffer", "constant")}
    fixed |= {name for op in graph.ops if op.name in graph.static for name in op.writes}
    names = Names(graph)
    before: dict[str, list[Op]] = {}
    instead: dict[str, Op] = {}
    tensors: list[Tensor] = []
    for op in graph.ops:
        if op.kind == "batch_norm" and (found := _Fold.find(graph, op, fixed)) is not None:
            prepared, contraction, bias = found.ops(names, tensors)
            before[contraction.name] = prepared
            instead[contraction.name] = contraction
            instead[op.name] = bias
            fixed |= {name for each in prepared for name in each.writes}
    if not instead:
        return graph
    ops = [
        each
        for op in graph.ops
        for each in (*before.get(op.name, ()), instead.get(op.name, op))
    ]  # fmt: skip
    return without_dead(graph, ops, tensors)


class _Fold:
    """One contraction, the pointwise operators behind it, and their common `a * x + b`."""

    def __init__(self, graph: Graph, contraction: Op, norm: Op) -> None:
        self.graph = graph
        self.contraction = contraction
        self.norm = norm
        self.reads: list[str] = []
        self.accesses: list[Access] = []
        self.scale: Scalar = _ONE
        self.shift: Scalar = _ZERO

    @staticmethod
    def find(graph: Graph, norm: Op, fixed: set[str]) -> _Fold | None:
        """The fold of a batch normalisation, or None where one of its conditions fails."""
        chain = [norm]
        while (producer := _sole_producer(graph, chain[0])) is not None:
            chain.insert(0, producer)
            if producer.macs or len(chain) == 3:
                break
        contraction, *pointwise = chain
        body = contraction.body
        if not (contraction.macs and isinstance(body, Nest) and body.is_contraction and pointwise):
            return None
        if contraction.reads[1] not in fixed or contraction.reads[0] in fixed:
            return None
        place = {op.name: number for number, op in enumerate(graph.ops)}
        fold = _Fold(graph, contraction, norm)
        for op in pointwise:
            late = [
                name
                for name in op.reads[1:]
                if name not in fixed
                or (name in graph.producer
                    and place[graph.producer[name].name] > place[contraction.name])
            ]  # fmt: skip
            if late or not fold._append(op):
                return None
        return fold if fold._weight_nest() is not None else None

    def _append(self, op: Op) -> bool:
        """Put one pointwise operator behind: its scalar must be affine in what comes before."""
        body = op.body
        if not isinstance(body, Nest) or body.reduction != "none" or body.write.fill is not None:
            return False
        shape = self.graph.tensor[op.writes[0]].shape
        names = _names_by_dim(body.write, body, shape)
        if names is None or _names_by_dim(body.reads[0], body, shape) != names:
            return False
        values = {name: Affine.axis(f"d{dim}") for dim, name in enumerate(names) if name}
        values |= {axis.name: Affine() for axis in body.axes if axis.name not in values}
        affine = _affine(body.scalar)
        if affine is None:
            return False
        first = len(self.reads)
        moved = {i: Operand(first + i - 1) for i in range(1, len(op.reads))}
        scale, shift = (substitute(part, dict(moved), {}) for part in affine)
        self.reads += op.reads[1:]
        self.accesses += [access.substitute(values) for access in body.reads[1:]]
        self.scale = _times(self.scale, scale)
        self.shift = _plus(_times(self.shift, scale), shift)
        return True

    def _weight_nest(self) -> Nest | None:
        """`w2[index of w] = w[index of w] * a`, or None where `a` differs within a weight."""
        body = self.contraction.body
        assert isinstance(body, Nest)
        at = {f"d{dim}": index for dim, index in enumerate(body.write.index)}
        weight = body.reads[1]
        used = [a.substitute(at) for a in self.accesses]
        axes = tuple(axis for axis in body.axes if axis.name in weight.axes)
        scalar = substitute(self.scale, {i: Operand(i + 1) for i in range(len(used))}, {})
        needed = sorted({leaf.position for leaf in leaves(scalar) if isinstance(leaf, Operand)})
        renumbered: dict[int, Scalar] = {p: Operand(i + 1) for i, p in enumerate(needed)}
        nest = Nest(
            axes, (weight, *(used[p - 1] for p in needed)), weight,
            apply("mul", Operand(0), substitute(scalar, renumbered, {})),
        )  # fmt: skip
        self._weight_reads = [self.reads[p - 1] for p in needed]
        shapes = tuple(
            self.graph.tensor[name].shape
            for name in (self.contraction.reads[1], *self._weight_reads)
        )
        return nest if check_nest(nest, shapes, shapes[0]) is None else None

    def ops(self, names: Names, tensors: list[Tensor]) -> tuple[list[Op], Op, Op]:
        """Operators that prepare weight and bias, the contraction, and the bias in the end."""
        graph, old = self.graph, self.contraction
        result = graph.tensor[self.norm.writes[0]]
        weight = graph.tensor[old.reads[1]]
        dims = sorted({int(axis[1:]) for a in self.accesses for axis in a.axes})
        new_weight = Tensor(names.fresh(f"{self.norm.name}.weight"), weight.shape, weight.dtype,
                            "buffer")  # fmt: skip
        new_bias = Tensor(
            names.fresh(f"{self.norm.name}.bias"), tuple(result.shape[d] for d in dims),
            result.dtype, "buffer",
        )  # fmt: skip
        tensors += [new_weight, new_bias]
        body = self._weight_nest()
        assert body is not None
        own = Access(tuple(Affine.axis(f"d{d}") for d in dims))
        shift = Nest(
            tuple(Axis(f"d{d}", result.shape[d]) for d in dims), tuple(self.accesses), own,
            self.shift,
        )  # fmt: skip
        prepared = [
            Op(names.fresh(f"{self.norm.name}.fold_weight"), "fold", body, "vector",
               (weight.name, *self._weight_reads), (new_weight.name,), source=self.norm.source),
            Op(names.fresh(f"{self.norm.name}.fold_bias"), "fold", shift, "vector",
               tuple(self.reads), (new_bias.name,), source=self.norm.source),
        ]  # fmt: skip
        contraction = replace(old, reads=(old.reads[0], new_weight.name))
        whole = Access(tuple(Affine.axis(f"d{d}") for d in range(len(result.shape))))
        add = Nest(
            tuple(Axis(f"d{d}", size) for d, size in enumerate(result.shape)), (whole, own), whole,
            apply("add", Operand(0), Operand(1)),
        )  # fmt: skip
        reads = (old.writes[0], new_bias.name)
        bias = replace(self.norm, kind="bias", body=add, reads=reads)
        return prepared, contraction, bias


def _sole_producer(graph: Graph, op: Op) -> Op | None:
    """Who writes the first operand, if this operator is its only reader."""
    name = op.reads[0] if op.reads else ""
    producer = graph.producer.get(name)
    if producer is None or len(graph.consumers[name]) > 1 or name in graph.outputs:
        return None
    return producer if len(producer.writes) == 1 and op.reads.count(name) == 1 else None


def _names_by_dim(access: Access, nest: Nest, shape: Sequence[int]) -> list[str] | None:
    """The axis that each dimension is indexed by ("" for one of size 1), or None."""
    sizes = nest.sizes
    names: list[str] = []
    for index, size in zip(access.index, shape, strict=True):
        moving = [term for term in index.terms if sizes[term[0]] > 1]
        if size == 1 and not moving and index.offset == 0:
            names.append("")
        elif len(moving) == 1 and moving[0][1] == 1 and not index.offset:
            names.append(moving[0][0])
        else:
            return None
    distinct = [name for name in names if name]
    return names if len(set(distinct)) == len(distinct) else None


def _affine(scalar: Scalar) -> tuple[Scalar, Scalar] | None:
    """`(a, b)` with `scalar = a * #0 + b`, neither of which uses #0; None where there is none."""
    if scalar == Operand(0):
        return _ONE, _ZERO
    if all(leaf != Operand(0) for leaf in leaves(scalar)):
        free = not any(isinstance(leaf, Iota) for leaf in leaves(scalar))
        return (_ZERO, scalar) if free else None
    if not isinstance(scalar, Apply):
        return None
    parts = [_affine(argument) for argument in scalar.arguments]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    a, b = known[0]
    if scalar.function == "neg":
        return apply("neg", a), apply("neg", b)
    if len(known) != 2:
        return None
    c, d = known[1]
    if scalar.function in ("add", "sub"):
        return _sum(scalar.function, a, c), _sum(scalar.function, b, d)
    if scalar.function == "mul" and c == _ZERO:
        return _times(a, d), _times(b, d)
    if scalar.function == "mul" and a == _ZERO:
        return _times(b, c), _times(b, d)
    if scalar.function == "div" and c == _ZERO:
        return apply("div", a, d), apply("div", b, d) if b != _ZERO else _ZERO
    return None


def _sum(function: str, a: Scalar, b: Scalar) -> Scalar:
    if b == _ZERO:
        return a
    if a == _ZERO and function == "add":
        return b
    return apply("neg", b) if a == _ZERO else apply(function, a, b)


def _plus(a: Scalar, b: Scalar) -> Scalar:
    return _sum("add", a, b)


def _times(a: Scalar, b: Scalar) -> Scalar:
    if _ZERO in (a, b):
        return _ZERO
    if a == _ONE:
        return b
    return a if b == _ONE else apply("mul", a, b)
