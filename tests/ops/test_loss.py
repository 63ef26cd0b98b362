"""Losses and their gradients against torch."""

from __future__ import annotations

import pytest
import torch

A = torch.ops.aten
R = torch.randn
TARGET = torch.tensor([1, 0, -100, 3])
REDUCTIONS = [0, 1, 2]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_negative_log_likelihood(run_aten, reduction, weighted):
    """Ignored targets, class weights, and the gradient; also of images and one sample."""
    logs, weight = R(4, 5).log_softmax(1), torch.rand(5) if weighted else None
    op, back = A.nll_loss_forward.default, A.nll_loss_backward.default
    out, total = run_aten(op, logs, TARGET, weight, reduction, -100).expected
    run_aten(back, torch.randn_like(out), logs, TARGET, weight, reduction, -100, total)
    image, places = R(2, 5, 3, 3), torch.randint(0, 5, (2, 3, 3))
    op, back = A.nll_loss2d_forward.default, A.nll_loss2d_backward.default
    out, total = run_aten(op, image, places, weight, reduction, -100).expected
    run_aten(back, torch.randn_like(out), image, places, weight, reduction, -100, total)
    run_aten(A.nll_loss_nd.default, logs, TARGET, weight, reduction, -100)
    run_aten(A.nll_loss_forward.default, logs[0], TARGET[0], weight, reduction, -100)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(run_aten, reduction, smoothing, weighted):
    """Class indices and class probabilities, with label smoothing."""
    weight = torch.rand(5) if weighted else None
    op = A.cross_entropy_loss.default
    run_aten(op, R(4, 5), TARGET, weight, reduction, -100, smoothing)
    images = R(2, 5, 3), torch.randint(0, 5, (2, 3))
    run_aten(op, *images, weight, reduction, -100, smoothing)
    run_aten(op, R(4, 5), R(4, 5).softmax(1), weight, reduction, -100, smoothing)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_distances(run_aten, reduction):
    """Pointwise losses, reduced, and gradients."""
    x, t, p, y = R(3, 4), R(3, 4), torch.rand(3, 4), (R(3, 4) > 0).float()
    grad = R(3, 4) if reduction == 0 else R(())
    run_aten(A.mse_loss.default, x, t, reduction)
    run_aten(A.l1_loss.default, x, t, reduction)
    run_aten(A.smooth_l1_loss.default, x, t, reduction, 0.7)
    run_aten(A.smooth_l1_loss.default, x, t, reduction, 0.0)
    run_aten(A.smooth_l1_loss_backward.default, grad, x, t, reduction, 0.0)
    run_aten(A.huber_loss.default, x, t, reduction, 0.7)
    run_aten(A.soft_margin_loss.default, x, y * 2 - 1, reduction)
    run_aten(A.binary_cross_entropy.default, p, y, None, reduction)
    run_aten(A.binary_cross_entropy.default, p, y, R(3, 4), reduction)
    run_aten(A.binary_cross_entropy_with_logits.default, x, y, None, None, reduction)
    run_aten(A.binary_cross_entropy_with_logits.default, x, y, R(4), R(4), reduction)
    run_aten(A.mse_loss_backward.default, grad, x, t, reduction)
    run_aten(A.smooth_l1_loss_backward.default, grad, x, t, reduction, 0.7)
    run_aten(A.huber_loss_backward.default, grad, x, t, reduction, 0.7)
    run_aten(A.binary_cross_entropy_backward.default, grad, p, y, None, reduction)
