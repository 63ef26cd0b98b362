"""Sorting and cumulative operators against torch."""

from __future__ import annotations

import pytest
import torch

A = torch.ops.aten
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
TIES = torch.tensor([[3, 1, 3, 2, 1, 3], [0, 0, 0, 1, 1, 0]])


@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("descending", [False, True])
def test_sort(run_aten, dim, descending):
    """Values and places; ties keep their order."""
    run_aten(A.sort.default, X, dim, descending)
    run_aten(A.sort.stable, TIES, stable=True, dim=dim, descending=descending)
    run_aten(A.argsort.default, X, dim, descending)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("largest", [False, True])
def test_topk(run_aten, k, largest):
    """The k largest or smallest, in order."""
    run_aten(A.topk.default, X, k, -1, largest)
    run_aten(A.topk.default, X, k, 0, largest)
    run_aten(A.kthvalue.default, X, k)


@pytest.mark.parametrize("dim", [0, 1])
def test_cumulative(run_aten, dim):
    """Sums, products, extremes with their places."""
    for op in (A.cumsum, A.cumprod, A.logcumsumexp, A.cummax, A.cummin):
        run_aten(op.default, X, dim)
    run_aten(A.cummax.default, TIES, dim)
    run_aten(A.cumsum.default, X > 0, dim)
    run_aten(A.cumsum.default, torch.tensor(2.0), 0)


def test_median(run_aten):
    """The lower of two middles, per row and of all."""
    run_aten(A.median.dim, X, 1)
    run_aten(A.median.dim, X[:3], 0, True)
    run_aten(A.median.default, X)
