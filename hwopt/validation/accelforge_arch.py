"""Architectures of AccelForge, as its evaluated description prints them, read into ours.

    Memory    size (bits), per action: energy (J), bits_per_action, throughput (actions/s per copy)
    Container spatial dimensions with fan-out, may_reuse, reuse, min_usage; also on memories
    Compute   the last one multiplies and accumulates; others (scalar units) are not for products

What its terms mean here:

* a memory keeps `keep` and may keep `may_keep`; `~M` is everything that M does not keep;
* one fan-out level per spatial dimension. `reuse`: only axes that none of these tensors has may be
  spread over it. `may_reuse`: what is multicast, and whether outputs are reduced. `min_usage`: the
  least share of the copies that a mapping uses; where no mapping reaches it, the most it can;
* latency: `sum(calls / throughput)` is one port for reads and writes, `max(...)` a port for each,
  `sum(calls) / x / y` one port of x y actions per second; calls are those of the busiest copy;
* a tensor that is wider in one memory than elsewhere (`bits_per_value`) makes each of its values
  there cost, take and move as much more.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from hwopt.errors import FileFormatError, HwoptError
from hwopt.files import read_json
from hwopt.hardware.accelerator import (
    ROLES,
    Accelerator,
    Compute,
    Fanout,
    FanoutDim,
    Level,
    Memory,
    OperandRole,
)
from hwopt.mapping.problem import Problem

TENSORS: dict[str, OperandRole] = {"T0": "input", "W0": "weight", "T1": "output"}
"""Tensors of the product for which the file's architectures were evaluated."""
EVALUATED_BITS = 8
"""Width of its values: a memory of just this size for one tensor holds one value of any width."""
_SET = re.compile(r"InvertibleSet\(frozenset\((?:\{(.*)\})?\)\)")
_NAME = re.compile(r"'([^']*)'")
_RATE = re.compile(r"sum\(a\.n_calls for a in actions\)((?: */ *[0-9.]+(?:e[+-]?[0-9]+)?)+)")
_EACH = "(a.n_calls / a.throughput for a in actions)"


class Action(BaseModel):
    """A read, a write or a compute."""

    name: Literal["read", "write", "compute"]
    joules: float = Field(ge=0, validation_alias="energy_J")
    throughput_per_s: float = Field(gt=0)
    bits_per_action: float | None = None

    @field_validator("bits_per_action", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return None if value == "None" else value


class Spatial(BaseModel):
    """One dimension of copies."""

    name: str
    fanout: int = Field(ge=1)
    reuse: str
    may_reuse: str
    min_usage: float = Field(ge=0, le=1)


class Tensors(BaseModel):
    """What a memory holds."""

    keep: str
    may_keep: str


class Node(BaseModel):
    """One component."""

    name: str
    kind: Literal["Memory", "Container", "Compute"]
    size: float | None = None
    leak_power: float = 0.0
    total_latency: str = f"sum{_EACH}"
    bits_per_value: str = "{}"
    actions: list[Action] = []
    tensors: Tensors | None = None
    spatial: list[Spatial] = []


@dataclass(frozen=True)
class Machine:
    """An accelerator for one problem, and for each dimension the copies to be used at least."""

    accelerator: Accelerator
    usage: dict[str, float]


@dataclass(frozen=True)
class Architecture:
    """The components, outermost first; `where` names the file and entry in messages."""

    nodes: tuple[Node, ...]
    where: str

    def machine(self, problem: Problem) -> Machine:
        """The accelerator on which a problem may be spread as the `reuse` sets let it.

        `usage` gives each remaining dimension's least share of its copies. Raises `HwoptError` for
        what our machines cannot say.
        """
        levels: list[Level] = []
        usage: dict[str, float] = {}
        kept: dict[str, set[OperandRole]] = {}
        unit = self.nodes[-1]
        for node in self.nodes:
            for dim in node.spatial:
                if axes := self._axes(dim, problem):
                    levels.append(self._fanout(node, dim, axes))
                    usage[f"{node.name}_{dim.name}"] = dim.min_usage
            if node.kind == "Memory" and (memory := self._memory(node, problem, kept)):
                levels.append(memory)
        return Machine(
            Accelerator(
                name=self.where, clock_hz=self._clock(unit), levels=tuple(levels),
                compute=Compute(
                    joules_per_mac=self._action(unit, "compute").joules,
                    leakage_watts=unit.leak_power,
                ),
            ),
            usage,
        )  # fmt: skip

    def _axes(self, dim: Spatial, problem: Problem) -> tuple[str, ...]:
        """Axes that no tensor of `reuse` has."""
        fixed = self._roles(dim.reuse)
        taken = {a for role in fixed for a in problem.operand[role].access.axes}
        return tuple(axis for axis in problem.sizes if axis not in taken)

    def _fanout(self, node: Node, dim: Spatial, axes: tuple[str, ...]) -> Fanout:
        shared = self._roles(dim.may_reuse)
        return Fanout(
            name=f"{node.name}_{dim.name}",
            dims=(FanoutDim(name=dim.name, size=dim.fanout, axes=axes),),
            multicast=tuple(role for role in ROLES[:2] if role in shared),
            reduces="output" in shared,
        )

    def _memory(
        self, node: Node, problem: Problem, kept: dict[str, set[OperandRole]]
    ) -> Memory | None:
        if node.tensors is None or node.size is None:
            raise self._error("a memory without size or tensors", node)
        keep = self._roles(node.tensors.keep, kept)
        may = self._roles(node.tensors.may_keep, kept) | keep
        kept[node.name] = keep
        if not may:
            return None
        read, write = self._action(node, "read"), self._action(node, "write")
        size, wider = node.size, self._wider(node, may, problem)
        if size == EVALUATED_BITS and len(may) == 1:
            size = problem.operand[min(may)].bits
        ports = self._ports(node, read, write, wider)
        return Memory(
            name=node.name, kind="sram" if len(kept) > 1 else "dram",
            capacity_bytes=None if math.isinf(size) else size / 8 / wider,
            keeps=tuple(role for role in ROLES if role in may),
            bypass=tuple(role for role in ROLES if role in may - keep),
            read_joules_per_byte=8 * read.joules / self._bits(node, read) * wider,
            write_joules_per_byte=8 * write.joules / self._bits(node, write) * wider,
            leakage_watts=node.leak_power, **ports,
        )  # fmt: skip

    def _ports(self, node: Node, read: Action, write: Action, wider: float) -> dict[str, float]:
        """Bandwidths in bytes/s, as the node's latency says; none where it takes no time."""
        scale = 1 / 8 / wider
        if match := _RATE.fullmatch(node.total_latency.strip()):
            rate = math.prod(float(part) for part in match[1].split("/")[1:])
            return self._finite(bytes_per_s=rate * self._bits(node, read) * scale)
        rates = [a.throughput_per_s * self._bits(node, a) * scale for a in (read, write)]
        if node.total_latency == f"max{_EACH}":
            return self._finite(read_bytes_per_s=rates[0], write_bytes_per_s=rates[1])
        if node.total_latency == f"sum{_EACH}" and rates[0] == rates[1]:
            return self._finite(bytes_per_s=rates[0])
        raise self._error("a latency that a port cannot express", node, node.total_latency)

    @staticmethod
    def _finite(**rates: float) -> dict[str, float]:
        return {name: rate for name, rate in rates.items() if math.isfinite(rate)}

    def _clock(self, unit: Node) -> float:
        """Multiply-accumulates per second of one unit."""
        action = self._action(unit, "compute")
        if match := _RATE.fullmatch(unit.total_latency.strip()):
            return math.prod(float(part) for part in match[1].split("/")[1:])
        return action.throughput_per_s

    def _wider(self, node: Node, may: set[OperandRole], problem: Problem) -> float:
        """How many times as wide the values of a memory are as elsewhere."""
        found = {
            TENSORS.get(name): int(bits)
            for name, bits in re.findall(r"'(\w+)': *([0-9]+)", node.bits_per_value)
        }
        if not found:
            return 1.0
        if len(may) > 1 or set(found) != may:
            raise self._error("several widths in one memory", node, node.bits_per_value)
        (role,) = may
        return found[role] / problem.operand[role].bits

    def _action(self, node: Node, name: str) -> Action:
        for action in node.actions:
            if action.name == name:
                return action
        raise self._error(f"no action {name!r}", node)

    def _bits(self, node: Node, action: Action) -> float:
        if action.bits_per_action is None:
            raise self._error(f"no bits_per_action of {action.name!r}", node)
        return action.bits_per_action

    def _roles(
        self, text: str, kept: dict[str, set[OperandRole]] | None = None
    ) -> set[OperandRole]:
        """Operands of a set such as `InvertibleSet(frozenset({'T0'}))` or `~MainMemory`."""
        if text.startswith("~") and kept is not None:
            name = text[1:].removesuffix(".tensors")
            if name in kept:
                return set(ROLES) - kept[name]
        elif match := _SET.fullmatch(text):
            names = _NAME.findall(match[1] or "")
            if all(name in TENSORS for name in names):
                return {TENSORS[name] for name in names}
        raise FileFormatError("not a set of tensors", where=self.where, value=text)

    def _error(self, what: str, node: Node, value: object = None) -> HwoptError:
        return FileFormatError(what, where=f"{self.where}.{node.name}", value=value)


def read_architectures(path: Path) -> dict[str, Architecture]:
    """All architectures of a file; raises `FileFormatError` naming the entry that is wrong."""
    data = read_json(path)
    arches = data.get("arches") if isinstance(data, dict) else None
    if not isinstance(arches, dict):
        raise FileFormatError("no 'arches'", where=str(path))
    return {name: _architecture(entry, f"{path}: {name}") for name, entry in arches.items()}


def _architecture(entry: Any, where: str) -> Architecture:
    nodes = entry.get("nodes") if isinstance(entry, dict) else None
    if not isinstance(nodes, list) or not nodes:
        raise FileFormatError("no 'nodes'", where=where)
    try:
        found = tuple(Node.model_validate(node) for node in nodes)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise FileFormatError(first["msg"], where=f"{where} at {place}") from error
    if found[0].kind != "Memory" or found[-1].kind != "Compute":
        raise FileFormatError("a memory first and a compute unit last", where=where)
    return Architecture(found, where)


def changed(architecture: Architecture, parameters: dict[str, float]) -> Architecture:
    """The same with parameters as AccelForge names them: `<Memory>Energy` (J per action of every
    action) and `<Memory>Size` (bits). Raises `FileFormatError` for any other.
    """
    nodes = {node.name: node for node in architecture.nodes}
    for name, value in parameters.items():
        for suffix in ("Energy", "Size"):
            if name.endswith(suffix) and (node := nodes.get(name.removesuffix(suffix))):
                update: dict[str, object] = {"size": value}
                if suffix == "Energy":
                    actions = [a.model_copy(update={"joules": value}) for a in node.actions]
                    update = {"actions": actions}
                nodes[node.name] = node.model_copy(update=update)
                break
        else:
            raise FileFormatError("unknown parameter", where=architecture.where, value=name)
    return Architecture(tuple(nodes.values()), architecture.where)
