"""Staircases: an argmin over their rows is the best mapping of the same mapspace."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwopt.errors import HwoptError, InfeasibleError
from hwopt.hardware.accelerator import Accelerator, Compute, Fanout, FanoutDim, Memory
from hwopt.ir.access import Axis, parse_access
from hwopt.mapping.analysis import OBJECTIVES, price
from hwopt.mapping.best import best_mapping
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.staircase import Staircase, staircase
from hwopt.mapping.traffic import analyse

GRID = {"GLB": (8.0, 20.0, 60.0, 200.0)}


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


def convolution() -> Problem:
    """A 3x3 convolution with padding on 6x6."""
    names = {"k": 4, "c": 2, "p": 6, "q": 6, "r": 3, "s": 3}
    return Problem(
        tuple(Axis(name, size) for name, size in names.items()),
        (
            Operand("input", parse_access("c", "p+r-1", "q+s-1", fill=0.0), (2, 6, 6), 8),
            Operand("weight", parse_access("k", "c", "r", "s"), (4, 2, 3, 3), 8),
            Operand("output", parse_access("k", "p", "q"), (4, 6, 6), 8),
        ),
    )


def machine(
    capacity: float = 60.0, ports: tuple[float, ...] = (1e9, 1e9, 8e9),
    energies: tuple[float, ...] = (64.0, 64.0, 2.0, 2.0, 0.1, 0.2),
) -> Accelerator:  # fmt: skip
    """DRAM with two ports, a shared-port buffer, four PEs with a weight register."""
    read, write, shared = ports
    e = [value * 1e-12 for value in energies]
    return Accelerator(
        name="three levels",
        clock_hz=1e9,
        levels=(
            Memory(
                name="DRAM", kind="dram", read_bytes_per_s=read, write_bytes_per_s=write,
                read_joules_per_byte=e[0], write_joules_per_byte=e[1],
            ),
            Memory(
                name="GLB", capacity_bytes=capacity, bytes_per_s=shared,
                read_joules_per_byte=e[2], write_joules_per_byte=e[3],
            ),
            Fanout(name="PE", dims=(FanoutDim(name="x", size=4),)),
            Memory(
                name="reg", kind="register", keeps=("weight",),
                read_joules_per_byte=e[4], write_joules_per_byte=e[5],
            ),
        ),
        compute=Compute(joules_per_mac=1e-12),
    )  # fmt: skip


def _exact(problem: Problem) -> Staircase:
    found = staircase(
        problem, machine(), GRID, factors="perfect", most=20_000, budget=20_000_000, cache=False
    )
    assert found.exhausted
    assert found.gap == 0
    return found


@settings(max_examples=20)
@given(
    st.sampled_from([matmul(12, 8, 6), matmul(1, 16, 9), matmul(5, 7, 3), convolution()]),
    st.sampled_from(GRID["GLB"]),
    st.tuples(*[st.sampled_from([1e8, 1e9, 3e9, 1e11])] * 3),
    st.tuples(*[st.floats(0, 100)] * 6),
    st.sampled_from(OBJECTIVES),
)
def test_argmin_equals_best_mapping_on_random_designs(
    problem: Problem, capacity: float, ports: tuple[float, ...],
    energies: tuple[float, ...], objective: str,
) -> None:  # fmt: skip
    """Any capacity of the grid, any bandwidths and energies: equal objective, over one mapspace."""
    design = machine(capacity, ports, energies)
    found = _exact(problem).best(design, objective)[1]
    best = best_mapping(problem, design, objective=objective, factors="perfect")
    assert best.certificate.exhausted
    key = price(best.analysis.row(design), design, problem.points).key(objective)
    assert found.key(objective)[0] == pytest.approx(key[0], rel=1e-12)


def test_rows_are_the_analyses_of_their_mappings() -> None:
    """Every row is what the closed forms say of its mapping, sliding windows included."""
    problem, accelerator = convolution(), machine()
    found = staircase(problem, accelerator, GRID, budget=20_000, cache=False)
    for index in range(0, len(found), max(1, len(found) // 25)):
        analysis = analyse(problem, found.mapping(index), accelerator)
        assert np.array_equal(analysis.row(accelerator), found.rows[index])


def test_few_rows_within_a_stated_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thinned to `most` rows, any design is within the gap of the exact staircase."""
    monkeypatch.setattr("hwopt.mapping.staircase.LOOSEST", 100.0)
    problem = matmul(24, 16, 12)
    exact = _exact(problem)
    most = len(exact) * 2 // 3
    few = staircase(
        problem, machine(), GRID, factors="perfect", most=most, budget=20_000_000,
        cache=False,
    )  # fmt: skip
    assert few.exhausted
    assert len(few) <= most
    assert few.gap > 0
    for capacity in GRID["GLB"]:
        for objective in ("latency", "energy"):
            design = machine(capacity)
            best = exact.best(design, objective)[1].key(objective)[0]
            found = few.best(design, objective)[1].key(objective)[0]
            assert best <= found <= best * (1 + few.gap) * (1 + 1e-12)


def test_never_more_rows_than_asked_for() -> None:
    """Where thinning would lose too much, the search ends instead and says so."""
    few = staircase(matmul(24, 16, 12), machine(), GRID, most=8, cache=False)
    assert len(few) <= 8
    assert not few.exhausted


def test_remembered_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process reads what the first wrote; a torn file is made anew."""
    from hwopt.mapping import staircase as module

    monkeypatch.setenv("HWOPT_CACHE", str(tmp_path))
    first = staircase(matmul(6, 6, 6), machine(), GRID)
    module._cached.cache_clear()
    (path,) = tmp_path.rglob("*.npz")
    again = staircase(matmul(6, 6, 6), machine(), GRID)
    assert np.array_equal(first.rows, again.rows)
    assert first.texts == again.texts
    assert (first.gap, first.exhausted) == (again.gap, again.exhausted)
    path.write_bytes(path.read_bytes()[:100])
    module._cached.cache_clear()
    assert staircase(matmul(6, 6, 6), machine(), GRID).texts == first.texts


def test_what_cannot_fit_is_one_clear_error() -> None:
    """A grid below one element of each operand, a design below the grid, an unknown memory."""
    with pytest.raises(InfeasibleError, match="largest capacities"):
        staircase(matmul(4, 4, 4), machine(), {"GLB": (2.0,)}, cache=False)
    with pytest.raises(InfeasibleError, match="no mapping of the staircase fits"):
        staircase(matmul(40, 40, 40), machine(), {"GLB": (60.0,)}, cache=False).best(
            machine(1.0), "latency"
        )
    with pytest.raises(HwoptError, match="no such memory"):
        staircase(matmul(4, 4, 4), machine(), {"L7": (2.0,)}, cache=False)


def test_capacities_and_prices_of_the_structure_do_not_matter() -> None:
    """Two designs of one structure share their staircase."""
    one = staircase(matmul(8, 8, 8), machine(60.0), GRID)
    two = staircase(matmul(8, 8, 8), machine(7.0, (math.pi, 1.0, 2.0)), GRID)
    assert one is two
