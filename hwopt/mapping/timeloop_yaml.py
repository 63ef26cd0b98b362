"""Timeloop's `mapping:` section: a list of directives, read and written.

    mapping:
      - {target: DRAM, type: temporal, factors: K=8 C=32, permutation: CK}
      - {target: GLB, type: bypass, keep: [Inputs, Outputs], bypass: [Weights]}
      - {target: GLB, type: temporal, factors: P=28 Q=5,3, permutation: QP}
      - {target: GLB, type: spatial, factors: Q=14 S=3 C=4, permutation: QSC, split: 1}

`permutation` lists loops from the inside out. Of a spatial permutation the first `split` loops lie
along X, the first dimension of the fan-outs below the target, the others along Y. `Q=5,3` has a
remainder (see `timeloop`); `Q=0` is what is left of Q. Unnamed axes have factor 1; operands not
named are kept wherever the memory may hold them. A directive may also target a fan-out by name
(as in Timeloop 0.4, where a fan-out is a container of its own).
"""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingType
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hwopt.errors import FileFormatError, MappingError
from hwopt.hardware.accelerator import ROLES, Accelerator, OperandRole
from hwopt.mapping.problem import Problem
from hwopt.mapping.timeloop import Bound, Levels, TimeloopLevel, spatial_dims
from hwopt.mapping.timeloop_problem import DATA_SPACES
from hwopt.mapping.timeloop_text import axis_name

_FACTOR = re.compile(r"([A-Za-z_]+)\s*=?\s*([0-9]+)(?:,([0-9]+))?")
_KEYS = {"target", "type", "factors", "permutation", "split", "keep", "bypass"}
_TYPES = ("temporal", "spatial", "bypass", "datatype", "dataspace")


def print_directives(levels: Levels, problem: Problem, accelerator: Accelerator) -> list[Any]:
    """The directives of a mapping whose axes are letters (`timeloop.rename`).

    Raises `MappingError` for more than two dimensions of fan-out below one memory.
    """
    axes = [axis.name for axis in problem.axes]
    result: list[Any] = []
    for level in levels:
        keep = [DATA_SPACES[role] for role in level.keeps]
        skip = [DATA_SPACES[role] for role in ROLES if role not in level.keeps]
        result.append({"target": level.memory, "type": "bypass", "keep": keep, "bypass": skip})
        loops = list(reversed(level.temporal))
        result.append({"target": level.memory, "type": "temporal", **_factors(loops, axes)})
        places = spatial_dims(accelerator, level.memory)
        if len(places) > 2:
            raise MappingError("Timeloop's fan-outs have two dimensions, X and Y",
                               where=level.memory, value=len(places))  # fmt: skip
        if places:
            inside_out = list(reversed(level.spatial))
            along = [[x for x in inside_out if (x.fanout, x.dim) == place] for place in places]
            result.append(
                {
                    "target": level.memory, "type": "spatial",
                    **_factors([loop for part in along for loop in part], axes),
                    "split": len(along[0]) if len(along) == 2 else len(axes),
                }
            )  # fmt: skip
    return result


def _factors(inside_out: Sequence[Bound], axes: Sequence[str]) -> dict[str, str]:
    """Factors and permutation of all axes; those that do not run stand outermost."""
    given = {loop.axis: loop for loop in inside_out}
    order = [*given, *(axis for axis in axes if axis not in given)]
    factors = [str(given[axis]) if axis in given else f"{axis}=1" for axis in order]
    return {"factors": " ".join(factors), "permutation": "".join(order)}


@dataclass
class _Reading:
    """What the directives said so far about one memory."""

    temporal: list[Bound] = field(default_factory=list)
    spatial: list[Bound] = field(default_factory=list)
    keep: set[OperandRole] = field(default_factory=set)
    bypass: set[OperandRole] = field(default_factory=set)


def read_directives(
    data: Any, problem: Problem, accelerator: Accelerator, where: str,
    names: MappingType[str, OperandRole] | None = None,
) -> Levels:  # fmt: skip
    """The levels that a list of directives describes; `names` are the problem's data spaces.

    Raises `FileFormatError` naming the directive and key that are wrong.
    """
    if not isinstance(data, list) or not data:
        raise FileFormatError("not a list of directives", where=where, value=type(data).__name__)
    readings = {memory.name: _Reading() for memory in accelerator.memories}
    for number, directive in enumerate(data):
        _Directive(directive, f"{where}[{number}]", problem, accelerator, names or {}).put(readings)
    levels = []
    for memory in accelerator.memories:
        said = readings[memory.name]
        keeps = tuple(
            role for role in ROLES
            if role in problem.operand and role not in said.bypass
            and (role in said.keep or role in memory.keeps)
        )  # fmt: skip
        levels.append(TimeloopLevel(memory.name, keeps, tuple(said.temporal), tuple(said.spatial)))
    return _remaining(tuple(levels), problem)


class _Directive:
    """One entry of the list."""

    def __init__(
        self, data: Any, where: str, problem: Problem, accelerator: Accelerator,
        names: MappingType[str, OperandRole],
    ) -> None:  # fmt: skip
        self.where, self.problem, self.accelerator, self.names = where, problem, accelerator, names
        if not isinstance(data, dict):
            raise FileFormatError("not a directive", where=where, value=type(data).__name__)
        if unknown := sorted(set(map(str, data)) - _KEYS):
            raise FileFormatError("unknown keys", where=where, value=unknown,
                                  allowed=", ".join(sorted(_KEYS)))  # fmt: skip
        self.data: dict[str, Any] = data
        self.type = str(data.get("type"))
        if self.type not in _TYPES:
            raise FileFormatError("unknown type of directive", where=f"{where}.type",
                                  value=data.get("type"), allowed=", ".join(_TYPES))  # fmt: skip
        self.memory, self.places = self._target()

    def _target(self) -> tuple[str, list[tuple[str, str]]]:
        """The memory, and the dimensions of fan-outs that a spatial directive means."""
        target, at = self.data.get("target"), f"{self.where}.target"
        memories = [memory.name for memory in self.accelerator.memories]
        if isinstance(target, int) and 0 <= target < len(memories):
            target = memories[len(memories) - 1 - target]  # Timeloop counts from the inside
        for memory in memories:
            if memory == target:
                return memory, spatial_dims(self.accelerator, memory)
        raise FileFormatError("no such level", where=at, value=target, allowed=", ".join(memories))

    def put(self, readings: dict[str, _Reading]) -> None:
        """Add what this directive says."""
        said = readings[self.memory]
        said.keep |= self._roles("keep")
        said.bypass |= self._roles("bypass")
        if self.type not in ("temporal", "spatial"):
            return
        bounds = self._bounds()
        order = self._permutation(list(bounds))
        if self.type == "temporal":
            if said.temporal:
                raise FileFormatError("two temporal directives of one level", where=self.where,
                                      value=self.memory)  # fmt: skip
            said.temporal += [bounds[axis] for axis in reversed(order) if bounds[axis].bound != 1]
            return
        split = self.data.get("split", len(order))
        if not isinstance(split, int) or isinstance(split, bool) or split < 0:
            raise FileFormatError("not a number of loops", where=f"{self.where}.split", value=split)
        for number in reversed(range(len(order))):
            if bounds[order[number]].bound != 1:
                said.spatial.append(self._spatial(bounds[order[number]], number >= split))

    def _spatial(self, loop: Bound, second: bool) -> Bound:
        if int(second) >= len(self.places):
            raise FileFormatError(
                "there is no such fan-out below this memory", where=self.where,
                value=f"{loop} along {'XY'[second]}",
                allowed=", ".join(".".join(place) for place in self.places) or "temporal only",
            )  # fmt: skip
        fanout, dim = self.places[int(second)]
        return Bound(loop.axis, loop.bound, loop.remainder, fanout, dim)

    def _roles(self, key: str) -> set[OperandRole]:
        value = self.data.get(key) or []
        if not isinstance(value, list):
            raise FileFormatError("not a list of data spaces", where=f"{self.where}.{key}",
                                  value=value)  # fmt: skip
        known: dict[str, OperandRole] = {role: role for role in ROLES}
        known |= {name.lower(): role for role, name in DATA_SPACES.items()}
        known |= {name.lower(): role for name, role in self.names.items()}
        roles: set[OperandRole] = set()
        for name in value:
            if str(name).lower() not in known:
                raise FileFormatError(
                    "no such data space", where=f"{self.where}.{key}", value=name,
                    allowed=", ".join(self.names or DATA_SPACES.values()),
                )  # fmt: skip
            roles.add(known[str(name).lower()])
        return roles

    def _bounds(self) -> dict[str, Bound]:
        """The bound of every axis, 1 where the directive does not name it; 0 is what is left."""
        axes = [axis.name for axis in self.problem.axes]
        value = self.data.get("factors", "")
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        if isinstance(value, dict):
            text = " ".join(f"{axis}={bound}" for axis, bound in value.items())
        if rest := _FACTOR.sub("", text).strip(" ,\t\n"):
            raise FileFormatError("not factors", where=f"{self.where}.factors", value=rest,
                                  allowed="such as K=8 C=32 Q=5,3")  # fmt: skip
        bounds: dict[str, Bound] = {}
        for name, bound, remainder in _FACTOR.findall(text):
            axis = axis_name(name, axes)
            if axis in bounds:
                raise FileFormatError("two factors of one axis", where=f"{self.where}.factors",
                                      value=axis)  # fmt: skip
            bounds[axis] = Bound(axis, int(bound), int(remainder or bound))
        return {axis: bounds.get(axis, Bound(axis, 1, 1)) for axis in axes}

    def _permutation(self, axes: list[str]) -> list[str]:
        """All axes from the inside out; unnamed ones stand outermost."""
        value = self.data.get("permutation", [])
        if isinstance(value, str):
            value = (
                re.split(r"[\s,]+", value.strip()) if re.search(r"[\s,]", value) else list(value)
            )
        order = [axis_name(str(name), axes) for name in value]
        if len(set(order)) != len(order):
            raise FileFormatError("an axis twice", where=f"{self.where}.permutation", value=value)
        return [*order, *(axis for axis in axes if axis not in order)]


def _remaining(levels: Levels, problem: Problem) -> Levels:
    """Bounds of 0 become what the other bounds of their axis leave."""
    left = dict(problem.sizes)
    for level in levels:
        for loop in level.loops:
            left[loop.axis] //= loop.bound or 1

    def fill(loop: Bound) -> Bound:
        size = loop.bound or left[loop.axis]
        return Bound(loop.axis, size, loop.remainder or size, loop.fanout, loop.dim)

    return tuple(
        TimeloopLevel(
            level.memory, level.keeps, tuple(map(fill, level.temporal)),
            tuple(map(fill, level.spatial)),
        )
        for level in levels
    )  # fmt: skip
