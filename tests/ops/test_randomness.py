"""Random numbers: shapes, laws, and the same numbers twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

A = torch.ops.aten
X = torch.ones(100, 100)


@pytest.mark.parametrize(
    ("op", "args", "mean", "deviation"),
    [(A.rand.default, ([100, 100],), 0.5, 12**-0.5), (A.rand_like.default, (X,), 0.5, 12**-0.5),
     (A.randn.default, ([100, 100],), 0, 1), (A.randn_like.default, (X,), 0, 1),
     (A.normal_functional.default, (X, 2.0, 3.0), 2, 3), (A.bernoulli.p, (X, 0.3), 0.3, 0.21**0.5),
     (A.bernoulli.default, (X * 0.3,), 0.3, 0.21**0.5),
     (A.randint.low, (2, 5, [100, 100]), 3, 0.816),
     (A.uniform.default, (X, 1.0, 3.0), 2, 2 * 12**-0.5)],
)  # fmt: skip
def test_laws(lowered, op, args, mean, deviation):
    """Mean and deviation of 10 000 numbers, and no traffic but their own."""
    call = lowered(op, *args)
    (values,) = call.values()
    assert abs(values.mean() - mean) < 0.05 * max(1, deviation)
    assert abs(values.std() - deviation) < 0.05 * max(1, deviation)
    assert (values == call.values()[0]).all()


def test_permutation(lowered):
    """Every number once."""
    (values,) = lowered(A.randperm.default, 50).values()
    assert sorted(values.tolist()) == list(range(50))


def test_multinomial(lowered):
    """Columns without weight are never drawn; without replacement no column twice."""
    weights = torch.tensor([[0.0, 1, 2, 0], [1, 0, 0, 3]])
    (values,) = lowered(A.multinomial.default, weights, 2).values()
    assert sorted(values[0].tolist()) == [1, 2]
    assert sorted(values[1].tolist()) == [0, 3]


def test_dropout(lowered, run_aten):
    """Kept elements are scaled up; the mask says which; evaluation is the identity."""
    out, mask = lowered(A.native_dropout.default, X, 0.25, True).values()
    np.testing.assert_allclose(out, mask / 0.75)
    assert abs(mask.mean() - 0.75) < 0.02
    run_aten(A.native_dropout.default, X, 0.25, False)
    assert run_aten(A.dropout.default, X, 0.25, False).graph.moved_bytes == 0
    (out,) = lowered(A.dropout.default, X, 0.25, True).values()
    assert abs(out.mean() - 1) < 0.02
    mask = X > 0
    run_aten(A.native_dropout_backward.default, X * 3, mask, 1.5)
