"""Optimisers: nothing asked twice, exact continuation, fronts equal to enumeration."""

import json

import numpy as np
import pytest

from hwopt.dse.front import non_dominated
from hwopt.dse.optimizer import make_optimizer, unrank
from hwopt.errors import StudyError

KINDS = ("nsga2", "random", "enumerate")


def bent(codes, counts):
    """A two-objective test problem (Zitzler's first, on a grid) with one constraint."""
    x = codes / (counts - 1)
    tail = 1 + 9 * x[:, 1:].mean(axis=1)
    objectives = np.stack([x[:, 0], tail * (1 - np.sqrt(x[:, 0] / tail))], axis=1)
    return objectives, (0.1 - x[:, 0])[:, None]


def search(kind, counts, rounds, stop=None, population=16):
    """All designs asked for; with `stop`, state goes through JSON into a new optimiser there."""
    optimizer = make_optimizer(kind, counts, population, 11)
    asked = []
    for index in range(rounds):
        codes = optimizer.ask()
        if not len(codes):
            break
        optimizer.tell(codes, *bent(codes, counts))
        asked.append(codes)
        if index == stop:
            state = json.loads(json.dumps(optimizer.state(), allow_nan=False))
            optimizer = make_optimizer(kind, counts, population, 11)
            optimizer.remember(np.concatenate(asked))
            optimizer.restore(state)
    return np.concatenate(asked)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [0, 1, 5])
def test_restored_state_continues_exactly(kind, stop):
    """Ask for the same designs in the same order with and without a stop."""
    counts = np.array([9, 5, 7, 6])
    assert np.array_equal(search(kind, counts, 12), search(kind, counts, 12, stop))


@pytest.mark.parametrize("kind", KINDS)
def test_never_asks_twice_and_exhausts_a_small_space(kind):
    """Every design of a small space is asked for exactly once, then nothing more."""
    counts = np.array([4, 3, 3])
    asked = search(kind, counts, 100, population=5)
    assert len(asked) == 36
    assert len({row.tobytes() for row in asked}) == 36


def test_front_equals_enumeration_before_the_space_is_exhausted():
    """NSGA-II finds the whole front of 3,600 designs while pricing less than a third of them."""
    counts = np.array([25, 6, 6, 4])
    every = search("enumerate", counts, 10_000, population=100)
    objectives, violations = bent(every, counts)
    feasible = (violations <= 0).all(axis=1)
    rows = np.flatnonzero(feasible)
    truth = {row.tobytes() for row in objectives[rows][non_dominated(objectives[rows])]}
    asked = search("nsga2", counts, 30, population=32)
    assert len(asked) < len(every) / 3
    found, held = bent(asked, counts)
    found = found[(held <= 0).all(axis=1)]
    assert {row.tobytes() for row in found[non_dominated(found)]} == truth


def test_nsga2_beats_random_search():
    """At an equal budget NSGA-II comes nearer to the front than random search."""
    counts = np.full(8, 17)
    last = {}
    for kind in ("nsga2", "random"):
        objectives, _ = bent(search(kind, counts, 30, population=32), counts)
        last[kind] = objectives.sum(axis=1).min()
    assert last["nsga2"] < last["random"]


def test_limit_shortens_a_batch():
    """A batch never exceeds what the budget still allows, and tell accepts the short one."""
    counts = np.array([9, 9])
    optimizer = make_optimizer("nsga2", counts, 16, 1)
    for limit in (None, 5, 3):
        codes = optimizer.ask(limit)
        assert len(codes) == (limit or 16)
        optimizer.tell(codes, *bent(codes, counts))


def test_a_space_of_one_design():
    """No free knob: one design, once."""
    optimizer = make_optimizer("nsga2", np.zeros(0, dtype=np.int64), 8, 1)
    codes = optimizer.ask()
    assert codes.shape == (1, 0)
    optimizer.tell(codes, np.ones((1, 2)), np.zeros((1, 1)))
    assert len(optimizer.ask()) == 0


def test_unrank_counts_like_an_odometer():
    """The last knob changes fastest, as in `DesignSpace.every`."""
    counts = np.array([2, 3])
    assert [unrank(i, counts).tolist() for i in range(6)] == [
        [0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2],
    ]  # fmt: skip


def test_unknown_optimizer():
    """One clear error."""
    with pytest.raises(StudyError, match="unknown optimizer"):
        make_optimizer("annealing", np.array([2]), 4, 1)
