"""Chains of nested tiles along one axis, and their counts (compiled).

A chain has one tile per *slot*, outermost first: loops in time and spreads in space that cut the
axis; the last one ends at 1. Tiles are any integers, or divisors; copies in space stay within their
room. With edge tiles the extents at a depth are a few size classes: a tile splits an extent into
full ones and a rest, so counts are exact sums over classes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

Factors: TypeAlias = Literal["any", "perfect"]
Ints = npt.NDArray[np.int64]

SKIP, COUNT, FIRST = 0, 1, 2
"""What a slot does in a count: nothing, each of its tiles, or the first (largest) tile alone."""


@lru_cache(maxsize=1 << 10)
def chains_of(
    size: int, slots: tuple[tuple[int, int], ...], factors: Factors, tried: tuple[int, ...] = ()
) -> Ints:
    """All chains (rows, slots) of an axis; `slots` = (room in space or 0, largest tile allowed).

    At the last free slot only the smallest tile of each set of counts is listed: others have larger
    tiles and the same counts. `tried`: the only tile sizes to try (all, when empty).
    """
    rooms = np.array([room for room, _ in slots], np.int64)
    limits = np.array([limit for _, limit in slots], np.int64)
    sizes = np.array(tried, np.int64)
    perfect = factors == "perfect"
    count = _list(size, rooms, limits, perfect, sizes, np.zeros((0, len(slots)), np.int64))
    found = np.zeros((count, len(slots)), np.int64)
    _list(size, rooms, limits, perfect, sizes, found)
    found.flags.writeable = False
    return found


@lru_cache(maxsize=1 << 12)
def number_of_chains(size: int, free: int) -> float:
    """About how many chains of any integers there are with some free slots."""
    if free <= 0:
        return 1.0
    total = 2.0 * size**0.5
    for depth in range(1, free):
        total *= size / (depth + 0.5)
    return total


@njit(cache=True)  # type: ignore[untyped-decorator]
def _list(  # noqa: C901 - one compiled odometer
    size: int, rooms: Any, limits: Any, perfect: bool, sizes: Any, out: Any
) -> int:
    """Write the chains to `out` as far as it has room; returns their number."""
    slots = rooms.size
    if slots == 0:
        return 1 if size == 1 else 0
    tile = np.zeros(slots, np.int64)
    extent = np.zeros(slots + 1, np.int64)
    extent[0] = size
    classes = np.zeros((slots + 1, 2 * slots + 4), np.int64)
    number = np.zeros(slots + 1, np.int64)
    classes[0, 0], number[0] = size, 1
    count, depth = 0, 0
    tile[0] = size + 1
    while depth >= 0:
        if depth == slots - 1:  # the last slot ends at 1
            room = rooms[depth]
            if (room == 0 or extent[depth] <= room) and limits[depth] >= 1:
                if count < out.shape[0]:
                    for s in range(slots - 1):
                        out[count, s] = tile[s]
                    out[count, depth] = 1
                count += 1
            depth -= 1
            continue
        least = 1
        if rooms[depth] > 0:
            least = (extent[depth] + rooms[depth] - 1) // rooms[depth]
        t = tile[depth] - 1
        if t > limits[depth]:
            t = limits[depth]
        if perfect:
            while t >= least and extent[depth] % t != 0:
                t -= 1
        elif sizes.size > 0:
            at = np.searchsorted(sizes, t, side="right") - 1
            whole = extent[depth] <= limits[depth] and tile[depth] > extent[depth]
            t = extent[depth] if whole else (sizes[at] if at >= 0 else 0)
        elif depth == slots - 2 and t >= least:
            # the smallest tile with the same number of tiles in every class
            low = 1
            for c in range(number[depth]):
                e = classes[depth, c]
                n = (e + t - 1) // t
                low = max(low, (e + n - 1) // n)
            t = max(low, least)
        if t < least:
            depth -= 1
            continue
        tile[depth] = t
        extent[depth + 1] = t
        found = 0
        for c in range(number[depth]):
            e = classes[depth, c]
            for part in range(2):
                piece = t if part == 0 else e % t
                if (part == 0 and e < t) or piece == 0:
                    continue
                known = False
                for k in range(found):
                    known = known or classes[depth + 1, k] == piece
                if not known and found < classes.shape[1]:
                    classes[depth + 1, found] = piece
                    found += 1
        number[depth + 1] = found
        depth += 1
        tile[depth] = t + 1
    return count


@njit(cache=True)  # type: ignore[untyped-decorator]
def count_tiles(tiles: Any, ways: Any, size: int, weighted: bool, now: Any, then: Any) -> int:
    """Tiles of one chain, or (`weighted`) the sum of their extents; `ways[s]` as above.

    `now`, `then`: scratch, (2, 2 slots + 4).
    """
    now[0, 0], now[1, 0] = size, 1
    classes = 1
    for s in range(ways.size):
        way, t = ways[s], tiles[s]
        if way == SKIP:
            continue
        found = 0
        for c in range(classes):
            e, m = now[0, c], now[1, c]
            if way == FIRST:
                e, rest, full = min(e, t), 0, 1
            elif e <= t:
                rest, full = 0, 1
            else:
                full, rest = e // t, e % t
                e = t
            at = 0
            while at < found and then[0, at] != e:
                at += 1
            if at == found:
                then[0, at], then[1, at] = e, 0
                found += 1
            then[1, at] += full * m
            if rest > 0:
                at = 0
                while at < found and then[0, at] != rest:
                    at += 1
                if at == found:
                    then[0, at], then[1, at] = rest, 0
                    found += 1
                then[1, at] += m
        now, then, classes = then, now, found
    total = 0
    for c in range(classes):
        total += now[1, c] * now[0, c] if weighted else now[1, c]
    return total


@njit(cache=True)  # type: ignore[untyped-decorator]
def count_rows(chains: Any, ways: Any, size: int, weighted: Any) -> Any:
    """`count_tiles` of every chain (rows) for every count (columns)."""
    rows, slots = chains.shape
    out = np.empty((rows, ways.shape[0]))
    now, then = np.empty((2, 2 * slots + 4), np.int64), np.empty((2, 2 * slots + 4), np.int64)
    for i in range(rows):
        for c in range(ways.shape[0]):
            out[i, c] = count_tiles(chains[i], ways[c], size, weighted[c], now, then)
    return out


@njit(cache=True)  # type: ignore[untyped-decorator]
def least_rows(tiles: Any, lows: Any, ways: Any, size: int, weighted: Any) -> Any:
    """At most what `count_rows` gives for every chain between `lows` and `tiles`.

    Nested tiles of at most `t` cut an extent `e` into at least `e / t`; the first tile of an extent
    holds at least its share.
    """
    rows, slots = tiles.shape
    out = np.empty((rows, ways.shape[0]))
    for i in range(rows):
        for c in range(ways.shape[0]):
            base, last, total, share = size, size, 1.0, 1.0
            for s in range(slots):
                if ways[c, s] == COUNT:
                    last = tiles[i, s]
                elif ways[c, s] == FIRST:
                    total *= max(1.0, np.ceil(base / last))
                    share *= min(1.0, lows[i, s] / last)
                    base, last = lows[i, s], tiles[i, s]
            total *= max(1.0, np.ceil(base / last))
            out[i, c] = np.ceil(size * share) if weighted[c] else total
    return out


@njit(cache=True)  # type: ignore[untyped-decorator]
def copies_of(chains: Any, size: int) -> Any:
    """Trips of every slot of every chain, for a full tile."""
    rows, slots = chains.shape
    out = np.empty((rows, slots), np.int64)
    for i in range(rows):
        extent = size
        for s in range(slots):
            out[i, s] = (extent + chains[i, s] - 1) // chains[i, s]
            extent = min(extent, chains[i, s])
    return out
