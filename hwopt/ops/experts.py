"""Mixture of experts: products of groups of rows, each with the weights of its expert.

    y[m, n] = sum over k of x[m, k] * w[expert of m, k, n]

How many rows an expert gets is known only when it runs, so the operator is priced at its expected
load. With `rows` assignments over `experts`, uniform and independent, the expected number of
distinct experts is `experts * (1 - (1 - 1/experts)^rows)` (rounded, at least 1, at most either
number). The grouped product does not know how many experts one token chooses (k distinct ones, for
which `(1 - k/experts)^(rows/k)` takes the place of the power); the difference is below one expert
in practice. Rows are shared out evenly over the touched experts, as two nests with one row more or
less, so that multiply-accumulates are exactly rows * k * n; weights of other experts are not read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from hwopt.ir.access import Access, Axis, parse_access
from hwopt.ir.op import Nest
from hwopt.ir.scalar import PRODUCT, Operand, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder
from hwopt.ops.lowering import Call, lowering
from hwopt.ops.matmul import product

Accesses: TypeAlias = Callable[[str, str], tuple[Access, Access, Access]]
"""From the row and the expert of a point to the accesses of both operands and the result."""


def expected_experts(rows: int, experts: int) -> int:
    """Distinct experts that `rows` uniform choices are expected to touch."""
    mean = experts * (1 - (1 - 1 / experts) ** rows)
    return max(1, min(round(mean), experts, rows))


def _shared_out(rows: int, experts: int, n: int, k: int, accesses: Accesses) -> list[Nest]:
    """Nests over (e, m, n, k): first the experts with one row more, then the others."""
    touched = expected_experts(rows, experts)
    few, extra = divmod(rows, touched)
    nests, first_row, first_expert = [], 0, 0
    for count, height in ((extra, few + 1), (touched - extra, few)):
        if count and height:
            left, right, write = accesses(f"{height}*e + m + {first_row}", f"e + {first_expert}")
            axes = (Axis("e", count), Axis("m", height), Axis("n", n), Axis("k", k))
            nests.append(Nest(axes, (left, right), write, PRODUCT, "sum"))
        first_row += count * height
        first_expert += count
    return nests


def _rows_product(
    call: Call, build: Builder, x: Tensor, weight: Tensor, out: Tensor, *, transposed: bool = False
) -> None:
    """Each row of `x` times its expert's weights `w[e, k, n]` (`w[e, n, k]` when transposed)."""
    rows, inner = x.shape
    experts, width = weight.shape[0], out.shape[1]
    last = ("n", "k") if transposed else ("k", "n")

    def accesses(row: str, expert: str) -> tuple[Access, Access, Access]:
        return parse_access(row, "k"), parse_access(expert, *last), parse_access(row, "n")

    touched = expected_experts(rows, experts)
    build.gather(
        call, "grouped_mm", [x, weight, call.tensor("offs")], [out], transposed=transposed,
        read_elements=[x.elements, touched * inner * width, experts],
        nests=_shared_out(rows, experts, width, inner, accesses), kind="experts",
        resource="matrix",
    )  # fmt: skip


def _weights_product(
    call: Call, build: Builder, x: Tensor, grad: Tensor, out: Tensor, *, transposed: bool = False
) -> None:
    """`dw[e, k, n] = sum over the rows of e of x[m, k] * grad[m, n]`; `x[k, m]` when transposed."""
    rows, width = grad.shape
    inner = x.shape[0] if transposed else x.shape[1]

    def accesses(row: str, expert: str) -> tuple[Access, Access, Access]:
        left = parse_access("k", row) if transposed else parse_access(row, "k")
        return left, parse_access(row, "n"), parse_access(expert, "k", "n")

    build.gather(
        call, "grouped_outer", [x, grad, call.tensor("offs")], [out], transposed=transposed,
        nests=_shared_out(rows, out.shape[0], width, inner, accesses), kind="experts",
        resource="matrix",
    )  # fmt: skip


@lowering("aten._grouped_mm.default")
def grouped_mm(call: Call, build: Builder) -> None:
    """Rows by experts; two matrices, for the gradient of the weights; or a plain batch."""
    a, b, bias, out = call.tensor("self"), call.tensor("mat2"), call.optional("bias"), call.output
    inner = out if bias is None else build.temporary(call, out.shape, out.dtype)
    ranks = len(a.shape), len(b.shape)
    if ranks == (3, 3):
        product(call, build, a, b, inner)
    elif ranks == (2, 3):
        _rows_product(call, build, a, b, inner)
    elif ranks == (2, 2):
        _weights_product(call, build, a, b, inner, transposed=True)
    else:
        raise call.unsupported("groups of columns")
    if bias is not None:
        build.pointwise(call, apply("add", Operand(0), Operand(1)), [inner, bias], kind="bias")


@lowering("transformers.grouped_mm_fallback.default")
def grouped_mm_fallback(call: Call, build: Builder) -> None:
    """The grouped product of the transformers library."""
    _rows_product(call, build, call.tensor("input"), call.tensor("weight"), call.output)


@lowering("transformers.grouped_mm_fallback_backward.default")
def grouped_mm_backward(call: Call, build: Builder) -> None:
    """Gradients of the rows and of the weights."""
    x, weight = call.tensor("input"), call.tensor("weight")
    grad = call.tensor("grad_output")
    _rows_product(call, build, grad, weight, call.outputs[0], transposed=True)
    _weights_product(call, build, x, grad, call.outputs[1])
