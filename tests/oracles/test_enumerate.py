"""The enumerating oracle itself: its walk, what it enumerates, and cases done by hand."""

import itertools
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hwopt.hardware.accelerator import ROLES, Accelerator, Compute, Fanout, FanoutDim, Memory
from hwopt.hardware.conventions import NATIVE
from hwopt.ir.access import Axis, parse_access
from hwopt.mapping.analysis import price
from hwopt.mapping.mapping import Keep, Loop, Mapping
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.simulate import simulate
from hwopt.testing import conventions, machines, mappings, problems
from tests.oracles.enumerate import OBJECTIVES, optimum, walked


def matmul(m: int, k: int, n: int) -> Problem:
    """Input (m, k) x weight (k, n) -> output (m, n), one byte each."""
    return Problem(
        (Axis("m", m), Axis("k", k), Axis("n", n)),
        (
            Operand("input", parse_access("m", "k"), (m, k), 8),
            Operand("weight", parse_access("k", "n"), (k, n), 8),
            Operand("output", parse_access("m", "n"), (m, n), 8),
        ),
    )


def machine(capacity: float, lanes: int = 1, bypass: tuple[str, ...] = ()) -> Accelerator:
    """DRAM (10 J/byte, 1 byte/s), a buffer (1 J/byte), lanes."""
    return Accelerator(
        name="two levels", clock_hz=1.0,
        levels=(
            Memory(name="DRAM", kind="dram", bytes_per_s=1.0, read_joules_per_byte=10,
                   write_joules_per_byte=10),
            Memory(name="GLB", capacity_bytes=capacity, bypass=bypass, read_joules_per_byte=1,
                   write_joules_per_byte=1),
            Fanout(name="PE", dims=(FanoutDim(name="x", size=lanes),)),
        ),
        compute=Compute(joules_per_mac=0),
    )  # fmt: skip


@given(st.data())
def test_its_walk_is_the_definition(data: st.DataObject) -> None:
    """Every count of any legal mapping, on any machine, under all conventions but padded edges,
    equals the simulator's.
    """
    problem, accelerator = data.draw(problems(largest=4, points=100)), data.draw(machines())
    mapping, rules = data.draw(mappings(problem, accelerator)), data.draw(conventions())
    assume(rules.edges == "exact" and accelerator.lanes <= 64)
    try:
        row, _ = walked(problem, mapping, accelerator, rules)
    except ValueError:
        assume(False)  # a tensor beyond 64 elements
    assert row == simulate(problem, mapping, accelerator, rules).row(accelerator).tolist()


@settings(max_examples=settings.default.max_examples // 3)
@given(st.data())
def test_no_mapping_drawn_at_random_is_better(data: st.DataObject) -> None:
    """Mappings of every legal form (loops that repeat an axis, spreads in any order) cost at least
    the optimum in each objective.
    """
    problem = data.draw(problems(largest=3, points=24))
    accelerator = machine(data.draw(st.integers(3, 12)), data.draw(st.integers(1, 3)), ROLES)
    mapping = data.draw(mappings(problem, accelerator))
    try:
        best = optimum(problem, accelerator)
    except ValueError:
        assume(False)
    paid = price(simulate(problem, mapping, accelerator).row(accelerator), accelerator,
                 problem.points)  # fmt: skip
    for objective in OBJECTIVES:
        assert best.key[objective] <= paid.key(objective)


def test_what_fits_is_fetched_once() -> None:
    """A buffer for everything: 4 + 4 + 4 bytes pass the DRAM once (energy 120 and 24 in GLB fills
    and drains), each of 8 steps reads two bytes, writes one, and reads one back in half of them.
    """
    best = optimum(matmul(2, 2, 2), machine(12))
    assert best.key["energy"] == (120 + 12 + 8 * 2 + 8 + 4, 12.0, 160.0)
    assert best.key["latency"] == (12.0, 12.0, 160.0)


def test_one_element_of_each() -> None:
    """Three bytes: output stationary reads 8 + 8 and writes 4; with the input stationary it is
    4 + 8 reads, 8 writes and 4 reads back.
    """
    best = optimum(matmul(2, 2, 2), machine(3))
    assert best.key["latency"][0] == 20.0


def test_uneven_tiles_are_there() -> None:
    """Five bytes, 3 x 3 x 3: with three keeps at one depth 54 bytes pass at least, as all even
    mappings, tried here one by one, show; uneven ones need 45.
    """
    problem, accelerator, even = matmul(3, 3, 3), machine(5), math.inf
    for tiles in itertools.product(range(1, 4), repeat=3):
        for order in itertools.permutations("mkn"):
            tile = dict(zip("mkn", tiles, strict=True))
            nodes = [Keep("DRAM", ROLES), *(Loop(a, tile[a]) for a in order)]
            nodes += [Keep("GLB", ROLES), *(Loop(a, 1) for a in "mkn")]
            even = min(even, walked(problem, Mapping(tuple(nodes)), accelerator)[1][0])
    assert even == 54
    assert optimum(problem, accelerator).key["latency"][0] == 45


def test_bypass_is_there() -> None:
    """Where a buffer costs as much as the DRAM, operands that are used once pass it by."""
    problem = matmul(1, 4, 1)
    kept, free = (optimum(problem, machine(16, 1, roles)).key["energy"] for roles in ((), ROLES))
    # Kept: 9 bytes through both (90 + 9 + 9), sums updated 4 times and read back 3 times.
    assert kept[0] == 90 + 8 + 8 + 1 + 4 + 3
    # By-passed inputs and weights: 80 from DRAM; output kept in the buffer: 4 + 3, 1 + 10.
    assert free[0] == 80 + 4 + 3 + 1 + 10


def test_perfect_factors_divide() -> None:
    """5 over 3 lanes: 3 and 2 (two steps) with any tile, one by one with divisors."""
    problem = matmul(1, 1, 5)
    fast = machine(100, 3).model_copy(update={"clock_hz": 1 / 64})
    assert optimum(problem, fast).key["latency"][0] == 2 * 64
    assert optimum(problem, fast, factors="perfect").key["latency"][0] == 5 * 64


def test_nothing_fits() -> None:
    """Two bytes do not hold three elements."""
    assert optimum(matmul(2, 2, 2), machine(2)).key["latency"][0] == math.inf


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_slide(stride: int) -> None:
    """A buffer of one window, one weight row and one sum: each input is fetched once under
    "shift", stride 2 included.
    """
    size = stride * 3 + 3
    problem = Problem(
        (Axis("p", 4), Axis("r", 3)),
        (
            Operand("input", parse_access(f"{stride}*p + r"), (size,), 8),
            Operand("weight", parse_access("r"), (3,), 8),
            Operand("output", parse_access("p"), (4,), 8),
        ),
    )
    assert optimum(problem, machine(7)).key["latency"][0] == size + 3 + 4


def test_known_keys_prune_but_never_hide() -> None:
    """With the optimum's own key given, it stands; with a worse one, it is still found."""
    problem, accelerator = matmul(3, 2, 3), machine(6, 2)
    free = optimum(problem, accelerator)
    again = optimum(problem, accelerator, known=free.key)
    assert again.key == free.key
    assert again.walked <= free.walked
    worse = {o: (k[0] * 2, k[1] * 2, k[2] * 2) for o, k in free.key.items()}
    assert optimum(problem, accelerator, known=worse).key == free.key


def test_the_mapping_it_returns_has_the_key() -> None:
    """Simulated and priced by the model itself."""
    problem, accelerator = matmul(4, 3, 2), machine(7, 2, ("weight",))
    best = optimum(problem, accelerator)
    for objective in OBJECTIVES:
        mapping = best.mapping[objective]
        assert mapping is not None
        row = simulate(problem, mapping, accelerator, NATIVE).row(accelerator)
        assert price(row, accelerator, problem.points).key(objective) == best.key[objective]


def test_a_least_use_is_met() -> None:
    """Four outputs on four lanes: of 3 lanes at least, all 4 work, for tiles of 2 or 3 use two;
    more lanes than there are can not.
    """
    problem, accelerator = matmul(1, 1, 4), machine(16, 4)
    used = optimum(problem, accelerator, least_use={"PE.x": 3})
    for objective in OBJECTIVES:
        assert "spread n in tiles of 1 over PE.x" in str(used.mapping[objective])
    assert optimum(problem, accelerator, least_use={"PE.x": 5}).key["energy"][0] == math.inf
