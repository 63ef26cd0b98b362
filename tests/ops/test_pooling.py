"""Pooling and its gradients against torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

A = torch.ops.aten
R = torch.randn


@st.composite
def windows(draw):
    """Kernel, stride, padding and ceil mode of a two-dimensional pooling, and an image."""
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    stride = [draw(st.integers(1, 4)) for _ in range(2)]
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    image = [draw(st.integers(max(1, k - 2 * p), 9)) for k, p in zip(kernel, padding, strict=True)]
    return R(2, 3, *image), kernel, stride, padding, draw(st.booleans())


@given(windows(), st.integers(1, 2))
def test_max_pool(lowered, window, dilation):
    """Values, places, and the gradient, with padding and rounding up."""
    x, kernel, stride, padding, ceil = window
    dilation = dilation if min(x.shape[2:]) >= 2 * max(kernel) else 1
    rest = (kernel, stride, padding, [dilation, dilation], ceil)
    result = lowered(A.max_pool2d_with_indices.default, x, *rest).check()
    values, places = result.expected
    grad = torch.randn_like(values)
    lowered(A.max_pool2d_with_indices_backward.default, grad, x, *rest, places).check()


@given(windows(), st.booleans(), st.sampled_from([None, 3]))
def test_avg_pool(lowered, window, counted, divisor):
    """Divisors cut at the border or not, given or not, and the gradient."""
    x, kernel, stride, padding, ceil = window
    rest = (kernel, stride, padding, ceil, counted, divisor)
    result = lowered(A.avg_pool2d.default, x, *rest).check()
    grad = torch.randn_like(result.expected[0])
    lowered(A.avg_pool2d_backward.default, grad, x, *rest).check()


def test_other_ranks(run_aten):
    """One and three dimensions, and images without batch; the stride defaults to the kernel."""
    run_aten(A.max_pool1d.default, R(2, 3, 9), [2])
    run_aten(A.max_pool2d.default, R(3, 9, 8), [3, 2])
    run_aten(A.max_pool3d.default, R(2, 3, 4, 5, 6), [2, 2, 2])
    run_aten(A.max_pool3d_with_indices.default, R(2, 3, 4, 5, 6), [2, 2, 2], [1, 2, 2])
    run_aten(A.avg_pool1d.default, R(2, 3, 9), [2])
    run_aten(A.avg_pool3d.default, R(2, 3, 4, 5, 6), [2, 2, 2])


@pytest.mark.parametrize("size", [[1, 1], [2, 3], [3, 4], [6, 8]])
def test_adaptive(run_aten, size):
    """Even and uneven shares of the image, and the gradient."""
    x = R(2, 3, 6, 8)
    run_aten(A._adaptive_avg_pool2d.default, x, size)
    run_aten(A.adaptive_avg_pool2d.default, x, size)
    run_aten(A._adaptive_avg_pool2d_backward.default, R(2, 3, *size), x)
    run_aten(A.adaptive_max_pool2d.default, x, size)
    run_aten(A._adaptive_avg_pool3d.default, R(2, 3, 6, 8, 4), [*size, 2])


def test_uneven_shares(run_aten):
    """7 into 3 shares windows of 3 that overlap."""
    run_aten(A._adaptive_avg_pool2d.default, R(1, 2, 7, 5), [3, 4])
    run_aten(A._adaptive_avg_pool2d_backward.default, R(1, 2, 3, 4), R(1, 2, 7, 5))
    run_aten(A.adaptive_max_pool2d.default, R(1, 2, 7, 5), [3, 4])
    run_aten(A.adaptive_avg_pool1d.default, R(1, 2, 7), [3])


def test_constant_divisors_cost_one_operation(lowered):
    """Without borders the divisor is a literal."""
    graph = lowered(A.avg_pool2d.default, R(1, 2, 4, 4), [2, 2]).graph
    assert str(graph.ops[1].body.scalar) == "div(#0, 4.0)"
