"""A weight-stationary systolic array under one buffer, in the manner of Gemmini and the TPUs.

    DRAM ── buffer ──> column[0..C) ── accumulator ── row[0..R) ── weight register ── MAC
            (inputs,    (inputs pass    (partial sums  (products are added down the
             weights)    from column     of a column)   column, one per row)
                         to column)

Inputs enter along the rows and pass from column to column (multicast); products are added down each
column and leave it into its accumulator. 8-bit operands, 32-bit partial sums: the accumulator's
capacity counts 32-bit sums, each of which becomes one 8-bit result. The array is filled and drained
once per operator (`rows + columns` cycles). The buffer's port is as wide as what enters the array
each cycle. Dimensions follow H. Genc et al., "Gemmini", DAC 2021.
"""

from __future__ import annotations

from collections.abc import Mapping

from hwopt.hardware.blueprint import Blueprint, FanoutPlan, MemoryPlan, Number
from hwopt.hardware.template import Knob, Template, register

SUM_BYTES = 4
"""Bytes of a partial sum, for one byte of result."""


@register
class Systolic(Template):
    """Weight-stationary systolic array (8-bit)."""

    name = "systolic"
    about = "weight-stationary systolic array under one buffer, 8-bit, 45 nm"
    knobs = (
        Knob("rows", (4, 8, 16, 32, 64, 128, 256), "reduction lanes per column"),
        Knob("columns", (4, 8, 16, 32, 64, 128, 256), "results computed side by side"),
        Knob(
            "buffer",
            ("32 KiB", "64 KiB", "128 KiB", "256 KiB", "512 KiB", "1 MiB", "2 MiB", "4 MiB"),
            "inputs and weights, double-buffered",
        ),
        Knob(
            "accumulator",
            ("16 KiB", "32 KiB", "64 KiB", "128 KiB", "256 KiB", "512 KiB"),
            "32-bit partial sums, all columns together",
        ),
        Knob("clock", ("400 MHz", "700 MHz", "1 GHz")),
        Knob("bandwidth", ("6.4 GB/s", "12.8 GB/s", "25.6 GB/s", "51.2 GB/s"), "of the DRAM"),
        Knob("vector_lanes", (4, 8, 16, 32, 64)),
    )

    def blueprint(self, value: Mapping[str, Number]) -> Blueprint:
        """See the file's picture."""
        rows, columns, clock = value["rows"], value["columns"], value["clock"]
        entering_bytes = rows + columns
        return Blueprint(
            levels=(
                MemoryPlan("DRAM", "dram", bytes_per_s=value["bandwidth"]),
                MemoryPlan(
                    "buffer", capacity_bytes=value["buffer"], keeps=("input", "weight"),
                    read_bytes_per_s=entering_bytes * clock,
                    write_bytes_per_s=entering_bytes * clock,
                    width_bits=8 * entering_bytes, double_buffered=True,
                ),
                FanoutPlan("columns", {"column": columns}, multicast=("input",), reduces=False),
                MemoryPlan(
                    "accumulator", capacity_bytes=value["accumulator"] / SUM_BYTES / columns,
                    keeps=("output",), read_bytes_per_s=clock, write_bytes_per_s=clock,
                    width_bits=8.0 * SUM_BYTES,
                ),
                FanoutPlan("rows", {"row": rows}, multicast=(), reduces=True),
                MemoryPlan("weight_register", "register", capacity_bytes=1.0,
                           keeps=("weight",), width_bits=8.0),
            ),
            clock_hz=clock, vector_lanes=value["vector_lanes"], bits=8, fill_cycles=rows + columns,
            role_bits={"input": 8, "weight": 8, "output": 8},
            source="H. Genc et al., Gemmini, DAC 2021 (structure); technology.py (numbers)",
        )  # fmt: skip
