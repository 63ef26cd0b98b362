"""Chains of nested tiles along one axis, and their counts (compiled).

A chain has one tile per *slot*, outermost first: loops in time and spreads in space that cut the
axis; the last one ends at 1. Tiles are any integers, or divisors; copies in space stay within their
room. With edge tiles the extents at a depth are a few size classes: a tile splits an extent into
full ones and a rest, so counts are exact sums over classes.
"""

from __future__ import annotations

import math
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


@lru_cache(maxsize=1 << 10)
def front_of(
    size: int, slots: tuple[tuple[int, int], ...], ways: tuple[tuple[int, ...], ...],
    weighted: tuple[bool, ...], equal: tuple[bool, ...], tried: tuple[int, ...] = (),
) -> Ints:  # fmt: skip
    """Chains of any integers, without many that others beat in the counts `ways` (`canonical`).

    A chain is left out where one of its tiles may be one smaller and no count grows (or, where
    `equal`, changes): among all chains that are no worse than it, one with the least sum of tiles
    is always kept. `tried`: the only tile sizes to try (all, when empty) but at the last free slot.
    """
    rooms = np.array([room for room, _ in slots], np.int64)
    limits = np.array([limit for _, limit in slots], np.int64)
    kinds = np.array(ways, np.int64).reshape(len(ways), len(slots))
    # the next smaller (0: none) or equal tile to try, for each size
    below = np.arange(size + 1)
    if tried:
        below[:] = 0
        below[list(tried)] = tried
        below = np.maximum.accumulate(below)
    found = _front(
        size, rooms, limits, kinds, np.array(weighted, np.bool_), np.array(equal, np.bool_), below
    )
    found.flags.writeable = False
    return np.asarray(found)


def canonical(ways: tuple[int, ...], *, weighted: bool) -> tuple[tuple[int, ...], bool]:
    """The same count of every chain whose last tile is 1, written in one way: the last slot, and
    all that changes nothing, is skipped.

    Extents of all tiles add up to what they cut; of a first tile of a first tile only the inner
    one matters; a first tile alone makes no more tiles.
    """
    way = list(ways)
    if not way:
        return (), weighted
    if way[-1] == COUNT and not weighted:
        weighted = True  # tiles of one element are as many as there are elements
    elif way[-1] == FIRST and weighted:
        weighted = False
    way[-1] = SKIP
    idle = COUNT if weighted else FIRST
    last = None
    for s in range(len(way) - 1, -1, -1):
        if way[s] == SKIP:
            continue
        if (last is None and way[s] == idle) or (last == FIRST and way[s] == FIRST):
            way[s] = SKIP
        else:
            last = way[s]
    return tuple(way), weighted


@lru_cache(maxsize=1 << 12)
def number_of_chains(size: int, free: int) -> float:
    """About how many chains of any integers there are with some free slots."""
    if free <= 0:
        return 1.0
    total = 2.0 * math.sqrt(size)
    for depth in range(1, free):
        total *= size / (depth + 0.5)
    return total


@lru_cache(maxsize=1 << 12)
def number_of_divisions(size: int, free: int) -> int:
    """How many chains of divisors there are with some free slots."""
    total, rest, prime = 1, size, 2
    while rest > 1:
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        total *= math.comb(power + max(0, free), power)
        prime = prime + 1 if prime * prime <= rest else max(prime + 1, rest)
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
            while t >= least and (
                extent[depth] % t != 0
                or (sizes.size > 0 and sizes[min(np.searchsorted(sizes, t), sizes.size - 1)] != t)
            ):
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


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _ceil(e: int, t: int) -> int:
    """`e / t` rounded up: by floats, which are exact here and divide faster than integers do."""
    return int((e + t - 1) / t)


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _cut(way: int, t: int, now: Any, found: int, then: Any) -> int:
    """Classes `then` (extents, numbers) of `found` classes `now` after a slot; returns how many."""
    count = 0
    for c in range(found):
        e, m = now[0, c], now[1, c]
        full, rest = 1, 0
        if way == FIRST:
            e = min(e, t)
        elif way == COUNT and e > t:
            full = e // t
            rest = e - full * t
            e = t
        for _ in range(2):
            at = 0
            while at < count and then[0, at] != e:
                at += 1
            if at == count:
                then[0, at], then[1, at] = e, 0
                count += 1
            then[1, at] += full * m
            if rest == 0:
                break
            e, full, rest = rest, 1, 0
    return count


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _front(
    size: int, rooms: Any, limits: Any, ways: Any, weighted: Any, equal: Any, below: Any
) -> Any:
    """`front_of`, with the classes of each count at each depth at hand.

    Variant 0 is the chain itself; variant `1 + s` has the next smaller tile at slot `s`.
    """
    slots, columns = rooms.size, ways.shape[0]
    out = np.empty((1024, slots), np.int64)
    if slots == 0:
        return out[: 1 if size == 1 else 0]
    tile = np.zeros(slots, np.int64)
    width = 2 * slots + 4
    classes = np.zeros((slots, slots + 1, columns, 2, width), np.int64)
    number = np.zeros((slots, slots + 1, columns), np.int64)
    classes[:, :, :, 0, 0], classes[:, :, :, 1, 0] = size, 1
    number[0] = 1
    pieces = np.zeros((2, (slots + 1) * columns, width), np.int64)
    held = np.zeros(((slots + 1) * columns, 3), np.int64)
    alive = np.zeros(slots + 1, np.int64)
    count, depth = 0, 0
    tile[0] = size + 1
    while depth >= 0:
        if depth >= slots - 2:
            while count + limits[depth] > out.shape[0]:
                more = np.empty((2 * out.shape[0], slots), np.int64)
                more[:count] = out[:count]
                out = more
            count = _leaves(
                size, rooms, limits, ways, weighted, equal, below, tile, depth, classes, number,
                pieces, held, alive, count, out,
            )  # fmt: skip
            depth -= 1
            continue
        extent = size if depth == 0 else tile[depth - 1]
        least = 1 if rooms[depth] == 0 else (extent + rooms[depth] - 1) // rooms[depth]
        t = min(tile[depth] - 1, limits[depth])
        if t < extent:  # a tile that cuts nothing is always tried
            t = below[t]
        if t < least:
            depth -= 1
            continue
        tile[depth] = t
        for v in range(depth + 2):
            if v > 0 and below[tile[v - 1] - 1] < (t if v == depth else 1):
                continue
            for c in range(columns):
                number[depth + 1, v, c] = _cut(
                    ways[c, depth], below[t - 1] if v == depth + 1 else t,
                    classes[depth, v if v <= depth else 0, c],
                    number[depth, v if v <= depth else 0, c], classes[depth + 1, v, c],
                )  # fmt: skip
        depth += 1
        tile[depth] = t + 1
    return out[:count].copy()


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _leaves(  # noqa: C901 - one compiled loop
    size: int, rooms: Any, limits: Any, ways: Any, weighted: Any, equal: Any, below: Any, tile: Any,
    depth: int, classes: Any, number: Any, pieces: Any, held: Any, alive: Any, count: int, out: Any,
) -> int:  # fmt: skip
    """Write the chains of one prefix that no variant beats to `out`; returns their number.

    `pieces`, `held`: classes of the counts that the last free slot changes, and per such count how
    many classes, whether it adds extents, whether it must be equal. `alive`: variants that may beat
    the chain, as far as the other counts go.
    """
    slots, columns = rooms.size, ways.shape[0]
    extent = size if depth == 0 else tile[depth - 1]
    least = 1 if rooms[depth] == 0 else (extent + rooms[depth] - 1) // rooms[depth]
    most = min(extent, limits[depth])
    if depth == slots - 1:
        most = min(most, 1)
    elif rooms[slots - 1] > 0:
        most = min(most, rooms[slots - 1])
    if limits[slots - 1] < 1:
        return count
    lively = 0
    for v in range(depth + 1):
        if v > 0:
            less, above = below[tile[v - 1] - 1], size if v == 1 else tile[v - 2]
            if less < (tile[v] if v < depth else 1):
                continue
            if rooms[v - 1] > 0 and less * rooms[v - 1] < above:
                continue  # copies of the slot that shrinks must still have room
        active = 0
        good = True
        for c in range(columns):
            found = number[depth, v, c]
            if ways[c, depth] != SKIP:
                at = lively * columns + active
                held[at, 0], held[at, 1], held[at, 2] = found, weighted[c], equal[c]
                for k in range(found):
                    pieces[0, at, k] = classes[depth, v, c, 0, k]
                    pieces[1, at, k] = classes[depth, v, c, 1, k]
                active += 1
            elif v > 0:
                one, two = 0, 0
                for k in range(number[depth, 0, c]):
                    e, m = classes[depth, 0, c, 0, k], classes[depth, 0, c, 1, k]
                    one += m * e if weighted[c] else m
                for k in range(found):
                    e, m = classes[depth, v, c, 0, k], classes[depth, v, c, 1, k]
                    two += m * e if weighted[c] else m
                if two > one or (equal[c] and two != one):
                    good = False
                    break
        if good:
            alive[lively] = v
            lively += 1
    width = 0
    fixed = False  # whether a count that must be equal grows with the tile
    for c in range(columns):
        width += ways[c, depth] != SKIP
        fixed = fixed or (equal[c] and ways[c, depth] == FIRST)
    here = np.zeros(max(1, width), np.int64)
    t = most
    while t >= least:
        low = t if fixed else least  # the smallest tile with as many tiles in every class
        for a in range(width):
            if held[a, 1] == 0:
                total = 0
                for k in range(held[a, 0]):
                    e = pieces[0, a, k]
                    n = _ceil(e, t)
                    total += pieces[1, a, k] * n
                    low = max(low, _ceil(e, n))
                here[a] = total
        t = low
        for a in range(width):
            if held[a, 1] == 1:
                total = 0
                for k in range(held[a, 0]):
                    total += pieces[1, a, k] * min(pieces[0, a, k], t)
                here[a] = total
        beaten = False
        for number_ in range(1, lively):
            v = alive[number_]
            if v == depth and below[tile[v - 1] - 1] < t:
                continue
            beaten = True
            for a in range(width):
                at = number_ * columns + a
                total = 0
                for k in range(held[at, 0]):
                    e = pieces[0, at, k]
                    total += pieces[1, at, k] * (min(e, t) if held[at, 1] == 1 else _ceil(e, t))
                if total > here[a] or (held[at, 2] == 1 and total != here[a]):
                    beaten = False
                    break
            if beaten:
                break
        if not beaten:
            for s in range(depth):
                out[count, s] = tile[s]
            out[count, depth] = t
            out[count, slots - 1] = 1
            count += 1
        t -= 1
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
def most_rows(tiles: Any, lows: Any, ways: Any, size: int, weighted: Any) -> Any:
    """At least what `count_rows` gives for every chain between `lows` and `tiles`.

    So many pieces, none longer than `longest`, that add up to `total`: a tile of at least `low`
    cuts a piece `e` into at most `e / low + 1`.
    """
    rows, slots = tiles.shape
    out = np.empty((rows, ways.shape[0]))
    for i in range(rows):
        for c in range(ways.shape[0]):
            pieces, total, longest = 1, size, size
            for s in range(slots):
                if ways[c, s] == COUNT:
                    each = (longest + lows[i, s] - 1) // lows[i, s]
                    pieces = min(pieces * each, total // lows[i, s] + pieces)
                elif ways[c, s] == FIRST:
                    total = min(total, pieces * tiles[i, s])
                if ways[c, s] != SKIP:
                    longest = min(longest, tiles[i, s])
            out[i, c] = total if weighted[c] else pieces
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
