"""Softmax and normalisations, forward and backward, against torch."""

from __future__ import annotations

import pytest
import torch

A = torch.ops.aten
R = torch.randn


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax(run_aten, dim):
    """Softmax and its logarithm, and their gradients, along any dimension."""
    x, grad = R(3, 4, 5), R(3, 4, 5)
    y = run_aten(A._softmax.default, x, dim, False).expected[0]
    log = run_aten(A._log_softmax.default, x, dim, False).expected[0]
    run_aten(A._softmax_backward_data.default, grad, y, dim, torch.float32)
    run_aten(A._log_softmax_backward_data.default, grad, log, dim, torch.float32)
    run_aten(A.softmax.int, x, dim)
    run_aten(A.log_softmax.int, x, dim)


def test_safe_softmax(run_aten):
    """A row of minus infinity gives zeros; without safety NaN."""
    x = R(3, 4)
    x[1] = -torch.inf
    run_aten(A._safe_softmax.default, x, -1)
    run_aten(A._softmax.default, x, -1, False)
    run_aten(A._log_softmax.default, x, -1, False)


@pytest.mark.parametrize("affine", ["none", "weight", "both"])
@pytest.mark.parametrize("normalized", [[5], [4, 5]])
def test_layer_norm(run_aten, affine, normalized):
    """Over one or two dimensions, with and without weight and bias, and the gradients."""
    x, grad = R(3, 4, 5), R(3, 4, 5)
    weight = None if affine == "none" else R(normalized)
    bias = R(normalized) if affine == "both" else None
    run_aten(A.layer_norm.default, x, normalized, weight, bias)
    out = run_aten(A.native_layer_norm.default, x, normalized, weight, bias, 1e-5)
    _, mean, rstd = out.expected
    mask = [True, weight is not None, bias is not None]
    run_aten(
        A.native_layer_norm_backward.default, grad, x, normalized, mean, rstd, weight, bias, mask
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("eps", [None, 1e-3])
def test_rms_norm(run_aten, weighted, eps):
    """With and without weight; the default epsilon is that of the element type."""
    x, weight = R(3, 4, 5), R(5) if weighted else None
    run_aten(A.rms_norm.default, x, [5], weight, eps)
    x.requires_grad_()
    rstd = torch.rsqrt(x.square().mean(-1, keepdim=True) + (eps or torch.finfo().eps))
    leaves = [x] if weight is None else [x, weight.requires_grad_()]
    out = torch.nn.functional.rms_norm(x, [5], weight, eps)
    run_aten(A._fused_rms_norm.default, x, [5], weight, eps, expected=(out, rstd))
    grad, mask = R(3, 4, 5), [True, weighted]
    expected = [*torch.autograd.grad(out, leaves, grad), None][:2]
    back = A._fused_rms_norm_backward.default
    run_aten(back, grad, x, [5], rstd.detach(), weight, mask, expected=expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_group_norm(run_aten, weighted):
    """Groups of channels, with the gradients."""
    x, grad = R(2, 6, 4, 3), R(2, 6, 4, 3)
    weight, bias = (R(6), R(6)) if weighted else (None, None)
    run_aten(A.group_norm.default, x, 3, weight, bias)
    out = run_aten(A.native_group_norm.default, x, weight, bias, 2, 6, 12, 3, 1e-5)
    _, mean, rstd = out.expected
    run_aten(
        A.native_group_norm_backward.default, grad, x, mean, rstd, weight, 2, 6, 12, 3,
        [True, weighted, weighted],
    )  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True])
def test_batch_norm_inference(run_aten, weighted):
    """Running statistics: one pointwise operator of kind "batch_norm"."""
    x, mean, var = R(2, 3, 4, 4), R(3), torch.rand(3) + 0.5
    weight, bias = (R(3), R(3)) if weighted else (None, None)
    args = (x, weight, bias, mean, var)
    for op, rest in (
        (A._native_batch_norm_legit_no_training.default, (0.1, 1e-5)),
        (A.batch_norm.default, (False, 0.1, 1e-5, False)),
        (A.native_batch_norm.default, (False, 0.1, 1e-5)),
    ):
        result = run_aten(op, *args, *rest)
        assert [o.kind for o in result.graph.ops] == ["batch_norm"]
    if weighted:
        assert result.graph.ops[0].reads == (
            "input", "weight", "bias", "running_mean", "running_var"
        )  # fmt: skip


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 4, 4)])
@pytest.mark.parametrize("weighted", [False, True])
def test_batch_norm_training(run_aten, shape, weighted):
    """Statistics of the batch, running statistics moved, and the gradients."""
    x, mean, var, grad = R(shape), R(3), torch.rand(3) + 0.5, R(shape)
    weight, bias = (R(3), R(3)) if weighted else (None, None)
    run_aten(A.batch_norm.default, x, weight, bias, None, None, True, 0.1, 1e-5, False)
    run_aten(A._native_batch_norm_legit.no_stats, x, weight, bias, True, 0.1, 1e-5)
    out = run_aten(
        A._native_batch_norm_legit_functional.default, x, weight, bias, mean, var, True, 0.1, 1e-5
    )
    saved = out.expected[1:3]
    mask = [True, weighted, weighted]
    run_aten(
        A.native_batch_norm_backward.default, grad, x, weight, mean, var, *saved, True, 1e-5, mask
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_batch_norm_backward_with_running_statistics(run_aten, weighted):
    """In evaluation the statistics are constants."""
    x, grad, mean, var = R(2, 3, 4), R(2, 3, 4), R(3), torch.rand(3) + 0.5
    weight = R(3) if weighted else None
    empty = torch.zeros(0)
    run_aten(
        A.native_batch_norm_backward.default, grad, x, weight, mean, var, empty, empty, False,
        1e-5, [True, weighted, weighted],
    )  # fmt: skip


@pytest.mark.parametrize("keepdim", [False, True])
def test_logsumexp(run_aten, keepdim):
    """Over one or several dimensions, with infinities."""
    x = R(3, 4, 5)
    x[0, 0] = -torch.inf
    run_aten(A.logsumexp.default, x, [1], keepdim)
    run_aten(A.logsumexp.default, x, [-1], keepdim)
    run_aten(A.logsumexp.default, x, [0, 2], keepdim)
