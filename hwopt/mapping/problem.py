"""The mapper's input: one nest on typed data, free of names, graph and machine.

Two operators with equal problems have equal mappings and costs, whatever model they come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from hwopt.hardware.accelerator import OperandRole
from hwopt.ir.access import Access, Axis


@dataclass(frozen=True, slots=True)
class Operand:
    """One tensor of a nest: its role, how it is indexed, its full shape, bits per element."""

    role: OperandRole
    access: Access
    shape: tuple[int, ...]
    bits: int


@dataclass(frozen=True)
class Problem:
    """A nest to be mapped: axes, operands (the reads, then the write), sequential axes."""

    axes: tuple[Axis, ...]
    operands: tuple[Operand, ...]
    sequential: tuple[str, ...] = ()

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Trip count by axis name."""
        return {axis.name: axis.size for axis in self.axes}

    @cached_property
    def operand(self) -> dict[str, Operand]:
        """Operand by role."""
        return {operand.role: operand for operand in self.operands}

    @cached_property
    def points(self) -> int:
        """Multiply-accumulates."""
        total = 1
        for axis in self.axes:
            total *= axis.size
        return total
