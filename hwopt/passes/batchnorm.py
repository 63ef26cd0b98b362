"""Folding batch normalisation into the convolution before it, for inference."""

from __future__ import annotations

from dataclasses import replace

from hwopt.ir.graph import Graph
from hwopt.ir.op import Nest, Op
from hwopt.ir.scalar import Apply, Literal, Operand, Scalar, apply, substitute
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import At, Builder, at, names
from hwopt.ops.lowering import Call

X = Operand(0)


def fold_batch_norms(graph: Graph) -> Graph:
    """Each convolution followed only by a batch norm takes its scale into the weights.

    y = scale * conv(x, w) + shift becomes y = conv(x, scale * w) + shift: scale, shift and the new
    weights are computed from parameters alone (static: once, at load), a pointwise shift remains.
    Nothing is folded in a graph with a backward pass.
    """
    if any(op.phase != "forward" for op in graph.ops):
        return graph
    folds = {op.name: fold for op in graph.ops if (fold := _foldable(op, graph)) is not None}
    if not folds:
        return graph
    convolutions = {fold.name: norm for norm, fold in folds.items()}
    build = Builder()
    ops: list[Op] = []
    scaled: dict[str, str] = {}
    for op in graph.ops:
        if op.name in convolutions:
            norm = graph.op[convolutions[op.name]]
            call = Call(norm.source.target, f"{norm.name}.folded", {}, (), op.phase, norm.source)
            weight, shift = _parameters(call, build, graph, op, norm)
            ops += build.ops
            build.ops.clear()
            scaled[norm.name] = shift.name
            op = replace(op, reads=(op.reads[0], weight.name))
        elif op.name in folds:
            op = _shifted(op, scaled[op.name])
        ops.append(op)
    return replace(graph, tensors=(*graph.tensors, *build.tensors), ops=tuple(ops))


def _foldable(op: Op, graph: Graph) -> Op | None:
    """The convolution that a batch norm can be folded into."""
    if op.kind != "batch_norm" or not isinstance(op.body, Nest):
        return None
    source = graph.producer.get(op.reads[0])
    if source is None or source.kind != "convolution" or not isinstance(source.body, Nest):
        return None
    alone = len(graph.consumers[op.reads[0]]) == 1 and op.reads[0] not in graph.outputs
    constant = all(graph.tensor[name].role in ("parameter", "buffer") for name in op.reads[1:])
    weight = graph.tensor[source.reads[1]]
    channel = source.body.write.index[1] if len(source.body.write.index) > 1 else None
    same = channel is not None and source.body.reads[1].index[0] == channel
    fixed = weight.role in ("parameter", "buffer") and weight.shape[0] == _channels(op, graph)
    split = _affine_parts(op.body.scalar) if alone and constant and same and fixed else None
    return source if split is not None else None


def _channels(op: Op, graph: Graph) -> int:
    return graph.tensor[op.reads[-1]].elements


def _parameters(
    call: Call, build: Builder, graph: Graph, convolution: Op, norm: Op
) -> tuple[Tensor, Tensor]:
    """New weights and the shift, from the parameters of both operators."""
    assert isinstance(norm.body, Nest), "checked by _foldable"
    parts = _affine_parts(norm.body.scalar)
    assert parts is not None, "checked by _foldable"
    weight = graph.tensor[convolution.reads[1]]
    statistics = [graph.tensor[name] for name in norm.reads[1:]]
    moved = {i: Operand(i - 1) for i in range(1, len(norm.reads))}
    shift = build.temporary(call, (weight.shape[0],), weight.dtype)
    build.pointwise(call, substitute(parts[1], dict(moved), {}), statistics, shift, kind="fold")
    product = build.temporary(call, weight.shape, weight.dtype)
    per_channel = {i: Operand(i) for i in range(1, len(norm.reads))}
    scale = apply("mul", X, substitute(parts[0], dict(per_channel), {}))
    axes = dict(zip(names(len(weight.shape)), weight.shape, strict=True))
    reads = [_at(weight), *(_at(tensor) for tensor in statistics)]
    build.nest(call, axes, reads, _at(product), scale, kind="fold", resource="vector")
    return product, shift


def _at(tensor: Tensor) -> At:
    """The tensor by its leading axes: a weight in full, a vector by its channel."""
    return at(tensor, *names(len(tensor.shape)))


def _shifted(norm: Op, shift: str) -> Op:
    """The batch norm with only its shift left."""
    assert isinstance(norm.body, Nest), "checked by _foldable"
    body = replace(
        norm.body, reads=(norm.body.reads[0], norm.body.reads[-1]),
        scalar=apply("add", Operand(0), Operand(1)),
    )  # fmt: skip
    return replace(norm, kind="pointwise", body=body, reads=(norm.reads[0], shift))


def _affine_parts(scalar: Scalar) -> tuple[Scalar, Scalar] | None:
    """(a, b) with scalar = a * #0 + b, where neither depends on #0; None when it is not affine."""
    if scalar == X:
        return _number(1.0), _number(0.0)
    if not _depends(scalar):
        return _number(0.0), scalar
    if not isinstance(scalar, Apply) or scalar.function not in ("add", "sub", "mul", "div", "neg"):
        return None
    parts = [_affine_parts(argument) for argument in scalar.arguments]
    if any(part is None for part in parts):
        return None
    (a, b), *others = (part for part in parts if part is not None)
    if scalar.function == "neg":
        return apply("neg", a), apply("neg", b)
    c, d = others[0]
    if scalar.function in ("add", "sub"):
        return _join(scalar.function, a, c), _join(scalar.function, b, d)
    left, right = scalar.arguments
    if scalar.function == "mul" and _depends(left) and not _depends(right):
        return _join("mul", a, d), _join("mul", b, d)
    if scalar.function == "mul" and _depends(right) and not _depends(left):
        return _join("mul", b, c), _join("mul", b, d)
    if scalar.function == "div" and not _depends(right):
        return apply("div", a, d), apply("div", b, d)
    return None


def _depends(scalar: Scalar) -> bool:
    if isinstance(scalar, Apply):
        return any(_depends(argument) for argument in scalar.arguments)
    return scalar == X


def _number(value: float) -> Scalar:
    return Literal(value)


def _join(function: str, left: Scalar, right: Scalar) -> Scalar:
    """`apply` without the additions of 0 and products with 1."""
    zero, one = _number(0.0), _number(1.0)
    if function == "mul":
        if zero in (left, right):
            return zero
        if one in (left, right):
            return right if left == one else left
    if right == zero:
        return left
    if left == zero and function == "add":
        return right
    return apply(function, left, right)
