"""From a mapping of ours to Timeloop's form, and what has none.

Timeloop (see `timeloop`) cannot express, and `to_levels` refuses with one message:

* a memory whose operands are kept at different depths (an uneven mapping), unless the loops between
  those depths do not touch the operand, so that its keep may slide over them unnoticed;
* an axis twice in the temporal loops of one level (other loops in between), or so much of it in
  space that it must lie along both dimensions of a fan-out (where it need not, it is laid out anew:
  copies of one fan-out are alike);
* a tile that is no multiple of the tile inside it: only the last tile of a dimension may be
  smaller, not the last one of each tile;
* a loop inside a spatial loop of its own axis, with no memory in between;
* a sliding window whose overlap hangs on what Timeloop does not tell apart: two neighbouring loops
  along it at one level, or a spatial loop along it above the keep of an outer memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NoReturn

from hwopt.errors import MappingError
from hwopt.hardware.accelerator import ROLES, Accelerator, Fanout, OperandRole
from hwopt.mapping.mapping import Keep, Loop, Mapping, Node, Spread
from hwopt.mapping.problem import Operand, Problem, may_spread
from hwopt.mapping.timeloop import Bound, Levels, TimeloopLevel, fanouts_below


def to_levels(problem: Problem, mapping: Mapping, accelerator: Accelerator) -> Levels:
    """A legal mapping in Timeloop's form: the same tiles in the same order.

    Raises `MappingError` for what Timeloop cannot express (see above).
    """
    nodes = _without_trivial(problem, mapping)
    _check_windows(problem, nodes, accelerator)
    temporal = [node for node in nodes if isinstance(node, Loop)]
    starts = _boundaries(problem, nodes, accelerator)
    ends = [*starts[1:], len(temporal)]
    below = fanouts_below(accelerator)
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


def windows(operand: Operand) -> list[set[str]]:
    """Axes that slide one window together: those that share a dimension of the tensor."""
    parts: list[set[str]] = []
    for affine in operand.access.index:
        joined = [part for part in parts if part & set(affine.axes)]
        parts = [part for part in parts if part not in joined]
        parts.append(set(affine.axes).union(*joined))
    return [part for part in parts if len(part) > 1]


def _check_windows(problem: Problem, nodes: Sequence[Node], accelerator: Accelerator) -> None:
    """Refuse a spatial loop along a window that stands above a keep which lets that window slide.

    The keep then fetches the window whole (see `simulate`); below the keep, where Timeloop has its
    spatial loops, it would not.
    """
    order = {level.name: number for number, level in enumerate(accelerator.levels)}
    loops: list[str] = []
    spreads: list[Spread] = []
    for node in nodes:
        if isinstance(node, Loop):
            loops.append(node.axis)
        elif isinstance(node, Spread):
            spreads.append(node)
        else:
            for role in node.roles:
                operand = problem.operand[role]
                fetching = [axis for axis in loops if axis in operand.access.axes][-1:]
                window = [part for part in windows(operand) if part & set(fetching)]
                for spread in spreads:
                    if order[spread.fanout] > order[node.memory] and any(
                        spread.axis in part for part in window
                    ):
                        raise MappingError(
                            "Timeloop cannot express this mapping: a spatial loop along a window "
                            "stands above a keep of an outer memory", where=str(node),
                            value=str(spread),
                        )  # fmt: skip


def _boundaries(problem: Problem, nodes: Sequence[Node], accelerator: Accelerator) -> list[int]:
    """How many temporal loops stand above each memory, the outermost memory first.

    A keep may stand anywhere among loops that do not touch its operand; a temporal loop may not
    cross a spatial loop of its own axis; no level may walk an axis twice. Of the places that these
    limits leave, each memory takes the one nearest to its innermost keep.
    """
    axes = [node.axis for node in nodes if isinstance(node, Loop)]
    sliding = _sliding(problem, nodes)
    limits = _limits(problem, nodes, accelerator)
    names = [memory.name for memory in accelerator.memories]
    twice = ""

    def place(number: int, start: int) -> list[int] | None:
        nonlocal twice
        if number == len(names):
            again = _walked_twice(axes, sliding, start, len(axes))
            twice = twice or (f"two loops of {again} at {names[-1]}" if again else "")
            return None if again else []
        low, high, now = limits[names[number]]
        for cut in sorted(range(max(low, start), high + 1), key=lambda cut: abs(cut - now)):
            if again := _walked_twice(axes, sliding, start, cut):
                twice = twice or f"two loops of {again} at {names[number - 1]}"
            elif (rest := place(number + 1, cut)) is not None:
                return [cut, *rest]
        return None

    found = place(1, 0)
    if found is None:
        _refuse_places(nodes, names, limits, twice)
    return [0, *found]


def _sliding(problem: Problem, nodes: Sequence[Node]) -> set[int]:
    """Which temporal loops slide a window for some keep: its innermost that touch the operand."""
    found: set[int] = set()
    loops: list[str] = []
    for node in nodes:
        if isinstance(node, Loop):
            loops.append(node.axis)
        elif isinstance(node, Keep):
            for operand in (problem.operand[role] for role in node.roles):
                touching = [n for n, axis in enumerate(loops) if axis in operand.access.axes]
                if touching and any(loops[touching[-1]] in part for part in windows(operand)):
                    found.add(touching[-1])
    return found


def _walked_twice(
    axes: Sequence[str], sliding: Iterable[int], start: int, end: int
) -> str | None:  # fmt: skip
    """An axis that comes again after others, or to slide a window; None where there is none."""
    runs = [
        axes[number] for number in range(start, end)
        if number == start or axes[number] != axes[number - 1] or number in sliding
    ]  # fmt: skip
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
    over = [loop.axis for loop in spatial]
    if again := next((axis for axis in over if over.count(axis) > 1), None):
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
