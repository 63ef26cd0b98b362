"""Objective columns and their aggregation over models, in closed form."""

import math

import numpy as np
import pytest

from hwopt.dse.objectives import Prices, aggregate, objective, objectives
from hwopt.errors import HwoptError, StudyError, UnknownNameError


@pytest.fixture
def prices():
    """Two models on three designs."""
    return Prices(
        seconds=np.array([[1.0, 2.0, 4.0], [4.0, 2.0, math.inf]]),
        joules=np.array([[2.0, 2.0, 2.0], [8.0, 1.0, 1.0]]),
        quality=np.array([[np.nan] * 3, [3.0, 2.5, 2.0]]),
        area_m2=np.array([1e-6, 2e-6, 3e-6]),
        samples=np.array([[8.0] * 3, [1.0] * 3]),
    )


def test_columns(prices):
    """Each objective is the arithmetic its name says."""
    assert objectives["edp"].column(prices)[1].tolist()[:2] == [32.0, 2.0]
    assert objectives["power"].column(prices)[0].tolist() == [2.0, 1.0, 0.5]
    assert objectives["throughput"].column(prices)[0].tolist() == [8.0, 4.0, 2.0]
    assert objectives["throughput"].direction == "max"
    assert objectives["area"].column(prices).shape == (3,)
    assert prices.feasible.tolist() == [True, True, False]


def test_geomean(prices):
    """sqrt(1 * 4) = 2; weights 1:3 give 4^(3/4)."""
    values = prices.seconds[:, :1]
    assert aggregate(values, np.array([1.0, 1.0]), "geomean", False) == pytest.approx([2.0])
    assert aggregate(values, np.array([1.0, 3.0]), "geomean", False) == pytest.approx([4**0.75])


def test_weighted_and_worst(prices):
    """Weighted mean (1*1 + 3*4) / 4; the worst is the largest, or smallest where more is better."""
    values = prices.seconds[:, :1]
    assert aggregate(values, np.array([1.0, 3.0]), "weighted", False) == pytest.approx([3.25])
    assert aggregate(values, np.array([1.0, 1.0]), "worst", False).tolist() == [4.0]
    assert aggregate(values, np.array([1.0, 1.0]), "worst", True).tolist() == [1.0]


def test_models_without_quality_are_left_out(prices):
    """Only the second model has one: its value is the aggregate, exactly."""
    weights = np.array([1.0, 1.0])
    for how in ("geomean", "weighted", "worst"):
        assert aggregate(prices.quality, weights, how, False).tolist() == [3.0, 2.5, 2.0]


def test_no_quality_at_all():
    """Asking for quality without a source is one clear error."""
    with pytest.raises(StudyError, match="no model has a quality"):
        aggregate(np.full((2, 3), np.nan), np.ones(2), "geomean", False)


def test_geomean_refuses_what_is_not_positive():
    """A geometric mean of a zero hides everything else."""
    with pytest.raises(StudyError, match="positive"):
        aggregate(np.array([[0.0], [1.0]]), np.ones(2), "geomean", False)


def test_one_function_adds_an_objective(prices):
    """Registered with unit and direction; a second one of the same name is refused."""

    @objective("seconds-per-area", unit="s/m2")
    def per_area(prices):
        """Latency per area."""
        return prices.seconds / prices.area_m2

    try:
        assert objectives["seconds-per-area"].about == "Latency per area."
        with pytest.raises(HwoptError, match="twice"):
            objective("seconds-per-area")(lambda prices: prices.seconds)
    finally:
        objectives.remove("seconds-per-area")


def test_unknown_objective_names_the_nearest():
    """Misspelt names are answered with what is near."""
    with pytest.raises(UnknownNameError, match="latency"):
        objectives["latenzy"]
