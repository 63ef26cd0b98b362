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

Positions of an index outside its shape are padding. `mapping` may also be the list of nodes of our
JSON form (`forms`), Timeloop's list of directives (`timeloop_yaml`), or one line in Timeloop's
terms (`timeloop_text`); and Timeloop's `problem:` section (`timeloop_problem`) may stand in place
of axes and operands. A file with nothing but such a line means Timeloop's built-in convolution with
strides of 1, as large as the bounds multiply up to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hwopt.errors import FileFormatError, HwoptError, MappingError
from hwopt.files import read_json, read_yaml
from hwopt.hardware.accelerator import ROLES, Accelerator, OperandRole
from hwopt.hardware.conventions import CONVENTIONS
from hwopt.ir.access import Access, Axis, parse_affine
from hwopt.mapping.analysis import PER_LEVEL, Analysis, Flow, Price, price
from hwopt.mapping.forms import nodes_from_json
from hwopt.mapping.mapping import Mapping, parse_mapping
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.timeloop import from_levels
from hwopt.mapping.timeloop_counts import count
from hwopt.mapping.timeloop_levels import to_levels
from hwopt.mapping.timeloop_problem import CNN_LAYER, data_space_roles, read_problem
from hwopt.mapping.timeloop_text import looks_like_text, on_machine, parse_text
from hwopt.mapping.timeloop_yaml import read_directives
from hwopt.mapping.traffic import analyse
from hwopt.mapping.verify import verify_mapping
from hwopt.quantities import show, show_bytes


class OperandSpec(BaseModel):
    """One tensor of the operator: how it is indexed, its shape, bits per element."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    index: list[str | int]
    shape: list[int] = Field(min_length=0)
    bits: int = Field(default=8, ge=1, le=128)


class FixedMapping(BaseModel):
    """The file: axes with sizes and operands, or Timeloop's problem; the mapping in some form."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    axes: dict[str, int] | None = Field(default=None, min_length=1)
    input: OperandSpec | None = None
    weight: OperandSpec | None = None
    output: OperandSpec | None = None
    sequential: list[str] = []
    problem: dict[str, Any] | None = Field(default=None, description="Timeloop's problem section")
    architecture: Any = Field(default=None, description="Timeloop's: not read, --on says it")
    mapping: str | list[Any]

    @model_validator(mode="after")
    def _described(self) -> Self:
        own = (self.axes, *(getattr(self, role) for role in ROLES))
        if any(part is None for part in own) and (self.problem is None or any(own)):
            raise ValueError("needs axes, input, weight and output, or a Timeloop problem")
        return self

    def nest(self, accelerator: Accelerator) -> Problem:
        """The operator; raises `HwoptError` for an index that is not affine or names no axis."""
        if self.axes is None:
            bits = {role: accelerator.bits.get(role, 8) for role in ROLES}
            return read_problem(self.problem, "problem", bits)
        if bad := {name: size for name, size in self.axes.items() if size < 1}:
            raise HwoptError("sizes must be at least 1", where="axes", value=bad)
        self._same_sizes(self.axes)
        operands = tuple(
            self._operand(role, getattr(self, role), self.axes) for role in get_args(OperandRole)
        )
        axes = tuple(Axis(name, size) for name, size in self.axes.items())
        return Problem(axes, operands, tuple(self.sequential))

    def _same_sizes(self, axes: dict[str, int]) -> None:
        """Where both descriptions are given they must not contradict each other."""
        instance = (self.problem or {}).get("instance") or {}
        differ = {
            name: instance[name] for name in axes if instance.get(name, axes[name]) != axes[name]
        }
        if differ:
            raise FileFormatError("axes and problem.instance differ", where="axes", value=differ)

    def mapped(self, problem: Problem, accelerator: Accelerator) -> Mapping:
        """The mapping, from whichever form it is written in."""
        names = [axis.name for axis in problem.axes]
        if isinstance(self.mapping, str):
            if looks_like_text(self.mapping):
                levels = on_machine(parse_text(self.mapping), accelerator, names)
                return from_levels(levels, problem)
            return parse_mapping(self.mapping)
        if any(isinstance(item, dict) and "target" in item for item in self.mapping):
            spaces = None if self.problem is None else data_space_roles(self.problem, "problem")
            levels = read_directives(self.mapping, problem, accelerator, "mapping", spaces)
            return from_levels(levels, problem)
        return nodes_from_json(self.mapping)

    @staticmethod
    def _operand(role: OperandRole, spec: OperandSpec, axes: dict[str, int]) -> Operand:
        try:
            index = tuple(parse_affine(str(part)) for part in spec.index)
        except ValueError as error:
            raise HwoptError(str(error), where=f"{role}.index") from error
        if len(index) != len(spec.shape):
            raise HwoptError("index and shape differ in rank", where=role, value=spec.index)
        unknown = {name for part in index for name in part.axes} - set(axes)
        if unknown:
            raise HwoptError("unknown axes", where=f"{role}.index", value=sorted(unknown))
        fills = [
            not 0 <= low <= high < size
            for (low, high), size in zip(
                (part.bounds(axes) for part in index), spec.shape, strict=True
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


def read_fixed(path: str | Path, accelerator: Accelerator) -> tuple[Problem, Mapping]:
    """The operator and mapping of a file, in any of the forms above.

    Raises `FileFormatError`, `MappingError` or `HwoptError` naming what is wrong.
    """
    data = read_json(path) if str(path).endswith(".json") else read_yaml(path)
    if isinstance(data, str) and looks_like_text(data):
        data = {"problem": _as_large(data), "mapping": data}
    try:
        spec = FixedMapping.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FileFormatError(first["msg"], where=f"{path} at {where or '.'}") from error
    problem = spec.nest(accelerator)
    try:
        mapping = spec.mapped(problem, accelerator)
    except MappingError as error:
        raise MappingError(
            error.what, where=f"{path} at mapping, {error.where}", value=error.value,
            allowed=error.allowed, fix=error.fix,
        ) from error  # fmt: skip
    verify_mapping(problem, mapping, accelerator)
    return problem, mapping


def _as_large(text: str) -> dict[str, Any]:
    """Timeloop's built-in convolution, as large as the bounds of a line of text."""
    last = dict.fromkeys(CNN_LAYER["dimensions"], 0)
    for level in parse_text(text):
        for loop in level.loops:
            if (name := loop.axis.upper()) in last:
                last[name] = last[name] * loop.bound + loop.remainder - 1
    return {"shape": "cnn-layer", "instance": {name: end + 1 for name, end in last.items()}}


def price_fixed(path: str | Path, accelerator: Accelerator, conventions: str = "native") -> Priced:
    """Read, check and price one mapping file.

    Under "timeloop" the accesses are those that Timeloop's model counts (`timeloop_counts`). Raises
    `FileFormatError`, `MappingError` or `HwoptError` naming what is wrong.
    """
    if conventions not in CONVENTIONS:
        raise HwoptError(
            "unknown conventions", value=conventions, allowed=", ".join(sorted(CONVENTIONS))
        )
    problem, mapping = read_fixed(path, accelerator)
    machine = accelerator.resolved()
    if conventions == "timeloop":
        analysis = _as_timeloop_counts(problem, mapping, machine)
    else:
        analysis = analyse(problem, mapping, machine, CONVENTIONS[conventions])
    priced = price(analysis.row(machine), machine, analysis.points)
    return Priced(problem, mapping, analysis, priced, conventions, machine)


def _as_timeloop_counts(problem: Problem, mapping: Mapping, machine: Accelerator) -> Analysis:
    counts = count(to_levels(problem, mapping, machine), problem)
    flows: dict[str, dict[OperandRole, Flow]] = {}
    for memory, by_role in counts.accesses.items():
        flows[memory] = {role: Flow() for role in problem.operand}
        for role, n in by_role.items():
            write = n.fills + n.updates
            flows[memory][role] = Flow(
                n.tile, n.reads, write, n.reads * n.instances, write * n.instances
            )
    bits = {role: operand.bits for role, operand in problem.operand.items()}
    return Analysis(counts.steps, problem.points, flows, bits)


def fixed_mapping_schema() -> dict[str, Any]:
    """JSON Schema of the file."""
    schema = FixedMapping.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "One operator with one mapping (hwopt cost-mapping)"
    return schema
