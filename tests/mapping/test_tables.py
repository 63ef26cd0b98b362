"""Tables with thinned tile sizes: what they find is a mapping, what they bound is below all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwopt.errors import InfeasibleError
from hwopt.hardware.accelerator import Accelerator, Memory
from hwopt.hardware.conventions import Conventions
from hwopt.ir.access import Axis, parse_access
from hwopt.ir.program import Constraint
from hwopt.mapping import space
from hwopt.mapping.analysis import OBJECTIVES, Objective
from hwopt.mapping.best import Best, best_mapping, grove_of
from hwopt.mapping.chains import Factors, chains_of, number_of_chains, number_of_divisions
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.space import skeleton, spaces_of
from tests.oracles.small import machines, operators

LIMITS = ("MOST_CHAINS", "MOST_NESTED", "MOST_PAIRS", "MOST_DIVISIONS")
FEW = ("TRIED_CHAINS", "TRIED_DIVISIONS", "CELLS", "THINNED_CHAINS")


@pytest.fixture
def thinned(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test thin out tile sizes; nothing thinned is remembered afterwards."""
    yield monkeypatch
    monkeypatch.undo()
    forget()


def forget() -> None:
    """Spaces are remembered by problem, not by how much they are thinned out."""
    spaces_of.cache_clear()
    grove_of.cache_clear()


def best(
    problem: Problem, machine: Accelerator, objective: Objective, factors: Factors
) -> Best | None:
    """The best mapping; None where nothing fits."""
    try:
        return best_mapping(problem, machine, objective=objective, factors=factors)
    except InfeasibleError:
        return None


def value(found: Best, objective: Objective) -> float:
    """What was asked to be least."""
    both = {"latency": found.seconds, "energy": found.joules, "edp": found.seconds * found.joules}
    return both[objective]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=max(8, settings.default.max_examples // 5),
)
@given(
    st.data(), operators(points=64), st.sampled_from(OBJECTIVES), st.sampled_from((1, 4, 20, 100))
)
def test_a_stated_gap_holds(
    thinned: pytest.MonkeyPatch,
    data: st.DataObject,
    problem: Problem,
    objective: Objective,
    most: int,
) -> None:
    """However much is thinned out: no better than the optimum, whose distance is within the gap."""
    machine = data.draw(machines(deep=problem.points <= 6))
    factors: Factors = data.draw(st.sampled_from(("any", "any", "perfect")))
    forget()
    optimum = best(problem, machine, objective, factors)
    for name in LIMITS:
        thinned.setattr(space, name, 1)
    for name in FEW:
        thinned.setattr(space, name, most)
    forget()
    found = best(problem, machine, objective, factors)
    thinned.undo()
    forget()
    assert (found is None) == (optimum is None)
    if found is None or optimum is None:
        return
    assert optimum.certificate.exhausted
    least, known = value(optimum, objective), value(found, objective)
    assert known >= least * (1 - 1e-9)
    assert known * (1 - found.certificate.gap) <= least * (1 + 1e-9)


def test_nothing_is_thinned_where_all_chains_can_be_listed() -> None:
    """A layer of 4096 x 4096 has few chains of two free slots that others do not beat."""
    assert number_of_chains(4096, 2) < space.MOST_CHAINS


def test_chains_of_divisors_are_numbered() -> None:
    """As many as are listed."""
    for size, free in ((1, 2), (7, 3), (12, 2), (36, 4), (64, 0)):
        slots = ((0, size),) * (free + 1)
        assert number_of_divisions(size, free) == len(chains_of(size, slots, "perfect"))


def test_bounding_boxes_are_of_what_is_read() -> None:
    """A transposed convolution of stride 3 writes its output element by element, whatever the
    conventions say of strided reads: equal tables.
    """
    problem = Problem(
        (Axis("p", 4), Axis("r", 2), Axis("k", 2)),
        (
            Operand("input", parse_access("k", "p"), (2, 4), 8),
            Operand("weight", parse_access("k", "r"), (2, 2), 8),
            Operand("output", parse_access("3*p + 2*r"), (12,), 8),
        ),
    )
    machine = Accelerator(name="two", clock_hz=1e9, levels=(Memory(name="A"), Memory(name="B")))
    exact, boxes = (
        spaces_of(problem, skeleton(machine), Constraint(), Conventions(strided=way), (), "any")
        for way in ("exact", "bounding")
    )
    for one, two in zip(exact, boxes, strict=True):
        for a, b in zip(one.tables, two.tables, strict=True):
            assert np.array_equal(a.tree.lo, b.tree.lo)
