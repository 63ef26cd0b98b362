"""Blueprints: one description of a machine that serves one design or a batch of designs.

A blueprint has the fields of an `Accelerator`, but its numbers may be arrays, one entry per design.
`accelerator` turns plain numbers into the real thing; `table` turns arrays into the rows that
`table.hardware_row` would give design by design.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.hardware import technology
from hwopt.hardware.accelerator import (
    ROLES,
    Accelerator,
    Compute,
    Fanout,
    FanoutDim,
    Memory,
    OperandRole,
    Vector,
)
from hwopt.hardware.table import HardwareTable

Array: TypeAlias = npt.NDArray[np.float64]
Number: TypeAlias = float | Array
"""A number of one design, or an array with one entry per design."""


@dataclass(frozen=True)
class MemoryPlan:
    """The fields of a `Memory`; energies, area and leakage are derived."""

    name: str
    kind: Literal["dram", "sram", "register"] = "sram"
    capacity_bytes: Number | None = None
    keeps: tuple[OperandRole, ...] = ROLES
    bypass: tuple[OperandRole, ...] = ()
    bytes_per_s: Number | None = None
    read_bytes_per_s: Number | None = None
    write_bytes_per_s: Number | None = None
    width_bits: Number = 64.0
    banks: Number = 1.0
    double_buffered: bool = False
    standard: Literal["ddr4", "lpddr4", "gddr6", "hbm2"] = "ddr4"

    def memory(self) -> Memory:
        """The memory, of a single design."""
        return Memory(
            name=self.name, kind=self.kind, capacity_bytes=_plain(self.capacity_bytes),
            keeps=self.keeps, bypass=self.bypass, bytes_per_s=_plain(self.bytes_per_s),
            read_bytes_per_s=_plain(self.read_bytes_per_s),
            write_bytes_per_s=_plain(self.write_bytes_per_s), width_bits=_whole(self.width_bits),
            banks=_whole(self.banks), double_buffered=self.double_buffered, standard=self.standard,
        )  # fmt: skip


@dataclass(frozen=True)
class FanoutPlan:
    """The fields of a `Fanout`: `sizes` by dimension name."""

    name: str
    sizes: dict[str, Number]
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    multicast: tuple[OperandRole, ...] = ("input", "weight")
    reduces: bool = True

    def fanout(self) -> Fanout:
        """The fan-out, of a single design."""
        dims = tuple(
            FanoutDim(name=name, size=_whole(size), axes=self.axes.get(name, ()))
            for name, size in self.sizes.items()
        )
        return Fanout(name=self.name, dims=dims, multicast=self.multicast, reduces=self.reduces)

    @property
    def copies(self) -> Number:
        """Product of its dimensions."""
        total: Number = 1.0
        for size in self.sizes.values():
            total = total * size
        return total


@dataclass(frozen=True)
class Blueprint:
    """The fields of an `Accelerator`."""

    levels: tuple[MemoryPlan | FanoutPlan, ...]
    clock_hz: Number
    vector_lanes: Number
    bits: int
    floating: bool = False
    technology_nm: float = 45.0
    fill_cycles: Number = 0.0
    role_bits: dict[OperandRole, int] = field(default_factory=dict)
    source: str = ""

    def accelerator(self, name: str, description: str) -> Accelerator:
        """The accelerator, of a single design; numbers that are derived are left out."""
        levels = tuple(
            level.memory() if isinstance(level, MemoryPlan) else level.fanout()
            for level in self.levels
        )
        return Accelerator(
            name=name, description=description, source=self.source,
            technology_nm=self.technology_nm, clock_hz=_float(self.clock_hz), levels=levels,
            compute=Compute(bits=self.bits, floating=self.floating),
            vector=Vector(lanes=_whole(self.vector_lanes)), bits=self.role_bits,
            fill_cycles=_whole(self.fill_cycles),
        )  # fmt: skip

    def table(self, designs: int, build: Callable[[int], Accelerator]) -> HardwareTable:
        """The rows of a batch; `build(i)` gives design i, asked once per fan-out shape."""
        nm = self.technology_nm
        copies: Number = 1.0
        area, leakage = np.zeros(designs), np.zeros(designs)
        columns: list[Number] = []
        for level in self.levels:
            if isinstance(level, FanoutPlan):
                copies = copies * level.copies
                continue
            energy, one_area, one_leakage = _memory_laws(level, nm)
            area, leakage = area + one_area * copies, leakage + one_leakage * copies
            columns += [_usable(level), *_ports(level), energy, energy]
        mac_area = technology.mac_area_m2(self.bits, self.floating, nm)
        area = area + mac_area * copies
        area = area + technology.vector_area_m2(self.floating, nm) * self.vector_lanes
        outer = self.levels[0]
        assert isinstance(outer, MemoryPlan), "the outermost level is a memory"
        area = area + technology.overhead_area_m2(area, _rate(outer))
        leakage = leakage + technology.LOGIC_LEAKAGE_W_PER_M2 * mac_area * copies
        top: list[Number] = [
            self.clock_hz, self.fill_cycles / self.clock_hz, 0.0,
            technology.mac_joules(self.bits, self.floating, nm), leakage, area,
            self.vector_lanes * self.clock_hz, technology.vector_joules(self.floating, nm),
        ]  # fmt: skip
        rows = np.empty((designs, len(top) + len(columns)))
        for index, column in enumerate([*top, *columns]):
            rows[:, index] = column
        skeleton, first = self._shapes(designs)
        return HardwareTable(tuple(build(int(i)) for i in first), skeleton, rows)

    def _shapes(self, designs: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Per design the number of its fan-out shape, and per shape its first design."""
        sizes = [size for level in self.levels if isinstance(level, FanoutPlan)
                 for size in level.sizes.values()]  # fmt: skip
        shapes = np.empty((designs, len(sizes)))
        for index, size in enumerate(sizes):
            shapes[:, index] = size
        _, first, inverse = np.unique(shapes, axis=0, return_index=True, return_inverse=True)
        return inverse.reshape(-1).astype(np.int64), first.astype(np.int64)


def _memory_laws(level: MemoryPlan, nm: float) -> tuple[Number, Number, Number]:
    """Energy per byte, area and leakage of one instance."""
    if level.kind == "dram":
        return technology.dram_joules_per_byte(level.standard), 0.0, 0.0
    assert level.capacity_bytes is not None, "an on-chip memory has a capacity"
    capacity, width, banks = level.capacity_bytes, level.width_bits, level.banks
    energy = technology.sram_joules_per_byte(capacity, nm)
    if level.kind == "register":
        return (
            energy,
            technology.register_area_m2(capacity, nm),
            technology.register_leakage_watts(capacity, nm),
        )
    return (
        energy,
        technology.sram_area_m2(capacity, width, banks, nm),
        technology.sram_leakage_watts(capacity, width, banks, nm),
    )


def _usable(level: MemoryPlan) -> Number:
    if level.capacity_bytes is None:
        return math.inf
    return level.capacity_bytes / 2 if level.double_buffered else level.capacity_bytes


def _ports(level: MemoryPlan) -> list[Number]:
    rates = (level.read_bytes_per_s, level.write_bytes_per_s, level.bytes_per_s)
    return [0.0 if rate is None else 1.0 / rate for rate in rates]


def _rate(level: MemoryPlan) -> Number:
    """The widest port of the outermost memory."""
    rates = (level.bytes_per_s, level.read_bytes_per_s, level.write_bytes_per_s)
    given = [rate for rate in rates if rate is not None]
    return given[0] if given else 0.0


def _float(value: Number) -> float:
    return float(value)


def _whole(value: Number) -> int:
    return round(float(value))


def _plain(value: Number | None) -> Any:
    return None if value is None else float(value)
