"""A file with one operator and one mapping, and its price: `hwopt cost-mapping`.

    axes: {k: 64, c: 64, p: 56, q: 56, r: 3, s: 3}
    input: {index: [c, p + r - 1, q + s - 1], shape: [64, 56, 56], bits: 8}
    weight: {index: [k, c, r, s], shape: [64, 64, 3, 3], bits: 8}
    output: {index: [k, p, q], shape: [64, 56, 56], bits: 16}
    mapping: |
      keep input weight output in DRAM
      for k in tiles of 16
        keep input weight output in GLB
        ...

Positions of an index outside its shape are padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hwopt.errors import FileFormatError, HwoptError, MappingError
from hwopt.files import read_yaml
from hwopt.hardware.accelerator import Accelerator, OperandRole
from hwopt.hardware.conventions import CONVENTIONS
from hwopt.ir.access import Access, Axis, parse_affine
from hwopt.mapping.analysis import PER_LEVEL, Analysis, Price, price
from hwopt.mapping.mapping import Mapping, parse_mapping
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.traffic import analyse
from hwopt.quantities import show, show_bytes


class OperandSpec(BaseModel):
    """One tensor of the operator: how it is indexed, its shape, bits per element."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    index: list[str | int]
    shape: list[int] = Field(min_length=0)
    bits: int = Field(default=8, ge=1, le=128)


class FixedMapping(BaseModel):
    """The file: axes with sizes, operands, the mapping as text."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    axes: dict[str, int] = Field(min_length=1)
    input: OperandSpec
    weight: OperandSpec
    output: OperandSpec
    sequential: list[str] = []
    mapping: str

    def problem(self) -> Problem:
        """The nest; raises `HwoptError` for an index that is not affine or names no axis."""
        if bad := {name: size for name, size in self.axes.items() if size < 1}:
            raise HwoptError("sizes must be at least 1", where="axes", value=bad)
        operands = tuple(self._operand(role, getattr(self, role)) for role in get_args(OperandRole))
        axes = tuple(Axis(name, size) for name, size in self.axes.items())
        return Problem(axes, operands, tuple(self.sequential))

    def _operand(self, role: OperandRole, spec: OperandSpec) -> Operand:
        try:
            index = tuple(parse_affine(str(part)) for part in spec.index)
        except ValueError as error:
            raise HwoptError(str(error), where=f"{role}.index") from error
        if len(index) != len(spec.shape):
            raise HwoptError("index and shape differ in rank", where=role, value=spec.index)
        unknown = {name for part in index for name in part.axes} - set(self.axes)
        if unknown:
            raise HwoptError("unknown axes", where=f"{role}.index", value=sorted(unknown))
        fills = [
            not 0 <= low <= high < size
            for (low, high), size in zip(
                (part.bounds(self.axes) for part in index), spec.shape, strict=True
            )
        ]
        fill = 0.0 if any(fills) else None
        return Operand(role, Access(index, fill), tuple(spec.shape), spec.bits)


@dataclass(frozen=True)
class Priced:
    """A fixed mapping with its counts and price on an accelerator."""

    problem: Problem
    mapping: Mapping
    analysis: Analysis
    price: Price
    conventions: str
    accelerator: Accelerator

    def to_json(self) -> dict[str, Any]:
        """Counts in elements, prices in SI units."""
        flows = {
            memory: {role: {c: getattr(flow, c) for c in PER_LEVEL} for role, flow in by.items()}
            for memory, by in self.analysis.flows.items()
        }
        return {
            "conventions": self.conventions, "steps": self.analysis.steps,
            "macs": self.analysis.points, "feasible": self.price.feasible,
            "seconds": self.price.seconds if self.price.feasible else None,
            "joules": self.price.joules if self.price.feasible else None,
            "bound": self.price.bound, "flows": flows,
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [str(self.mapping), ""]
        for memory, by in self.analysis.flows.items():
            for role, flow in by.items():
                if not flow.footprint:
                    continue
                size = flow.footprint * self.analysis.bits[role] / 8
                lines.append(
                    f"{memory:<12} {role:<7} tile {show_bytes(size):>10}  "
                    f"reads {flow.total_read:>14,}  writes {flow.total_write:>14,}"
                )
        used = self.analysis.points / (self.analysis.steps * self.accelerator.lanes)
        lines.append("")
        if not self.price.feasible:
            lines.append("does NOT fit: " + "; ".join(_overfull(self)))
        else:
            lines.append(
                f"{self.analysis.steps:,} steps, {used:.1%} of lanes used, "
                f"{show(self.price.seconds, 's')}, {show(self.price.joules, 'J')}, "
                f"bound by {self.price.bound} ({self.conventions} conventions)"
            )
        return "\n".join(lines)


def _overfull(priced: Priced) -> list[str]:
    result = []
    for memory in priced.accelerator.memories:
        need = priced.analysis.bytes_of(memory.name, "footprint")
        if need > memory.usable_bytes:
            result.append(
                f"{memory.name} needs {show_bytes(need)}, has {show_bytes(memory.usable_bytes)}"
            )
    return result


def price_fixed(path: str | Path, accelerator: Accelerator, conventions: str = "native") -> Priced:
    """Read, check and price one mapping file.

    Raises `FileFormatError`, `MappingError` or `HwoptError` naming what is wrong.
    """
    if conventions not in CONVENTIONS:
        raise HwoptError(
            "unknown conventions", value=conventions, allowed=", ".join(sorted(CONVENTIONS))
        )
    try:
        spec = FixedMapping.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FileFormatError(first["msg"], where=f"{path} at {where or '.'}") from error
    try:
        mapping = parse_mapping(spec.mapping)
    except MappingError as error:
        raise MappingError(
            error.what, where=f"{path} at mapping, {error.where}", value=error.value,
            allowed=error.allowed,
        ) from error  # fmt: skip
    problem, machine = spec.problem(), accelerator.resolved()
    analysis = analyse(problem, mapping, machine, CONVENTIONS[conventions])
    priced = price(analysis.row(machine), machine, analysis.points)
    return Priced(problem, mapping, analysis, priced, conventions, machine)


def fixed_mapping_schema() -> dict[str, Any]:
    """JSON Schema of the file."""
    schema = FixedMapping.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "One operator with one mapping (hwopt cost-mapping)"
    return schema
