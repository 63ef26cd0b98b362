"""Copies, constants, paddings and gradients of views against torch."""

from __future__ import annotations

import pytest
import torch

A = torch.ops.aten
R = torch.randn
X = torch.arange(60.0).reshape(3, 4, 5)
CASES = [
    (A.clone.default, (X,)), (A.contiguous.default, (X,)), (A.lift_fresh_copy.default, (X,)),
    (A.copy.default, (X, X[:1] + 1)), (A.copy.default, (X, torch.arange(5))),
    (A.to.dtype, (X, torch.int32)), (A.to.dtype, (X, torch.float32)),
    (A.type_as.default, (X, X.int())),
    (A.cat.default, ([X, X + 1], 1)), (A.cat.default, ([X, X[:1]], 0)),
    (A.cat.default, ([torch.zeros(0), X[0]], 0)), (A.cat.default, ([X, X], -1)),
    (A.stack.default, ([X, X + 1], 0)), (A.stack.default, ([X, X + 1], -1)),
    (A.constant_pad_nd.default, (X, [1, 2], 7.0)), (A.constant_pad_nd.default, (X, [1, 0, 2, 1])),
    (A.constant_pad_nd.default, (X, [-1, 2, 0, -1], 3)),
    (A.reflection_pad1d.default, (X, [2, 1])), (A.replication_pad1d.default, (X, [2, 1])),
    (A.reflection_pad2d.default, (X, [2, 1, 1, 3])),
    (A.replication_pad2d.default, (X, [2, 1, 0, 3])),
    (A.reflection_pad3d.default, (X[None], [1, 1, 1, 0, 2, 1])),
    (A.replication_pad3d.default, (X[None], [1, 1, 1, 0, 2, 1])),
    (A.roll.default, (X, [2, -1], [0, 2])), (A.roll.default, (X, [7])),
    (A.repeat.default, (X, [2, 1, 3])), (A.repeat.default, (X, [2, 2, 1, 1])),
    (A.tile.default, (X, [2, 3])), (A.repeat_interleave.self_int, (X, 3, 1)),
    (A.repeat_interleave.self_int, (X, 2)),
    (A.tril.default, (X,)), (A.triu.default, (X, 1)), (A.tril.default, (X, -2)),
    (A.slice_scatter.default, (X, X[:, :2] * 0, 1, 1, 3)),
    (A.slice_scatter.default, (X, X[..., :2] * 0, 2, 0, 4, 2)),
    (A.as_strided_scatter.default, (X, R(3, 2), [3, 2], [20, 5], 1)),
    (A.select_scatter.default, (X, X[0] * 0, 0, -1)),
    (A.slice_backward.default, (X[:, :2], [3, 4, 5], 1, 1, 3, 1)),
    (A.slice_backward.default, (X[..., :2], [3, 4, 5], 2, 1, 5, 2)),
    (A.select_backward.default, (X[0], [3, 4, 5], 0, 2)),
    (A.diagonal_backward.default, (R(3, 4), [3, 4, 5], 1, 1, 2)),
    (A.unfold_backward.default, (R(3, 4, 2, 3), [3, 4, 5], 2, 3, 2)),
    (A.im2col.default, (R(2, 3, 5, 6), [3, 2], [1, 2], [1, 1], [2, 1])),
    (A.col2im.default, (R(2, 18, 9), [5, 6], [3, 2], [1, 1], [1, 0], [2, 2])),
    (A.zeros_like.default, (X,)), (A.ones_like.default, (X,)), (A.full_like.default, (X, 2.5)),
    (A.new_zeros.default, (X, [2, 3])), (A.new_full.default, (X, [2], 3)),
    (A.fill.Scalar, (X, 3.0)),
    (A.zeros.default, ([2, 3],)), (A.ones.default, ([2],)), (A.full.default, ([2, 3], 1.5)),
    (A.fill.Tensor, (X, torch.tensor(2.0))), (A.scalar_tensor.default, (2.5,)),
    (A.arange.start_step, (2, 11, 3)), (A.arange.start, (2, 7)), (A.arange.default, (5,)),
    (A.arange.start_step, (0.0, 1.0, 0.25)), (A.linspace.default, (1.0, 3.0, 5)),
    (A.eye.default, (3,)), (A.eye.m, (3, 4)), (A.tril_indices.default, (3, 4, 1)),
    (A.triu_indices.default, (3, 4, -1)), (A.one_hot.default, (torch.tensor([[0, 2], [1, 3]]), 5)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "args"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_movement(run_aten, op, args):
    """The values of torch."""
    run_aten(op, *args)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bool, torch.float16])
def test_cast(run_aten, dtype):
    """A change of type runs on the vector unit, a copy without one is traffic."""
    result = run_aten(A._to_copy.default, R(3, 4) * 3, dtype=dtype)
    assert [op.resource for op in result.graph.ops] == ["vector"]
    result = run_aten(A._to_copy.default, R(3, 4))
    assert [op.resource for op in result.graph.ops] == ["memory"]


def test_empty_memory_is_free(lowered):
    """Uninitialised tensors cost nothing."""
    assert lowered(A.empty_like.default, X).graph.moved_bytes == 0
    assert lowered(A.new_empty.default, X, [2, 3]).graph.moved_bytes == 0


def test_slice_scatter_reads_each_element_once(lowered):
    """Bytes: 60 elements written, 36 kept and 24 new ones read, 4 bytes each."""
    graph = lowered(A.slice_scatter.default, X, X[:, :2] * 0, 1, 1, 3).graph
    assert graph.moved_bytes == (60 + 60) * 4
