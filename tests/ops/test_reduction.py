"""Reductions against torch."""

from __future__ import annotations

import pytest
import torch

A = torch.ops.aten
R = torch.randn
DIMS = [[0], [1], [-1], [0, 2], [0, 1, 2]]


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("keepdim", [False, True])
def test_over_dimensions(run_aten, dims, keepdim):
    """sum, mean, amax, amin, any, all over any dimensions."""
    x = R(3, 4, 5)
    for op in (A.sum.dim_IntList, A.mean.dim, A.amax.default, A.amin.default):
        run_aten(op, x, dims, keepdim)
    for op in (A.any.dims, A.all.dims):
        run_aten(op, x > 0.5, dims, keepdim)
        run_aten(op, (x > 0.5).int(), dims, keepdim)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_over_one_dimension(run_aten, dim, keepdim):
    """Extremes with their places, products, truth."""
    x = R(3, 4, 5).mul(2).round()
    for op in (A.max.dim, A.min.dim, A.argmax.default, A.argmin.default, A.prod.dim_int):
        run_aten(op, x, dim, keepdim)
    run_aten(A.any.dim, x > 1, dim, keepdim)
    run_aten(A.all.dim, x < 1, dim, keepdim)
    run_aten(A.aminmax.default, x, dim=dim, keepdim=keepdim)


def test_over_everything(run_aten):
    """Without dimensions; also of a single number."""
    x = R(3, 4)
    for op in (A.sum, A.mean, A.prod, A.max, A.min, A.any, A.all, A.argmax, A.argmin, A.var, A.std):
        run_aten(op.default, x)
    for op in (A.sum, A.mean, A.max, A.argmax):
        run_aten(op.default, torch.tensor(2.5))
    run_aten(A.max.dim, torch.tensor(2.5), 0)
    run_aten(A.sum.dim_IntList, x, [])


def test_integers_and_truth_values(run_aten):
    """Sums of truth values count; sums of small integers do not overflow."""
    run_aten(A.sum.default, R(3, 4) > 0)
    run_aten(A.sum.dim_IntList, R(3, 4) > 0, [1])
    run_aten(A.sum.default, torch.full((300,), 100, dtype=torch.int8))
    run_aten(A.prod.default, torch.tensor([3, 4, 5], dtype=torch.int32))
    run_aten(A.mean.dim, R(3, 4).double(), [0], dtype=torch.float64)
    run_aten(A.count_nonzero.dim_IntList, torch.tensor([[0, 1], [2, 3]]), [0])


@pytest.mark.parametrize("correction", [0, 1, 2])
@pytest.mark.parametrize("keepdim", [False, True])
def test_moments(run_aten, correction, keepdim):
    """Variance, deviation, and with the mean."""
    x = R(3, 4, 5)
    rest = {"correction": correction, "keepdim": keepdim}
    for op in (A.var.correction, A.std.correction, A.var_mean.correction, A.std_mean.correction):
        run_aten(op, x, [0, 2], **rest)
    run_aten(A.var.dim, x, [1], False, keepdim)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 0.5, torch.inf, -torch.inf])
def test_norms(run_aten, order):
    """Vector norms, distances of pairs."""
    run_aten(A.linalg_vector_norm.default, R(3, 4), order, [1])
    run_aten(A.linalg_vector_norm.default, R(3, 4), order)
    if order >= 0:
        run_aten(A._cdist_forward.default, R(2, 4, 3), R(2, 5, 3), order, None)
        run_aten(A._pdist_forward.default, R(4, 3), order)
