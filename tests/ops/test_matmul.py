"""Matrix products against torch, in value and in FLOPs."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

A = torch.ops.aten
R = torch.randn


def counted(function, *args):
    """FLOPs by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 4, 3, 5)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(run_aten, shape, bias):
    """Any number of leading dimensions, with and without bias."""
    args = (R(shape), R(4, 5), R(4) if bias else None)
    result = run_aten(A.linear.default, *args)
    assert result.graph.flops == counted(torch.nn.functional.linear, *args) or len(shape) == 1
    assert result.graph.macs == torch.Size(shape).numel() * 4


@pytest.mark.parametrize(
    ("a", "b"),
    [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)),
     ((5, 2, 3), (5, 3, 4)), ((6, 1, 2, 3), (5, 3, 4)), ((5, 2, 3), (3,)), ((3,), (5, 3, 2)),
     ((1, 1, 2, 3), (2, 4, 3, 2))],
)  # fmt: skip
def test_matmul(run_aten, a, b):
    """Every broadcast of torch.matmul."""
    run_aten(A.matmul.default, R(a), R(b))


@pytest.mark.parametrize(
    ("op", "shapes"),
    [(A.mm.default, [(2, 3), (3, 4)]), (A.bmm.default, [(5, 2, 3), (5, 3, 4)]),
     (A.dot.default, [(3,), (3,)]), (A.mv.default, [(2, 3), (3,)]),
     (A.outer.default, [(2,), (3,)])],
)  # fmt: skip
def test_plain_products(run_aten, op, shapes):
    """mm, bmm, dot, mv, outer."""
    args = [R(s) for s in shapes]
    result = run_aten(op, *args)
    if op in (A.mm.default, A.bmm.default):
        assert result.graph.flops == counted(op, *args)


def test_product_of_a_tensor_with_itself(run_aten):
    """One tensor as both operands."""
    x = R(3, 3)
    run_aten(A.mm.default, x, x)


@pytest.mark.parametrize("beta", [0, 1, 0.5])
@pytest.mark.parametrize("alpha", [1, 2.0])
def test_scaled_products(run_aten, beta, alpha):
    """addmm, baddbmm, addmv, addbmm with their factors."""
    scale = {"beta": beta, "alpha": alpha}
    args = R(4), R(2, 3), R(3, 4)
    assert run_aten(A.addmm.default, *args, **scale).graph.flops == counted(A.addmm, *args)
    args = R(5, 1, 4), R(5, 2, 3), R(5, 3, 4)
    assert run_aten(A.baddbmm.default, *args, **scale).graph.flops == counted(A.baddbmm, *args)
    run_aten(A.addmv.default, R(2), R(2, 3), R(3), **scale)
    run_aten(A.addbmm.default, R(2, 4), R(5, 2, 3), R(5, 3, 4), **scale)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [("ij,jk->ik", [(2, 3), (3, 4)]), ("bij,bjk->bik", [(5, 2, 3), (5, 3, 4)]),
     ("ij->ji", [(2, 3)]), ("ii->i", [(3, 3)]), ("ij->", [(2, 3)]), ("i,j->ij", [(2,), (3,)]),
     ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]), ("...ij,...jk->...ik", [(2, 2, 3), (3, 4)]),
     ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]), ("ijm,jk->ik", [(2, 3, 7), (3, 4)]),
     ("ij,jk", [(2, 3), (3, 4)]), ("ij,ij->ij", [(2, 3), (2, 3)])],
)  # fmt: skip
def test_einsum(run_aten, equation, shapes):
    """Contractions, transpositions, diagonals, sums, chains."""
    args = [R(s) for s in shapes]
    result = run_aten(A.einsum.default, equation, args)
    assert result.graph.flops in (counted(A.einsum, equation, args), 0)


def test_trilinear(run_aten):
    """The sum behind a bilinear layer."""
    a, weight, b = R(3, 4), R(5, 4, 6), R(3, 6)
    run_aten(A._trilinear.default, a, weight, b, [1, 3], [0], [1, 2], [2, 3])
