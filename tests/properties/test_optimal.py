"""Optimal means: equal to exhaustive enumeration, for each objective, ties included.

Random small operators on random small machines; the oracle (`tests/oracles/enumerate.py`) shares no
code with the mapper. The mapper's own results are given to the oracle as keys to beat, after they
were checked by walking their mappings.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwopt.errors import InfeasibleError
from hwopt.hardware.accelerator import Accelerator
from hwopt.hardware.conventions import ACCELFORGE, NATIVE, ZIGZAG, Conventions
from hwopt.mapping.analysis import Objective, price
from hwopt.mapping.best import best_mapping
from hwopt.mapping.problem import Problem
from hwopt.mapping.simulate import simulate
from tests.oracles.enumerate import OBJECTIVES, Key, optimum
from tests.oracles.small import machines, operators

FEW = settings(max_examples=max(6, settings.default.max_examples * 2 // 5))
FEWER = settings(max_examples=max(5, settings.default.max_examples // 6))
MANY = settings(max_examples=4 * settings.default.max_examples)


def results(
    problem: Problem, accelerator: Accelerator, conventions: Conventions, factors: str
) -> dict[Objective, Key]:
    """Keys of the mapper's results, each walked; infinite where it says that nothing fits."""
    keys: dict[Objective, Key] = {}
    for objective in OBJECTIVES:
        try:
            best = best_mapping(
                problem, accelerator, objective=objective, conventions=conventions, factors=factors
            )
        except InfeasibleError:
            keys[objective] = (math.inf,) * 3
            continue
        assert best.certificate.exhausted
        row = simulate(problem, best.mapping, accelerator, conventions).row(accelerator)
        paid = price(row, accelerator, problem.points)
        assert (best.seconds, best.joules) == (paid.seconds, paid.joules)
        keys[objective] = paid.key(objective)
    return keys


def check(
    problem: Problem, accelerator: Accelerator, factors: str, conventions: Conventions = NATIVE
) -> None:
    """Nothing in the whole mapspace is better than what the mapper found."""
    keys = results(problem, accelerator, conventions, factors)
    whole = optimum(problem, accelerator, conventions, factors=factors, known=keys)
    for objective in OBJECTIVES:
        better = whole.mapping[objective]
        assert whole.key[objective] == keys[objective], f"better by {objective}:\n{better}"


@FEW
@given(operators(points=24), machines(), st.sampled_from(["any", "perfect"]))
def test_no_mapping_is_better(problem: Problem, accelerator: Accelerator, factors: str) -> None:
    """Any order of keeps and loops, bypass, any tile of any axis, several axes on a fan-out."""
    check(problem, accelerator, factors)


@FEWER
@given(operators(points=6), machines(deep=True))
def test_no_mapping_of_more_memories_is_better(problem: Problem, accelerator: Accelerator) -> None:
    """Two buffers, scratchpads of several operands in each lane."""
    check(problem, accelerator, "any")


@FEW
@given(operators(points=16), machines(), st.sampled_from([ACCELFORGE, ZIGZAG]))
def test_no_mapping_is_better_by_another_count(
    problem: Problem, accelerator: Accelerator, conventions: Conventions
) -> None:
    """The same where a tool counts fetches, windows, padding and partial sums in its own way."""
    check(problem, accelerator, "any", conventions)


@pytest.mark.slow
@MANY
@given(operators(points=48), machines(), st.sampled_from(["any", "perfect"]))
def test_no_mapping_of_larger_operators_is_better(
    problem: Problem, accelerator: Accelerator, factors: str
) -> None:
    """More and larger operators: up to seconds each."""
    check(problem, accelerator, factors)


@pytest.mark.slow
@MANY
@given(
    operators(points=16), machines(deep=True), st.sampled_from([NATIVE, NATIVE, ACCELFORGE, ZIGZAG])
)
def test_no_mapping_of_larger_operators_on_more_memories_is_better(
    problem: Problem, accelerator: Accelerator, conventions: Conventions
) -> None:
    """The same on more memories, and by the counts of other tools."""
    check(problem, accelerator, "any", conventions)
