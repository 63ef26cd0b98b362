"""Resampling against torch."""

from __future__ import annotations

import itertools

import pytest
import torch

from hwopt.ir.op import Nest

A = torch.ops.aten
R = torch.randn


@pytest.mark.parametrize("size", [[6, 8], [7, 9], [3, 2], [5, 4]])
def test_nearest(run_aten, size):
    """Whole and broken factors, larger and smaller, and the gradient."""
    x = R(2, 3, 3, 4)
    result = run_aten(A.upsample_nearest2d.default, x, size)
    assert isinstance(result.graph.ops[0].body, Nest) == (size == [6, 8])
    run_aten(A.upsample_nearest2d_backward.default, R(2, 3, *size), size, [2, 3, 3, 4])
    run_aten(A.upsample_nearest1d.default, x[0], [size[0]])


def test_nearest_by_scale(run_aten):
    """Scale factors decide where they are given."""
    run_aten(A.upsample_nearest2d.vec, R(1, 2, 3, 4), None, [2.0, 2.0])
    run_aten(A.upsample_nearest2d.vec, R(1, 2, 3, 4), None, [2.5, 1.7])


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [[6, 8], [7, 9], [2, 3], [1, 1]])
def test_bilinear(run_aten, corners, size):
    """Aligned or not, larger and smaller, and the gradient."""
    run_aten(A.upsample_bilinear2d.default, R(2, 3, 3, 4), size, corners)
    back = A.upsample_bilinear2d_backward.default
    run_aten(back, R(2, 3, *size), size, [2, 3, 3, 4], corners)


def test_bilinear_by_scale(run_aten):
    """Scale factors decide where they are given."""
    run_aten(A.upsample_bilinear2d.vec, R(1, 2, 3, 4), None, False, [2.5, 1.7])


@pytest.mark.parametrize(
    ("mode", "padding", "corners"), list(itertools.product([0, 1], [0, 1, 2], [False, True]))
)
def test_grid_sampler(run_aten, mode, padding, corners):
    """Both interpolations, three paddings, aligned or not, also outside the image."""
    grid = torch.rand(2, 4, 5, 2) * 3 - 1.5
    run_aten(A.grid_sampler_2d.default, R(2, 3, 6, 7), grid, mode, padding, corners)
