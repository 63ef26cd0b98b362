"""`sums.shared_sum` for sliding windows along one dimension, fast (compiled).

The tensor's index is `c0 * x0 + c1 * x1 + offset` of two axes with positive coefficients (output
row and filter row). The tile of a pair of ranges is mostly one interval, so that sizes and overlaps
are arithmetic on its ends; where a stride leaves holes, or copies are merged, cells are marked.
Tiles of each axis are listed once per chain instead of once per pair.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from hwopt.mapping.sums import ADVANCE, AFTER, ORIGIN, POOL, UNION


@njit(cache=True)  # type: ignore[untyped-decorator]
def _listing(kinds: Any, tiles: Any, size: int, out: Any, counts: Any) -> None:
    """Tiles of one axis: `out[i]` = new start, new extent, old start, old extent (0: none), with
    `i` running over states, merged copies and pooled copies (innermost); `counts` = how many of
    each.
    """
    slots = kinds.size
    radix = np.ones(slots, np.int64)
    extent = size
    counts[:] = 1
    for s in range(slots):
        t = min(tiles[s], extent)
        if kinds[s] != AFTER and kinds[s] != ORIGIN:
            radix[s] = (extent + t - 1) // t
        extent = t
        which = 1 if kinds[s] == UNION else 2 if kinds[s] == POOL else 0
        counts[which] *= radix[s]
    total = counts[0] * counts[1] * counts[2]
    index = np.zeros(slots, np.int64)
    for i in range(total):
        rest = i
        for turn in range(3):  # the innermost digits first
            for s in range(slots - 1, -1, -1):
                which = 2 if kinds[s] == POOL else 1 if kinds[s] == UNION else 0
                if which == 2 - turn:
                    index[s] = rest % radix[s]
                    rest //= radix[s]
        start, room, before, had = 0, size, 0, size
        for s in range(slots):
            now, then = index[s], index[s]
            if kinds[s] == ADVANCE:
                then = now - 1
                if now == 0:
                    room, had = 0, 0
            t = tiles[s]
            if now * t >= room:
                room = 0
            if had > 0 and then * t >= had:
                had = 0
            start, room = start + now * t, min(t, room - now * t) if room > 0 else 0
            before, had = before + then * t, min(t, had - then * t) if had > 0 else 0
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = start, room, before, had


@njit(cache=True)  # type: ignore[untyped-decorator]
def _whole(c0: int, c1: int, n0: int, n1: int, bounding: bool) -> bool:
    """Whether a tile of these extents has no holes."""
    if bounding or (c1 == 1 and (n1 >= c0 or n0 == 1)):
        return True
    return c0 == 1 and (n0 >= c1 or n1 == 1)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _hold(
    c0: int, c1: int, offset: int, x0: int, n0: int, x1: int, n1: int, bounding: bool, first: int,
    last: int, stamp: int, held: Any,
) -> None:  # fmt: skip
    """Stamp the cells of an old tile within `first` to `last`."""
    if _whole(c0, c1, n0, n1, bounding):
        low = max(first, c0 * x0 + c1 * x1 + offset)
        high = min(last, c0 * (x0 + n0 - 1) + c1 * (x1 + n1 - 1) + offset)
        held[low - first : max(low, high + 1) - first] = stamp
        return
    for i in range(n0):
        for j in range(n1):
            x = c0 * (x0 + i) + c1 * (x1 + j) + offset
            if first <= x <= last:
                held[x - first] = stamp


@njit(cache=True)  # type: ignore[untyped-decorator]
def _window(  # noqa: C901 - one compiled loop
    kinds: Any, tiles: Any, slots: Any, sizes: Any, c0: int, c1: int, offset: int, first: int,
    last: int, bounding: bool, moved: bool, scratch: Any, marks: Any, held: Any, stamp: int,
) -> tuple[int, int, int]:  # fmt: skip
    """Elements wanted (or, `moved`, those that the old tile lacks), the largest tile, the stamp."""
    counts = np.ones((2, 3), np.int64)
    for a in range(2):
        _listing(kinds[a, : slots[a]], tiles[a, : slots[a]], sizes[a], scratch[a], counts[a])
    inner = counts[:, 1] * counts[:, 2]
    single = inner[0] * inner[1] == 1
    wanted, largest = 0, 0
    for i in range(counts[0, 0]):
        for j in range(counts[1, 0]):
            if single:
                x0, n0, y0, m0 = scratch[0, i]
                x1, n1, y1, m1 = scratch[1, j]
                if n0 == 0 or n1 == 0:
                    continue
                if _whole(c0, c1, n0, n1, bounding) and (
                    not moved or m0 == 0 or m1 == 0 or _whole(c0, c1, m0, m1, bounding)
                ):
                    low = max(first, c0 * x0 + c1 * x1 + offset)
                    high = min(last, c0 * (x0 + n0 - 1) + c1 * (x1 + n1 - 1) + offset)
                    size = max(0, high - low + 1)
                    largest = max(largest, size)
                    if moved and m0 > 0 and m1 > 0:
                        under = max(low, c0 * y0 + c1 * y1 + offset)
                        over = min(high, c0 * (y0 + m0 - 1) + c1 * (y1 + m1 - 1) + offset)
                        size -= max(0, over - under + 1)
                    wanted += size
                    continue
            union = stamp + 1  # cells that some copy fetches
            stamp += 1
            size = 0
            for u in range(counts[0, 1]):
                for v in range(counts[1, 1]):
                    stamp += 1
                    old = stamp
                    if moved:
                        for p in range(counts[0, 2]):
                            for q in range(counts[1, 2]):
                                a = scratch[0, (i * counts[0, 1] + u) * counts[0, 2] + p]
                                b = scratch[1, (j * counts[1, 1] + v) * counts[1, 2] + q]
                                if a[3] > 0 and b[3] > 0:
                                    _hold(c0, c1, offset, a[2], a[3], b[2], b[3], bounding, first,
                                          last, old, held)  # fmt: skip
                    for p in range(counts[0, 2]):
                        for q in range(counts[1, 2]):
                            a = scratch[0, (i * counts[0, 1] + u) * counts[0, 2] + p]
                            b = scratch[1, (j * counts[1, 1] + v) * counts[1, 2] + q]
                            if a[1] > 0 and b[1] > 0:
                                size += _fresh(c0, c1, offset, a, b, bounding, first, last, union,
                                               marks, held, old)  # fmt: skip
            wanted += size
            largest = max(largest, size)
    return wanted, largest, stamp


@njit(cache=True)  # type: ignore[untyped-decorator]
def _fresh(
    c0: int, c1: int, offset: int, a: Any, b: Any, bounding: bool, first: int, last: int,
    union: int, marks: Any, held: Any, old: int,
) -> int:  # fmt: skip
    """Stamp the cells of a tile that the old one lacks; returns how many no copy fetched before."""
    found = 0
    x0, n0, x1, n1 = a[0], a[1], b[0], b[1]
    if _whole(c0, c1, n0, n1, bounding):
        low = max(first, c0 * x0 + c1 * x1 + offset)
        high = min(last, c0 * (x0 + n0 - 1) + c1 * (x1 + n1 - 1) + offset)
        for x in range(low, high + 1):
            if held[x - first] != old and marks[x - first] != union:
                marks[x - first] = union
                found += 1
        return found
    for i in range(n0):
        for j in range(n1):
            x = c0 * (x0 + i) + c1 * (x1 + j) + offset
            if first <= x <= last and held[x - first] != old and marks[x - first] != union:
                marks[x - first] = union
                found += 1
    return found


@njit(cache=True)  # type: ignore[untyped-decorator]
def window_batch(
    kinds: Any, tiles: Any, slots: Any, sizes: Any, coefficients: Any, offset: int, length: int,
    clip: bool, bounding: bool, moved: bool, out: Any,
) -> None:  # fmt: skip
    """`out[row]` = elements wanted (or newly wanted) and the largest tile, for each row of tiles.

    `kinds[a, s]`, `tiles[row, a, s]` as in `sums.shared_batch`, without AFTER where `moved`.
    """
    c0, c1 = coefficients[0], coefficients[1]
    first, last = offset, offset + c0 * (sizes[0] - 1) + c1 * (sizes[1] - 1)
    if clip:
        first, last = max(first, 0), min(last, length - 1)
    cells = max(1, last - first + 1)
    marks, held = np.zeros(cells, np.int64), np.zeros(cells, np.int64)
    room = max(sizes[0], sizes[1])
    scratch = np.zeros((2, 2 * room + 64, 4), np.int64)
    stamp = 0
    for row in range(tiles.shape[0]):
        need = 0
        for a in range(2):
            extent, states = sizes[a], 1
            for s in range(slots[a]):
                t = min(tiles[row, a, s], extent)
                states *= (extent + t - 1) // t
                extent = t
            need = max(need, states)
        if need > scratch.shape[1]:
            scratch = np.zeros((2, need, 4), np.int64)
        out[row, 0], out[row, 1], stamp = _window(
            kinds, tiles[row], slots, sizes, c0, c1, offset, first, last, bounding, moved, scratch,
            marks, held, stamp,
        )  # fmt: skip
