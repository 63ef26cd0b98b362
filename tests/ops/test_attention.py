"""Attention in all variants against torch, in value and in FLOPs."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

A = torch.ops.aten
R = torch.randn


def heads(query_heads=2, key_heads=2, queries=5, keys=7, width=4, value_width=4):
    """Query, key and value of one attention."""
    return (
        R(2, query_heads, queries, width),
        R(2, key_heads, keys, width),
        R(2, key_heads, keys, value_width),
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3, 1.0])
def test_causal_and_scale(run_aten, causal, scale):
    """Causal masks count from the top left, also with more keys than queries."""
    result = run_aten(
        A.scaled_dot_product_attention.default, *heads(), is_causal=causal, scale=scale
    )
    assert result.graph.flops == sdpa_flop_count((2, 2, 5, 4), (2, 2, 7, 4), (2, 2, 7, 4))


def test_masks(run_aten):
    """Added masks, boolean masks, masks that broadcast, another width of values."""
    op = A.scaled_dot_product_attention.default
    run_aten(op, *heads(value_width=3), attn_mask=R(2, 2, 5, 7))
    run_aten(op, *heads(), attn_mask=R(5, 7))
    allowed = torch.rand(2, 1, 5, 7) > 0.3
    allowed[..., 0] = True
    run_aten(op, *heads(), attn_mask=allowed)


def test_a_row_with_nothing_allowed_gives_zeros(run_aten):
    """A fully masked row has weights of zero, not NaN."""
    allowed = torch.ones(5, 7, dtype=torch.bool)
    allowed[2] = False
    run_aten(A.scaled_dot_product_attention.default, *heads(), attn_mask=allowed)


@pytest.mark.parametrize("key_heads", [1, 2, 3])
def test_grouped_query(run_aten, key_heads):
    """Six query heads on one, two or three key heads; keys are read at their own size."""
    args = heads(query_heads=6, key_heads=key_heads)
    result = run_aten(A.scaled_dot_product_attention.default, *args, enable_gqa=True)
    assert result.graph.macs == 2 * 2 * 6 * 5 * 7 * 4


def test_without_batch(run_aten):
    """(heads, time, width) and (time, width)."""
    q, k, v = heads()
    run_aten(A.scaled_dot_product_attention.default, q[0], k[0], v[0])
    run_aten(A.scaled_dot_product_attention.default, q[0, 0], k[0, 0], v[0, 0])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_flash_and_its_backward(run_aten, causal, masked):
    """Output, log-sum-exp and the three gradients; recomputed scores are counted apart."""
    q, k, v = heads(queries=6, keys=6)
    mask = R(2, 1, 6, 6) if masked else None
    rest = {"attn_mask": mask, "scale": 0.4}
    op = A._scaled_dot_product_flash_attention_for_cpu
    forward = run_aten(op.default, q, k, v, 0.0, causal, **rest)
    out, lse = forward.expected
    grad = R(out.shape)
    back = A._scaled_dot_product_flash_attention_for_cpu_backward.default
    result = run_aten(back, grad, q, k, v, out, lse, 0.0, causal, **rest)
    shapes = q.shape, k.shape, v.shape
    total = sdpa_backward_flop_count(grad.shape, *shapes)
    scores = 2 * 2 * 2 * 6 * 6 * 4
    assert result.graph.flops == total - scores
    assert result.graph.recompute_flops == scores


def test_math_variant_returns_its_weights(run_aten):
    """The second result is the softmax."""
    run_aten(A._scaled_dot_product_attention_math.default, *heads())


def test_overrideable_variant_with_gradient_of_the_bias(lowered):
    """The gradients, a bias' too, that autograd finds for the plain formula."""
    q, k, v = (t.requires_grad_() for t in heads())
    bias = R(2, 1, 5, 7).requires_grad_()
    scores = q @ k.transpose(-1, -2) * 0.5 + bias
    out = scores.softmax(-1) @ v
    grad = R(out.shape)
    expected = torch.autograd.grad(out, (q, k, v, bias), grad)

    seed = torch.zeros(())
    lowered(
        A._scaled_dot_product_fused_attention_overrideable_backward.default, grad, q, k, v, bias,
        [True] * 4, out, scores.logsumexp(-1), seed, seed, 5, 7, 0.0, False, seed, seed,
        scale=0.5, expected=expected,
    ).check()  # fmt: skip


def test_dropout_keeps_the_mean(lowered):
    """With dropout the graph draws a mask; with the same seed twice it gives the same values."""
    q, k, v = heads(queries=32, keys=64)
    call = lowered(A.scaled_dot_product_attention.default, q, k, v, dropout_p=0.5)
    assert any(op.kind == "random" for op in call.graph.ops)
    plain = lowered(A.scaled_dot_product_attention.default, q, k, v).values()[0]
    first = call.values()[0]
    assert abs(first.mean() - plain.mean()) < 0.1
    assert (first == call.values()[0]).all()
