"""Mappings in Timeloop's form: level by level, bounds instead of tiles.

A `TimeloopLevel` is one memory with what Timeloop knows about it (Parashar et al., ISPASS 2019; the
input format of timeloop.csail.mit.edu): the operands kept, the temporal loops whose tiles it hands
down, and the spatial loops over the fan-outs right below it. A loop has a *bound*, not a tile: the
tile of a loop is the product of the bounds of the loops of its axis inside it. `K=5,3` is a bound
with a remainder: five iterations, three in the last pass of all loops of K outside it.

What Timeloop cannot express, and `to_levels` refuses with one message:

* a memory whose operands are kept at different depths (an uneven mapping), unless the loops between
  those depths do not touch the operand, so that its keep may slide over them unnoticed;
* an axis twice in the temporal loops of one level (other loops in between), or so much of it in
  space that it must lie along both dimensions of a fan-out (where it need not, it is laid out anew:
  copies of one fan-out are alike);
* a tile that is no multiple of the tile inside it: only the last tile of a dimension may be
  smaller, not the last one of each tile;
* a loop inside a spatial loop of its own axis, with no memory in between.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from hwopt.errors import MappingError
from hwopt.hardware.accelerator import ROLES, Accelerator, Fanout, Memory, OperandRole
from hwopt.ir.access import Affine, Axis
from hwopt.mapping.mapping import Keep, Loop, Mapping, Node, Spread
from hwopt.mapping.problem import Problem, may_spread


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


def to_levels(problem: Problem, mapping: Mapping, accelerator: Accelerator) -> Levels:
    """A legal mapping in Timeloop's form: the same tiles in the same order.

    Raises `MappingError` for what Timeloop cannot express (see above).
    """
    nodes = _without_trivial(problem, mapping)
    temporal = [node for node in nodes if isinstance(node, Loop)]
    starts = _boundaries(problem, nodes, accelerator)
    ends = [*starts[1:], len(temporal)]
    below = _fanouts_below(accelerator)
    levels = []
    for memory, start, end in zip(accelerator.memories, starts, ends, strict=True):
        kept = {role for node in nodes if isinstance(node, Keep) and node.memory == memory.name
                for role in node.roles}  # fmt: skip
        spread = [node for node in nodes
                  if isinstance(node, Spread) and node.fanout in below[memory.name]]  # fmt: skip
        levels.append((memory.name, tuple(role for role in ROLES if role in kept),
                       temporal[start:end], spread))  # fmt: skip
    tiles = _checked_tiles(problem, levels)
    return tuple(
        TimeloopLevel(name, keeps, *_with_bounds(problem, tiles, accelerator, loops, spread))
        for name, keeps, loops, spread in levels
    )


def _without_trivial(problem: Problem, mapping: Mapping) -> list[Node]:
    """The nodes less loops that run once."""
    extent, nodes = dict(problem.sizes), list[Node]()
    for node in mapping.nodes:
        if isinstance(node, Keep) or node.tile < extent[node.axis]:
            nodes.append(node)
        if not isinstance(node, Keep):
            extent[node.axis] = min(extent[node.axis], node.tile)
    return nodes


def _fanouts_below(accelerator: Accelerator) -> dict[str, list[str]]:
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


def _boundaries(problem: Problem, nodes: Sequence[Node], accelerator: Accelerator) -> list[int]:
    """How many temporal loops stand above each memory, the outermost memory first.

    A keep may stand anywhere among loops that do not touch its operand; a temporal loop may not
    cross a spatial loop of its own axis; no level may walk an axis twice. Of the places that these
    limits leave, each memory takes the one nearest to its innermost keep.
    """
    axes = [node.axis for node in nodes if isinstance(node, Loop)]
    limits = _limits(problem, nodes, accelerator)
    names = [memory.name for memory in accelerator.memories]
    twice = ""

    def place(number: int, start: int) -> list[int] | None:
        nonlocal twice
        if number == len(names):
            again = _walked_twice(axes[start:])
            twice = twice or (f"two loops of {again} at {names[-1]}" if again else "")
            return None if again else []
        low, high, now = limits[names[number]]
        for cut in sorted(range(max(low, start), high + 1), key=lambda cut: abs(cut - now)):
            if again := _walked_twice(axes[start:cut]):
                twice = twice or f"two loops of {again} at {names[number - 1]}"
            elif (rest := place(number + 1, cut)) is not None:
                return [cut, *rest]
        return None

    found = place(1, 0)
    if found is None:
        _refuse_places(nodes, names, limits, twice)
    return [0, *found]


def _walked_twice(axes: Sequence[str]) -> str | None:
    """An axis that comes again after others, None where there is none."""
    runs = [axis for axis, _ in itertools.groupby(axes)]
    return next((axis for axis in runs if runs.count(axis) > 1), None)


def _refuse_places(
    nodes: Sequence[Node], names: Sequence[str], limits: dict[str, tuple[int, int, int]], twice: str
) -> NoReturn:
    uneven = [
        name for number, name in enumerate(names)
        if max(limits[outer][0] for outer in names[: number + 1]) > limits[name][1]
    ]  # fmt: skip
    if not uneven:
        raise MappingError(
            "Timeloop cannot express this mapping: an axis has one temporal loop per level",
            value=twice, allowed="each axis once among the temporal loops of a level",
        )  # fmt: skip
    kept = [str(node) for node in nodes if isinstance(node, Keep) and node.memory == uneven[0]]
    raise MappingError(
        "Timeloop cannot express this mapping: the operands of one memory are kept at different "
        "depths, or a loop stands inside a spatial loop of its own axis",
        where=uneven[0], value="; ".join(kept) or None,
        allowed="all operands of a memory kept at one place of the loop nest",
    )  # fmt: skip


def _limits(
    problem: Problem, nodes: Sequence[Node], accelerator: Accelerator
) -> dict[str, tuple[int, int, int]]:
    """By memory: the least and most temporal loops above it, and how many stand there now."""
    loops = [node for node in nodes if isinstance(node, Loop)]
    order = {level.name: number for number, level in enumerate(accelerator.levels)}
    low = {memory.name: 0 for memory in accelerator.memories}
    high, now = {name: len(loops) for name in low}, dict(low)
    above = 0
    for node in nodes:
        if isinstance(node, Loop):
            above += 1
        elif isinstance(node, Spread):
            inside = [m.name for m in accelerator.memories if order[m.name] > order[node.fanout]]
            before = [n for n, loop in enumerate(loops[:above]) if loop.axis == node.axis]
            after = [n for n, loop in enumerate(loops) if n >= above and loop.axis == node.axis]
            for name in inside[:1]:
                low[name] = max(low[name], *(n + 1 for n in before), 0)
                high[name] = min(high[name], *after, len(loops))
            if after and not inside:
                _refuse_inside(node, loops[after[0]])
        else:
            for role in node.roles:
                axes = problem.operand[role].access.axes
                first = last = above
                while first and loops[first - 1].axis not in axes:
                    first -= 1
                while last < len(loops) and loops[last].axis not in axes:
                    last += 1
                low[node.memory] = max(low[node.memory], first)
                high[node.memory] = min(high[node.memory], last)
            now[node.memory] = max(now[node.memory], above)
    for outer, inner in itertools.pairwise(accelerator.memories):
        now[inner.name] = max(now[inner.name], now[outer.name])
    return {name: (low[name], high[name], now[name]) for name in low}


def _refuse_inside(spread: Spread, loop: Loop) -> NoReturn:
    raise MappingError(
        "Timeloop cannot express this mapping: a loop stands inside a spatial loop of its own axis "
        "with no memory in between", where=str(spread), value=str(loop),
    )  # fmt: skip


RawLevel = tuple[str, tuple[OperandRole, ...], list[Loop], list[Spread]]


def _checked_tiles(problem: Problem, levels: Sequence[RawLevel]) -> dict[str, list[int]]:
    """The tiles of each axis from the outside in; each must be a multiple of the next."""
    tiles: dict[str, list[int]] = {axis.name: [] for axis in problem.axes}
    for _, _, loops, spread in levels:
        cuts: list[Loop | Spread] = [*loops, *spread]
        for node in cuts:
            tiles[node.axis].append(node.tile)
    for axis, sizes in tiles.items():
        for outer, inner in itertools.pairwise(sizes):
            if outer % inner:
                raise MappingError(
                    "Timeloop cannot express this mapping: its tiles are products of bounds, and "
                    "only the last tile of a dimension may be smaller",
                    where=axis, value=f"tiles of {outer} cut in tiles of {inner}",
                    allowed="a tile that is a multiple of the tile inside it",
                )  # fmt: skip
    return tiles


def _with_bounds(
    problem: Problem, tiles: dict[str, list[int]], accelerator: Accelerator, loops: list[Loop],
    spread: list[Spread],
) -> tuple[tuple[Bound, ...], tuple[Bound, ...]]:  # fmt: skip
    """Bounds and remainders of one level's loops, those of one axis taken together."""

    def bound(node: Loop | Spread) -> Bound:
        cuts = tiles[node.axis]
        place = cuts.index(node.tile)
        outer = problem.sizes[node.axis]
        last = outer  # extent of the very last tile at this depth
        for cut in cuts[:place]:
            last -= (-(-last // cut) - 1) * cut
            outer = cut
        fanout, dim = (node.fanout, node.dim) if isinstance(node, Spread) else ("", "")
        return Bound(node.axis, -(-outer // node.tile), -(-last // node.tile), fanout, dim)

    spatial: list[Bound] = []
    for fanout in accelerator.fanouts:
        here = [bound(node) for node in spread if node.fanout == fanout.name]
        spatial += _laid_out(_joined(here), here, fanout)
    if again := _walked_twice([loop.axis for loop in spatial]):
        raise MappingError(
            "Timeloop cannot express this mapping: an axis has one spatial loop per level",
            value=f"two loops of {again} over fan-outs",
        )
    return _joined([bound(node) for node in loops]), tuple(spatial)


def _joined(bounds: Iterable[Bound]) -> tuple[Bound, ...]:
    """The loops of one axis as one: neighbours in time, whatever is between them in space."""
    result: dict[str, Bound] = {}
    for loop in bounds:
        outer = result.get(loop.axis)
        result[loop.axis] = loop if outer is None else replace(
            outer, bound=outer.bound * loop.bound,
            remainder=(outer.remainder - 1) * loop.bound + loop.remainder,
        )  # fmt: skip
    return tuple(result.values())


def _laid_out(joined: Sequence[Bound], as_drawn: Sequence[Bound], fanout: Fanout) -> list[Bound]:
    """Spatial loops with one dimension of the fan-out each, as they were drawn where they can be.

    Copies of a fan-out are alike along all its dimensions, so an axis that lay along two of them
    may lie along one. Raises `MappingError` where there is no room for that.
    """
    if len(joined) == len(as_drawn):
        return list(joined)
    for dims in itertools.product(fanout.dims, repeat=len(joined)):
        used = dict.fromkeys((dim.name for dim in fanout.dims), 1)
        for loop, dim in zip(joined, dims, strict=True):
            used[dim.name] *= loop.bound
        if all(used[dim.name] <= dim.size for dim in fanout.dims) and all(
            may_spread(loop.axis, dim.axes) for loop, dim in zip(joined, dims, strict=True)
        ):
            return [replace(loop, dim=dim.name) for loop, dim in zip(joined, dims, strict=True)]
    raise MappingError(
        "Timeloop cannot express this mapping: an axis lies along one dimension of a fan-out",
        where=fanout.name, value=", ".join(f"{loop} along {loop.dim}" for loop in as_drawn),
    )  # fmt: skip


def spatial_dims(accelerator: Accelerator, memory: str) -> list[tuple[str, str]]:
    """Fan-out and dimension of all that lies right below a memory, outermost first."""
    below = _fanouts_below(accelerator)[memory]
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
