"""The compiled search against every combination of rows of its tables."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwopt.hardware.accelerator import Accelerator
from hwopt.hardware.conventions import ACCELFORGE, NATIVE
from hwopt.ir.program import Constraint
from hwopt.mapping.analysis import OBJECTIVES
from hwopt.mapping.best import Grove, grove_of, machine_arrays
from hwopt.mapping.problem import Problem
from hwopt.mapping.search import solve
from hwopt.mapping.space import Space, skeleton
from tests.oracles.small import machines, operators

Key = tuple[float, float, float]
NOTHING = (math.inf,) * 3


def run(
    grove: Grove, problem: Problem, machine: Accelerator, objective: int, known: Key = NOTHING,
    budget: int = 1 << 40,
) -> tuple[Key, tuple[int, ...], tuple[int, int, float]]:  # fmt: skip
    """Best key, space and rows, and what `solve` returns."""
    best, found = np.array(known), np.zeros(1 + len(grove.spaces[0].parts), np.int64)
    arrays = machine_arrays(machine, problem.points)
    result = solve(
        grove.forest, float(problem.points), *arrays, objective, best, found, budget
    )  # fmt: skip
    return (best[0], best[1], best[2]), tuple(found.tolist()), result


def price_of(space: Space, rows: tuple[int, ...], machine: Accelerator, problem: Problem) -> Any:
    """(seconds, joules) of a combination of rows, straight from the tables; None: does not fit."""
    rates, memories = machine_arrays(machine, problem.points)
    values, claimed, denied = space.constant.copy(), 0, 0
    for p, (table, row) in enumerate(zip(space.tables, rows, strict=True)):
        node = int(np.flatnonzero(table.tree.row == row)[0])
        claimed |= int(table.tree.claims[node])
        denied |= int(table.tree.denies[node])
        for j, c in enumerate(space.column[:, p].tolist()):
            values[j] *= table.tree.lo[node, c] if c >= 0 else 1.0
    sizes = values[space.terms : space.terms + len(space.memory)]
    filled = space.resident + np.bincount(space.memory, sizes, len(memories))
    used = values[space.terms + len(space.memory) :]
    if claimed & denied or (filled > 8 * memories[:, 0]).any() or (used > space.room).any():
        return None
    line = (space.forms @ values[: space.terms] + space.fixed) / 8
    seconds, joules = line[0] / rates[0], rates[2]
    for m, (_, read, write, both, joules_read, joules_write) in enumerate(memories.tolist()):
        r, w, all_read, all_written = line[1 + 4 * m : 5 + 4 * m]
        seconds = max(seconds, r * read, w * write, (r + w) * both)
        joules += all_read * joules_read + all_written * joules_write
    seconds += rates[1] / rates[0]
    return seconds, joules + rates[3] * seconds


@given(st.data())
def test_nothing_in_the_tables_is_better(data: st.DataObject) -> None:
    """Every combination of rows of every space, priced one by one: the same least keys."""
    problem, machine = data.draw(operators(points=60)), data.draw(machines())
    rules = data.draw(st.sampled_from((NATIVE, ACCELFORGE)))
    kind = data.draw(st.sampled_from(("any", "perfect")))
    grove = grove_of(problem, skeleton(machine), Constraint(), rules, (), kind)
    if grove is None:
        return
    least = [NOTHING] * 3
    for space in grove.spaces:
        lengths = [len(table) for table in space.tables]
        if math.prod(lengths) > 3_000:
            return
        for rows in itertools.product(*map(range, lengths)):
            if (priced := price_of(space, rows, machine, problem)) is not None:
                seconds, joules = priced
                for o, first in enumerate((seconds, joules, seconds * joules)):
                    least[o] = min(least[o], (first, seconds, joules))
    for o in range(len(OBJECTIVES)):
        key, place, (_, _, left) = run(grove, problem, machine, o)
        assert key == pytest.approx(least[o], rel=1e-12)
        assert left == math.inf
        if least[o] != NOTHING:
            space = grove.spaces[place[0]]
            again = price_of(space, place[1 : 1 + len(space.parts)], machine, problem)
            assert again == pytest.approx(key[1:], rel=1e-12)


@given(st.data())
def test_what_is_known_is_only_replaced_by_better(data: st.DataObject) -> None:
    """Given the optimum nothing is found; given a little more, the optimum is found again."""
    problem, machine = data.draw(operators(points=60)), data.draw(machines())
    grove = grove_of(problem, skeleton(machine), Constraint(), NATIVE, (), "perfect")
    if grove is None:
        return
    for objective in range(3):
        key, _, _ = run(grove, problem, machine, objective)
        again, place, (_, leaves, _) = run(grove, problem, machine, objective, known=key)
        assert again == key
        assert leaves == 0
        assert not any(place)
        if key != NOTHING:
            worse = (key[0], key[1], key[2] * 1.01)
            assert run(grove, problem, machine, objective, known=worse)[0] == key


@given(st.data())
def test_a_search_cut_short_says_what_may_be_left(data: st.DataObject) -> None:
    """The least bound left is at most the optimum, or the optimum was found."""
    problem, machine = data.draw(operators(points=60)), data.draw(machines())
    grove = grove_of(problem, skeleton(machine), Constraint(), NATIVE, (), "any")
    if grove is None:
        return
    objective = data.draw(st.integers(0, 2))
    optimum, _, (boxes, _, _) = run(grove, problem, machine, objective)
    budget = data.draw(st.integers(1, boxes))
    key, _, (used, _, left) = run(grove, problem, machine, objective, budget=budget)
    assert used <= max(budget, len(grove.spaces)) + 2
    assert min(key[0], left) <= optimum[0] <= key[0]
