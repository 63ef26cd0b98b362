"""Sums of windows by intervals, against the sums that list every element."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwopt.mapping.sums import (
    ADVANCE,
    AFTER,
    BEFORE,
    COPIES,
    ORIGIN,
    POOL,
    UNION,
    shared_batch,
)
from hwopt.mapping.tables import distinct
from hwopt.mapping.windows import window_batch

Pair = tuple[tuple[int, ...], tuple[int, ...]]


@st.composite
def axes(draw: st.DrawFn, *, moved: bool, advance: bool) -> tuple[int, Pair]:
    """Size, kinds and tiles of one axis; `advance`: one of its loops moves."""
    size = draw(st.integers(1, 8))
    kinds = (BEFORE, COPIES, ORIGIN, UNION, POOL) if moved else (
        BEFORE, COPIES, ORIGIN, UNION, POOL, AFTER)  # fmt: skip
    own = draw(st.lists(st.sampled_from(kinds), max_size=3))
    if advance:
        own.insert(draw(st.integers(0, len(own))), ADVANCE)
    tiles, extent = [], size
    for _ in own:
        extent = draw(st.integers(1, extent))
        tiles.append(extent)
    return size, (tuple(own), tuple(tiles))


def pack(pairs: list[Pair]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kinds, tiles (of one row) and slots as the compiled sums take them."""
    slots = np.array([len(kinds) for kinds, _ in pairs], np.int64)
    width = max(1, int(slots.max()))
    kinds, tiles = np.zeros((2, width), np.int64), np.ones((1, 2, width), np.int64)
    for a, (own, cut) in enumerate(pairs):
        kinds[a, : len(own)], tiles[0, a, : len(own)] = own, cut
    return kinds, tiles, slots


@given(st.data(), st.booleans(), st.booleans())
def test_windows_equal_the_sums_over_elements(
    data: st.DataObject, clip: bool, bounding: bool
) -> None:
    """Any kinds, tiles, strides, padding: the elements wanted and the largest tile, or those that
    the old tile lacks.
    """
    moved = data.draw(st.booleans())
    first = data.draw(st.booleans())
    (n0, one), (n1, two) = (
        data.draw(axes(moved=moved, advance=moved and first == (a == 0))) for a in range(2)
    )
    sizes = np.array([n0, n1], np.int64)
    coefficients = np.array([data.draw(st.integers(1, 3)) for _ in range(2)], np.int64)
    offset = -data.draw(st.integers(0, 2))
    reach = int(offset + (coefficients * (sizes - 1)).sum()) + 1
    length = max(1, reach - data.draw(st.integers(0, 2)))
    kinds, tiles, slots = pack([one, two])
    found, out = np.zeros((1, 2), np.int64), np.zeros((4, 1), np.int64)
    window_batch(kinds, tiles, slots, sizes, coefficients, offset, length, clip, bounding, moved,
                 found)  # fmt: skip
    shared_batch(kinds, tiles, slots, sizes[None], coefficients[None],
                 np.array([offset], np.int64), np.array([[length]], np.int64), clip, bounding, True,
                 out)  # fmt: skip
    wanted, kept, overlap, largest = out[:, 0].tolist()
    if moved:
        assert found[0, 0] == wanted - kept - overlap
    else:
        assert found[0].tolist() == [wanted, largest]


@given(st.data())
def test_chains_that_cut_alike_have_the_same_sums(data: st.DataObject) -> None:
    """Leaving out slots that change nothing leaves the sums as they are."""
    moved = data.draw(st.booleans())
    pairs, sizes = [], []
    for a in range(2):
        size, pair = data.draw(axes(moved=moved, advance=moved and a == 0))
        pairs.append(pair)
        sizes.append(size)
    short: list[Pair] = []
    for size, (kinds, tiles) in zip(sizes, pairs, strict=True):
        cut, own = distinct(np.array([tiles], np.int64).reshape(1, len(tiles)), kinds, size)
        short.append((own, tuple(cut[0].tolist())))
    sums = []
    for some in (pairs, short):
        packed, cuts, slots = pack(some)
        out = np.zeros((4, 1), np.int64)
        shared_batch(
            packed,
            cuts,
            slots,
            np.array([sizes], np.int64),
            np.array([[2, 1]], np.int64),
            np.array([-1], np.int64),
            np.array([[9]], np.int64),
            True,
            False,
            True,
            out,
        )
        sums.append((out[0, 0] - out[1, 0] - out[2, 0] if moved else out[0, 0], out[3, 0]))
    assert sums[0] == sums[1] if not moved else sums[0][0] == sums[1][0]
