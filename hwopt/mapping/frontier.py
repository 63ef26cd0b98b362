"""The search of `search.solve` with many prices at once: what no other mapping beats (compiled).

A mapping is worth a vector: its footprints, rounded up to the capacities that a design may have,
and the columns in which designs are priced, each a combination of what moves and of steps. A box
is pruned when an archived mapping is at most its least vector in every place; a single mapping that
none covers is archived, and those that it covers are dropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True)  # type: ignore[untyped-decorator]
def _others(
    values: Any, base: Any, box: Any, by: int, parts: int, factors: Any, many: Any, constant: Any,
    count: int, out: Any,
) -> None:  # fmt: skip
    """Products of all parts but `by`."""
    for j in range(count):
        out[j] = constant[j]
    for p in range(parts):
        if p != by:
            start = base[box[p]]
            for i in range(many[p]):
                out[factors[p, i, 0]] *= values[start + factors[p, i, 1]]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _vector(
    low: Any, high: Any, counts: Any, memory: Any, room: Any, resident: Any, grid: Any, ends: Any,
    points: float, columns: Any, fixed: Any, steps: int, out: Any,
) -> bool:  # fmt: skip
    """The least vector of a box; False where it fits no design.

    `grid[m, :ends[m]]`: capacities of memory `m` in bits, ascending (`ends` 0: without limit).
    `columns` (columns, terms), `fixed`: the priced columns; column `steps` counts steps.
    """
    terms, sizes = counts[0], counts[1]
    copies = 1.0
    for d in range(counts[2]):
        use = terms + sizes + d
        if low[use] > room[d]:
            return False
        copies *= min(high[use], room[d])
    memories = ends.size
    for m in range(memories):
        out[m] = 0.0
        if ends[m] > 0:
            size = resident[m]
            for f in range(sizes):
                if memory[f] == m:
                    size += low[terms + f]
            i = 0
            while i < ends[m] and grid[m, i] < size:
                i += 1
            if i == ends[m]:
                return False
            out[m] = grid[m, i]
    for c in range(columns.shape[0]):
        value = fixed[c]
        for t in range(terms):
            w = columns[c, t]
            value += w * (low[t] if w >= 0 else high[t])
        if c == steps:
            value = max(value, np.ceil(points / copies))
        out[memories + c] = value
    return True


@njit(cache=True)  # type: ignore[untyped-decorator]
def _covered(row: Any, archive: Any, order: Any, count: int, slack: float) -> bool:
    """Whether some archived row is at most `slack` times `row` in every place.

    What covered lately is tried first.
    """
    for k in range(count):
        i = order[k]
        inside = True
        for c in range(row.size):
            if archive[i, c] > row[c] * slack:
                inside = False
                break
        if inside:
            if k > 0:
                order[k], order[k // 2] = order[k // 2], i
            return True
    return False


@njit(cache=True)  # type: ignore[untyped-decorator]
def insert(archive: Any, found: Any, order: Any, count: int, row: Any, where: Any) -> int:
    """Add a row that none covers, without those that it covers; returns the archive's size."""
    kept = 0
    for i in range(count):
        worse = True
        for c in range(row.size):
            if archive[i, c] < row[c]:
                worse = False
                break
        if not worse:
            archive[kept], found[kept] = archive[i], found[i]
            kept += 1
    archive[kept], found[kept] = row, where
    for i in range(kept + 1):
        order[i] = i
    return kept + 1


@njit(cache=True)  # type: ignore[untyped-decorator]
def front(  # noqa: C901 - one compiled loop: calls would pass every array again
    forest: Any, k: int, points: float, grid: Any, ends: Any, columns: Any, fixed: Any, steps: int,
    archive: Any, found: Any, order: Any, count: int, slack: float, budget: int,
) -> tuple[int, int, bool]:  # fmt: skip
    """Search space `k`; `found[i]` = space, then a row per part, of archived row `i`.

    Returns the archive's size, the boxes bounded, and whether the space is exhausted (it is not if
    the archive ran full or the budget ended).
    """
    width, products = forest.root.shape[1], forest.constant.shape[1]
    parts, counts = forest.parts[k], forest.counts[k]
    every = counts[0] + counts[1] + counts[2]
    factors, many, constant = forest.factors[k], forest.many[k], forest.constant[k]
    wider, wides = forest.wider[k], forest.wides[k]
    memory, room, resident = forest.memory[k], forest.room[k], forest.resident[k]
    size = archive.shape[1]
    low, high = np.zeros(products), np.zeros(products)
    other, wide = np.zeros(products), np.zeros(products)
    depth = 64 * width + 8
    stack, rows = np.zeros((depth, width), np.int64), np.zeros((depth, size))
    box, where = np.zeros(width, np.int64), np.zeros(found.shape[1], np.int64)
    row, score = np.zeros((2, size)), np.zeros(2)
    box[:parts] = forest.root[k, :parts]
    _others(forest.lo, forest.base, box, -1, parts, factors, many, constant, every, low)
    _others(forest.hi, forest.base, box, -1, parts, wider, wides, constant, every, high)
    boxes, top = 1, 0
    if _vector(low, high, counts, memory, room, resident, grid, ends, points, columns, fixed, steps,
               rows[0]):  # fmt: skip
        stack[0, :parts] = box[:parts]
        top = 1
    while top > 0:
        top -= 1
        if _covered(rows[top], archive, order, count, slack):
            continue
        box[:parts] = stack[top, :parts]
        by, widest = -1, 0.0
        for p in range(parts):
            if forest.width[box[p]] > widest:
                widest, by = forest.width[box[p]], p
        if by < 0:
            if count == archive.shape[0]:
                return count, boxes, False
            where[0] = k
            for p in range(parts):
                where[1 + p] = forest.row[box[p]]
            count = insert(archive, found, order, count, rows[top], where)
            continue
        if boxes >= budget:
            return count, boxes, False
        node = box[by]
        _others(forest.lo, forest.base, box, by, parts, factors, many, constant, every, other)
        _others(forest.hi, forest.base, box, by, parts, wider, wides, constant, every, wide)
        for side in range(2):
            child = forest.left[node] + side
            box[by] = child
            boxes += 1
            score[side] = np.inf
            claimed, denied = np.int64(0), np.int64(0)
            for p in range(parts):
                claimed |= forest.claims[box[p]]
                denied |= forest.denies[box[p]]
            if (claimed & denied) != 0:
                continue
            start = forest.base[child]
            low[:every], high[:every] = other[:every], wide[:every]
            for i in range(many[by]):
                low[factors[by, i, 0]] *= forest.lo[start + factors[by, i, 1]]
            for i in range(wides[by]):
                high[wider[by, i, 0]] *= forest.hi[start + wider[by, i, 1]]
            if _vector(low, high, counts, memory, room, resident, grid, ends, points, columns,
                       fixed, steps, row[side]):  # fmt: skip
                score[side] = 0.0
                for c in range(size):
                    score[side] += np.log(row[side, c] + 1.0)
        first = 1 if score[0] < score[1] else 0  # pushed first, popped last
        for side in (first, 1 - first):
            if score[side] < np.inf and not _covered(row[side], archive, order, count, slack):
                box[by] = forest.left[node] + side
                stack[top, :parts], rows[top] = box[:parts], row[side]
                top += 1
    return count, boxes, True


@njit(cache=True)  # type: ignore[untyped-decorator]
def thin(archive: Any, found: Any, order: Any, count: int, slack: float) -> int:
    """Drop rows that another row covers within `slack`, the least rows first; returns how many are
    left.
    """
    score = np.zeros(count)
    for i in range(count):
        for c in range(archive.shape[1]):
            score[i] += np.log(archive[i, c] + 1.0)
    rank = np.argsort(score, kind="mergesort")
    old, old_found = archive[rank], found[rank]
    kept = 0
    for i in range(count):
        if not _covered(old[i], archive, order, kept, slack):
            archive[kept], found[kept] = old[i], old_found[i]
            kept += 1
            for j in range(kept):
                order[j] = j
    return kept


@njit(cache=True)  # type: ignore[untyped-decorator]
def add(
    forest: Any, points: float, grid: Any, ends: Any, columns: Any, fixed: Any, steps: int,
    archive: Any, found: Any, order: Any, count: int, where: Any,
) -> int:  # fmt: skip
    """Archive one mapping (`where` = space, then a row per part) unless it is covered."""
    k = where[0]
    parts, counts = forest.parts[k], forest.counts[k]
    every = counts[0] + counts[1] + counts[2]
    box = np.zeros(parts, np.int64)
    for p in range(parts):
        node = forest.root[k, p]
        while forest.row[node] != where[1 + p]:
            node += 1
        box[p] = node
    low, row = np.zeros(forest.constant.shape[1]), np.zeros(archive.shape[1])
    _others(forest.lo, forest.base, box, -1, parts, forest.factors[k], forest.many[k],
            forest.constant[k], every, low)  # fmt: skip
    if not _vector(low, low, counts, forest.memory[k], forest.room[k], forest.resident[k], grid,
                   ends, points, columns[k], fixed[k], steps, row):  # fmt: skip
        return count
    if _covered(row, archive, order, count, 1.0):
        return count
    count = insert(archive, found, order, count, row, where)
    return count
