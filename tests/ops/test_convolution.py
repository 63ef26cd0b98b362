"""Convolutions and their gradients against torch, in value and in FLOPs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

A = torch.ops.aten
R = torch.randn


def counted(function, *args):
    """FLOPs by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()


@st.composite
def convolutions(draw):
    """Arguments of aten.convolution that give at least one output."""
    rank = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    transposed = draw(st.booleans())
    own = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilation = [draw(st.integers(1, 2)) for _ in range(rank)]
    padding = [draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel, dilation, strict=True)]
    image = [
        draw(st.integers(max(1, (k - 1) * d + 1 - 2 * p), 7 if rank < 3 else 5))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    output_padding = [draw(st.integers(0, s - 1)) if transposed and s > 1 else 0 for s in stride]
    if transposed:
        sizes = zip(image, stride, padding, dilation, kernel, output_padding, strict=True)
        assume_positive = [(h - 1) * s - 2 * p + d * (k - 1) + o + 1 for h, s, p, d, k, o in sizes]
        if min(assume_positive) < 1:
            padding = [0] * rank
        weight = R(groups * own[0], own[1], *kernel)
    else:
        weight = R(groups * own[1], own[0], *kernel)
    x = R(draw(st.integers(1, 2)), groups * own[0], *image)
    bias = R(groups * own[1]) if draw(st.booleans()) else None
    return x, weight, bias, stride, padding, dilation, transposed, output_padding, groups


@settings(max_examples=40)
@given(convolutions())
def test_convolution(lowered, args):
    """Any rank, group, stride, padding, dilation, transposed or not; FLOPs as torch counts."""
    result = lowered(A.convolution.default, *args).check(1e-4)
    assert result.graph.flops == counted(A.convolution, *args)


@settings(max_examples=40)
@given(convolutions(), st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
def test_convolution_backward(lowered, args, mask):
    """Gradients, those of the mask; FLOPs as torch counts where it counts right (one group)."""
    x, weight, _, *rest = args
    grad = torch.randn_like(A.convolution(x, weight, None, *rest))
    args = (grad, x, weight, [weight.shape[0]], *rest, mask)
    if rest[3]:
        args = (grad, x, weight, [grad.shape[1]], *rest, mask)
    result = lowered(A.convolution_backward.default, *args).check(1e-4)
    if rest[-1] == 1:
        assert result.graph.flops == counted(A.convolution_backward, *args)


def test_grouped_weight_gradient_is_not_overcounted(run_aten):
    """The counter of torch multiplies the weight gradient of a grouped convolution by the number of
    groups: depthwise 8 channels, 3x3 on 6x6 with padding 1 are 8*9*36 multiply-accumulates.
    """
    x, weight, grad = R(1, 8, 6, 6), R(8, 1, 3, 3), R(1, 8, 6, 6)
    geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], 8)
    args = (grad, x, weight, None, *geometry, [False, True, False])
    result = run_aten(A.convolution_backward.default, *args)
    assert result.graph.macs == 8 * 9 * 36
    assert counted(A.convolution_backward, *args) == 8 * 2 * 8 * 9 * 36


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_named_padding(run_aten, padding):
    """Padding by name, with an even kernel (one more element on the right)."""
    for kernel, dilation in ((3, 1), (4, 1), (2, 3)):
        args = R(1, 2, 9), R(3, 2, kernel), None, [1], padding, [dilation], 1
        run_aten(A.conv1d.padding, *args)


def test_direct_entry_points(run_aten):
    """conv1d, conv2d, conv3d, conv_transpose2d, and a single image without batch."""
    run_aten(A.conv1d.default, R(2, 3, 8), R(4, 3, 3), R(4), [2], [1])
    run_aten(A.conv2d.default, R(2, 3, 8, 7), R(4, 3, 3, 2), R(4), [2, 1], [1, 0])
    run_aten(A.conv2d.default, R(3, 8, 7), R(4, 3, 3, 2), R(4), [2, 1], [1, 0], tolerance=1e-4)
    run_aten(A.conv3d.default, R(1, 2, 4, 5, 6), R(3, 2, 2, 2, 2))
    run_aten(A.conv_transpose2d.input, R(2, 4, 3, 3), R(4, 2, 3, 3), R(2), [2, 2], [1, 1], [1, 1])


def test_input_gradient_does_not_multiply_at_stride(lowered):
    """Stride 2: the input gradient does as many products as the convolution itself."""
    x, weight = R(1, 3, 8, 8), R(4, 3, 3, 3)
    rest = ([2, 2], [1, 1], [1, 1], False, [0, 0], 1)
    forward = lowered(A.convolution.default, x, weight, None, *rest)
    grad = torch.randn_like(forward.expected[0])
    mask = [True, False, False]
    back = lowered(A.convolution_backward.default, grad, x, weight, None, *rest, mask)
    assert back.graph.macs == forward.graph.macs == math.prod((4, 4, 4)) * 3 * 9
