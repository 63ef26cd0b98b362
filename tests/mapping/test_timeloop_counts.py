"""Timeloop's way of counting: where it equals the definition, and where it does not."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hwopt.errors import MappingError, SizeError
from hwopt.hardware.accelerator import Accelerator, Memory
from hwopt.hardware.conventions import TIMELOOP
from hwopt.ir.access import Axis, parse_access
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.simulate import simulate
from hwopt.mapping.timeloop import Bound, TimeloopLevel, from_levels
from hwopt.mapping.timeloop_counts import (
    TIMELOOP_2022,
    TIMELOOP_2025,
    Port,
    count,
    cycles,
    longest,
)
from hwopt.mapping.timeloop_text import on_machine, parse_text
from hwopt.testing import machines, problems

ROLES = ("input", "weight", "output")
ROW = Problem(
    (Axis("P", 8), Axis("R", 3), Axis("K", 2)),
    (
        Operand("input", parse_access("P + R"), (10,), 8),
        Operand("weight", parse_access("K", "R"), (2, 3), 8),
        Operand("output", parse_access("K", "P"), (2, 8), 8),
    ),
)
"""A row of 8 outputs with a window of 3, for 2 kernels."""


def loop(axis: str, bound: int, fanout: str = "", dim: str = "") -> Bound:
    return Bound(axis, bound, bound, fanout, dim)


def two(outer: tuple[Bound, ...], inner: tuple[Bound, ...], spatial=()) -> tuple:
    return (
        TimeloopLevel("DRAM", ROLES, outer, spatial), TimeloopLevel("GLB", ROLES, inner),
    )  # fmt: skip


@given(st.data())
def test_without_windows_it_equals_the_definition(data: st.DataObject) -> None:
    """Products of matrices, perfect bounds: steps, reads and fills of inputs and weights."""
    problem, machine = data.draw(problems(points=300)), data.draw(machines())
    assume(all(len(part.terms) <= 1 for o in problem.operands for part in o.access.index))
    left, levels = dict(problem.sizes), []
    for memory in reversed(machine.memories):
        temporal = []
        for axis in data.draw(st.permutations(list(left))):
            divisors = [d for d in range(1, left[axis] + 1) if left[axis] % d == 0]
            outermost = memory is machine.memories[0]
            bound = left[axis] if outermost else data.draw(st.sampled_from(divisors))
            left[axis] //= bound
            temporal += [loop(axis, bound)] if bound > 1 else []
        levels.insert(0, TimeloopLevel(memory.name, memory.keeps, tuple(temporal)))
    counts = count(tuple(levels), problem)
    expected = simulate(problem, from_levels(tuple(levels), problem), machine, TIMELOOP)
    assert counts.steps == expected.steps
    for memory, by_role in counts.accesses.items():
        for role in ("input", "weight"):
            if role in by_role:
                flow = expected.flows[memory][role]
                assert by_role[role].tile == flow.footprint
                assert by_role[role].reads == flow.total_read
                assert by_role[role].fills == flow.total_write


def test_outputs_read_back_all_but_the_first():
    """R outside P: 16 outputs come 3 times: 48 updates, 32 reads and refills, no drain below."""
    levels = two((loop("R", 3), loop("K", 2), loop("P", 8)), ())
    output = count(levels, ROW).accesses["DRAM"]["output"]
    assert (output.reads, output.fills, output.updates) == (32, 0, 48)
    inner = count(levels, ROW).accesses["GLB"]["output"]
    assert (inner.reads, inner.fills, inner.updates) == (32, 32, 48)
    older = count(levels, ROW, TIMELOOP_2022).accesses["GLB"]["output"]
    assert older.fills == 48


def test_a_window_that_slides_is_fetched_once():
    """P in steps of one over a kept window of 3: 3 elements, then 7 new ones."""
    levels = two((loop("P", 8),), (loop("K", 2), loop("R", 3)))
    assert count(levels, ROW).accesses["GLB"]["input"].fills == 10


def test_versions_differ_where_the_tile_stands_still():
    """K inside P: the window stands still between shifts; older versions then forget the shift."""
    levels = two((loop("P", 8), loop("K", 2)), (loop("R", 3),))
    assert count(levels, ROW, TIMELOOP_2025).accesses["GLB"]["input"].fills == 10
    assert count(levels, ROW, TIMELOOP_2022).accesses["GLB"]["input"].fills == 24


def test_two_loops_over_one_window_are_sampled():
    """P outside R, tiles of one: indices 0 and 1 of both are walked, 0 0, 0 1, 1 0 (stands still),
    1 1; so 1 + 2 + 0 + 7 x 2 elements, where 8 + 2 are new and 24 are asked for.
    """
    levels = two((loop("K", 2), loop("P", 8), loop("R", 3)), ())
    inner = count(levels, ROW).accesses["GLB"]["input"]
    first = 1 + 2 + 0 + 7 * 2
    assert inner.fills == first + 1 + 2 + 0 + 7 * 2


def test_multicast_serves_equal_boxes_alone():
    """Copies over K share the input; copies over P have windows of their own, overlap or not."""
    levels = two(
        (loop("P", 4),), (loop("R", 3),), (loop("K", 2, "PE", "x"), loop("P", 2, "PE", "y"))
    )
    counts = count(levels, ROW)
    assert counts.lanes == 4
    assert counts.accesses["GLB"]["input"].instances == 4
    assert counts.accesses["DRAM"]["input"].reads == 2 * counts.accesses["GLB"]["input"].fills
    assert counts.accesses["DRAM"]["weight"].reads == 2 * counts.accesses["GLB"]["weight"].fills


def test_cycles_follow_the_slowest_port():
    """Separate and shared ports, rounded up; without limits the steps."""
    counts = count(two((loop("R", 3), loop("K", 2), loop("P", 8)), ()), ROW)
    assert longest(cycles(counts, {"DRAM": Port(), "GLB": Port()}), counts.steps) == (48, "compute")
    dram = counts.accesses["DRAM"]
    words = sum(a.reads for a in dram.values()) + dram["output"].updates
    took = cycles(counts, {"DRAM": Port(shared=1), "GLB": Port(read=1000)})
    assert took["GLB"] == 48
    assert longest(took, 48)[1] == "DRAM"
    assert words <= took["DRAM"] <= words + 1


def test_what_it_does_not_count():
    """Remainders and more loops than can be walked are refused."""
    with pytest.raises(MappingError, match="perfect bounds"):
        count(two((loop("P", 3),), (Bound("P", 3, 2), loop("K", 2), loop("R", 3))), ROW)
    many = Problem(
        (Axis("P", 2**12), Axis("R", 2**12)),
        (
            Operand("input", parse_access("P + R"), (2**13,), 8),
            Operand("weight", parse_access("R"), (2**12,), 8),
            Operand("output", parse_access("P"), (2**12,), 8),
        ),
    )
    twos = tuple(loop(axis, 2) for _ in range(12) for axis in "PR")
    with pytest.raises(SizeError, match="too many loops"):
        count(two(twos, ()), many)


def test_text_and_counts_together():
    """A line of text gives the same counts as its levels."""
    machine = Accelerator(name="m", clock_hz=1, levels=(Memory(name="DRAM"), Memory(name="GLB")))
    levels = on_machine(parse_text("L1[WIO] P8 - L0[WIO] K2 R3"), machine, ["P", "R", "K"])
    by_hand = two((loop("P", 8),), (loop("K", 2), loop("R", 3)))
    assert count(levels, ROW) == count(by_hand, ROW)
