"""Fronts against brute force, the knee on known fronts, hypervolume in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hwopt.dse.front import hypervolume, knee, non_dominated, oriented, scaled

points = st.integers(1, 4).flatmap(
    lambda k: arrays(np.float64, st.tuples(st.integers(0, 40), st.just(k)),
                     elements=st.integers(0, 6).map(float))
)  # fmt: skip


def brute_force(costs):
    """Keep a row when no other is at most it everywhere, except equal rows that come later."""
    kept = []
    for i, row in enumerate(costs):
        beaten = any(
            (other <= row).all() and ((other < row).any() or j < i)
            for j, other in enumerate(costs) if j != i
        )  # fmt: skip
        if not beaten:
            kept.append(i)
    return kept


@given(points)
def test_front_equals_brute_force(costs):
    """Every pair compared gives the same rows, of equals the first."""
    assert non_dominated(costs).tolist() == brute_force(costs)


def test_front_of_orientation():
    """A column where more is better is turned round before comparison."""
    values = np.array([[1.0, 5.0], [1.0, 7.0], [2.0, 9.0]])
    assert non_dominated(oriented(values, (False, True))).tolist() == [1, 2]


def test_knee_is_the_corner():
    """Of an L-shaped front the corner is nearest to the ideal point; of equals the first."""
    corner = np.array([[1.0, 100.0], [2.0, 2.0], [100.0, 1.0]])
    assert knee(corner) == 1
    assert knee(np.array([[1.0, 1.0], [1.0, 1.0]])) == 0


def test_scaling_uses_logarithms_of_positive_columns():
    """A column of powers of ten is scaled evenly, one with a zero linearly."""
    columns = np.array([[1.0, 0.0], [10.0, 5.0], [100.0, 10.0]])
    assert scaled(columns) == pytest.approx(np.array([[0, 0], [0.5, 0.5], [1, 1]]))


def test_hypervolume_of_boxes():
    """Two boxes below the reference: sum of areas minus the overlap; outside points add nothing."""
    costs = np.array([[1.0, 3.0], [2.0, 1.0], [9.0, 9.0]])
    assert hypervolume(costs, np.array([4.0, 4.0])) == pytest.approx(3 * 1 + 2 * 3 - 2 * 1)
    assert hypervolume(costs[2:], np.array([4.0, 4.0])) == 0.0
