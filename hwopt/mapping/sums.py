"""Sums over the tiles of one axis, or of axes that share a tensor dimension (compiled).

The nodes that cut an axis are its *slots*, outermost first. A sum runs over the states of these
slots; each slot has one of the kinds below, given the loop `J` that advances:

    BEFORE   a loop outside J: every index
    ADVANCE  J itself: every index but the first; the previous tile is the one before
    AFTER    a loop inside J: it starts anew at index 0; the previous tile is its last
    COPIES   copies in space, each counted
    ORIGIN   copies in space that all want the same: copy 0 alone
    UNION    copies in space (or times) whose sets are merged before they are counted
    POOL     copies in space that share one tile: the union of what each of them wants

Each sum returns a triple `(wanted, kept, overlap)`:

    wanted   elements of the new tiles
    kept     those of them that only copies want whose tile did not change
    overlap  those that a copy wants whose tile changed, but that every such copy still holds

With `(w, k, o)` of independent axes composed as `(w w', k k', o k' + k o')`, the elements fetched
are `w - k - o`: everything where two or more composite axes changed, the difference of the sets
where exactly one did, nothing where none did.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

BEFORE, ADVANCE, AFTER, COPIES, ORIGIN, UNION, POOL = 0, 1, 2, 3, 4, 5, 6


@njit(cache=True)  # type: ignore[untyped-decorator]
def _put(table: Any, found: int, extent: int, other: int, still: int, moved: int) -> int:
    """Add tiles to the class of `(extent, other)`; returns the number of classes."""
    at = 0
    while at < found and (table[at, 0] != extent or table[at, 1] != other):
        at += 1
    if at == found:
        table[at, 0], table[at, 1], table[at, 2], table[at, 3] = extent, other, 0, 0
        found += 1
    table[at, 2] += still
    table[at, 3] += moved
    return found


@njit(cache=True)  # type: ignore[untyped-decorator]
def plain_sum(kinds: Any, tiles: Any, size: int) -> tuple[int, int, int]:
    """`(wanted, kept, states)` of an axis whose tiles are disjoint (so `overlap` is 0).

    `states` counts tiles: what an axis contributes to an operand that does not depend on it.
    Tiles fall into classes by their extent and by the largest extent that the same copy has at any
    later index of the AFTER loops (0: none, so its tile has not changed when they start anew).
    """
    room = (kinds.size + 3) * (kinds.size + 3)
    now = np.zeros((room, 4), np.int64)  # extent, later extent, unchanged tiles, changed tiles
    then = np.zeros((room, 4), np.int64)
    now[0, 0], now[0, 2] = size, 1
    classes = 1
    for slot in range(kinds.size):
        kind, tile, found = kinds[slot], tiles[slot], 0
        for c in range(classes):
            extent, later, still, moved = now[c, 0], now[c, 1], now[c, 2], now[c, 3]
            if kind == AFTER:
                later = max(min(tile, later), min(tile, extent - tile))
                found = _put(then, found, min(tile, extent), max(later, 0), still, moved)
            elif kind in (ORIGIN, UNION):
                found = _put(then, found, min(tile, extent), min(tile, later), still, moved)
            elif kind == ADVANCE:
                full, rest = extent // tile - 1, extent % tile
                if full > 0:
                    found = _put(then, found, tile, 0, 0, full * (still + moved))
                if full >= 0 and rest > 0:
                    found = _put(then, found, rest, 0, 0, still + moved)
            else:
                full, rest = extent // tile, extent % tile
                both, edge = later // tile, later % tile
                if both > 0:
                    found = _put(then, found, tile, tile, both * still, both * moved)
                if both < full:
                    found = _put(then, found, tile, edge, still, moved)
                    alone = full - both - 1
                    if alone > 0:
                        found = _put(then, found, tile, 0, alone * still, alone * moved)
                if rest > 0:
                    found = _put(then, found, rest, edge if both == full else 0, still, moved)
        now, then, classes = then, now, found
    wanted, kept, states = 0, 0, 0
    for c in range(classes):
        tiles_here = now[c, 2] + now[c, 3]
        wanted += now[c, 0] * tiles_here
        kept += now[c, 0] * now[c, 2] if now[c, 1] == 0 else 0
        states += tiles_here
    return wanted, kept, states


@njit(cache=True)  # type: ignore[untyped-decorator]
def _digits(kinds: Any, tiles: Any, size: int, radix: Any) -> None:
    """`radix[s]`: number of indices of each slot that are walked (of a full tile)."""
    extent = size
    for slot in range(kinds.size):
        tile = min(tiles[slot], extent)
        kind = kinds[slot]
        radix[slot] = 1 if kind in (AFTER, ORIGIN) else (extent + tile - 1) // tile
        extent = tile


@njit(cache=True)  # type: ignore[untyped-decorator]
def _exists(kinds: Any, tiles: Any, slot: int, extent: int, index: Any) -> bool:
    """Whether a copy has any part of `extent`, from `slot` inwards (AFTER loops at 0)."""
    while slot < kinds.size:
        i = 0 if kinds[slot] == AFTER else index[slot]
        if i * tiles[slot] >= extent:
            return False
        extent = min(tiles[slot], extent - i * tiles[slot])
        slot += 1
    return True


@njit(cache=True)  # type: ignore[untyped-decorator]
def _interval(kinds: Any, tiles: Any, size: int, index: Any, out: Any) -> int:
    """New and old tile of one axis at slot indices `index`; returns 1 if there is a new one, plus 2
    if there is an old one.

    The old tile is the last that this copy had: at the last index of each AFTER loop at which it
    has any part. `out` = new start, new extent, old start, old extent, changed.
    """
    start, extent, old, old_extent, changed, there = 0, size, 0, size, 0, 3
    for slot in range(kinds.size):
        tile = tiles[slot]
        kind = kinds[slot]
        i, j = index[slot], index[slot]
        if kind == ADVANCE:
            if i == 0:
                return 0
            j = i - 1
            changed = 1
        elif kind == AFTER:
            i = 0
            j = (old_extent + tile - 1) // tile - 1
            rest = min(tile, old_extent - j * tile)
            if j > 0 and not _exists(kinds, tiles, slot + 1, rest, index):
                j -= 1
        if i * tile >= extent:
            there &= 2
        if j * tile >= old_extent:
            there &= 1
        start, extent = start + i * tile, min(tile, extent - i * tile)
        old, old_extent = old + j * tile, min(tile, old_extent - j * tile)
    if start != old:
        changed = 1
    out[0], out[1], out[2], out[3], out[4] = start, extent, old, old_extent, changed
    return there


@njit(cache=True)  # type: ignore[untyped-decorator]
def _visit(  # noqa: C901 - one compiled odometer
    spans: Any, begin: int, coefficients: Any, offsets: Any, shape: Any, low: Any, strides: Any,
    clip: bool, bounding: bool, stamp: int, seen: Any, held: Any, point: Any, ends: Any, out: Any,
    count: int,
) -> int:  # fmt: skip
    """List in `out`, from `count` on, the cells of a tile, each once; returns how many are there.

    The tile is the image of the box of axis values at `spans[:, begin:begin + 2]`, or with
    `bounding` its bounding box. Cells of an old tile (`begin` 2) are stamped in `held`.
    """
    axes, dims = spans.shape[0], offsets.size
    if bounding:
        for d in range(dims):
            first, last = offsets[d], offsets[d]
            for a in range(axes):
                c = coefficients[d, a]
                one = c * spans[a, begin]
                two = c * (spans[a, begin] + spans[a, begin + 1] - 1)
                first, last = first + min(one, two), last + max(one, two)
            if clip:
                first, last = max(first, 0), min(last, shape[d] - 1)
            if first > last:
                return count
            point[d], ends[d, 0], ends[d, 1] = first, first, last
    else:
        for a in range(axes):
            point[a], ends[a, 0] = spans[a, begin], spans[a, begin]
            ends[a, 1] = spans[a, begin] + spans[a, begin + 1] - 1
    digits = dims if bounding else axes
    while True:
        where, inside = 0, True
        for d in range(dims):
            x = point[d]
            if not bounding:
                x = offsets[d]
                for a in range(axes):
                    x += coefficients[d, a] * point[a]
            if clip and (x < 0 or x >= shape[d]):
                inside = False
            where += (x - low[d]) * strides[d]
        if inside:
            if begin == 2:
                count += held[where] != stamp
                held[where] = stamp
            elif seen[where] != stamp:
                seen[where] = stamp
                out[count] = where
                count += 1
        a = digits - 1
        while a >= 0:
            point[a] += 1
            if point[a] <= ends[a, 1]:
                break
            point[a] = ends[a, 0]
            a -= 1
        if a < 0:
            return count


@njit(cache=True)  # type: ignore[untyped-decorator]
def shared_sum(  # noqa: C901 - one compiled odometer
    kinds: Any, tiles: Any, slots: Any, sizes: Any, coefficients: Any, offsets: Any, shape: Any,
    clip: bool, bounding: bool, keep_halo: bool,
) -> tuple[int, int, int, int]:  # fmt: skip
    """`(wanted, kept, overlap, largest tile)` of axes that share dimensions of a tensor.

    `kinds[a, s]`, `tiles[a, s]` for the `slots[a]` slots of axis `a`; the tensor's index along
    dimension `d` is `offsets[d] + sum_a coefficients[d, a] * a`; with `clip` only indices inside
    `shape` exist. Every state is walked: the cost grows with the axes' sizes.
    """
    axes, dims = sizes.size, offsets.size
    low = np.zeros(dims, np.int64)
    strides = np.ones(dims, np.int64)
    cells = 1
    for d in range(dims - 1, -1, -1):
        first, last = offsets[d], offsets[d]
        for a in range(axes):
            reach = coefficients[d, a] * (sizes[a] - 1)
            first, last = first + min(reach, 0), last + max(reach, 0)
        low[d], strides[d] = first, cells
        cells *= last - first + 1
    marks = np.zeros(cells, np.uint8)
    seen = np.zeros(cells, np.int64)
    held = np.zeros(cells, np.int64)
    new = np.zeros(cells, np.int64)
    listed = np.zeros(cells, np.int64)
    width = max(tiles.shape[1], 1)
    radix = np.ones((axes, width), np.int64)
    for a in range(axes):
        _digits(kinds[a, : slots[a]], tiles[a, : slots[a]], sizes[a], radix[a])
    index = np.zeros((axes, width), np.int64)
    spans = np.zeros((axes, 5), np.int64)
    point = np.zeros(max(axes, dims), np.int64)
    ends = np.zeros((max(axes, dims), 2), np.int64)
    wanted, kept, overlap, largest, stamp = 0, 0, 0, 0, 0
    while True:  # every state of the slots that are not merged
        touched = 0
        while True:  # every copy whose requests are merged
            stamp += 1
            before, size, changed = 0, 0, False
            while True:  # every copy of a shared tile: what it had
                there = _intervals(kinds, tiles, slots, sizes, index, spans)
                for a in range(axes):
                    changed = changed or (there > 0 and spans[a, 4] == 1)
                if there & 2:
                    before = _visit(
                        spans, 2, coefficients, offsets, shape, low, strides, clip, bounding,
                        stamp, seen, held, point, ends, new, before,
                    )  # fmt: skip
                if not _next(kinds, slots, radix, index, POOL):
                    break
            while True:  # the same: what it wants
                if _intervals(kinds, tiles, slots, sizes, index, spans) & 1:
                    size = _visit(
                        spans, 0, coefficients, offsets, shape, low, strides, clip, bounding,
                        stamp, seen, held, point, ends, new, size,
                    )  # fmt: skip
                if not _next(kinds, slots, radix, index, POOL):
                    break
            if changed and before == size:
                changed = False
                for n in range(size):
                    if held[new[n]] != stamp:
                        changed = True
                        break
            for n in range(size):
                c = new[n]
                if marks[c] == 0:
                    listed[touched] = c
                    touched += 1
                if not changed:
                    marks[c] |= 2
                elif keep_halo and held[c] == stamp:
                    marks[c] |= 1
                else:
                    marks[c] |= 5
            if not _next(kinds, slots, radix, index, UNION):
                break
        largest = max(largest, touched)
        for n in range(touched):
            mark = marks[listed[n]]
            wanted += 1
            if not mark & 1:
                kept += 1
            elif not mark & 4:
                overlap += 1
            marks[listed[n]] = 0
        if not _next(kinds, slots, radix, index, BEFORE):
            return wanted, kept, overlap, largest


@njit(cache=True)  # type: ignore[untyped-decorator]
def _intervals(kinds: Any, tiles: Any, slots: Any, sizes: Any, index: Any, spans: Any) -> int:
    """`_interval` of every axis: 1 if all have a new tile, plus 2 if all have an old one."""
    there = 3
    for a in range(sizes.size):
        there &= _interval(kinds[a, : slots[a]], tiles[a, : slots[a]], sizes[a], index[a], spans[a])
    return there


@njit(cache=True)  # type: ignore[untyped-decorator]
def _next(kinds: Any, slots: Any, radix: Any, index: Any, which: int) -> bool:
    """Step the indices of the slots of one kind, UNION or POOL (or of all the others, BEFORE);
    False
    after the last.
    """
    for a in range(slots.size - 1, -1, -1):
        for s in range(slots[a] - 1, -1, -1):
            kind = kinds[a, s] if kinds[a, s] >= UNION else BEFORE
            if kind != which:
                continue
            index[a, s] += 1
            if index[a, s] < radix[a, s]:
                return True
            index[a, s] = 0
    return False


@njit(cache=True)  # type: ignore[untyped-decorator]
def plain_batch(kinds: Any, tiles: Any, sizes: Any, out: Any) -> None:
    """`out[:, row]` = wanted, kept, states, largest of `plain_sum` for each row of tiles."""
    for row in range(sizes.size):
        wanted, kept, states = plain_sum(kinds, tiles[row], sizes[row])
        largest = sizes[row]
        for slot in range(kinds.size):
            largest = min(largest, tiles[row, slot])
        out[0, row], out[1, row], out[2, row], out[3, row] = wanted, kept, states, largest


@njit(cache=True)  # type: ignore[untyped-decorator]
def shared_batch(
    kinds: Any, tiles: Any, slots: Any, sizes: Any, coefficients: Any, offsets: Any, shapes: Any,
    clip: bool, bounding: bool, keep_halo: bool, out: Any,
) -> None:  # fmt: skip
    """`out[:, row]` = the results of `shared_sum` for each row of tiles (rows, axes, slots)."""
    for row in range(sizes.shape[0]):
        a, b, c, d = shared_sum(
            kinds, tiles[row], slots, sizes[row], coefficients, offsets, shapes[row], clip,
            bounding, keep_halo,
        )  # fmt: skip
        out[0, row], out[1, row], out[2, row], out[3, row] = a, b, c, d
