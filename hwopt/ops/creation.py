"""Tensors from nothing: constants, ranges, uninitialised memory, one-hot rows."""

from __future__ import annotations

from hwopt.ir.scalar import Iota, Operand, Scalar, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder, names
from hwopt.ops.lowering import Call, lowering
from hwopt.ops.movement import copy_into


@lowering("aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default")
@lowering("aten.zero.default", "aten._efficientzerotensor.default")
def zeros(call: Call, build: Builder) -> None:
    """0 everywhere."""
    build.fill(call, 0, resource="memory")


@lowering("aten.ones.default", "aten.ones_like.default", "aten.new_ones.default")
def ones(call: Call, build: Builder) -> None:
    """1 everywhere."""
    build.fill(call, 1, resource="memory")


@lowering("aten.full.default", "aten.full_like.default", "aten.new_full.default")
@lowering("aten.scalar_tensor.default", "aten.fill.Scalar", "aten.fill.Tensor")
def full(call: Call, build: Builder) -> None:
    """One value everywhere."""
    value = call.arguments.get("fill_value", call.arguments.get("value"))
    value = call.arguments["s"] if value is None else value
    if isinstance(value, Tensor):
        copy_into(call, build, value, call.output)
    else:
        build.fill(call, value, resource="memory")


@lowering("aten.empty.memory_format", "aten.empty_strided.default", "aten.empty_like.default")
@lowering("aten.new_empty.default", "aten.new_empty_strided.default")
@lowering("aten.empty_permuted.default")
def empty(call: Call, build: Builder) -> None:
    """Memory whose content means nothing: free (zeros in the interpreter)."""
    build.fill(call, 0, resource="none")


def _number(text: object) -> float | int:
    """A bound of a range as a plain number."""
    return text if isinstance(text, int | float) else 0


@lowering("aten.arange.start_step", "aten.arange.start", "aten.arange.default")
@lowering("prims.iota.default")
def arange(call: Call, build: Builder) -> None:
    """`start + step * i`."""
    start, step = _number(call.get("start", 0)), _number(call.get("step", 1))
    value: Scalar = Iota("d0") if step == 1 else apply("mul", Iota("d0"), step)
    value = value if start == 0 else apply("add", value, start)
    build.pointwise(call, value, [], kind="range")


@lowering("aten.linspace.default")
def linspace(call: Call, build: Builder) -> None:
    """`steps` values from `start` to `end`, both included."""
    start, end = call.arguments["start"], call.arguments["end"]
    gap = (end - start) / max(1, call.arguments["steps"] - 1)
    build.pointwise(call, apply("add", apply("mul", Iota("d0"), gap), start), [], kind="range")


@lowering("aten.eye.default", "aten.eye.m")
def eye(call: Call, build: Builder) -> None:
    """The identity matrix."""
    build.pointwise(call, apply("cast", apply("eq", Iota("d0"), Iota("d1"))), [], kind="range")


@lowering("aten.tril_indices.default", "aten.triu_indices.default")
def triangle_indices(call: Call, build: Builder) -> None:
    """Rows and columns of a triangle's elements: a constant of the model, written once."""
    lower = ".tril" in call.target
    build.gather(
        call, "triangle_indices", [], rows=call.arguments["row"], columns=call.arguments["col"],
        offset=call.arguments["offset"], lower=lower, kind="range",
    )  # fmt: skip


@lowering("aten.one_hot.default")
def one_hot(call: Call, build: Builder) -> None:
    """1 where the index equals the position in the new last dimension."""
    index, out = call.tensor("self"), call.output
    column = build.temporary(call, (*index.shape, 1), index.dtype)
    build.reshape(call, index, column)
    last = names(len(out.shape))[-1]
    hot = apply("cast", apply("eq", Operand(0), Iota(last)))
    build.pointwise(call, hot, [column])
