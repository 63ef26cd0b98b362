"""Views against torch: same elements, no cost."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwopt.ir.op import Nest
from hwopt.ops.builder import refinement

A = torch.ops.aten
X = torch.arange(120.0).reshape(2, 3, 4, 5)
CASES = [
    (A.view.default, (X, [6, 20])), (A.view.default, (X, [2, 12, 5])),
    (A._unsafe_view.default, (X, [120])), (A.reshape.default, (X, [4, 6, 5])),
    (A.reshape.default, (X, [5, 24])), (A.reshape.default, (torch.tensor(3.0), [1, 1])),
    (A.flatten.using_ints, (X, 1, 2)), (A.unflatten.int, (X, 2, [2, 2])),
    (A.unsqueeze.default, (X, 1)), (A.unsqueeze.default, (X, -1)),
    (A.squeeze.default, (X[:1],)), (A.squeeze.dim, (X[:1], 0)),
    (A.squeeze.dims, (X[:1, :1], [0, 1])),
    (A.expand.default, (X[:, :1], [2, 3, 4, 5])), (A.expand.default, (X[0, 0, 0], [7, 5])),
    (A.expand.default, (torch.tensor(2.0), [3])),
    (A.permute.default, (X, [3, 0, 2, 1])), (A.transpose.int, (X, 1, -1)),
    (A.t.default, (X[0, 0],)),
    (A.t.default, (X[0, 0, 0],)), (A.mT.default, (X,)), (A.movedim.int, (X, 0, 2)),
    (A.slice.Tensor, (X, 2, 1, 3)), (A.slice.Tensor, (X, -1, -4, 9223372036854775807, 2)),
    (A.narrow.default, (X, 3, 1, 2)), (A.select.int, (X, 1, -1)), (A.select.int, (X, 0, 1)),
    (A.split.Tensor, (X, 2, 3)), (A.split_with_sizes.default, (X, [1, 3], 2)),
    (A.chunk.default, (X, 2, 3)), (A.unbind.int, (X, 1)), (A.flip.default, (X, [0, -1])),
    (A.diagonal.default, (X, 1, 2, 3)), (A.diagonal.default, (X, -2, 3, 1)),
    (A.unfold.default, (X, 3, 3, 2)), (A.unfold.default, (X, 1, 2, 1)),
    (A.as_strided.default, (X, [3, 2], [20, 5], 1)), (A.as_strided.default, (X, [4, 6], [1, 20])),
    (A.as_strided.default, (X, [2, 3], [60, 5])), (A.as_strided.default, (X, [7, 7], [3, 5])),
    (A.alias.default, (X,)), (A.detach.default, (X,)), (A.lift_fresh.default, (X,)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "args"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_view(run_aten, op, args):
    """The same elements; every operator is free."""
    result = run_aten(op, *args)
    assert all(o.is_view for o in result.graph.ops)
    assert result.graph.moved_bytes == 0


def test_affine_where_it_can_be(lowered):
    """Reshapes with a common refinement are nests, others a gather that costs nothing."""
    bodies = [lowered(A.view.default, X, s).graph.ops[0].body for s in ([6, 20], [4, 30])]
    assert isinstance(bodies[0], Nest)
    assert not isinstance(lowered(A.view.default, X, [5, 24]).graph.ops[0].body, Nest)


sizes = st.lists(st.integers(1, 6), min_size=0, max_size=4)


@given(sizes, st.data())
def test_refinement(shape, data):
    """Sizes of a refinement multiply up, per dimension, to both shapes."""
    factors = [d for size in shape for d in prime_factors(size)]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(factors)), max_size=3)))
    edges = [0, *cuts, len(factors)]
    other = [math.prod(factors[a:b]) for a, b in itertools.pairwise(edges)]
    result = refinement(shape, other)
    assert result is not None
    for side, sizes in ((1, shape), (2, other)):
        for dim, size in enumerate(sizes):
            assert math.prod(f[0] for f in result if f[side] == dim) == size


def prime_factors(n):
    """2 * 2 * 3 for 12."""
    p = 2
    while n > 1:
        while n % p == 0:
            yield p
            n //= p
        p += 1


def test_no_refinement():
    """(2, 3) and (3, 2) have none; different counts are an error of ours."""
    assert refinement((2, 3), (3, 2)) is None
    assert refinement((2, 6), (4, 3)) == [(2, 0, 0), (2, 1, 0), (3, 1, 1)]
    with pytest.raises(ValueError, match="different numbers"):
        refinement((2, 3), (5,))
