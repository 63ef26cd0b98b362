"""Mixtures of experts: values with any load, work at the expected load."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers.integrations.moe  # noqa: F401 - registers the grouped product
from hypothesis import given
from hypothesis import strategies as st

from hwopt.ops.experts import expected_experts

A = torch.ops.aten
T = torch.ops.transformers
R = torch.randn
ENDS = torch.tensor([2, 2, 5, 7], dtype=torch.int32)


def test_grouped_product(run_aten):
    """Rows by their experts, one of which has none; and the gradients."""
    x, weight, grad = R(7, 3), R(4, 3, 5), R(7, 5)
    run_aten(T.grouped_mm_fallback.default, x, weight, ENDS)
    run_aten(T.grouped_mm_fallback_backward.default, x, weight, ENDS, grad)


def test_aten_grouped_product(lowered):
    """Rows by experts, the weights' gradient, a plain batch, and a bias."""
    x, weight = R(7, 3), R(4, 3, 5)
    wanted = T.grouped_mm_fallback(x, weight, ENDS)
    lowered(A._grouped_mm.default, x, weight, ENDS, expected=wanted).check()
    bias = R(5)
    lowered(A._grouped_mm.default, x, weight, ENDS, bias, expected=wanted + bias).check()
    _, outer = T.grouped_mm_fallback_backward(x, weight, ENDS, R(7, 5))
    grad = R(7, 5)
    _, outer = T.grouped_mm_fallback_backward(x, weight, ENDS, grad)
    lowered(A._grouped_mm.default, x.T.contiguous(), grad, ENDS, expected=outer).check()
    batch = R(4, 2, 3)
    lowered(A._grouped_mm.default, batch, weight, expected=batch @ weight).check()


@given(st.integers(1, 60), st.integers(1, 20))
def test_work_is_exact_and_shared_evenly(lowered, rows, experts):
    """Multiply-accumulates are rows * k * n; loads differ by at most one row; each row is read
    once, and the nests stay inside their tensors.
    """
    x, weight = R(rows, 3), R(experts, 3, 5)
    ends = torch.tensor([rows] * experts, dtype=torch.int32)
    graph = lowered(T.grouped_mm_fallback.default, x, weight, ends).graph
    assert graph.macs == rows * 3 * 5
    (op,) = graph.ops
    loads = [nest.sizes["m"] for nest in op.nests]
    touched = sum(nest.sizes["e"] for nest in op.nests)
    assert max(loads) - min(loads) <= 1
    assert touched == expected_experts(rows, experts) <= min(rows, experts)
    assert op.body.read_elements[1] == touched * 15
    covered = []
    for nest in op.nests:
        row, expert = nest.reads[0].index[0], nest.reads[1].index[0]
        assert expert.bounds(nest.sizes)[1] < experts
        covered += range(row.bounds(nest.sizes)[0], row.bounds(nest.sizes)[1] + 1)
    assert covered == list(range(rows))


@pytest.mark.parametrize(("rows", "experts"), [(4, 8), (16, 8), (64, 128), (2, 2)])
def test_expected_experts(rows, experts):
    """Within half an expert of the mean of uniform draws."""
    draws = np.random.default_rng(0).integers(0, experts, (4000, rows))
    mean = np.mean([len(set(row)) for row in draws.tolist()])
    assert abs(expected_experts(rows, experts) - mean) < 0.6


def test_few_tokens_do_not_read_every_expert(lowered):
    """Two rows over 64 experts read the weights of two."""
    x, weight, ends = R(2, 3), R(64, 3, 5), torch.full((64,), 2, dtype=torch.int32)
    graph = lowered(T.grouped_mm_fallback.default, x, weight, ends).graph
    assert graph.ops[0].body.read_elements == (6, 2 * 15, 64)
