"""Backward of weight normalisation, `w = g * v / |v|` (Salimans and Kingma, arXiv 1602.07868).

The norm |v| is over all dimensions but one. Forward is decomposed by torch; with s = sum(dw * v)
over the same dimensions:

    dg = s / |v|            dv = g / |v| * (dw - v * s / |v|^2)
"""

from __future__ import annotations

from hwopt.ir.scalar import Operand, apply
from hwopt.ops.builder import Builder
from hwopt.ops.lowering import Call, lowering


@lowering("aten._weight_norm_interface_backward.default")
def weight_norm_backward(call: Call, build: Builder) -> None:
    """Gradients of `v` and `g`."""
    grad, v = call.tensor("grad_w"), call.tensor("saved_v")
    g, norms = call.tensor("saved_g"), call.tensor("saved_norms")
    rank = len(v.shape)
    kept = call.arguments["dim"] % rank
    total = build.temporary(call, g.shape, norms.dtype)
    product = apply("mul", Operand(0), Operand(1))
    dims = [dim for dim in range(rank) if dim != kept]
    build.reduce(call, "sum", [grad, v], dims, total, product, kind="weight_norm")
    ratio = apply("div", Operand(2), Operand(3))
    shrink = apply("div", Operand(4), apply("mul", Operand(3), Operand(3)))
    inner = apply("sub", Operand(0), apply("mul", Operand(1), shrink))
    reads = [grad, v, g, norms, total]
    build.pointwise(call, apply("mul", ratio, inner), reads, call.outputs[0], kind="weight_norm")
    quotient = apply("div", Operand(0), Operand(1))
    build.pointwise(call, quotient, [total, norms], call.outputs[1], kind="weight_norm")
