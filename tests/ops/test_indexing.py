"""Data-dependent addressing against torch."""

from __future__ import annotations

import pytest
import torch

from hwopt.errors import UnsupportedOperatorError

A = torch.ops.aten
R = torch.randn
I = torch.tensor  # noqa: E741
ROWS = I([[0, 3, 3], [1, 0, 2]])
LONG = I([2, 0, 2, 1])
X = R(4, 5, generator=torch.Generator().manual_seed(3))
SOURCE = R(4, 5, generator=torch.Generator().manual_seed(4))
PLACES = I([[0, 1, 3, 1, 2], [2, 2, 0, 3, 0]])
INTEGERS = torch.arange(20).reshape(4, 5) % 7
CASES = [
    (A.embedding.default, (R(6, 4), ROWS)), (A.embedding.default, (R(6, 4), LONG, 2)),
    (A.embedding_dense_backward.default, (R(2, 3, 4), ROWS, 6, -1, False)),
    (A.embedding_dense_backward.default, (R(2, 3, 4), ROWS, 6, 3, True)),
    (A.gather.default, (X, 0, PLACES)), (A.gather.default, (X, 1, PLACES[:, :2])),
    (A.take_along_dim.default, (X, PLACES[:, :5], 0)),
    (A.index_select.default, (X, 1, LONG)), (A.index_select.default, (X, 0, LONG)),
    (A.index.Tensor, (X, [LONG])), (A.index.Tensor, (X, [None, LONG])),
    (A.index.Tensor, (X, [LONG, LONG])), (A.index.Tensor, (R(3, 4, 5), [LONG, None, LONG])),
    (A.index.Tensor, (R(3, 4, 5), [I([[0], [2]]), LONG])), (A.index.Tensor, (X, [I([-1, -2])])),
    (A._unsafe_index.Tensor, (X, [None, LONG])),
    (A.index_put.default, (X, [LONG[:2]], R(2, 5))), (A.index_put.default, (X, [LONG], R(5), True)),
    (A.index_put.default, (X, [LONG, LONG], R(4), True)),
    (A.index_put.default, (X, [None, I([0, 4])], I(2.0))),
    (A.index_put.default, (X, [X > 0], I(-1.0))), (A.index_put.default, (X, [X[:, 0] > 0], I(9.0))),
    (A.scatter.src, (X, 0, I([[0, 1, 3, 0, 2]]), SOURCE)),
    (A.scatter.value, (X, 1, I([[0], [2]]), 7)),
    (A.scatter_add.default, (X, 0, PLACES, SOURCE)),
    (A.scatter_add.default, (X, 1, PLACES, SOURCE)),
    (A.scatter_add.default, (I(1.0), 0, I(0), I(2.0))),
    (A.scatter.reduce, (X, 0, PLACES, SOURCE), {"reduce": "add"}),
    (A.scatter.reduce, (X, 0, PLACES, SOURCE), {"reduce": "multiply"}),
    *[
        (A.scatter_reduce.two, (X, 0, PLACES, SOURCE, how), {"include_self": self_too})
        for how in ("sum", "prod", "mean", "amax", "amin") for self_too in (True, False)
    ],
    (
        A.scatter_reduce.two, (INTEGERS, 0, PLACES, INTEGERS, "amax"), {"include_self": False}
    ),
    (A.index_add.default, (X, 0, LONG, SOURCE)),
    (A.index_add.default, (X, 1, LONG, R(4, 4)), {"alpha": 2}),
    (A.index_copy.default, (X, 0, I([2, 0]), R(2, 5))),
    (A.index_fill.int_Scalar, (X, 1, I([2, 0]), 3)),
    (A.masked_scatter.default, (X, X > 0, R(20))), (A.masked_scatter.default, (X, X[0] > 0, R(20))),
    (A.histc.default, (X, 5, -1, 1)), (A.histc.default, (X, 4)), (A.bincount.default, (LONG,)),
    (A.bincount.default, (LONG, R(4).double(), 6)),
    (A.bucketize.Tensor, (X, I([-1.0, 0.0, 0.5]))),
    (A.searchsorted.Tensor, (X.sort(1).values, R(4, 3))),
    (A.searchsorted.Tensor, (I([1, 3, 3, 5]), I([3, 4])), {"right": True}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_addressing(run_aten, case):
    """The values of torch."""
    op, args, *rest = case
    run_aten(op, *args, **(rest[0] if rest else {}))


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_embedding_bag(lowered, mode):
    """Sums, means and maxima of bags, one of them empty."""
    weight, indices, offsets = R(7, 3), I([1, 4, 4, 6, 0]), I([0, 2, 2])
    lowered(A._embedding_bag.default, weight, indices, offsets, False, mode).check(only=0)
    scale = R(5) if mode == 0 else None
    lowered(
        A._embedding_bag.default, weight, indices, offsets, False, mode, False, scale
    ).check(only=0)  # fmt: skip


def test_an_embedding_reads_rows_not_the_table(lowered):
    """Six rows of four floats and six indices are read, not a table of 1000 rows."""
    graph = lowered(A.embedding.default, R(1000, 4), ROWS).graph
    assert graph.moved_bytes == 6 * 4 * 4 + 6 * 8 + 6 * 4 * 4


def test_a_mask_as_index_is_refused(lowered):
    """Its size is known only to the data."""
    with pytest.raises(UnsupportedOperatorError, match="mask as index"):
        lowered(A.index.Tensor, X, [X > 0])
