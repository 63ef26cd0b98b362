"""The plain model: seconds and joules of a stage by hand, and the choice between ways."""

import math

import numpy as np
import pytest

from hwopt.cost.reference import Machine, price_stage, price_table, total
from hwopt.cost.tables import Alternative, OpTable, Request, Side, Stage, Task
from hwopt.hardware.accelerator import Accelerator, Compute, Memory, Vector
from hwopt.ir.access import Axis, parse_access
from hwopt.mapping.problem import Operand, Problem

PROBLEM = Problem(
    (Axis("m", 10), Axis("n", 10), Axis("k", 10)),
    (
        Operand("input", parse_access("m", "k"), (10, 10), 8),
        Operand("weight", parse_access("n", "k"), (10, 10), 8),
        Operand("output", parse_access("m", "n"), (10, 10), 8),
    ),
)
#              steps  DRAM: footprint, busiest r/w, total r/w   GLB: the same
ROW = np.array([500.0, 0, 100, 20, 100, 20, 64, 300, 200, 300, 200])


def machine(**update):
    """1 Hz clock, so that seconds are cycles; one joule for everything."""
    given = {
        "name": "unit", "clock_hz": 1.0, "launch_seconds": 7.0, "fill_cycles": 3,
        "levels": (
            Memory(name="DRAM", kind="dram", bytes_per_s=0.5, read_joules_per_byte=1.0,
                   write_joules_per_byte=2.0, leakage_watts=0.0, area_m2=0.0),
            Memory(name="GLB", capacity_bytes=64, read_bytes_per_s=1.0, write_bytes_per_s=0.25,
                   read_joules_per_byte=0.1, write_joules_per_byte=0.2, leakage_watts=0.5,
                   area_m2=0.0),
        ),
        "compute": Compute(joules_per_mac=0.01, area_m2=0.0, leakage_watts=0.25),
        "vector": Vector(lanes=2, joules_per_operation=0.001, area_m2=0.0),
        "overhead_area_m2": 0.0,
    }  # fmt: skip
    return Accelerator(**{**given, **update})


def priced(stage, accelerator=None, rows=ROW[np.newaxis], objective="latency"):
    return price_stage(stage, Machine(accelerator or machine()), lambda _: rows, objective)


def test_a_stage_by_hand():
    """The GLB's writes take longest: 200 / 0.25 = 800 s; then fill 3, launch 7."""
    cost = priced(Stage("s", Request(PROBLEM), Side(), launches=1))
    assert cost.seconds == 800 + 3 + 7
    assert cost.bound == "GLB bandwidth"
    dynamic = 100 * 1 + 20 * 2 + 300 * 0.1 + 200 * 0.2 + 1000 * 0.01
    assert cost.joules == pytest.approx(dynamic + (0.5 + 0.25) * 810)


def test_side_work_overlaps_and_shares_the_ports():
    """Outer bytes add to DRAM, chip bytes to the GLB, vector operations run beside."""
    side = Side(400, outer_read_bytes=50, outer_write_bytes=30, chip_write_bytes=40)
    cost = priced(Stage("s", Request(PROBLEM), side))
    assert cost.seconds == (200 + 40) / 0.25 + 3
    more = Side(10_000, 0, 0, 0, 0)
    assert priced(Stage("s", Request(PROBLEM), more)).bound == "vector"
    assert priced(Stage("s", Request(PROBLEM), more)).seconds == 10_000 / 2 + 3
    outer = priced(Stage("s", Request(PROBLEM), Side(0, 1000, 0)))
    assert (outer.bound, outer.seconds) == ("DRAM bandwidth", (1000 + 120) / 0.5 + 3)


def test_an_output_that_stays_takes_its_bytes_back():
    """Negative outer writes beside a nest: 20 counted, 20 taken back."""
    with_output = priced(Stage("s", Request(PROBLEM), Side()))
    without = priced(Stage("s", Request(PROBLEM), Side(outer_write_bytes=-20)))
    assert with_output.joules - without.joules == pytest.approx(20 * 2.0)


def test_work_without_a_nest():
    """Only its own bytes and operations; no fill."""
    cost = priced(Stage("s", None, Side(30, 5, 5, 10, 10), launches=1), rows=None)
    assert cost.seconds == max(30 / 2, 10 / 0.5, 10 / 1.0, 10 / 0.25) + 7
    assert cost.row == -1


def test_launches_bind_where_they_dominate():
    """A tiny operator is bound by its launch."""
    assert priced(Stage("s", None, Side(1, 1, 1), launches=1), rows=None).bound == "launch"


def test_what_exceeds_a_capacity_is_left_out():
    """65 bytes do not fit 64; with no row left the stage is infeasible."""
    big = ROW.copy()
    big[6] = 65
    cost = priced(Stage("s", Request(PROBLEM), Side()), rows=np.stack([big, ROW]))
    assert cost.row == 1
    assert not priced(Stage("s", Request(PROBLEM), Side()), rows=big[np.newaxis]).feasible


def test_a_machine_of_one_memory_has_no_chip_traffic():
    """The vector unit works from DRAM: chip bytes are not counted there a second time."""
    flat = machine(levels=machine().levels[:1])
    cost = priced(Stage("s", None, Side(0, 10, 0, 1e6, 1e6)), flat, rows=None)
    assert cost.seconds == 10 / 0.5


def test_chains_take_the_cheapest_cover_of_the_lowest_tier():
    """Operators 0-2: a cheap pair and a single beat the whole; a cheaper tier 1 is not asked."""

    def alternative(label, seconds, span, tier=0):
        return Alternative(label, (Stage(label, None, Side(2 * seconds)),), tier, span)

    ways = (
        alternative("whole", 100, (0, 3)), alternative("pair", 30, (0, 2)),
        alternative("last", 40, (2, 3)), alternative("first", 25, (0, 1)),
        alternative("middle", 10, (1, 2)), alternative("free", 1, (0, 3), tier=1),
    )  # fmt: skip
    table = OpTable("t", (Task("t", "k", ("a", "b", "c"), 2, 0, ways),), {})
    (cost,) = price_table(table, machine(), lambda _: ROW[np.newaxis])
    assert cost.seconds == 70
    assert cost.alternative.label == "fused 2+1"
    assert total([cost])[0] == 140


def test_no_cover_is_infeasible():
    """A hole in the chain: nothing carries the task out."""
    ways = (Alternative("a", (Stage("a", None, Side(1)),), 0, (0, 1)),)
    table = OpTable("t", (Task("t", "k", ("a", "b"), 1, 0, ways),), {})
    (cost,) = price_table(table, machine(), lambda _: ROW[np.newaxis])
    assert math.isinf(cost.seconds)
