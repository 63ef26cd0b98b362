"""Rows that no other row beats, and trees over them with the least values below each node.

Rows are choices; columns are what each contributes to traffic, footprints and use of fan-outs, and
less is never worse. Two bit masks say what a row claims and what it denies others (see `tables`): a
row is beaten only by one that claims and denies no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tree:
    """A binary tree over rows: node 0 is the root, children of `n` are `left[n]`, `left[n] + 1`.

    `lo`, `hi` (nodes, columns): least and largest values below; `claims`, `denies`: bits that all
    rows below have; `row[n]`: the row of a leaf (-1: not a leaf); `width[n]`: log of the widest
    ratio of a column.
    """

    lo: Floats
    hi: Floats
    claims: Ints
    denies: Ints
    left: Ints
    row: Ints
    width: Floats


def grow(columns: Floats, claims: Ints, denies: Ints, most: Floats | None = None) -> Tree:
    """The tree over all rows; `most`: largest values of each row, where a row is a range."""
    return Tree(*_grow(columns, columns if most is None else most, claims, denies))


def undominated(columns: Floats, claims: Ints, denies: Ints, equal: npt.NDArray[np.bool_]) -> Ints:
    """Rows that no other row beats: at most it in every column, the same where `equal`, no more
    claims or denials. Of equal rows the first stays. Sorted by the sum of logarithms.
    """
    if len(columns) == 0:
        return np.zeros(0, np.int64)
    varying = np.flatnonzero(columns.max(axis=0) > columns.min(axis=0))
    kept = np.ascontiguousarray(columns[:, varying])
    bits = np.bitwise_count(claims).astype(np.int64) + np.bitwise_count(denies)
    classes = _classes(kept, equal[varying])
    order = np.lexsort((bits, np.log1p(kept).sum(axis=1), classes))
    found = _undominated(kept[order], claims[order], denies[order], equal[varying], classes[order])
    return np.asarray(order[found])


def _classes(columns: Floats, equal: npt.NDArray[np.bool_]) -> Ints:
    """A number per row; only rows of one number can beat each other.

    Where one column is a falling function of another (a tile and how many there are of it), a row
    that is no larger in both is the same in the falling one.
    """
    rows, count = columns.shape
    same = [columns[:, c] for c in np.flatnonzero(equal)]
    if rows > FEW:
        pairs = np.zeros((count, count), np.bool_)
        for a in range(count):
            order = np.argsort(columns[:, a], kind="stable")
            pairs[a] = _falling(columns[order], a)
        best, by = 1, 0
        for b in np.flatnonzero(pairs.any(axis=0)):
            values = len(np.unique(columns[:, b]))
            if values > best:
                best, by = values, int(b)
        if best > 1:
            same.append(columns[:, by])
    numbers = np.zeros(rows, np.int64)
    for column in same:
        _, number = np.unique(column, return_inverse=True)
        numbers = numbers * (int(number.max()) + 1) + number
    return numbers


FEW = 256
"""Up to so many rows, all are compared with all."""


@njit(cache=True)  # type: ignore[untyped-decorator]
def _falling(columns: Any, by: int) -> Any:
    """Columns that fall as a function of column `by`, by which the rows are sorted."""
    rows, count = columns.shape
    falls = np.ones(count, np.bool_)
    falls[by] = False
    for c in range(count):
        for i in range(1, rows):
            step = columns[i, c] - columns[i - 1, c]
            if step > 0 or (step < 0 and columns[i, by] == columns[i - 1, by]):
                falls[c] = False
                break
    return falls


@njit(cache=True)  # type: ignore[untyped-decorator]
def _undominated(columns: Any, claims: Any, denies: Any, equal: Any, classes: Any) -> Any:
    """Rows are sorted by class, and so that none is beaten by a later one, apart from equal ones.

    What beat a row lately is tried first: neighbours tend to be beaten by the same.
    """
    rows, count = columns.shape
    kept = np.empty(rows, np.int64)
    tried = np.empty(rows, np.int64)
    found, begin = 0, 0
    for i in range(rows):
        beaten = False
        if i > 0 and classes[i] != classes[i - 1]:
            begin = found
        for k in range(begin, found):
            j = tried[k]
            below = (claims[j] & ~claims[i]) == 0 and (denies[j] & ~denies[i]) == 0
            if below:
                for c in range(count):
                    if columns[j, c] > columns[i, c]:
                        below = False
                        break
                    if equal[c] and columns[j, c] != columns[i, c]:
                        below = False
                        break
            if below:
                beaten = True
                if k > begin:
                    half = begin + (k - begin) // 2
                    tried[k], tried[half] = tried[half], j
                break
        if not beaten:
            kept[found], tried[found] = i, i
            found += 1
    return kept[:found]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _grow(columns: Any, most: Any, claims: Any, denies: Any) -> Any:
    """Split at the median of the column of widest ratio; the lower half is the first child."""
    rows, count = columns.shape
    size = max(2 * rows - 1, 1)
    lo, hi = np.zeros((size, count)), np.zeros((size, count))
    claim, deny = np.zeros(size, np.int64), np.zeros(size, np.int64)
    left, row, width = np.full(size, -1, np.int64), np.full(size, -1, np.int64), np.zeros(size)
    order = np.arange(rows)
    begin, end = np.zeros(size, np.int64), np.zeros(size, np.int64)
    end[0] = rows
    used = 1
    for node in range(size):
        a, b = begin[node], end[node]
        first = order[a]
        claim[node], deny[node] = claims[first], denies[first]
        for c in range(count):
            lo[node, c], hi[node, c] = columns[first, c], most[first, c]
        for i in range(a + 1, b):
            at = order[i]
            claim[node] &= claims[at]
            deny[node] &= denies[at]
            for c in range(count):
                lo[node, c] = min(lo[node, c], columns[at, c])
                hi[node, c] = max(hi[node, c], most[at, c])
        if b - a == 1:
            row[node] = first
            continue
        widest, by = -1.0, 0
        for c in range(count):
            ratio = (hi[node, c] + 1e-3) / (lo[node, c] + 1e-3)
            if ratio > widest:
                widest, by = ratio, c
        width[node] = np.log(widest) + 1e-9
        part = order[a:b].copy()
        keys = np.empty(b - a)
        for i in range(b - a):
            keys[i] = columns[part[i], by]
        rank = np.argsort(keys, kind="mergesort")
        for i in range(b - a):
            order[a + i] = part[rank[i]]
        middle = a + (b - a) // 2
        # equal values stay together where that does not empty a side
        low, high = middle, middle
        pivot = columns[order[middle], by]
        while low > a and columns[order[low - 1], by] == pivot:
            low -= 1
        while high < b and columns[order[high], by] == pivot:
            high += 1
        if low > a and (middle - low <= high - middle or high == b):
            middle = low
        elif high < b:
            middle = high
        left[node] = used
        begin[used], end[used] = a, middle
        begin[used + 1], end[used + 1] = middle, b
        used += 2
    return lo, hi, claim, deny, left, row, width
