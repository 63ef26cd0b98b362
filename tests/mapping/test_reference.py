"""Optima that AccelForge found (confirmed there by brute force), under its conventions."""

import csv
from pathlib import Path

import pytest

from hwopt.hardware.accelerator import ROLES, Accelerator, Compute, Fanout, FanoutDim, Memory
from hwopt.hardware.conventions import ACCELFORGE
from hwopt.ir.access import Axis, parse_access
from hwopt.mapping.best import best_mapping
from hwopt.mapping.problem import Operand, Problem

NVDLA = Accelerator(
    name="nvdla", clock_hz=1e9,
    levels=(
        Memory(name="DRAM", read_joules_per_byte=8 * 7.03e-12, write_joules_per_byte=8 * 7.03e-12),
        Memory(name="GLB", capacity_bytes=65536, read_joules_per_byte=8 * 2.49e-13,
               write_joules_per_byte=8 * 2.93e-13),
        Fanout(name="PE", dims=(FanoutDim(name="x", size=32, axes=("n",)),
                                FanoutDim(name="y", size=192, axes=("k",)))),
        Memory(name="reg", kind="register", capacity_bytes=1, keeps=("weight",),
               read_joules_per_byte=0, write_joules_per_byte=0),
    ),
    compute=Compute(joules_per_mac=8.4e-14),
)  # fmt: skip
SIMPLE_B = Accelerator(
    name="simpleB", clock_hz=1,
    levels=(
        Memory(name="DRAM", read_joules_per_byte=800, write_joules_per_byte=800),
        Memory(name="GLB", capacity_bytes=131072, keeps=ROLES, bypass=ROLES,
               read_joules_per_byte=8, write_joules_per_byte=8),
    ),
    compute=Compute(joules_per_mac=1),
)  # fmt: skip


@pytest.mark.data
@pytest.mark.parametrize(
    ("machine", "size", "case"),
    [
        (NVDLA, 1024, "mm1024_nvdla_ENERGY"), (NVDLA, 4096, "mm4096_nvdla_ENERGY"),
        (SIMPLE_B, 1024, "mm1024_simpleB_ENERGY"), (SIMPLE_B, 4096, "mm4096_simpleB_ENERGY"),
    ],
)  # fmt: skip
def test_least_energy_of_matrix_products(
    reference: Path, machine: Accelerator, size: int, case: str
) -> None:
    """Divisors only, bypass where the machine has it: equal to its float32 precision."""
    with (reference / "accelforge_optima.csv").open() as file:
        expected = {row["id"]: float(row["energy"]) for row in csv.DictReader(file)}[case]
    problem = Problem(
        (Axis("m", size), Axis("k", size), Axis("n", size)),
        (
            Operand("input", parse_access("m", "k"), (size, size), 8),
            Operand("weight", parse_access("k", "n"), (size, size), 8),
            Operand("output", parse_access("m", "n"), (size, size), 8),
        ),
    )
    best = best_mapping(
        problem, machine, objective="energy", factors="perfect", conventions=ACCELFORGE,
        budget=2_000_000,
    )  # fmt: skip
    assert best.certificate.exhausted
    assert best.joules == pytest.approx(expected, rel=2e-7)
