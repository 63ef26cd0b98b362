"""A grid of processing elements with a scratchpad per operand, in the manner of Eyeriss.

    DRAM ── GLB ──> PE[y][x] ── input, weight and output scratchpads ── MAC
     └── weights ──────┘

Inputs and partial sums live in the global buffer, weights go past it straight to the scratchpads.
Inputs and weights are multicast over the grid; partial sums are added from PE to PE on their way
out. 16-bit operands. Which axes lie along y and x is left to the mapper (row stationary is one
choice: kernel rows along y, output rows along x). After Y.-H. Chen et al., "Eyeriss", JSSC 2017.
"""

from __future__ import annotations

from collections.abc import Mapping

from hwopt.hardware.accelerator import OperandRole
from hwopt.hardware.blueprint import Blueprint, FanoutPlan, MemoryPlan, Number
from hwopt.hardware.template import Knob, Template, register

WORD_BYTES = 2


@register
class RowStationary(Template):
    """Grid of PEs with three scratchpads each (16-bit)."""

    name = "row_stationary"
    about = "grid of PEs with a scratchpad per operand under one buffer, 16-bit, 65 nm"
    knobs = (
        Knob("pe_rows", (6, 8, 12, 16, 24, 32), "PEs along y"),
        Knob("pe_columns", (7, 8, 14, 16, 28, 32), "PEs along x"),
        Knob("glb", ("32 KiB", "64 KiB", "108 KiB", "128 KiB", "256 KiB", "512 KiB", "1 MiB"),
             "inputs and partial sums"),
        Knob("input_spad", (16, 24, 32, 48, 64), "bytes per PE"),
        Knob("weight_spad", (128, 224, 320, 448, 512), "bytes per PE"),
        Knob("output_spad", (16, 32, 48, 64), "bytes per PE"),
        Knob("clock", ("100 MHz", "200 MHz", "400 MHz", "700 MHz")),
        Knob("bandwidth", ("480 MB/s", "1.6 GB/s", "3.2 GB/s", "6.4 GB/s", "12.8 GB/s"),
             "of the DRAM"),
        Knob("vector_lanes", (1, 2, 4, 8, 16)),
    )  # fmt: skip

    def blueprint(self, value: Mapping[str, Number]) -> Blueprint:
        """See the file's picture. The GLB serves one word per PE column and cycle each way."""
        clock, columns = value["clock"], value["pe_columns"]
        glb_rate = columns * WORD_BYTES * clock

        def spad(role: OperandRole) -> MemoryPlan:
            name = f"{role}_spad"
            return MemoryPlan(name, "register", capacity_bytes=value[name], keeps=(role,),
                              width_bits=8.0 * WORD_BYTES)  # fmt: skip

        return Blueprint(
            levels=(
                MemoryPlan("DRAM", "dram", bytes_per_s=value["bandwidth"], standard="lpddr4"),
                MemoryPlan(
                    "GLB", capacity_bytes=value["glb"], keeps=("input", "output"),
                    read_bytes_per_s=glb_rate, write_bytes_per_s=glb_rate,
                    width_bits=8 * WORD_BYTES * columns,
                ),
                FanoutPlan("PE", {"y": value["pe_rows"], "x": columns}),
                spad("input"),
                spad("weight"),
                spad("output"),
            ),
            clock_hz=clock, vector_lanes=value["vector_lanes"], bits=16, technology_nm=65.0,
            role_bits={"input": 16, "weight": 16, "output": 16},
            source="Y.-H. Chen et al., Eyeriss, JSSC 52(1), 2017 (structure); "
            "technology.py (numbers)",
        )  # fmt: skip
