"""Prices from tiles alone against the closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwopt.errors import MappingError
from hwopt.hardware.accelerator import Accelerator
from hwopt.hardware.conventions import ACCELFORGE, NATIVE, TIMELOOP, Conventions
from hwopt.hardware.library import load
from hwopt.ir.access import Axis, parse_access
from hwopt.ir.program import Constraint
from hwopt.mapping.analysis import price
from hwopt.mapping.mapping import Keep, Mapping, Spread
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.scratch import price_mappings
from hwopt.mapping.template import templates
from hwopt.mapping.traffic import analyse
from hwopt.testing import conventions, mappings, problems
from tests.oracles.small import machines


def analysed(
    problem: Problem, mapping: Mapping, machine: Accelerator, rules: Conventions,
    resident: dict[str, str] | None = None,
) -> tuple[float, float]:  # fmt: skip
    """Seconds and joules by the closed forms."""
    row = analyse(problem, mapping, machine, rules, resident).row(machine)
    paid = price(row, machine, problem.points)
    return paid.seconds, paid.joules


@given(st.data())
def test_prices_equal_the_closed_forms(data: st.DataObject) -> None:
    """Any nest, machine, convention, resident operand and legal mapping: the same floats."""
    problem, machine = data.draw(problems(points=300)), data.draw(machines(deep=True))
    rules = data.draw(st.one_of(st.sampled_from((NATIVE, ACCELFORGE, TIMELOOP)), conventions()))
    mapping = data.draw(mappings(problem, machine, ordered=rules.fetch != "hoisted"))
    homes = [(r, n.memory) for n in mapping.nodes if isinstance(n, Keep) for r in n.roles]
    resident = dict(data.draw(st.lists(st.sampled_from(homes), max_size=1)))
    tiles = np.array([[0 if isinstance(n, Keep) else n.tile for n in mapping.nodes]])
    found = price_mappings(problem, mapping, machine, tiles, rules, resident)
    assert tuple(found[0]) == analysed(problem, mapping, machine, rules, resident)


def matmul(m: int, k: int, n: int) -> Problem:
    """Input (m, k) x weight (k, n) -> output (m, n), 8 bits."""
    return Problem(
        (Axis("m", m), Axis("k", k), Axis("n", n)),
        (
            Operand("input", parse_access("m", "k"), (m, k), 8),
            Operand("weight", parse_access("k", "n"), (k, n), 8),
            Operand("output", parse_access("m", "n"), (m, n), 8),
        ),
    )


def random_tiles(
    problem: Problem, mapping: Mapping, rows: int, *, perfect: bool, seed: int
) -> np.ndarray:
    """Random nested tiles, divisors if `perfect`; most loops take several trips."""
    rng = np.random.default_rng(seed)
    tiles = np.ones((rows, len(mapping.nodes)), np.int64)
    for axis, size in problem.sizes.items():
        own = [n for n, node in enumerate(mapping.nodes)
               if not isinstance(node, Keep) and node.axis == axis]  # fmt: skip
        for row in range(rows):
            extent = size
            for n in own[:-1]:
                options = [t for t in range(1, extent + 1) if not perfect or extent % t == 0]
                extent = tiles[row, n] = rng.choice(options)
    return tiles


@pytest.mark.parametrize("perfect", [True, False])
@pytest.mark.parametrize("rules", [NATIVE, ACCELFORGE], ids=lambda rules: rules.name)
def test_many_mappings_of_one_template(rules: Conventions, *, perfect: bool) -> None:
    """Loops of one trip among others, spreads that fit and that do not, edges and none."""
    machine = load("eyeriss").resolved()
    problem = matmul(24, 12, 18)
    finite = 0
    for number, template in enumerate(templates(problem, machine, Constraint(), {}, rules)[:6]):
        mapping = Mapping(template.nodes)
        tiles = random_tiles(problem, mapping, 60, perfect=perfect, seed=number)
        found = price_mappings(problem, mapping, machine, tiles, rules)
        for row, (seconds, joules) in zip(tiles.tolist(), found.tolist(), strict=True):
            one = Mapping(tuple(
                node if isinstance(node, Keep) else replace(node, tile=tile)
                for node, tile in zip(mapping.nodes, row, strict=True)
            ))  # fmt: skip
            if _wide(one, problem, machine):
                assert seconds == joules == np.inf
                continue
            assert (seconds, joules) == analysed(problem, one, machine, rules)
            finite += np.isfinite(seconds)
    assert finite > 20


def _wide(mapping: Mapping, problem: Problem, machine: Accelerator) -> bool:
    """Whether spreads exceed a dimension of a fan-out."""
    rooms = {(f.name, d.name): d.size for f in machine.fanouts for d in f.dims}
    extent = dict(problem.sizes)
    for node in mapping.nodes:
        if isinstance(node, Keep):
            continue
        if isinstance(node, Spread):
            rooms[node.fanout, node.dim] /= -(-extent[node.axis] // node.tile)
        extent[node.axis] = node.tile
    return min(rooms.values()) < 1


def test_tiles_that_are_not_nested() -> None:
    """A tile larger than the one around it, or a last tile above 1, is refused with its row."""
    machine, problem = load("nvdla").resolved(), matmul(4, 4, 4)
    mapping = Mapping(templates(problem, machine, Constraint(), {}, NATIVE)[0].nodes)
    tiles = np.ones((3, len(mapping.nodes)), np.int64)
    tiles[2, next(n for n, o in enumerate(mapping.nodes) if not isinstance(o, Keep))] = 5
    with pytest.raises(MappingError, match="row 2"):
        price_mappings(problem, mapping, machine, tiles)
