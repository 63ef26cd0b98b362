"""Rows that no other beats, by definition; trees whose nodes enclose the rows below them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwopt.mapping import trees
from hwopt.mapping.trees import Floats, Ints, grow, undominated


@st.composite
def tables(draw: st.DrawFn) -> tuple[Floats, Ints, Ints, np.ndarray]:
    """Columns of small integers (one of them may fall as another grows), masks, equal columns."""
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    seed = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = seed.integers(0, draw(st.sampled_from((2, 5, 12))), (rows, columns)).astype(float)
    if draw(st.booleans()):
        values = np.hstack([values, np.ceil(20 / (1 + values[:, :1]))])
    claims, denies = (seed.integers(0, draw(st.sampled_from((1, 4))), rows) for _ in range(2))
    equal = seed.integers(0, 4, values.shape[1]) == 0
    return values, claims, denies, equal


@given(tables(), st.sampled_from((0, 256)))
def test_what_stays_beats_all_and_nothing_beats_it(
    table: tuple[Floats, Ints, Ints, np.ndarray], few: int
) -> None:
    """Every row is beaten by (or is) one that stays; no row that stays is beaten by another. The
    same whether rows are compared within classes or all with all.
    """
    values, claims, denies, equal = table
    before, trees.FEW = trees.FEW, few
    try:
        kept = undominated(values, claims, denies, equal)
    finally:
        trees.FEW = before

    def beats(i: int, j: int) -> bool:
        below = (values[i] <= values[j]).all() and (values[i] == values[j])[equal].all()
        return bool(below and not claims[i] & ~claims[j] and not denies[i] & ~denies[j])

    assert len(set(kept.tolist())) == len(kept)
    for j in range(len(values)):
        assert any(beats(i, j) for i in kept)
    for j in kept:
        assert not any(beats(i, j) for i in kept if i != j)


@given(tables(), st.booleans())
def test_nodes_enclose_what_is_below(
    table: tuple[Floats, Ints, Ints, np.ndarray], ranges: bool
) -> None:
    """Each row is one leaf; least and largest values of a node are those of its leaves."""
    values, claims, denies, _ = table
    most = values + 3 if ranges else None
    tree = grow(values, claims, denies, most)

    def below(node: int) -> list[int]:
        if tree.row[node] >= 0:
            return [int(tree.row[node])]
        return below(tree.left[node]) + below(tree.left[node] + 1)

    assert sorted(below(0)) == list(range(len(values)))
    for node in range(len(tree.row)):
        rows = below(node)
        assert np.array_equal(tree.lo[node], values[rows].min(axis=0))
        high = values if most is None else most
        assert np.array_equal(tree.hi[node], high[rows].max(axis=0))
        assert tree.claims[node] == np.bitwise_and.reduce(claims[rows])
        assert tree.denies[node] == np.bitwise_and.reduce(denies[rows])
