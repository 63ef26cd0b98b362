"""The mapper against exhaustive enumeration, and its promises."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwopt.errors import InfeasibleError, SizeError
from hwopt.hardware.accelerator import ROLES, Accelerator, Compute, Fanout, FanoutDim, Memory
from hwopt.hardware.conventions import NATIVE
from hwopt.ir.access import Axis, parse_access
from hwopt.ir.program import Constraint
from hwopt.mapping.analysis import OBJECTIVES, price
from hwopt.mapping.best import best_mapping
from hwopt.mapping.mapping import Keep, Loop, Mapping, Spread
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.simulate import simulate
from hwopt.mapping.traffic import analyse
from hwopt.testing import machines, problems


def matmul(m: int, k: int, n: int, bits: int = 8) -> Problem:
    """Input (m, k) x weight (k, n) -> output (m, n)."""
    return Problem(
        (Axis("m", m), Axis("k", k), Axis("n", n)),
        (
            Operand("input", parse_access("m", "k"), (m, k), bits),
            Operand("weight", parse_access("k", "n"), (k, n), bits),
            Operand("output", parse_access("m", "n"), (m, n), bits),
        ),
    )


def machine(buffer_bytes: float, lanes: int = 1) -> Accelerator:
    """DRAM, one buffer, a fan-out."""
    return Accelerator(
        name="two levels",
        clock_hz=1e9,
        levels=(
            Memory(
                name="DRAM", kind="dram", bytes_per_s=2e9,
                read_joules_per_byte=64e-12, write_joules_per_byte=64e-12,
            ),
            Memory(
                name="GLB", capacity_bytes=buffer_bytes, bytes_per_s=16e9,
                read_joules_per_byte=2e-12, write_joules_per_byte=2e-12,
            ),
            Fanout(name="PE", dims=(FanoutDim(name="x", size=lanes),)),
        ),
        compute=Compute(joules_per_mac=1e-12),
    )  # fmt: skip


def exhaustive(problem: Problem, accelerator: Accelerator, objective: str) -> tuple[float, ...]:
    """The least key over every order of uneven keeps, loop order and tile, and every spread."""
    sizes = problem.sizes
    roles = tuple(ROLES)
    best = (math.inf,) * 3
    for order in itertools.permutations(roles):
        for tiles in itertools.product(
            *(
                [
                    (a, b, c, d)
                    for a in range(1, size + 1)
                    for b in range(1, a + 1)
                    for c in range(1, b + 1)
                    for d in range(1, c + 1)
                    if -(-c // d) <= accelerator.fanouts[0].size and len({size, a, b, c, d}) <= 4
                ]
                for size in sizes.values()
            )
        ):
            copies = math.prod(-(-t[2] // t[3]) for t in tiles)
            if copies > accelerator.fanouts[0].size:
                continue
            for loops in itertools.permutations(sizes):
                place = dict(zip(sizes, tiles, strict=True))
                nodes = [Keep("DRAM", roles)]
                for level, role in enumerate(order):
                    nodes += [Loop(axis, place[axis][level]) for axis in loops]
                    nodes.append(Keep("GLB", (role,)))
                nodes += [Spread("PE", "x", axis, place[axis][3]) for axis in loops]
                nodes += [Loop(axis, 1) for axis in loops]
                row = analyse(problem, Mapping(tuple(nodes)), accelerator).row(accelerator)
                best = min(best, price(row, accelerator, problem.points).key(objective))
    return best


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("sizes", "capacity", "lanes"), [((2, 3, 2), 7, 2), ((3, 2, 1), 5, 1)])
def test_equals_exhaustive_enumeration(
    objective: str, sizes: tuple[int, int, int], capacity: float, lanes: int
) -> None:
    """No mapping with three uneven keeps, any loop order and any tile is better."""
    problem, accelerator = matmul(*sizes), machine(capacity, lanes)
    best = best_mapping(problem, accelerator, objective=objective)
    found = price(best.analysis.row(accelerator), accelerator, problem.points).key(objective)
    assert best.certificate.exhausted
    assert found[0] <= exhaustive(problem, accelerator, objective)[0] * (1 + 1e-12)


@settings(max_examples=12)
@given(st.data())
def test_every_result_is_legal_priced_by_its_analysis_and_equal_to_the_simulator(
    data: st.DataObject,
) -> None:
    """On any machine and nest with unlimited memories there is a result, and it is what it says."""
    problem, accelerator = data.draw(problems(largest=4, points=200)), data.draw(machines())
    best = best_mapping(problem, accelerator, budget=500)
    assert simulate(problem, best.mapping, accelerator) == best.analysis
    paid = price(best.analysis.row(accelerator), accelerator, problem.points)
    assert (paid.seconds, paid.joules) == pytest.approx((best.seconds, best.joules), rel=1e-12)


def test_the_search_prices_mappings_as_the_analysis_does() -> None:
    """The bound of a single mapping is its price: the key found is the price of the analysis."""
    for capacity in (3, 64, 4096):
        accelerator = machine(capacity, 4)
        best = best_mapping(matmul(17, 30, 9), accelerator, objective="edp")
        paid = price(best.analysis.row(accelerator), accelerator, 17 * 30 * 9)
        assert paid.feasible
        assert best.seconds * best.joules == pytest.approx(paid.seconds * paid.joules, rel=1e-12)


def test_tiny_buffers_are_feasible_down_to_one_element_each() -> None:
    """Three bytes hold one element of each operand; two do not, and the error says so."""
    assert best_mapping(matmul(64, 64, 64), machine(3)).seconds > 0
    with pytest.raises(InfeasibleError, match=r"GLB.*\n.*3 B.*\n.*2 B usable"):
        best_mapping(matmul(64, 64, 64), machine(2))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_more_capacity_is_never_worse(objective: str) -> None:
    """Where the search is exhausted, the objective does not rise with the capacity."""
    last = math.inf
    for capacity in (3, 8, 20, 64, 200, 1000):
        accelerator = machine(capacity, 4)
        best = best_mapping(matmul(12, 10, 8), accelerator, objective=objective, budget=2_000_000)
        assert best.certificate.exhausted
        key = price(best.analysis.row(accelerator), accelerator, 960).key(objective)[0]
        assert key <= last
        last = key


def test_any_integer_tiles_are_never_worse_than_divisors() -> None:
    """Divisors are searched first, and their result is the incumbent of the rest."""
    for sizes in ((30, 17, 22), (64, 64, 64), (1, 256, 100)):
        accelerator = machine(500, 16)
        perfect = best_mapping(matmul(*sizes), accelerator, factors="perfect")
        free = best_mapping(matmul(*sizes), accelerator, factors="any")
        assert (free.seconds, free.joules) <= (perfect.seconds, perfect.joules)


def test_swapping_rows_and_columns_changes_nothing() -> None:
    """A transposed matrix product costs the same where input and weight are treated alike."""
    accelerator = machine(60, 4)
    one = best_mapping(matmul(9, 7, 5), accelerator, budget=2_000_000)
    two = best_mapping(matmul(5, 7, 9), accelerator, budget=2_000_000)
    assert one.certificate.exhausted
    assert two.certificate.exhausted
    assert (one.seconds, one.joules) == pytest.approx((two.seconds, two.joules), rel=1e-12)


def test_wider_elements_in_a_wider_machine_cost_the_same_time() -> None:
    """16-bit elements with twice the bytes and twice the bandwidth: the same mapping and time."""
    small = machine(60, 4)
    dram, buffer, fanout = small.levels
    wide = small.model_copy(update={"levels": (
        dram.model_copy(update={"bytes_per_s": 4e9}),
        buffer.model_copy(update={"bytes_per_s": 32e9, "capacity_bytes": 120.0}), fanout,
    )})  # fmt: skip
    one, two = best_mapping(matmul(9, 7, 5), small), best_mapping(matmul(9, 7, 5, 16), wide)
    assert one.mapping == two.mapping
    assert one.seconds == two.seconds


def test_constraints_hold() -> None:
    """Spatial axes and the largest tile of a memory are obeyed; perfect means divisors."""
    constraint = Constraint(
        spatial=(("x", ("n",)),), tile=(("GLB", (("k", 4),)),), factors="perfect"
    )
    best = best_mapping(matmul(12, 12, 12), machine(1000, 5), constraint=constraint)
    spreads = [node for node in best.mapping.nodes if isinstance(node, Spread)]
    assert {node.axis for node in spreads} <= {"n"}
    loops = [node for node in best.mapping.nodes if not isinstance(node, Keep)]
    assert all(12 % node.tile == 0 for node in loops)
    for role in ("input", "weight"):
        first = next(
            i for i, n in enumerate(best.mapping.nodes)
            if isinstance(n, Keep) and n.memory == "GLB" and role in n.roles
        )  # fmt: skip
        above = best.mapping.nodes[:first]
        assert min(n.tile for n in above if not isinstance(n, Keep) and n.axis == "k") <= 4


def test_resident_operands_have_no_traffic_outside() -> None:
    """A resident output stays in the buffer: charged whole there, never in the outer memory."""
    problem, accelerator = matmul(8, 8, 8), machine(100, 4)
    best = best_mapping(problem, accelerator, resident={"output": "GLB"})
    dram, buffer = best.analysis.flows["DRAM"]["output"], best.analysis.flows["GLB"]["output"]
    assert (dram.total_read, dram.total_write, buffer.footprint) == (0, 0, 64)
    assert simulate(problem, best.mapping, accelerator, NATIVE, {"output": "GLB"}) == best.analysis
    with pytest.raises(InfeasibleError, match="output 64 B"):
        best_mapping(problem, machine(60), resident={"output": "GLB"})


def test_sequential_axes_stay_outermost() -> None:
    """The time axis of a recurrence is walked first, one step at a time."""
    problem = matmul(6, 4, 3)
    problem = Problem(problem.axes, problem.operands, ("m",))
    best = best_mapping(problem, machine(100, 4))
    steps = [node for node in best.mapping.nodes if not isinstance(node, Keep)]
    assert steps[0] == Loop("m", 1)


def test_deterministic() -> None:
    """The same question has the same answer, mapping included."""
    results = {str(best_mapping(matmul(33, 21, 10), machine(80, 6)).mapping) for _ in range(2)}
    assert len(results) == 1


def test_counts_beyond_float64_are_refused() -> None:
    """More than 2**53 multiply-accumulates cannot be counted exactly."""
    with pytest.raises(SizeError, match="too large"):
        best_mapping(matmul(2**20, 2**20, 2**20), machine(1000))


def test_rows_have_a_name_per_column() -> None:
    """Row layout: steps, then five columns per memory."""
    from hwopt.mapping.traffic import row_columns

    accelerator = machine(100)
    best = best_mapping(matmul(4, 4, 4), accelerator)
    row = best.analysis.row(accelerator)
    assert len(row_columns(accelerator)) == len(row) == 11
    assert row[row_columns(accelerator).index("steps")] == best.analysis.steps
    assert np.all(row >= 0)


def test_a_template_of_a_single_mapping_is_priced() -> None:
    """Every operand may pass by the buffer: keeping them there is still found to be better."""
    base = machine(1000)
    dram, buffer, fanout = base.levels
    free = base.model_copy(update={"levels": (
        dram, buffer.model_copy(update={"bypass": ROLES}), fanout,
    )})  # fmt: skip
    one = best_mapping(matmul(16, 16, 16), base, objective="energy")
    two = best_mapping(matmul(16, 16, 16), free, objective="energy")
    assert two.joules <= one.joules
    assert any(isinstance(node, Keep) and node.memory == "GLB" for node in two.mapping.nodes)
