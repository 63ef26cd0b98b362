"""Mappings in Timeloop's form: level by level, bounds instead of tiles.

A `TimeloopLevel` is one memory with what Timeloop knows about it (Parashar et al., ISPASS 2019; the
input format of timeloop.csail.mit.edu): the operands kept, the temporal loops whose tiles it hands
down, and the spatial loops over the fan-outs right below it. A loop has a *bound*, not a tile: the
tile of a loop is the product of the bounds of the loops of its axis inside it. `K=5,3` is a bound
with a remainder: five iterations, three in the last pass of all loops of K outside it.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, replace

from hwopt.errors import MappingError
from hwopt.hardware.accelerator import Accelerator, Memory, OperandRole
from hwopt.ir.access import Affine, Axis
from hwopt.mapping.mapping import Keep, Loop, Mapping, Node, Spread
from hwopt.mapping.problem import Problem


@dataclass(frozen=True, slots=True)
class Bound:
    """One loop: an axis, its iterations, those of the very last pass (`remainder`), and for a
    spatial loop the fan-out and dimension it is laid out over.
    """

    axis: str
    bound: int
    remainder: int
    fanout: str = ""
    dim: str = ""

    def __str__(self) -> str:
        last = "" if self.remainder == self.bound else f",{self.remainder}"
        return f"{self.axis}={self.bound}{last}"


@dataclass(frozen=True, slots=True)
class TimeloopLevel:
    """One memory: operands kept, temporal loops, spatial loops below it (each outermost first)."""

    memory: str
    keeps: tuple[OperandRole, ...]
    temporal: tuple[Bound, ...] = ()
    spatial: tuple[Bound, ...] = ()

    @property
    def loops(self) -> tuple[Bound, ...]:
        """Temporal, then spatial: from the outside in."""
        return (*self.temporal, *self.spatial)


Levels = tuple[TimeloopLevel, ...]
"""A mapping in Timeloop's form: one level per memory, outermost first."""


def from_levels(levels: Levels, problem: Problem) -> Mapping:
    """The mapping as our loop nest; bounds must multiply up to the problem's sizes.

    Raises `MappingError` naming the axis whose bounds do not.
    """
    check_bounds(levels, problem)
    tile = {axis.name: 1 for axis in problem.axes}
    nodes: list[Node] = []
    for level in reversed(levels):
        for loop in reversed(level.loops):
            if loop.fanout:
                nodes.append(Spread(loop.fanout, loop.dim, loop.axis, tile[loop.axis]))
            else:
                nodes.append(Loop(loop.axis, tile[loop.axis]))
            tile[loop.axis] *= loop.bound
        if level.keeps:
            nodes.append(Keep(level.memory, level.keeps))
    return Mapping(tuple(reversed(nodes)))


def check_bounds(levels: Levels, problem: Problem) -> None:
    """Raise `MappingError` where the bounds of an axis do not make up its size."""
    reached = {axis.name: 0 for axis in problem.axes}
    for level in levels:
        for loop in level.loops:
            if loop.axis not in reached:
                raise MappingError("no such axis", where=level.memory, value=loop.axis,
                                   allowed=", ".join(reached))  # fmt: skip
            if not 1 <= loop.remainder <= loop.bound:
                raise MappingError("a bound is positive and its remainder at most the bound",
                                   where=level.memory, value=str(loop))  # fmt: skip
            reached[loop.axis] = reached[loop.axis] * loop.bound + loop.remainder - 1
    for axis, last in reached.items():
        if last + 1 != problem.sizes[axis]:
            raise MappingError(
                "bounds do not multiply up to the size of their axis", where=axis, value=last + 1,
                allowed=str(problem.sizes[axis]),
                fix=f"the loops of {axis} are "
                + (", ".join(f"{x} at {lv.memory}" for lv in levels for x in lv.loops
                             if x.axis == axis) or "missing"),
            )  # fmt: skip


def fanouts_below(accelerator: Accelerator) -> dict[str, list[str]]:
    """The fan-outs between each memory and the next one."""
    below: dict[str, list[str]] = {}
    memory = ""
    for level in accelerator.levels:
        if isinstance(level, Memory):
            memory = level.name
            below[memory] = []
        else:
            below[memory].append(level.name)
    return below


def spatial_dims(accelerator: Accelerator, memory: str) -> list[tuple[str, str]]:
    """Fan-out and dimension of all that lies right below a memory, outermost first."""
    below = fanouts_below(accelerator)[memory]
    return [
        (fanout.name, dim.name)
        for fanout in accelerator.fanouts
        if fanout.name in below
        for dim in fanout.dims
    ]


def rename(problem: Problem, mapping: Mapping, accelerator: Accelerator) -> tuple[Problem, Mapping]:
    """The same nest with one letter for each axis, as Timeloop's permutations need.

    An axis keeps the letter by which a fan-out of the machine knows it, or takes its first one as a
    capital where that is free. Raises `MappingError` for more than 26 axes.
    """
    known = {axis for fanout in accelerator.fanouts for dim in fanout.dims for axis in dim.axes}
    letters: dict[str, str] = {}
    for name in sorted(problem.sizes, key=lambda name: (len(name), name)):
        parts = [part for part in (name, *name.split("_")) if part in known and len(part) == 1]
        wanted = [*parts, name[0].upper(), *string.ascii_uppercase]
        letter = next((letter for letter in wanted if letter not in letters.values()), None)
        if letter is None:
            raise MappingError("Timeloop names axes by letters: there are 26", value=name)
        letters[name] = letter
    nodes = tuple(
        node if isinstance(node, Keep) else replace(node, axis=letters[node.axis])
        for node in mapping.nodes
    )
    one = {name: Affine.axis(letter) for name, letter in letters.items()}
    return (
        Problem(
            tuple(Axis(letters[axis.name], axis.size) for axis in problem.axes),
            tuple(replace(o, access=o.access.substitute(one)) for o in problem.operands),
            tuple(letters[name] for name in problem.sequential),
        ),
        Mapping(nodes),
    )
