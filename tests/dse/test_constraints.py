"""Constraints as text: units, models, violations."""

import numpy as np
import pytest

from hwopt.dse.constraints import parse_constraint, show_value
from hwopt.dse.objectives import objectives
from hwopt.errors import StudyError, UnknownNameError


@pytest.mark.parametrize(
    ("text", "objective", "model", "bound"),
    [
        ("area <= 40 mm2", "area", None, 40e-6),
        ("latency[lm] <= 5 ms", "latency", "lm", 5e-3),
        ("energy<=2mJ", "energy", None, 2e-3),
        ("quality <= 3.2", "quality", None, 3.2),
        ("power <= 2 W", "power", None, 2.0),
        ("throughput >= 30", "throughput", None, 30.0),
        ("edp <= 3 nJ s", "edp", None, 3e-9),
    ],
)
def test_parse(text, objective, model, bound):
    """Units of the objective become SI."""
    found = parse_constraint(text, ("lm",))
    assert (found.objective, found.model) == (objective, model)
    assert found.bound == pytest.approx(bound, rel=1e-12)


def test_violation_is_relative():
    """10 % too much is 0.1 whatever the unit; at the bound it holds."""
    at_most = parse_constraint("area <= 40 mm2", ())
    assert at_most.violation(np.array([44e-6, 40e-6])) == pytest.approx([0.1, 0.0])
    at_least = parse_constraint("throughput >= 30", ())
    assert at_least.violation(np.array([15.0, 60.0])) == pytest.approx([0.5, -1.0])


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("area < 40 mm2", StudyError, "not a constraint"),
        ("area <= 40 ms", StudyError, "unit"),
        ("quality <= good", StudyError, "not a number"),
        ("latency[nobody] <= 5 ms", StudyError, "no such model"),
        ("speed <= 5", UnknownNameError, "unknown objective"),
        ("__import__('os') <= 1", StudyError, "not a constraint"),
    ],
)
def test_bad_constraints(text, error, match):
    """Each mistake is one clear error."""
    with pytest.raises(error, match=match):
        parse_constraint(text, ("lm",))


def test_values_for_people():
    """Units with prefixes; areas in mm2; plain numbers with four digits."""
    assert show_value(objectives["latency"], 2.5e-3) == "2.50 ms"
    assert show_value(objectives["area"], 4e-5) == "40.0 mm2"
    assert show_value(objectives["quality"], 2.71828) == "2.7183"
