"""Chains of nested tiles, against counts of tiles that are listed one by one."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from hwopt.mapping.chains import (
    COUNT,
    FIRST,
    SKIP,
    canonical,
    chains_of,
    copies_of,
    count_rows,
    front_of,
    least_rows,
    most_rows,
)

Slots = tuple[tuple[int, int], ...]
Ways = tuple[int, ...]


def listed(size: int, slots: Slots, *, perfect: bool = False) -> list[tuple[int, ...]]:
    """All chains that end at 1, by recursion."""
    if not slots:
        return [()] if size == 1 else []
    (room, limit), rest = slots[0], slots[1:]
    found = []
    for tile in range(1, min(size, limit) + 1):
        if (room and math.ceil(size / tile) > room) or (perfect and size % tile):
            continue
        found += [(tile, *tail) for tail in listed(tile, rest, perfect=perfect)]
    return found


def counted(size: int, chain: tuple[int, ...], ways: Ways, *, weighted: bool) -> int:
    """Tiles (or their extents) that are cut one by one."""
    tiles = [size]
    for tile, way in zip(chain, ways, strict=True):
        if way == FIRST:
            tiles = [min(extent, tile) for extent in tiles]
        elif way == COUNT:
            tiles = [min(tile, extent - at) for extent in tiles for at in range(0, extent, tile)]
    return sum(tiles) if weighted else len(tiles)


def values(
    chains: list[tuple[int, ...]], size: int, counts: list[tuple[Ways, bool]]
) -> npt.NDArray[np.int64]:
    """A row of counts per chain."""
    return np.array(
        [[counted(size, c, ways, weighted=w) for ways, w in counts] for c in chains], np.int64
    ).reshape(len(chains), len(counts))


@st.composite
def spaces(draw: st.DrawFn, size: int = 14, most: int = 4) -> tuple[int, Slots]:
    """An axis and its slots, some of them in space, some with a limit."""
    n = draw(st.integers(1, size))
    room, limit = st.sampled_from((0, 0, 0, 2, 3, 8)), st.sampled_from((n, n, n, max(1, n // 2)))
    slots = draw(st.lists(st.tuples(room, limit), min_size=1, max_size=most))
    return n, tuple(slots)


def counts(slots: int) -> st.SearchStrategy[list[tuple[Ways, bool]]]:
    """Counts of chains with so many slots."""
    way = st.sampled_from((SKIP, COUNT, COUNT, FIRST))
    ways = st.lists(way, min_size=slots, max_size=slots).map(tuple)
    return st.lists(st.tuples(ways, st.booleans()), min_size=1, max_size=5)


@given(spaces(), st.booleans())
def test_chains_are_all_there_are(space: tuple[int, Slots], perfect: bool) -> None:
    """Every chain of divisors; of any integers every chain or one with no more of any tile."""
    size, slots = space
    expected = listed(size, slots, perfect=perfect)
    found = [tuple(row) for row in chains_of(size, slots, "perfect" if perfect else "any").tolist()]
    assert len(set(found)) == len(found)
    assert set(found) <= set(expected)
    if perfect:
        assert set(found) == set(expected)


@given(st.data())
def test_counts_equal_tiles_that_are_listed(data: st.DataObject) -> None:
    """Sums over size classes, for any ways; a count means the same in its canonical form."""
    size, slots = data.draw(spaces())
    wanted = data.draw(counts(len(slots)))
    chains = listed(size, slots)
    expected = values(chains, size, wanted)
    rows = np.array(chains, np.int64).reshape(len(chains), len(slots))
    for forms in (wanted, [canonical(ways, weighted=w) for ways, w in wanted]):
        ways = np.array([form for form, _ in forms], np.int64)
        found = count_rows(rows, ways, size, np.array([w for _, w in forms]))
        assert np.array_equal(found, expected)
    trips = copies_of(rows, size)
    outer = np.hstack([np.full((len(rows), 1), size), rows[:, :-1]])
    assert np.array_equal(trips, -(-outer // rows))


@given(st.data())
def test_a_front_misses_nothing(data: st.DataObject) -> None:
    """For every chain of any integers the front has one that is no worse in any count, in any trips
    in space, and the same in counts that must be equal; all of its chains are legal.
    """
    size, slots = data.draw(spaces())
    wanted = [canonical(ways, weighted=w) for ways, w in data.draw(counts(len(slots)))]
    for slot, (room, _) in enumerate(slots):
        if room:
            ways = tuple(
                FIRST if s == slot - 1 else COUNT if s == slot else SKIP for s in range(len(slots))
            )
            wanted.append(canonical(ways, weighted=False))
    equal = data.draw(st.lists(st.booleans(), min_size=len(wanted), max_size=len(wanted)))
    chains = listed(size, slots)
    found = front_of(
        size, slots, tuple(w for w, _ in wanted), tuple(w for _, w in wanted), tuple(equal)
    )
    front = [tuple(row) for row in found.tolist()]
    assert set(front) <= set(chains)
    all_, own = values(chains, size, wanted), values(front, size, wanted)
    for row in all_:
        same = (own[:, equal] == row[equal]).all(axis=1)
        assert (same & (own <= row).all(axis=1)).any()


@given(st.data())
def test_a_front_of_some_sizes_has_no_others(data: st.DataObject) -> None:
    """Tiles above the last free slot are of the sizes to try, or cut nothing."""
    size, slots = data.draw(spaces(size=30))
    tried = tuple(sorted({1, size, *data.draw(st.lists(st.integers(1, size), max_size=4))}))
    wanted = [canonical(ways, weighted=w) for ways, w in data.draw(counts(len(slots)))]
    found = front_of(
        size, slots, tuple(w for w, _ in wanted), tuple(w for _, w in wanted),
        (False,) * len(wanted), tried,
    )  # fmt: skip
    legal = set(listed(size, slots))
    for chain in found.tolist():
        assert tuple(chain) in legal
        outer = [size, *chain]
        for slot in range(len(slots) - 2):
            assert chain[slot] in tried or chain[slot] in (outer[slot], slots[slot][1])


@given(st.data())
def test_counts_of_ranges_enclose_those_within(data: st.DataObject) -> None:
    """For chains that stand for all with tiles between two bounds: at most, and at least."""
    size, slots = data.draw(spaces(size=16))
    chains = listed(size, tuple((0, size) for _ in slots))
    chain = data.draw(st.sampled_from(chains))
    wanted = [canonical(ways, weighted=w) for ways, w in data.draw(counts(len(slots)))]
    lows = tuple(data.draw(st.integers(1, tile)) for tile in chain)
    highs = tuple(data.draw(st.integers(tile, size)) for tile in chain)
    highs = tuple(min(highs[: s + 1]) for s in range(len(slots)))
    lows = tuple(max(lows[s:]) for s in range(len(slots)))
    arguments = (
        np.array([highs], np.int64), np.array([lows], np.int64),
        np.array([w for w, _ in wanted], np.int64), size, np.array([w for _, w in wanted]),
    )  # fmt: skip
    exact = values([chain], size, wanted)
    if all(low <= tile <= high for low, tile, high in zip(lows, chain, highs, strict=True)):
        assert (least_rows(*arguments) <= exact).all()
        assert (most_rows(*arguments) >= exact).all()
