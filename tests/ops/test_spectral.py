"""Fourier transforms against torch."""

from __future__ import annotations

import pytest
import torch

A = torch.ops.aten


@pytest.mark.parametrize("norm", [0, 1, 2])
@pytest.mark.parametrize("size", [6, 7])
def test_transforms(run_aten, norm, size):
    """Real to complex, back, and complex, over one and two dimensions."""
    x = torch.randn(3, 4, size)
    half = run_aten(A._fft_r2c.default, x, [2], norm, True).expected[0]
    run_aten(A._fft_r2c.default, x, [1, 2], norm, False)
    run_aten(A._fft_c2r.default, half, [2], norm, size)
    run_aten(A._fft_c2c.default, half, [1, 2], norm, True)
    run_aten(A._fft_c2c.default, half, [1], norm, False)


def test_complex_parts(run_aten):
    """Complex numbers seen as pairs, and pairs as complex numbers, free of charge; products."""
    x = torch.randn(3, 4, 2)
    z = run_aten(A.view_as_complex.default, x).expected[0]
    assert run_aten(A.view_as_real.default, z).graph.moved_bytes == 0
    run_aten(A.mul.Tensor, z, z * 2)
    run_aten(A.complex.default, x[..., 0], x[..., 1])
    run_aten(A.polar.default, x[..., 0].abs(), x[..., 1])
