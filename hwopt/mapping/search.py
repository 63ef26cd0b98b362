"""Branch and bound over boxes of tile chains (compiled).

Each table of a `Space` is a binary tree: a leaf is one row, an inner node covers the rows below it
and holds the least and the largest value of each column. A *box* is one tree node per table. Its
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
import numpy.typing as npt
from numba import njit

from hwopt.mapping.tables import Space


class Forest:
    """The trees of one space, packed for the compiled search."""

    def __init__(self, space: Space) -> None:
        trees = []
        self.roots = np.zeros(len(space.tables), np.int64)
        offset = 0
        for number, table in enumerate(space.tables):
            changed = np.where(space.whole, table.wanted, table.wanted - table.kept)
            new = np.where(space.whole, table.wanted, changed - table.overlap)
            kept = np.where(space.whole, 0.0, table.kept)
            columns = np.hstack([changed, new, kept, table.extents, table.uses])
            tree = _grow(np.ascontiguousarray(columns))
            lo, hi, left, right, row, width = tree
            left, right = np.where(left < 0, -1, left + offset), np.where(
                right < 0, -1, right + offset
            )
            trees.append((lo, hi, left, right, row, width))
            self.roots[number] = offset
            offset += len(row)
        parts = list(zip(*trees, strict=True))
        self.lo, self.hi, self.left, self.right, self.row, self.width = (
            np.ascontiguousarray(np.concatenate(part)) for part in parts
        )
        self.whole = space.whole
        self.shape = np.array(
            [len(space.whole), space.weights.shape[1], len(space.rooms)], np.int64
        )
        start, term, coefficient = [0], [], []
        for form in space.forms:
            for t in np.flatnonzero(form):
                term.append(int(t))
                coefficient.append(float(form[t]))
            start.append(len(term))
        self.start = np.array(start, np.int64)
        self.term = np.array(term, np.int64)
        self.coefficient = np.array(coefficient)
        self.negative = np.array((space.forms < 0).any(axis=0))
        self.weights, self.fixed, self.rooms = space.weights, space.fixed, space.rooms

    @property
    def packed(self) -> tuple[npt.NDArray[Any], ...]:
        """Arguments of the compiled functions."""
        return (
            self.lo, self.hi, self.left, self.right, self.row, self.width, self.roots, self.whole,
            self.shape, self.start, self.term, self.coefficient, self.negative, self.weights,
            self.fixed, self.rooms,
        )  # fmt: skip


@njit(cache=True)
def _grow(columns: Any) -> Any:
    """A tree over the rows: split at the median of the column of widest ratio."""
    rows, count = columns.shape
    size = 2 * rows - 1
    lo, hi = np.empty((size, count)), np.empty((size, count))
    left, right = np.full(size, -1, np.int64), np.full(size, -1, np.int64)
    row, width = np.full(size, -1, np.int64), np.zeros(size)
    order = np.arange(rows)
    begin, end = np.zeros(size, np.int64), np.zeros(size, np.int64)
    end[0] = rows
    used = 1
    for node in range(size):
        a, b = begin[node], end[node]
        for c in range(count):
            lo[node, c], hi[node, c] = columns[order[a], c], columns[order[a], c]
        for i in range(a + 1, b):
            for c in range(count):
                value = columns[order[i], c]
                lo[node, c] = min(lo[node, c], value)
                hi[node, c] = max(hi[node, c], value)
        if b - a == 1:
            row[node] = order[a]
            continue
        widest, by = -1.0, 0
        for c in range(count):
            ratio = (hi[node, c] + 1.0) / (lo[node, c] + 1.0)
            if ratio > widest:
                widest, by = ratio, c
        width[node] = widest
        part = order[a:b].copy()
        keys = np.empty(b - a)
        for i in range(b - a):
            keys[i] = columns[part[i], by]
        rank = np.argsort(keys, kind="mergesort")
        for i in range(b - a):
            order[a + i] = part[rank[i]]
        middle = a + (b - a) // 2
        left[node], right[node] = used, used + 1
        begin[used], end[used] = a, middle
        begin[used + 1], end[used + 1] = middle, b
        used += 2
    return lo, hi, left, right, row, width


@njit(cache=True)
def _bound(
    box: Any, points: float, lo: Any, hi: Any, whole: Any, shape: Any, start: Any, term: Any,
    coefficient: Any, negative: Any, weights: Any, fixed: Any, rooms: Any, low: Any, high: Any,
    row: Any,
) -> bool:  # fmt: skip
    """Least value of every column of the box (`row`, in bytes); False if it cannot be built.

    `row` = steps, then per memory footprint, busiest read, busiest write, total read and write.
    """
    terms, footprints, dims = shape[0], shape[1], shape[2]
    parts = box.size
    base = 3 * terms + footprints
    copies = 1.0
    for d in range(dims):
        least, most = 1.0, 1.0
        for p in range(parts):
            least *= lo[box[p], base + d]
            most *= hi[box[p], base + d]
        if least > rooms[d]:
            return False
        copies *= min(most, rooms[d])
    for t in range(terms):
        kept, one, new, all_ = 1.0, 0.0, 0.0, 1.0
        for p in range(parts):
            c, n, k = lo[box[p], t], lo[box[p], terms + t], lo[box[p], 2 * terms + t]
            one, new = one * k + kept * c, new * k + kept * n
            kept, all_ = kept * k, all_ * (c + k)
        low[t] = all_ if whole[t] else all_ - kept - one + new
        if negative[t]:
            kept, one, new, all_ = 1.0, 0.0, 0.0, 1.0
            for p in range(parts):
                c, n, k = hi[box[p], t], hi[box[p], terms + t], hi[box[p], 2 * terms + t]
                one, new = one * k + kept * c, new * k + kept * n
                kept, all_ = kept * k, all_ * (c + k)
            high[t] = all_ if whole[t] else all_ - kept - one + new
    memories = fixed.size
    for column in range(1 + 4 * memories):
        value = 0.0
        for i in range(start[column], start[column + 1]):
            if coefficient[i] > 0:
                value += coefficient[i] * low[term[i]]
            else:
                value += coefficient[i] * high[term[i]]
        at = 0 if column == 0 else 2 + (column - 1) % 4 + 5 * ((column - 1) // 4)
        row[at] = max(value, 0.0) / 8.0
    row[0] = max(row[0], np.ceil(points / copies))
    for m in range(memories):
        total = fixed[m]
        for f in range(footprints):
            if weights[m, f] > 0:
                size = weights[m, f]
                for p in range(parts):
                    size *= lo[box[p], 3 * terms + f]
                total += size
        row[1 + 5 * m] = total / 8.0
    return True


@njit(cache=True)
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


@njit(cache=True)
def _better(a: Any, b: Any) -> bool:
    """Lexicographic order of (objective, seconds, joules)."""
    for i in range(3):
        if a[i] < b[i]:
            return True
        if a[i] > b[i]:
            return False
    return False


@njit(cache=True)
def _split(box: Any, width: Any) -> int:
    """The part to split: the widest; -1 when every part is a single row."""
    widest, by = 0.0, -1
    for p in range(box.size):
        if width[box[p]] > widest:
            widest, by = width[box[p]], p
    return by


@njit(cache=True)
def solve(
    packed: Any, points: float, machine: Any, memories: Any, objective: int, best: Any,
    found: Any, budget: int,
) -> tuple[int, float]:  # fmt: skip
    """Improve `best` (objective, seconds, joules) and `found` (a row per part) within `budget` boxes.

    Returns the boxes bounded and the least objective of what was left unexplored (infinite when
    the search is exhausted: `best` is then optimal in this space).
    """
    (lo, hi, left, right, leaf, width, roots, whole, shape, start, term, coefficient, negative,
     weights, fixed, rooms) = packed  # fmt: skip
    parts = roots.size
    depth = 64 * parts + 8
    stack = np.empty((depth, parts), np.int64)
    keys = np.empty((depth, 3))
    low, high = np.zeros(shape[0]), np.zeros(shape[0])
    row = np.zeros(1 + 5 * fixed.size)
    box, key = np.empty(parts, np.int64), np.empty((2, 3))
    stack[0] = roots
    keys[0] = 0.0
    top, nodes = 1, 0
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
                box, points, lo, hi, whole, shape, start, term, coefficient, negative, weights,
                fixed, rooms, low, high, row,
            ):  # fmt: skip
                seconds, joules = _price(row, machine, memories, points)
                key[child, 1], key[child, 2] = seconds, joules
                key[child, 0] = seconds if objective == 0 else joules
                if objective == 2:
                    key[child, 0] = seconds * joules
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


@njit(cache=True)
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


@njit(cache=True)
def front(
    packed: Any, points: float, grid: Any, ends: Any, columns: Any, archive: Any, exact: Any,
    found: Any, count: int, slack: float, budget: int,
) -> tuple[int, int, bool]:  # fmt: skip
    """Extend an archive of rows that no other row covers. Returns its size, boxes, completeness.

    `grid[m, :ends[m]]`: capacities that memory `m` may have (ascending; none: not limited).
    Footprints are rounded up to it in `archive`, which is compared in `columns`, not in `exact`.
    `found[i]` = -1 (the caller numbers the space), then a table row per part. Stops when full.
    """
    (lo, hi, left, right, leaf, width, roots, whole, shape, start, term, coefficient, negative,
     weights, fixed, rooms) = packed  # fmt: skip
    parts = roots.size
    depth = 64 * parts + 8
    stack = np.empty((depth, parts), np.int64)
    bounds = np.empty((depth, archive.shape[1]))
    low, high = np.zeros(shape[0]), np.zeros(shape[0])
    rows = np.zeros((2, 1 + 5 * fixed.size))
    score = np.empty(2)
    box = np.empty(parts, np.int64)
    stack[0] = roots
    bounds[0] = 0.0
    top, nodes = 1, 0
    while top > 0:
        if nodes >= budget:
            return count, nodes, False
        top -= 1
        if _covered(bounds[top], archive, count, columns, slack):
            continue
        box[:] = stack[top]
        by = _split(box, width)
        if by < 0:
            kept = 0
            for i in range(count):
                worse = True
                for c in columns:
                    if archive[i, c] < bounds[top, c]:
                        worse = False
                        break
                if not worse:
                    archive[kept], exact[kept], found[kept] = archive[i], exact[i], found[i]
                    kept += 1
            count = kept
            if count == archive.shape[0]:
                return count, nodes, False
            archive[count] = bounds[top]
            _bound(
                box, points, lo, hi, whole, shape, start, term, coefficient, negative, weights,
                fixed, rooms, low, high, exact[count],
            )  # fmt: skip
            for p in range(parts):
                found[count, 1 + p] = leaf[box[p]]
            found[count, 0] = -1
            count += 1
            continue
        node = box[by]
        for child in range(2):
            box[by] = left[node] if child == 0 else right[node]
            nodes += 1
            score[child] = np.inf
            if not _bound(
                box, points, lo, hi, whole, shape, start, term, coefficient, negative, weights,
                fixed, rooms, low, high, rows[child],
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


@njit(cache=True)
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


@njit(cache=True)
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
