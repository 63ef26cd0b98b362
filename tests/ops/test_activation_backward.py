"""Input gradients of activations against torch."""

from __future__ import annotations

import pytest
import torch

from hwopt.ops import supported

A = torch.ops.aten
X = torch.linspace(-5, 5, 24).reshape(4, 6)
G = torch.linspace(2, -1, 24).reshape(4, 6)
Y = torch.linspace(0.05, 0.95, 24).reshape(4, 6)
CASES = {
    "sigmoid_backward": [(G, Y)], "tanh_backward": [(G, Y)], "threshold_backward": [(G, X, 0.0)],
    "gelu_backward": [(G, X)], "silu_backward": [(G, X)], "mish_backward": [(G, X)],
    "hardtanh_backward": [(G, X, -1.0, 2.0)], "hardsigmoid_backward": [(G, X)],
    "hardswish_backward": [(G, X)], "leaky_relu_backward": [(G, X, 0.1, False)],
    "elu_backward": [(G, 0.5, 2.0, 0.7, False, X), (G, 0.5, 2.0, 0.7, True, X / 5)],
    "softplus_backward": [(G, X, 2.0, 4.0)], "hardshrink_backward": [(G, X, 0.5)],
    "softshrink_backward": [(G, X, 0.5)], "logit_backward": [(G, Y), (G, Y, 0.2)],
    "log_sigmoid_backward": [(G, X, torch.exp(-X.abs()))],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gradient(run_aten, name):
    """Both sides of every kink."""
    for args in CASES[name]:
        run_aten(getattr(A, name).default, *args)


def test_tanh_gelu(run_aten):
    """The approximate form."""
    run_aten(A.gelu_backward.default, G, X, approximate="tanh")


def test_at_zero(run_aten):
    """At the kink itself: hardtanh passes nothing, the rectifier nothing, as torch does."""
    zero, one = torch.zeros(2), torch.ones(2)
    run_aten(A.threshold_backward.default, one, zero, 0)
    run_aten(A.hardtanh_backward.default, one, one, -1.0, 1.0)
    run_aten(A.hardswish_backward.default, one, one * 3)
    run_aten(A.hardswish_backward.default, one, one * -3)


def test_all_are_tested():
    """Every backward of an activation in the table is in this file."""
    import hwopt.ops.activation_backward  # noqa: F401

    names = {n.split(".")[1] for n in supported() if n.endswith("_backward.default")}
    assert set(CASES) <= names
