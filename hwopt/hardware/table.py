"""Many accelerators of one structure as numbers: what the pricing kernel reads.

A row holds what prices a design; designs that agree in structure and fan-out sizes share a
*skeleton*, the accelerator for which mappings are analysed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwopt.errors import HardwareError
from hwopt.hardware.accelerator import Accelerator, Memory, OperandRole

COLUMNS = (
    "clock_hz", "fill_seconds", "launch_seconds", "joules_per_mac", "leakage_watts", "area_m2",
    "vector_operations_per_s", "joules_per_operation",
)  # fmt: skip
"""Columns of a design; then `MEMORY_COLUMNS` for each memory, outermost first."""

MEMORY_COLUMNS = (
    "usable_bytes", "read_seconds_per_byte", "write_seconds_per_byte", "port_seconds_per_byte",
    "read_joules_per_byte", "write_joules_per_byte",
)  # fmt: skip
"""Per memory instance; a limit that is not there is infinite (bytes) or 0 (seconds per byte)."""


@dataclass(frozen=True)
class HardwareTable:
    """Designs by row: `rows` is (designs, columns) float64, `skeleton[i]` indexes `skeletons`."""

    skeletons: tuple[Accelerator, ...]
    skeleton: npt.NDArray[np.int64]
    rows: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)


def columns(memories: int) -> tuple[str, ...]:
    """Names of all columns for a number of memories: "clock_hz", ..., "0.usable_bytes", ..."""
    named = [f"{index}.{name}" for index in range(memories) for name in MEMORY_COLUMNS]
    return (*COLUMNS, *named)


def hardware_row(accelerator: Accelerator) -> npt.NDArray[np.float64]:
    """The row of one accelerator (every number that it leaves out is derived)."""
    machine = accelerator.resolved()
    per_memory = [_memory_row(memory) for memory in machine.memories]
    top = [
        machine.clock_hz,
        machine.fill_cycles / machine.clock_hz,
        machine.launch_seconds,
        machine.compute.joules_per_mac or 0.0,
        machine.leakage_watts,
        machine.area_m2,
        machine.vector.lanes * machine.clock_hz,
        machine.vector.joules_per_operation or 0.0,
    ]
    return np.array([*top, *(value for row in per_memory for value in row)], dtype=np.float64)


def _memory_row(memory: Memory) -> list[float]:
    def seconds(rate: float | None) -> float:
        return 0.0 if rate is None else 1.0 / rate

    return [
        memory.usable_bytes,
        seconds(memory.read_bytes_per_s),
        seconds(memory.write_bytes_per_s),
        seconds(memory.bytes_per_s),
        memory.read_joules_per_byte or 0.0,
        memory.write_joules_per_byte or 0.0,
    ]


def skeleton_key(accelerator: Accelerator) -> tuple[object, ...]:
    """What a mapping can depend on: levels, kept operands, fan-out topology and sizes, not sizes
    of memories, bandwidths or prices.
    """
    levels: list[object] = []
    for level in accelerator.levels:
        if isinstance(level, Memory):
            bounded = level.capacity_bytes is not None
            levels.append((level.name, level.keeps, level.bypass, bounded))
        else:
            dims = tuple((dim.name, dim.size, dim.axes) for dim in level.dims)
            levels.append((level.name, dims, level.multicast, level.reduces))
    return (*levels, tuple(sorted(accelerator.bits.items())))


def stack(accelerators: Sequence[Accelerator]) -> HardwareTable:
    """The table of a list of accelerators of one structure.

    Raises `HardwareError` when their memories differ in number.
    """
    if len({len(a.memories) for a in accelerators}) > 1:
        raise HardwareError("accelerators of one table must have the same memories")
    keys: dict[tuple[object, ...], int] = {}
    skeletons: list[Accelerator] = []
    index = np.empty(len(accelerators), dtype=np.int64)
    for position, accelerator in enumerate(accelerators):
        key = skeleton_key(accelerator)
        if key not in keys:
            keys[key] = len(skeletons)
            skeletons.append(accelerator)
        index[position] = keys[key]
    rows = np.stack([hardware_row(a) for a in accelerators])
    return HardwareTable(tuple(skeletons), index, rows)


def vector_memory(accelerator: Accelerator) -> int:
    """Index of the memory that the vector unit works from: named, or the outermost on-chip one
    above every fan-out. 0 when there is none: it works from the outermost memory itself.
    """
    names = [memory.name for memory in accelerator.memories]
    if accelerator.vector.memory is not None:
        return names.index(accelerator.vector.memory)
    above = len(accelerator.levels) > 1 and isinstance(accelerator.levels[1], Memory)
    return int(above)


def home(accelerator: Accelerator, role: OperandRole) -> str | None:
    """The outermost on-chip memory, above every fan-out, that keeps an operand; None without."""
    for level in accelerator.levels[1:]:
        if not isinstance(level, Memory):
            return None
        if role in level.keeps and math.isfinite(level.usable_bytes):
            return level.name
    return None
