"""Reductions: sums, means, extremes, moments, norms, truth.

A mean is a sum and a division of the few results; a variance is a mean and a sum of squared
distances from it (two passes, as numerically sound kernels do).
"""

from __future__ import annotations

import math

from hwopt.ir.op import Reduction
from hwopt.ir.scalar import IDENTITY, Operand, Scalar, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder, at, normal_dims
from hwopt.ops.lowering import Call, lowering


def _dims(call: Call, tensor: Tensor) -> tuple[int, ...]:
    """The dimensions reduced; all without an argument `dim`."""
    return normal_dims(call.arguments.get("dim"), len(tensor.shape))


def _operand(call: Call) -> Tensor:
    """The tensor reduced, with another name in the norms."""
    return call.optional("self") or call.tensor("x")


def _kept(tensor: Tensor, dims: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with reduced dimensions of size 1."""
    return tuple(1 if i in dims else size for i, size in enumerate(tensor.shape))


def _count(tensor: Tensor, dims: tuple[int, ...]) -> int:
    """Elements that go into one result."""
    return math.prod(tensor.shape[d] for d in dims)


def mean(
    call: Call, build: Builder, x: Tensor, dims: tuple[int, ...], out: Tensor, dtype: str
) -> Tensor:
    """`sum / n` into `out`."""
    total = build.temporary(call, out.shape, dtype)
    build.reduce(call, "sum", [x], dims, total)
    return build.pointwise(call, apply("div", Operand(0), float(_count(x, dims))), [total], out)


REDUCTIONS: dict[str, Reduction] = {
    "sum": "sum", "prod": "prod", "amax": "max", "amin": "min", "max": "max", "min": "min",
    "argmax": "argmax", "argmin": "argmin",
}  # fmt: skip


@lowering("aten.sum.default", "aten.sum.dim_IntList", "aten.prod.default", "aten.prod.dim_int")
@lowering("aten.amax.default", "aten.amin.default", "aten.max.default", "aten.min.default")
@lowering("aten.argmax.default", "aten.argmin.default")
def reduction(call: Call, build: Builder) -> None:
    """`y[kept dims] = reduce over the others of x`."""
    x = call.tensor("self")
    build.reduce(call, REDUCTIONS[call.target.split(".")[1]], [x], _dims(call, x))


@lowering("aten.any.default", "aten.any.dim", "aten.any.dims")
@lowering("aten.all.default", "aten.all.dim", "aten.all.dims")
def truth(call: Call, build: Builder) -> None:
    """Whether any, or every, element is not zero."""
    x = call.tensor("self")
    value = IDENTITY if x.dtype == "bool" else apply("ne", Operand(0), 0)
    function: Reduction = "any" if ".any." in call.target else "all"
    build.reduce(call, function, [x], _dims(call, x), scalar=value)


@lowering("aten.max.dim", "aten.min.dim")
def extreme_and_place(call: Call, build: Builder) -> None:
    """The largest (smallest) value along a dimension, and where it is."""
    x = call.tensor("self")
    dims, largest = _dims(call, x), ".max." in call.target
    build.reduce(call, "max" if largest else "min", [x], dims, call.outputs[0])
    if len(x.shape):
        place: Reduction = "argmax" if largest else "argmin"
        build.reduce(call, place, [x], dims, call.outputs[1])
    else:
        build.fill(call, 0, call.outputs[1], resource="memory")


@lowering("aten.aminmax.default")
def extremes(call: Call, build: Builder) -> None:
    """Smallest and largest value."""
    x = call.tensor("self")
    build.reduce(call, "min", [x], _dims(call, x), call.outputs[0])
    build.reduce(call, "max", [x], _dims(call, x), call.outputs[1])


@lowering("aten.mean.default", "aten.mean.dim")
def lower_mean(call: Call, build: Builder) -> None:
    """`sum / n`."""
    x = call.tensor("self")
    mean(call, build, x, _dims(call, x), call.output, call.output.dtype)


@lowering("aten.var.default", "aten.var.dim", "aten.var.correction")
@lowering("aten.std.default", "aten.std.dim", "aten.std.correction")
@lowering("aten.var_mean.default", "aten.var_mean.dim", "aten.var_mean.correction")
@lowering("aten.std_mean.default", "aten.std_mean.dim", "aten.std_mean.correction")
def moments(call: Call, build: Builder) -> None:
    """`sum((x - mean)^2) / (n - correction)`, its root, and the mean where asked."""
    x, out = call.tensor("self"), call.output
    dims = _dims(call, x)
    unbiased = call.get("unbiased", default=True)
    correction = call.get("correction", 1 if unbiased else 0)
    centre = build.temporary(call, _kept(x, dims), out.dtype)
    mean(call, build, x, dims, centre, out.dtype)
    if len(call.outputs) > 1:
        build.reshape(call, centre, call.outputs[1])
    squares = build.temporary(call, out.shape, out.dtype)
    distance = apply("square", apply("sub", Operand(0), Operand(1)))
    build.reduce(call, "sum", [x, centre], dims, squares, distance)
    value: Scalar = apply("div", Operand(0), float(max(0, _count(x, dims) - correction)))
    if ".std" in call.target:
        value = apply("sqrt", value)
    build.pointwise(call, value, [squares], out)


@lowering("aten.linalg_vector_norm.default", "aten.norm.Scalar", "aten.norm.ScalarOpt_dim")
def vector_norm(call: Call, build: Builder) -> None:
    """`(sum |x|^p)^(1/p)`, with its limits at 0 and both infinities."""
    x, out = _operand(call), call.output
    order = call.get("ord", call.get("p", 2))
    dims, size = _dims(call, x), apply("abs", Operand(0))
    if math.isinf(order):
        build.reduce(call, "max" if order > 0 else "min", [x], dims, scalar=size)
        return
    if order in (0, 1):
        value = size if order == 1 else apply("cast", apply("ne", Operand(0), 0))
        build.reduce(call, "sum", [x], dims, scalar=value)
        return
    total = build.temporary(call, out.shape, out.dtype)
    value = apply("square", Operand(0)) if order == 2 else apply("pow", size, float(order))
    build.reduce(call, "sum", [x], dims, total, value)
    root = apply("sqrt", Operand(0)) if order == 2 else apply("pow", Operand(0), 1 / order)
    build.pointwise(call, root, [total])


@lowering("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def count_nonzero(call: Call, build: Builder) -> None:
    """How many elements are not zero."""
    x = call.tensor("self")
    value = apply("cast", apply("ne", Operand(0), 0))
    build.reduce(call, "sum", [x], _dims(call, x), scalar=value)


@lowering("aten._cdist_forward.default")
def pairwise_distance(call: Call, build: Builder) -> None:
    """`y[b, i, j] = (sum over m of |x1[b, i, m] - x2[b, j, m]|^p)^(1/p)`."""
    a, b, out, order = call.tensor("x1"), call.tensor("x2"), call.output, call.arguments["p"]
    lead = [f"b{i}" for i in range(len(out.shape) - 2)]
    axes = dict(zip(lead, out.shape[:-2], strict=True))
    axes |= {"i": a.shape[-2], "j": b.shape[-2], "m": a.shape[-1]}
    distance = apply("sub", Operand(0), Operand(1))
    value, reduce, root = _distance_terms(distance, order)
    total = out if root is None else build.temporary(call, out.shape, out.dtype)
    own = [lead[len(lead) - len(t.shape) + 2 :] for t in (a, b)]
    build.nest(
        call, axes, [at(a, *own[0], "i", "m"), at(b, *own[1], "j", "m")],
        at(total, *lead, "i", "j"), value, reduce, kind="distance", resource="vector",
    )  # fmt: skip
    if root is not None:
        build.pointwise(call, root, [total])


def _distance_terms(distance: Scalar, order: float) -> tuple[Scalar, Reduction, Scalar | None]:
    """Value per point, reduction, and the root taken afterwards."""
    size = apply("abs", distance)
    if math.isinf(order):
        return size, "max", None
    if order == 0:
        return apply("cast", apply("ne", distance, 0)), "sum", None
    if order == 1:
        return size, "sum", None
    if order == 2:
        return apply("square", distance), "sum", apply("sqrt", Operand(0))
    return apply("pow", size, order), "sum", apply("pow", Operand(0), 1 / order)


@lowering("aten._pdist_forward.default")
def pair_distances(call: Call, build: Builder) -> None:
    """Distances of all pairs of rows i < j, in order."""
    x = call.tensor("self")
    build.gather(
        call, "pair_distances", [x], order=float(call.arguments["p"]),
        work=3 * call.output.elements * x.shape[1], kind="distance", resource="vector",
    )  # fmt: skip
