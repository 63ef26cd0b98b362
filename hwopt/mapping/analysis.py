"""What a mapping costs a machine before any price: footprints, traffic, steps.

`Analysis` is the common result of the closed forms (`traffic.analyse`) and of the brute-force
definition (`simulate.simulate`). `Analysis.row` flattens it; `price` is the one formula that turns
a row into seconds and joules on an accelerator with every number filled in.

    seconds = max(steps / clock_hz,
                  per memory: busiest read / read port, busiest write / write port,
                              (busiest read + busiest write) / shared port)
            + fill_cycles / clock_hz
    joules  = sum over memories (total read * joules per byte + total write * joules per byte)
            + points * joules_per_mac + leakage_watts of the whole machine * seconds
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.hardware.accelerator import Accelerator, OperandRole

Objective: TypeAlias = Literal["latency", "energy", "edp"]
OBJECTIVES: tuple[Objective, ...] = ("latency", "energy", "edp")
PER_LEVEL = ("footprint", "busiest_read", "busiest_write", "total_read", "total_write")
"""Columns of a row for each memory, in bytes."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One operand in one memory: elements of its largest tile there (0 when it is not kept), and
    elements read and written, over all copies of the memory and in the busiest one.
    """

    footprint: int = 0
    busiest_read: int = 0
    busiest_write: int = 0
    total_read: int = 0
    total_write: int = 0


@dataclass(frozen=True)
class Analysis:
    """Counts of one mapping: `steps` of the compute units, `flows[memory][role]` in elements.

    `bits` is the width of an element by role; `points` the multiply-accumulates of the problem.
    Counts are exact integers.
    """

    steps: int
    points: int
    flows: dict[str, dict[OperandRole, Flow]]
    bits: dict[OperandRole, int]

    def bytes_of(self, memory: str, column: str) -> float:
        """One column of `PER_LEVEL` for one memory, summed over operands."""
        bits = 0
        for role, flow in self.flows[memory].items():
            bits += int(getattr(flow, column)) * self.bits[role]
        return bits / 8

    def row(self, accelerator: Accelerator) -> npt.NDArray[np.float64]:
        """`[steps, then PER_LEVEL for each memory, outermost first]`; names: `row_columns`."""
        values: list[float] = [self.steps]
        for memory in accelerator.memories:
            values.extend(self.bytes_of(memory.name, column) for column in PER_LEVEL)
        return np.array(values, dtype=np.float64)


def row_columns(accelerator: Accelerator) -> tuple[str, ...]:
    """Names of the columns of a row: "steps", "DRAM.footprint", "DRAM.busiest_read", ..."""
    names = [f"{memory.name}.{column}" for memory in accelerator.memories for column in PER_LEVEL]
    return ("steps", *names)


@dataclass(frozen=True, slots=True)
class Price:
    """A row on a machine. `seconds` and `joules` are infinite when a tile does not fit."""

    seconds: float
    joules: float
    feasible: bool
    bound: str

    def key(self, objective: Objective) -> tuple[float, float, float]:
        """Sort key: the objective, then latency, then energy."""
        first = {"latency": self.seconds, "energy": self.joules}.get(
            objective, self.seconds * self.joules
        )
        return first, self.seconds, self.joules


def leakage_watts(accelerator: Accelerator) -> float:
    """Leakage of every copy of every memory and of every compute unit (0 where not given)."""
    memories = sum(
        (memory.leakage_watts or 0.0) * accelerator.instances(memory.name)
        for memory in accelerator.memories
    )
    return memories + (accelerator.compute.leakage_watts or 0.0) * accelerator.lanes


def price(row: npt.NDArray[np.float64], accelerator: Accelerator, points: int) -> Price:
    """Seconds and joules of a row; `bound` names what limits: "compute" or a memory.

    Energies that an accelerator leaves out count as 0: call it with `accelerator.resolved()`.
    """
    feasible, bound = True, "compute"
    seconds = float(row[0]) / accelerator.clock_hz
    joules = points * (accelerator.compute.joules_per_mac or 0.0)
    for index, memory in enumerate(accelerator.memories):
        footprint, read, write, total_read, total_write = map(
            float, row[1 + 5 * index : 6 + 5 * index]
        )
        feasible = feasible and footprint <= memory.usable_bytes
        for traffic, port in (
            (read, memory.read_bytes_per_s),
            (write, memory.write_bytes_per_s),
            (read + write, memory.bytes_per_s),
        ):
            if port is not None and traffic / port > seconds:
                seconds, bound = traffic / port, memory.name
        joules += total_read * (memory.read_joules_per_byte or 0.0)
        joules += total_write * (memory.write_joules_per_byte or 0.0)
    seconds += accelerator.fill_cycles / accelerator.clock_hz
    joules += leakage_watts(accelerator) * seconds
    if not feasible:
        return Price(math.inf, math.inf, feasible=False, bound="capacity")
    return Price(seconds, joules, feasible=True, bound=bound)
