"""Branch and bound over boxes of tile chains (compiled).

Each table of a `Space` is a tree (`forest`) whose nodes hold the least and the largest value of
each column over the rows below. A *box* is one tree node per table. Its
least values give a lower bound of every count, because counts are sums of products of them:

    fetched = sum over sets S of two or more parts  prod_S changed * prod_others kept
            + sum over parts g                      new_g * prod_others kept

with `changed = wanted - kept`, `new = changed - overlap`. Terms that are subtracted (partial sums
that are fresh) are bounded from above by the largest values. Steps are at least the points divided
by the copies that the box can use. A box is pruned when its bound is no better than what is known,
or when its least footprint or its least use of a fan-out does not fit; else the widest part is
split.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True)  # type: ignore[untyped-decorator]
def _terms(
    values: Any, box: Any, begin: int, end: int, terms: int, whole: Any, work: Any, out: Any
) -> None:
    """Terms `begin` to `end` of a box from the least (or largest) values of its parts."""
    kept, one, new, total = work[0], work[1], work[2], work[3]
    for t in range(begin, end):
        kept[t], one[t], new[t], total[t] = 1.0, 0.0, 0.0, 1.0
    for p in range(box.size):
        row = values[box[p]]
        for t in range(begin, end):
            c, n, k = row[t], row[terms + t], row[2 * terms + t]
            one[t] = one[t] * k + kept[t] * c
            new[t] = new[t] * k + kept[t] * n
            kept[t] = kept[t] * k
            total[t] = total[t] * (c + k)
    for t in range(begin, end):
        out[t] = total[t] - whole[t] * (kept[t] + one[t] - new[t])


@njit(cache=True)  # type: ignore[untyped-decorator]
def _bound(
    box: Any, points: float, limits: Any, lo: Any, hi: Any, whole: Any, shape: Any, start: Any,
    term: Any, coefficient: Any, weights: Any, fixed: Any, rooms: Any, floors: Any, work: Any,
    row: Any,
) -> bool:  # fmt: skip
    """Least value of every column of the box (`row`, in bytes); False if it cannot be built.

    `row` = steps, then per memory footprint, busiest read, busiest write, total read and write.
    `limits[m]`: bytes that memory `m` may hold at most; `floors`: see `Space`. Subtracted
    terms come first in the tables; `hi` has only them and the use of the fan-outs.
    """
    terms, footprints, dims, negative = shape[0], shape[1], shape[2], shape[3]
    parts, memories = box.size, fixed.size
    base = 3 * terms + footprints
    copies = 1.0
    for d in range(dims):
        least, most = 1.0, 1.0
        for p in range(parts):
            least *= lo[box[p], base + d]
            most *= hi[box[p], 3 * negative + d]
        if least > rooms[d]:
            return False
        copies *= min(most, rooms[d])
    for m in range(memories):
        total = fixed[m]
        for f in range(footprints):
            if weights[m, f] > 0:
                size = weights[m, f]
                for p in range(parts):
                    size *= lo[box[p], 3 * terms + f]
                total += size
        row[1 + 5 * m] = total / 8.0
        if row[1 + 5 * m] > limits[m]:
            return False
    low, high = work[4], work[5]
    _terms(lo, box, 0, terms, terms, whole, work, low)
    _terms(hi, box, 0, negative, negative, whole, work, high)
    for column in range(1 + 4 * memories):
        value = 0.0
        for i in range(start[column], start[column + 1]):
            if coefficient[i] > 0:
                value += coefficient[i] * low[term[i]]
            else:
                value += coefficient[i] * high[term[i]]
        at = 0 if column == 0 else 2 + (column - 1) % 4 + 5 * ((column - 1) // 4)
        row[at] = max(value, floors[column]) / 8.0
    row[0] = max(row[0], np.ceil(points / copies))
    return True


@njit(cache=True)  # type: ignore[untyped-decorator]
def _price(row: Any, machine: Any, memories: Any, points: float) -> tuple[float, float]:
    """Seconds and joules of a row, as `analysis.price`; infinite where a footprint does not fit.

    `machine` = clock, fill cycles, joules per multiply-accumulate, leakage. `memories[m]` = usable
    bytes, read port, write port, shared port (infinite: none), joules per byte read and written.
    """
    seconds = row[0] / machine[0]
    joules = points * machine[2]
    for m in range(memories.shape[0]):
        read, write = row[2 + 5 * m], row[3 + 5 * m]
        if row[1 + 5 * m] > memories[m, 0]:
            return np.inf, np.inf
        seconds = max(seconds, read / memories[m, 1])
        seconds = max(seconds, write / memories[m, 2])
        seconds = max(seconds, (read + write) / memories[m, 3])
        joules += row[4 + 5 * m] * memories[m, 4]
        joules += row[5 + 5 * m] * memories[m, 5]
    seconds += machine[1] / machine[0]
    joules += machine[3] * seconds
    return seconds, joules


@njit(cache=True)  # type: ignore[untyped-decorator]
def _better(a: Any, b: Any) -> bool:
    """Lexicographic order of (objective, seconds, joules)."""
    for i in range(3):
        if a[i] < b[i]:
            return True
        if a[i] > b[i]:
            return False
    return False


@njit(cache=True)  # type: ignore[untyped-decorator]
def _split(box: Any, width: Any) -> int:
    """The part to split: the widest; -1 when every part is a single row."""
    widest, by = 0.0, -1
    for p in range(box.size):
        if width[box[p]] > widest:
            widest, by = width[box[p]], p
    return by


@njit(cache=True)  # type: ignore[untyped-decorator]
def solve(
    packed: Any, points: float, machine: Any, memories: Any, objective: int, best: Any,
    found: Any, budget: int,
) -> tuple[int, float]:  # fmt: skip
    """Lower `best` (objective, seconds, joules), `found` (a row per part) in `budget` boxes.

    Returns the boxes bounded and the least objective of what was left unexplored (infinite when
    the search is exhausted: `best` is then optimal in this space).
    """
    (lo, hi, left, right, leaf, width, roots, whole, shape, start, term, coefficient, weights,
     fixed, rooms, floors) = packed  # fmt: skip
    parts = roots.size
    depth = 64 * parts + 8
    stack = np.empty((depth, parts), np.int64)
    keys = np.empty((depth, 3))
    work = np.zeros((6, shape[0]))
    row = np.zeros(1 + 5 * fixed.size)
    limits = memories[:, 0].copy()
    box, key = np.empty(parts, np.int64), np.empty((2, 3))
    stack[0] = roots
    top, nodes = 0, 1
    if _bound(
        roots, points, limits, lo, hi, whole, shape, start, term, coefficient, weights, fixed,
        rooms, floors, work, row,
    ):  # fmt: skip
        seconds, joules = _price(row, machine, memories, points)
        _key(keys[0], objective, seconds, joules)
        top = 1 if np.isfinite(seconds) else 0
    while top > 0 and nodes < budget:
        top -= 1
        if not _better(keys[top], best):
            continue
        box[:] = stack[top]
        by = _split(box, width)
        if by < 0:
            best[:] = keys[top]
            for p in range(parts):
                found[p] = leaf[box[p]]
            continue
        node = box[by]
        for child in range(2):
            box[by] = left[node] if child == 0 else right[node]
            nodes += 1
            key[child] = np.inf
            if _bound(
                box, points, limits, lo, hi, whole, shape, start, term, coefficient, weights,
                fixed, rooms, floors, work, row,
            ):  # fmt: skip
                seconds, joules = _price(row, machine, memories, points)
                _key(key[child], objective, seconds, joules)
        first = 1 if _better(key[0], key[1]) else 0  # pushed first, popped last
        for turn in range(2):
            child = first if turn == 0 else 1 - first
            if _better(key[child], best) and np.isfinite(key[child, 0]):
                box[by] = left[node] if child == 0 else right[node]
                stack[top], keys[top] = box, key[child]
                top += 1
    least = np.inf
    for i in range(top):
        if _better(keys[i], best):
            least = min(least, keys[i, 0])
    return nodes, least


@njit(cache=True)  # type: ignore[untyped-decorator]
def improve(  # noqa: C901 - one compiled loop: calls would pass every array again
    packed: Any, points: float, machine: Any, memories: Any, objective: int, best: Any,
    found: Any, rounds: int,
) -> int:  # fmt: skip
    """Better `best` and `found` by local search; returns the mappings priced.

    Each round tries every row of each part, one part at a time, until nothing gets better, then
    pseudo-random rows of two parts at once (trading capacity or copies between them).
    """
    (lo, hi, _, _, leaf, _, roots, whole, shape, start, term, coefficient, weights,
     fixed, rooms, floors) = packed  # fmt: skip
    parts = roots.size
    work, row = np.zeros((6, shape[0])), np.zeros(1 + 5 * fixed.size)
    limits = memories[:, 0].copy()
    leaves, first = np.empty(leaf.size, np.int64), np.zeros(parts + 1, np.int64)
    box, key, tried = np.empty(parts, np.int64), np.empty(3), 0
    count = 0
    for p in range(parts):
        end = roots[p + 1] if p + 1 < parts else leaf.size
        for node in range(roots[p], end):
            if leaf[node] >= 0:
                leaves[count] = node
                if leaf[node] == found[p]:
                    box[p] = node
                count += 1
        first[p + 1] = count
    seed = 12345
    for _ in range(rounds):
        moved = True
        while moved:
            moved = False
            for p in range(parts):
                here = box[p]
                for i in range(first[p], first[p + 1]):
                    box[p] = leaves[i]
                    tried += 1
                    if not _bound(
                        box, points, limits, lo, hi, whole, shape, start, term, coefficient,
                        weights, fixed, rooms, floors, work, row,
                    ):  # fmt: skip
                        continue
                    seconds, joules = _price(row, machine, memories, points)
                    _key(key, objective, seconds, joules)
                    if _better(key, best):
                        best[:], here, moved = key, box[p], True
                box[p] = here
        if parts < 2:
            break
        for _ in range(1500):
            seed = (seed * 1103515245 + 12345) % 2147483648
            p = (seed >> 8) % parts
            q = (p + 1 + (seed >> 16) % (parts - 1)) % parts
            seed = (seed * 1103515245 + 12345) % 2147483648
            one = leaves[first[p] + (seed >> 4) % (first[p + 1] - first[p])]
            seed = (seed * 1103515245 + 12345) % 2147483648
            two = leaves[first[q] + (seed >> 4) % (first[q + 1] - first[q])]
            old, other = box[p], box[q]
            box[p], box[q] = one, two
            tried += 1
            better = False
            if _bound(
                box, points, limits, lo, hi, whole, shape, start, term, coefficient, weights,
                fixed, rooms, floors, work, row,
            ):  # fmt: skip
                seconds, joules = _price(row, machine, memories, points)
                _key(key, objective, seconds, joules)
                better = _better(key, best)
            if better:
                best[:] = key
            else:
                box[p], box[q] = old, other
    for p in range(parts):
        found[p] = leaf[box[p]]
    return tried


@njit(cache=True)  # type: ignore[untyped-decorator]
def _key(key: Any, objective: int, seconds: float, joules: float) -> None:
    """Objective (0 latency, 1 energy, 2 their product), seconds, joules."""
    key[0] = joules if objective == 1 else seconds
    if objective == 2:
        key[0] = seconds * joules
    key[1], key[2] = seconds, joules


@njit(cache=True)  # type: ignore[untyped-decorator]
def _covered(row: Any, archive: Any, count: int, columns: Any, slack: float) -> bool:
    """Whether some archived row is at most `slack` times `row` in every column."""
    for i in range(count):
        inside = True
        for c in columns:
            if archive[i, c] > row[c] * slack:
                inside = False
                break
        if inside:
            return True
    return False


@njit(cache=True)  # type: ignore[untyped-decorator]
def _insert(
    archive: Any, exact: Any, found: Any, count: int, columns: Any, row: Any, exact_row: Any,
    number: int, rows: Any,
) -> int:  # fmt: skip
    """Add a row that none covers, without those that it covers; returns the archive's size."""
    kept = 0
    for i in range(count):
        worse = True
        for c in columns:
            if archive[i, c] < row[c]:
                worse = False
                break
        if not worse:
            archive[kept], exact[kept], found[kept] = archive[i], exact[i], found[i]
            kept += 1
    archive[kept], exact[kept] = row, exact_row
    found[kept, 0] = number
    for p in range(rows.size):
        found[kept, 1 + p] = rows[p]
    return kept + 1


@njit(cache=True)  # type: ignore[untyped-decorator]
def seed(
    packed: Any, points: float, grid: Any, ends: Any, columns: Any, archive: Any, exact: Any,
    found: Any, count: int, number: int, chosen: Any,
) -> int:  # fmt: skip
    """Add one mapping (a row per part) of space `number` to an archive, unless it is covered."""
    (lo, hi, _, _, leaf, _, roots, whole, shape, start, term, coefficient, weights,
     fixed, rooms, floors) = packed  # fmt: skip
    parts = roots.size
    work = np.zeros((6, shape[0]))
    row, exact_row = np.zeros(1 + 5 * fixed.size), np.zeros(1 + 5 * fixed.size)
    box = np.empty(parts, np.int64)
    for p in range(parts):
        end = roots[p + 1] if p + 1 < parts else leaf.size
        for node in range(roots[p], end):
            if leaf[node] == chosen[p]:
                box[p] = node
    limits = np.full(fixed.size, np.inf)
    _bound(
        box, points, limits, lo, hi, whole, shape, start, term, coefficient, weights, fixed,
        rooms, floors, work, exact_row,
    )  # fmt: skip
    row[:] = exact_row
    if count == archive.shape[0] or not _round_up(row, grid, ends):
        return count
    if _covered(row, archive, count, columns, 1.0):
        return count
    return _insert(archive, exact, found, count, columns, row, exact_row, number, chosen)  # type: ignore[no-any-return]


@njit(cache=True)  # type: ignore[untyped-decorator]
def front(  # noqa: C901 - one compiled loop: calls would pass every array again
    packed: Any, points: float, grid: Any, ends: Any, columns: Any, archive: Any, exact: Any,
    found: Any, count: int, slack: float, budget: int,
) -> tuple[int, int, bool]:  # fmt: skip
    """Extend an archive of rows that no other row covers. Returns its size, boxes, completeness.

    `grid[m, :ends[m]]`: capacities that memory `m` may have (ascending; none: not limited).
    Footprints are rounded up to it in `archive`, which is compared in `columns`, not in `exact`.
    `found[i]` = -1 (the caller numbers the space), then a table row per part. Stops when full.
    """
    (lo, hi, left, right, leaf, width, roots, whole, shape, start, term, coefficient, weights,
     fixed, rooms, floors) = packed  # fmt: skip
    parts = roots.size
    depth = 64 * parts + 8
    stack = np.empty((depth, parts), np.int64)
    bounds = np.empty((depth, archive.shape[1]))
    work = np.zeros((6, shape[0]))
    rows = np.zeros((2, 1 + 5 * fixed.size))
    limits = np.full(fixed.size, np.inf)
    for m in range(fixed.size):
        if ends[m] > 0:
            limits[m] = grid[m, ends[m] - 1]
    score = np.empty(2)
    box, rows_found = np.empty(parts, np.int64), np.empty(parts, np.int64)
    stack[0] = roots
    top, nodes = 0, 1
    if _bound(
        roots, points, limits, lo, hi, whole, shape, start, term, coefficient, weights, fixed,
        rooms, floors, work, bounds[0],
    ) and _round_up(bounds[0], grid, ends):  # fmt: skip
        top = 1
    while top > 0:
        if nodes >= budget:
            return count, nodes, False
        top -= 1
        if _covered(bounds[top], archive, count, columns, slack):
            continue
        box[:] = stack[top]
        by = _split(box, width)
        if by < 0:
            if count == archive.shape[0]:
                return count, nodes, False
            for p in range(parts):
                rows_found[p] = leaf[box[p]]
            _bound(
                box, points, limits, lo, hi, whole, shape, start, term, coefficient, weights,
                fixed, rooms, floors, work, rows[0],
            )  # fmt: skip
            count = _insert(
                archive, exact, found, count, columns, bounds[top], rows[0], -1, rows_found
            )
            continue
        node = box[by]
        for child in range(2):
            box[by] = left[node] if child == 0 else right[node]
            nodes += 1
            score[child] = np.inf
            if not _bound(
                box, points, limits, lo, hi, whole, shape, start, term, coefficient, weights,
                fixed, rooms, floors, work, rows[child],
            ):  # fmt: skip
                continue
            if _round_up(rows[child], grid, ends):
                score[child] = 0.0
                for c in columns:
                    score[child] += np.log(rows[child, c] + 1.0)
        first = 1 if score[0] < score[1] else 0
        for turn in range(2):
            child = first if turn == 0 else 1 - first
            if np.isfinite(score[child]) and not _covered(
                rows[child], archive, count, columns, slack
            ):
                box[by] = left[node] if child == 0 else right[node]
                stack[top], bounds[top] = box, rows[child]
                top += 1
    return count, nodes, True


@njit(cache=True)  # type: ignore[untyped-decorator]
def _round_up(row: Any, grid: Any, ends: Any) -> bool:
    """Round footprints up to the grid; False where the largest capacity is too small."""
    for m in range(ends.size):
        if ends[m] == 0:
            row[1 + 5 * m] = 0.0
            continue
        i = 0
        while i < ends[m] and grid[m, i] < row[1 + 5 * m]:
            i += 1
        if i == ends[m]:
            return False
        row[1 + 5 * m] = grid[m, i]
    return True


@njit(cache=True)  # type: ignore[untyped-decorator]
def thin(archive: Any, exact: Any, found: Any, count: int, columns: Any, slack: float) -> int:
    """Drop rows that another row covers within `slack`; returns how many are left.

    Rows are visited in order of the sum of logarithms of their columns.
    """
    score = np.zeros(count)
    for i in range(count):
        for c in columns:
            score[i] += np.log(archive[i, c] + 1.0)
    order = np.argsort(score, kind="mergesort")
    old, old_exact, old_found = archive[order], exact[order], found[order]
    kept = 0
    for i in range(count):
        if not _covered(old[i], archive, kept, columns, slack):
            archive[kept], exact[kept], found[kept] = old[i], old_exact[i], old_found[i]
            kept += 1
    return kept
