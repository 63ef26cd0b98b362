"""Trees over tables of tile chains, with the least and largest values below each node.

A leaf is one row of a table. An inner node splits its rows at the median of the column in which
they differ most. Rows that another row beats in every column are left out.
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
        order = np.argsort(~(space.forms < 0).any(axis=0), kind="stable")  # subtracted ones first
        forms, whole = space.forms[:, order], space.whole[order]
        negative = (forms < 0).any(axis=0)
        subtracted = int(negative.sum())
        pad = np.zeros(space.weights.shape[1] + len(space.rooms), np.bool_)
        self.roots = np.zeros(len(space.tables), np.int64)
        offset = 0
        for number, table in enumerate(space.tables):
            wanted, kept = table.wanted[:, order], np.where(whole, 0.0, table.kept[:, order])
            changed = wanted - kept
            new = np.where(whole, wanted, changed - table.overlap[:, order])
            columns = np.hstack([changed, new, kept, table.extents, table.uses])
            rows = undominated(columns, np.concatenate([np.tile(negative, 3), pad]))
            lo, hi, left, right, row, width = _grow(np.ascontiguousarray(columns[rows]))
            hi = np.hstack([*(hi[:, k * len(whole) :][:, :subtracted] for k in range(3)),
                            hi[:, columns.shape[1] - len(space.rooms) :]])  # fmt: skip
            left = np.where(left < 0, -1, left + offset)
            right = np.where(right < 0, -1, right + offset)
            trees.append((lo, hi, left, right, np.where(row < 0, -1, rows[row]), width))
            self.roots[number] = offset
            offset += len(row)
        parts = list(zip(*trees, strict=True))
        self.lo, self.hi, self.left, self.right, self.row, self.width = (
            np.ascontiguousarray(np.concatenate(part)) for part in parts
        )
        self.whole = np.where(whole, 0.0, 1.0)
        self.shape = np.array(
            [len(whole), space.weights.shape[1], len(space.rooms), subtracted], np.int64
        )
        start, term, coefficient = [0], [], []
        for form in forms:
            for t in np.flatnonzero(form):
                term.append(int(t))
                coefficient.append(float(form[t]))
            start.append(len(term))
        self.start = np.array(start, np.int64)
        self.term = np.array(term, np.int64)
        self.coefficient = np.array(coefficient)
        self.weights, self.fixed, self.rooms = space.weights, space.fixed, space.rooms
        self.floors = space.floors

    @property
    def packed(self) -> tuple[npt.NDArray[Any], ...]:
        """Arguments of the compiled functions."""
        return (
            self.lo, self.hi, self.left, self.right, self.row, self.width, self.roots, self.whole,
            self.shape, self.start, self.term, self.coefficient, self.weights, self.fixed,
            self.rooms, self.floors,
        )  # fmt: skip


def undominated(
    columns: npt.NDArray[np.float64], equal: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Rows that no other row beats: at most it in every column, the same where `equal`.

    Counts of a mapping grow with every column but those that are subtracted somewhere, so a row
    that is beaten is never needed. Of equal rows the first stays. Sorted by row number.
    """
    varying = np.flatnonzero(columns.max(axis=0) > columns.min(axis=0))
    order = np.lexsort((np.arange(len(columns)), np.log1p(columns).sum(axis=1)))
    chosen = np.ascontiguousarray(columns[order][:, varying])
    return np.sort(order[_undominated(chosen, equal[varying])])


@njit(cache=True)  # type: ignore[untyped-decorator]
def _undominated(columns: Any, equal: Any) -> Any:
    rows, count = columns.shape
    kept = np.empty(rows, np.int64)
    found = 0
    for i in range(rows):
        beaten = False
        for k in range(found - 1, -1, -1):
            j = kept[k]
            below = True
            for c in range(count):
                if columns[j, c] > columns[i, c] or (equal[c] and columns[j, c] != columns[i, c]):
                    below = False
                    break
            if below:
                beaten = True
                break
        if not beaten:
            kept[found] = i
            found += 1
    return kept[:found]


@njit(cache=True)  # type: ignore[untyped-decorator]
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
