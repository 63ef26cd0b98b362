"""Defects seen in another mapper (AccelForge 1c1929c), each absent here."""

from __future__ import annotations

import numpy as np
import pytest

from hwopt.hardware.accelerator import (
    ROLES,
    Accelerator,
    Compute,
    Fanout,
    FanoutDim,
    Memory,
)
from hwopt.hardware.conventions import ACCELFORGE, NATIVE
from hwopt.ir.access import Axis, parse_access
from hwopt.mapping.analysis import price
from hwopt.mapping.best import best_mapping
from hwopt.mapping.mapping import Keep, Loop, Mapping, parse_mapping
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.traffic import analyse
from tests.oracles.enumerate import optimum
from tests.oracles.small import build

BYTES = dict.fromkeys(ROLES, 8)
TOP = "keep input weight output in DRAM\n"


def machine(lanes: int = 1, capacity: float = 1000.0) -> Accelerator:
    """DRAM at 64 bytes a cycle, a buffer, lanes."""
    return Accelerator(
        name="lanes", clock_hz=1.0,
        levels=(
            Memory(name="DRAM", kind="dram", bytes_per_s=64.0, read_joules_per_byte=32,
                   write_joules_per_byte=32),
            Memory(name="GLB", capacity_bytes=capacity, read_joules_per_byte=1,
                   write_joules_per_byte=1),
            Fanout(name="PE", dims=(FanoutDim(name="x", size=lanes),)),
        ),
        compute=Compute(joules_per_mac=1),
    )  # fmt: skip


def test_edge_tiles_take_time() -> None:
    """Five outputs on three lanes take two steps, not 5/3."""
    problem = build("matmul", {"m": 1, "k": 1, "n": 5}, 1, 0, BYTES)
    assert best_mapping(problem, machine(3)).seconds == 2


@pytest.mark.parametrize("taps", [1, 2])
def test_a_stride_reads_only_what_it_uses(taps: int) -> None:
    """Every third of 10 values: 4 are read with a single tap, 8 with two, not the box of 10."""
    problem = build("convolution", {"k": 1, "c": 1, "p": 4, "r": taps}, 3, 0, BYTES)
    mapping = parse_mapping(f"{TOP}keep input weight output in GLB\nfor p in tiles of 1\n"
                            "for r in tiles of 1")  # fmt: skip
    flows = analyse(problem, mapping, machine(), NATIVE).flows["DRAM"]
    assert flows["input"].total_read == 4 * taps
    boxed = analyse(problem, mapping, machine(), ACCELFORGE).flows["DRAM"]
    assert boxed["input"].total_read == 9 + taps


@pytest.mark.parametrize("tile", [1, 2, 4])
def test_padding_loses_no_traffic(tile: int) -> None:
    """Four outputs of a window of 3 over 4 values, one position of padding at each end: every
    value is read, once, whatever the tiles; padding never is, and all outputs are written.
    """
    problem = build("convolution", {"k": 1, "c": 1, "p": 4, "r": 3}, 1, 1, BYTES)
    mapping = parse_mapping(
        f"{TOP}for p in tiles of {tile}\nkeep input weight output in GLB\nfor p in tiles of 1\n"
        "for r in tiles of 1"
    )
    analysis = analyse(problem, mapping, machine(), NATIVE)
    assert analysis.flows["DRAM"]["input"].total_read == 4
    assert analysis.flows["DRAM"]["output"].total_write == 4
    assert analysis.flows["GLB"]["input"].total_read == 12 - 2  # two taps fall on padding


def test_area_counts_every_copy() -> None:
    """What stands below a fan-out has its area once per copy, the fan-out's own level included."""
    chip = Accelerator(
        name="chip", clock_hz=1.0,
        levels=(
            Memory(name="DRAM", area_m2=0.0), Memory(name="GLB", area_m2=100.0),
            Fanout(name="PE", dims=(FanoutDim(name="x", size=3), FanoutDim(name="y", size=2))),
            Memory(name="pad", area_m2=10.0),
            Fanout(name="lane", dims=(FanoutDim(name="z", size=4),)),
        ),
        compute=Compute(area_m2=1.0),
    )  # fmt: skip
    assert chip.area_m2 == 100 + 6 * 10 + 24 * 1


def test_ties_are_broken() -> None:
    """Of the mappings that are as fast, the one with the least energy; of those with the least
    energy, the fastest: as exhaustive enumeration finds them.
    """
    problem, chip = build("matmul", {"m": 4, "k": 3, "n": 4}, 1, 0, BYTES), machine(2, 12)
    whole = optimum(problem, chip)
    for objective in ("latency", "energy", "edp"):
        best = best_mapping(problem, chip, objective=objective)
        assert (best.seconds, best.joules) == whole.key[objective][1:]
    plain = Mapping((Keep("DRAM", ROLES), *(Loop(a, 1) for a in "mkn"), Keep("GLB", ROLES)))
    slow = price(analyse(problem, plain, chip).row(chip), chip, problem.points)
    assert slow.joules > whole.key["latency"][2]


def test_counts_are_exact_beyond_float32() -> None:
    """257 cubed is odd and above 2**24: single precision cannot hold it, a row does."""
    side = 257
    problem = Problem(
        (Axis("m", side), Axis("k", side), Axis("n", side)),
        (
            Operand("input", parse_access("m", "k"), (side, side), 8),
            Operand("weight", parse_access("k", "n"), (side, side), 8),
            Operand("output", parse_access("m", "n"), (side, side), 8),
        ),
    )
    mapping = parse_mapping(f"{TOP}keep input weight output in GLB\nfor m in tiles of 1\n"
                            "for k in tiles of 1\nfor n in tiles of 1")  # fmt: skip
    row = analyse(problem, mapping, machine(1, 1e9)).row(machine(1, 1e9))
    assert int(row[0]) == side**3
    assert int(np.float32(side**3)) != side**3
