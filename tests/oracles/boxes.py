"""Totals of one mapping of a large operator, counted element by element in compiled code.

For mappings whose nodes follow the machine's order, under the conventions of AccelForge: every loop
above a keep fetches the whole tile, a box with padding and holes in it; where the innermost of them
moves a window, what the box before had stays; partial sums come back to every copy. Each element
of each tile of each copy is visited; nothing is multiplied. It shares no code with the closed forms
or the mapper.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from hwopt.hardware.accelerator import ROLES, Accelerator
from hwopt.mapping.mapping import Keep, Mapping, Spread
from hwopt.mapping.problem import Problem

Totals = dict[tuple[str, str], tuple[int, int]]
"""Elements read and written by memory and operand."""


def totals(problem: Problem, mapping: Mapping, accelerator: Accelerator) -> Totals:
    """What every memory reads and writes of every operand, all copies together."""
    names = list(problem.sizes)
    sizes = np.array(list(problem.sizes.values()), np.int64)
    fanouts = {fanout.name: fanout for fanout in accelerator.fanouts}
    rows, keeps = [], {role: list[tuple[int, str, int]]() for role in ROLES}
    spreads = 0
    for one in mapping.walked(problem.sizes).nodes:
        if isinstance(one, Keep):
            for role in one.roles:
                keeps[role].append((len(rows), one.memory, spreads))
            continue
        spread = isinstance(one, Spread)
        spreads += spread
        rows.append((names.index(one.axis), one.tile, spread))
    node = np.array(rows, np.int64).reshape(-1, 3)
    found: Totals = {}
    for role in ROLES:
        operand = problem.operand[role]
        slope = np.array([[d.coefficient(a) for a in names] for d in operand.access.index])
        bounds = [d.bounds(problem.sizes) for d in operand.access.index]
        offset = np.array(
            [d.offset - low for d, (low, _) in zip(operand.access.index, bounds, strict=True)]
        )
        shape = np.array([high - low + 1 for low, high in bounds], np.int64)
        merges = []
        for one in (n for n in mapping.walked(problem.sizes).nodes if isinstance(n, Spread)):
            lacks = one.axis not in operand.access.axes
            fanout = fanouts[one.fanout]
            merges.append(
                fanout.reduces and lacks if role == "output" else role in fanout.multicast
            )
        stops = np.array([place for place, _, _ in keeps[role]] + [len(rows)], np.int64)
        above = np.array([n for _, _, n in keeps[role]] + [spreads], np.int64)
        out = np.zeros((len(stops), 4), np.int64)
        _count(node, sizes, slope, offset, shape, np.array([*merges, False]), stops, above,
               role == "output", out)  # fmt: skip
        for s in range(len(stops) - 1):
            reads, writes = out[s + 1, 0] + out[s, 2], out[s + 1, 1] + out[s, 3]
            found[keeps[role][s][1], role] = (int(reads), int(writes))
    return found


@njit(cache=True)  # type: ignore[untyped-decorator]
def _box(
    node: Any, sizes: Any, slope: Any, offset: Any, stop: Any, index: Any, low: Any, high: Any
) -> Any:
    """Inclusive bounds of a tile along each dimension; False where it is empty."""
    axes = len(sizes)
    start, extent = np.zeros(axes, np.int64), sizes.copy()
    for i in range(stop):
        a, tile = node[i, 0], node[i, 1]
        start[a] += index[i] * tile
        extent[a] = min(tile, extent[a] - index[i] * tile)
        if extent[a] <= 0:
            return False
    for d in range(len(offset)):
        low[d] = high[d] = offset[d]
        for a in range(axes):
            low[d] += slope[d, a] * start[a]
            high[d] += slope[d, a] * (start[a] + extent[a] - 1)
    return True


@njit(cache=True)  # type: ignore[untyped-decorator]
def _count(  # noqa: C901 - one walk, compiled as one function
    node: Any, sizes: Any, slope: Any, offset: Any, shape: Any, merges: Any, stops: Any, above: Any,
    output: Any, out: Any,
) -> None:  # fmt: skip
    """`out[s]`: reads and writes of the keep above stop s, reads and writes at it."""
    rows, dims, count = len(node), len(shape), len(stops)
    limit, index, extent = np.zeros(rows, np.int64), np.zeros(rows, np.int64), sizes.copy()
    spreads = np.zeros(rows, np.int64)
    number = 0
    for i in range(rows):
        limit[i] = -(-extent[node[i, 0]] // node[i, 1])
        extent[node[i, 0]] = min(extent[node[i, 0]], node[i, 1])
        if node[i, 2]:
            spreads[number] = i
            number += 1
    size = 1
    for d in range(dims):
        size *= shape[d]
    copies = np.ones(count, np.int64)
    for s in range(count):
        for n in range(above[s]):
            copies[s] *= limit[spreads[n]]
    entered = np.zeros((count, copies[: count - 1].max(), size if output else 1), np.bool_)
    seen, back_at = np.zeros(size, np.int64), np.zeros(size, np.int64)
    low, high = np.zeros(dims, np.int64), np.zeros(dims, np.int64)
    old_low, old_high, at = low.copy(), high.copy(), low.copy()
    mark = 0
    while True:
        deepest = -1
        for i in range(rows):
            if not node[i, 2] and index[i]:
                deepest = i
        for s in range(1, count):
            if deepest >= stops[s]:
                continue
            groups = 1
            for n in range(above[s]):
                groups *= 1 if n >= above[s - 1] and merges[n] else limit[spreads[n]]
            inner = -1
            for i in range(stops[s] if s < count - 1 else 0):
                if not node[i, 2] and limit[i] > 1:
                    inner = i
            for g in range(groups):
                mark += 1
                for m in range(copies[s] // groups):
                    own, rest, upper, mine = g, m, 0, 0
                    for n in range(above[s]):
                        i = spreads[n]
                        if n >= above[s - 1] and merges[n]:
                            index[i], rest = rest % limit[i], rest // limit[i]
                        else:
                            index[i], own = own % limit[i], own // limit[i]
                        if n < above[s - 1]:
                            upper = upper * limit[i] + index[i]
                        mine = mine * limit[i] + index[i]
                    if not _box(node, sizes, slope, offset, stops[s], index, low, high):
                        continue
                    slides = inner >= 0 and index[inner] > 0
                    if slides:
                        index[inner] -= 1
                        _box(node, sizes, slope, offset, stops[s], index, old_low, old_high)
                        index[inner] += 1
                        moved = 0
                        for d in range(dims):
                            moved += slope[d, node[inner, 0]] != 0
                        slides = moved == 1
                    for d in range(dims):
                        at[d] = low[d]
                    while True:
                        had, place = slides, 0
                        for d in range(dims):
                            had = had and old_low[d] <= at[d] <= old_high[d]
                            place = place * shape[d] + at[d]
                        if not had:
                            new = seen[place] != mark
                            seen[place] = mark
                            if not output:
                                out[s, 0] += new
                                out[s, 3] += 1
                            else:
                                if new:  # whether it has a value above, once for all these copies
                                    valued = entered[s - 1, upper, place]
                                    entered[s - 1, upper, place] = True
                                    back_at[place] = valued
                                    out[s, 1] += 1
                                    out[s, 0] += valued
                                out[s, 2] += 1
                                out[s, 3] += back_at[place]
                                if back_at[place] and s < count - 1:
                                    entered[s, mine, place] = True
                        d = dims - 1
                        while d >= 0 and at[d] == high[d]:
                            at[d] = low[d]
                            d -= 1
                        if d < 0:
                            break
                        at[d] += 1
        advanced = False
        for i in range(rows - 1, -1, -1):
            if node[i, 2]:
                continue
            if index[i] + 1 < limit[i]:
                index[i] += 1
                advanced = True
                break
            index[i] = 0
        if not advanced:
            return
