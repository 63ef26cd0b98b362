"""The gradient of weight normalisation against torch."""

import pytest
import torch

A = torch.ops.aten


@pytest.mark.parametrize("dim", [0, 2])
def test_backward(run_aten, dim):
    """Along the first or the last dimension: the two that torch's kernel takes."""
    v, grad = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    shape = [size if i == dim else 1 for i, size in enumerate(v.shape)]
    w, norms = A._weight_norm_interface.default(v, torch.randn(shape), dim)
    assert w.shape == v.shape
    run_aten(A._weight_norm_interface_backward.default, grad, v, torch.randn(shape), norms, dim)
