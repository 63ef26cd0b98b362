"""Groups of multiply-accumulate units between banked weight and activation buffers.

    DRAM ─┬─ weight buffer ──────┬─> group[0..G) ── accumulator ── mac[0..M) ── MAC
          └─ activation buffer ──┘   (one result     (partial sums  (adder tree over
             (inputs, outputs)        map each)       of the group)  input maps)

*Our reconstruction* of the template of Y. Yu et al., "Software-Defined Design Space Exploration for
an Efficient AI/DNN Accelerator Architecture", arXiv 1903.07676, of which only abstract and
introduction could be read: its variables (groups, MACs per group, bank height and width, weight and
activation banks per group, double buffering) are from memory, the rest is ours. G groups work on
different output maps, the M units of a group on different input maps, so a tile takes `Tox Toy Nkx
Nky ceil(Tif/M) ceil(Tof/G)` steps. What the paper states as a constraint, that the banks feed the
MACs every cycle, is a rate here: `banks x width` bits per group and cycle, and a design whose banks
are too narrow waits. Both buffers are double-buffered: a tile may take half of one. 16-bit
operands. The vector unit has one lane per group.
"""

from __future__ import annotations

from collections.abc import Mapping

from hwopt.hardware.accelerator import OperandRole
from hwopt.hardware.blueprint import Blueprint, FanoutPlan, MemoryPlan, Number
from hwopt.hardware.template import Knob, Template, register

ACCUMULATOR_BYTES = 64.0
"""Partial sums that a group holds: 32 results."""


@register
class PeGroups(Template):
    """PE groups between banked buffers (16-bit); a reconstruction."""

    name = "pe_groups"
    about = "groups of MACs between banked weight and activation buffers, 16-bit, 45 nm"
    knobs = (
        Knob("groups", (1, 2, 4, 8, 16, 32, 64), "PE groups: output maps side by side"),
        Knob("macs", (8, 16, 32, 64, 128), "MACs per group: input maps side by side"),
        Knob("bank_height", (256, 512, 1024, 2048, 4096, 8192), "words of a bank"),
        Knob("bank_width", (16, 32, 64, 128, 256), "bits of a word"),
        Knob("weight_banks", (1, 2, 4, 8, 16, 32), "per group"),
        Knob("activation_banks", (1, 2, 4, 8, 16, 32), "per group"),
        Knob("clock", ("700 MHz",)),
        Knob("bandwidth", ("12.8 GB/s", "25.6 GB/s", "51.2 GB/s"), "of the DRAM"),
    )

    def blueprint(self, value: Mapping[str, Number]) -> Blueprint:
        """See the file's picture."""
        groups, clock = value["groups"], value["clock"]

        def buffer(
            name: str, banks_per_group: Number, keeps: tuple[OperandRole, ...]
        ) -> MemoryPlan:
            banks = groups * banks_per_group
            rate = banks * value["bank_width"] / 8 * clock
            return MemoryPlan(
                name, capacity_bytes=banks * value["bank_height"] * value["bank_width"] / 8,
                keeps=keeps, read_bytes_per_s=rate, write_bytes_per_s=rate,
                width_bits=value["bank_width"], banks=banks, double_buffered=True,
            )  # fmt: skip

        return Blueprint(
            levels=(
                MemoryPlan("DRAM", "dram", bytes_per_s=value["bandwidth"]),
                buffer("weights", value["weight_banks"], ("weight",)),
                buffer("activations", value["activation_banks"], ("input", "output")),
                FanoutPlan("groups", {"group": groups}, multicast=("input",), reduces=False),
                MemoryPlan("accumulator", "register", capacity_bytes=ACCUMULATOR_BYTES,
                           keeps=("output",), width_bits=16.0),
                FanoutPlan("macs", {"mac": value["macs"]}, multicast=()),
            ),
            clock_hz=clock, vector_lanes=groups, bits=16,
            role_bits={"input": 16, "weight": 16, "output": 16},
            source="reconstruction of arXiv 1903.07676; technology.py (numbers)",
        )  # fmt: skip
