"""Tables of tile chains: what each choice of tiles along one composite axis contributes.

A *part* is a class of axes that some operand joins in one tensor dimension (alone: one axis). For
one template and one part, a row is one chain of tiles for every axis of the part. Its columns are
the part's shares of traffic, of footprints and of the fan-outs; a count of a whole mapping is a
product over parts. Rows that another row beats in everything are left out.

Where a window may slide, a row is a chain with a choice of sliding loops: less traffic, but it
*denies* that loops between them and the keep take several trips and that another composite axis
slides in the same gap; rows *claim* what they do. Both are bit masks; choices of all parts fit
together if nothing that one claims is denied by another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

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
from hwopt.mapping.plan import Factor, Group
from hwopt.mapping.sums import ADVANCE, AFTER, BEFORE, COPIES, ORIGIN, POOL, UNION, shared_batch
from hwopt.mapping.trees import Tree, grow, undominated
from hwopt.mapping.windows import window_batch

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cut:
    """One axis of a part: its size, its slots as `chains_of` takes them, the tiles to try."""

    size: int
    slots: tuple[tuple[int, int], ...]
    tried: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Count:
    """A share that is a count or a sum over one axis: `ways` per slot, `weighted` by extents."""

    axis: int
    ways: tuple[int, ...]
    weighted: bool


@dataclass(frozen=True, slots=True)
class Window:
    """A share of axes that share a tensor dimension: `kinds[a][s]` of `sums` per axis and slot (-1:
    the slot does not matter). `largest`: the largest tile instead of the sum.
    """

    group: Group
    kinds: tuple[tuple[int, ...], ...]
    clip: bool
    largest: bool


Share: TypeAlias = Count | Window


@dataclass(frozen=True, slots=True)
class Column:
    """A product of shares. `keeps`: whose windows it fetches (their slides change it)."""

    shares: tuple[Share, ...]
    keeps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sliding:
    """A way to slide: keep, (axis, slot) of the loop, gap, slots of this part that must be idle,
    what it claims and denies.
    """

    keep: int
    loop: tuple[int, int]
    gap: int
    idle: tuple[tuple[int, int], ...]
    claims: int
    denies: int


@dataclass(frozen=True, slots=True)
class PartSpec:
    """All that a table depends on: the same for many templates and operators.

    `uses[d]`: (axis, slot) of the spreads over dimension `d`, with its room in `rooms`. `marks`:
    bits that a row claims when a slot takes several trips. `relaxed`: each listed tile size stands
    for all sizes above the one listed below it, and columns are at most what these give.
    """

    cuts: tuple[Cut, ...]
    columns: tuple[Column, ...]
    uses: tuple[tuple[tuple[int, int], ...], ...]
    rooms: tuple[int, ...]
    marks: tuple[tuple[tuple[int, int], int], ...]
    slidings: tuple[Sliding, ...]
    factors: str
    equal: tuple[bool, ...]
    relaxed: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of a part: `chains[a]` (rows, slots of axis a), `slid[row]` the loops (axis, slot) that
    slide; `tree` over the columns, then the uses of each dimension. `listed`: rows before those
    that are beaten were dropped.
    """

    chains: tuple[Ints, ...]
    slid: tuple[tuple[tuple[int, int], ...], ...]
    tree: Tree
    listed: int
    renamed: dict[tuple[int, ...], Table] = field(default_factory=dict, compare=False, repr=False)
    """The same with other names of the bits of its masks."""

    def __len__(self) -> int:
        return len(self.slid)

    @cached_property
    def varies(self) -> npt.NDArray[np.bool_]:
        """Columns that are not the same for all rows."""
        return np.asarray(self.tree.lo[0] != self.tree.hi[0])


def build_table(spec: PartSpec, bits: tuple[int, ...] = ()) -> Table:
    """The table of a part; empty where its chains fit no fan-out. `bits`: what bit `n` of the masks
    is called by others.
    """
    table = _table(spec)
    if bits == tuple(1 << n for n in range(len(bits))):
        return table
    if bits not in table.renamed:
        claims, denies = np.zeros_like(table.tree.claims), np.zeros_like(table.tree.denies)
        for n, bit in enumerate(bits):
            claims |= np.where(table.tree.claims >> n & 1, bit, 0)
            denies |= np.where(table.tree.denies >> n & 1, bit, 0)
        tree = replace(table.tree, claims=claims, denies=denies)
        table.renamed[bits] = replace(table, tree=tree, renamed={})
    return table.renamed[bits]


@lru_cache(maxsize=1 << 13)
def _table(spec: PartSpec) -> Table:
    lists = [_listed(cut, spec) for cut in spec.cuts]
    lows = [_lows(rows, cut, spec.relaxed) for rows, cut in zip(lists, spec.cuts, strict=True)]
    trips = [
        copies_of(rows, cut.size) if low is rows else _least_trips(rows, low, cut.size)
        for rows, low, cut in zip(lists, lows, spec.cuts, strict=True)
    ]
    picked = _pairs(lists, trips, spec)
    chains = [rows[at] for rows, at in zip(lists, picked, strict=True)]
    taken = [rows[at] for rows, at in zip(trips, picked, strict=True)]
    uses = _uses(taken, spec)
    claims = np.zeros(len(uses), np.int64)
    for (axis, slot), bit in spec.marks:
        claims |= np.where(taken[axis][:, slot] > 1, bit, 0)
    values = _Values(spec, lists, lows, picked)
    most = None
    if values.loose:
        tops = [
            copies_of(rows, cut.size) if low is rows else _most_trips(rows, low, cut.size)
            for rows, low, cut in zip(lists, lows, spec.cuts, strict=True)
        ]
        used = _uses([rows[at] for rows, at in zip(tops, picked, strict=True)], spec)
        most = np.hstack([values.most(lists, lows), np.minimum(used, np.array(spec.rooms))])
    blocks, masks, numbers, choices = [], [], [], []
    for choice in _choices(spec.slidings):
        rows = np.arange(len(uses))
        for sliding in choice:
            walked = taken[sliding.loop[0]][:, sliding.loop[1]] > (0 if spec.relaxed else 1)
            for axis, slot in sliding.idle:
                walked &= taken[axis][:, slot] == 1
            rows = rows[walked[rows]]
        if not len(rows):
            continue
        blocks.append(np.hstack([values.columns(choice)[rows], uses[rows]]))
        own = claims[rows]
        denied = np.zeros(len(rows), np.int64)
        for sliding in choice:
            own, denied = own | sliding.claims, denied | sliding.denies
        masks.append((own, denied))
        numbers.append(rows)
        choices.append(tuple(sorted({s.loop for s in choice})))
    return _thinned(spec, chains, blocks, masks, numbers, choices, most)


def _uses(taken: list[Ints], spec: PartSpec) -> Floats:
    """Copies along each dimension of the fan-outs, given the trips of every slot of each axis."""
    uses = np.ones((len(taken[0]), len(spec.uses)))
    for d, spreads in enumerate(spec.uses):
        for axis, slot in spreads:
            uses[:, d] *= taken[axis][:, slot]
    return uses


def _listed(cut: Cut, spec: PartSpec) -> Ints:
    """Chains of an axis of a part."""
    shares = {share: False for column in spec.columns for share in column.shares}
    single = len(spec.cuts) == 1 and all(isinstance(share, Count) for share in shares)
    if spec.factors == "perfect" or not single or (cut.tried and spec.relaxed):
        return _chains(cut, spec.factors, spec.relaxed, any(spec.equal))
    for column, equal in zip(spec.columns, spec.equal, strict=True):
        shares.update({share: True for share in column.shares if equal})
    watched = [slot for spreads in spec.uses for _, slot in spreads]
    watched += [slot for (_, slot), _ in spec.marks]
    for slot in watched:  # trips: tiles of the first tile of the slot above
        ways = tuple(FIRST if s == slot - 1 else COUNT if s == slot else SKIP
                     for s in range(len(cut.slots)))  # fmt: skip
        shares.setdefault(Count(0, *canonical(ways, weighted=False)), False)
    counts = [share for share in shares if isinstance(share, Count)]
    return front_of(
        cut.size, cut.slots, tuple(c.ways for c in counts), tuple(c.weighted for c in counts),
        tuple(shares[c] for c in counts), cut.tried,
    )  # fmt: skip


def _chains(cut: Cut, factors: str, relaxed: bool, every: bool) -> Ints:
    """All chains of an axis; relaxed ones may exceed a room within what they stand for. `every`:
    also those with a larger tile and the same counts.
    """
    slots, tried = cut.slots, cut.tried
    if factors == "perfect" and not (relaxed and tried):
        return chains_of(cut.size, slots, "perfect", tried)
    if tried and relaxed:
        widest = max(b / (a + 1) for a, b in itertools.pairwise((0, *tried)))
        slots = tuple((int(np.ceil(room * widest)), cut.size) for room, _ in slots)
    if every and not tried:
        tried = tuple(range(1, cut.size + 1))
    return chains_of(cut.size, slots, "any", tried)


def _lows(rows: Ints, cut: Cut, relaxed: bool) -> Ints:
    """The least tiles that each chain stands for (the chains themselves, if not relaxed)."""
    if not (relaxed and cut.tried):
        return rows
    tried = np.array(cut.tried)
    below = np.concatenate([[0], tried])
    return np.asarray(below[np.searchsorted(tried, rows)] + 1)


def _least_trips(rows: Ints, lows: Ints, size: int) -> Ints:
    """Trips of every slot, at least."""
    outer = np.hstack([np.full((len(rows), 1), size), lows[:, :-1]])
    return np.asarray(np.maximum(1, -(-outer // rows)))


def _most_trips(rows: Ints, lows: Ints, size: int) -> Ints:
    """Trips of every slot, at most."""
    outer = np.hstack([np.full((len(rows), 1), size), rows[:, :-1]])
    return np.asarray(-(-outer // lows))


def _thinned(
    spec: PartSpec, chains: list[Ints], blocks: list[Floats], masks: list[tuple[Ints, Ints]],
    numbers: list[Ints], choices: list[tuple[tuple[int, int], ...]], most: Floats | None,
) -> Table:  # fmt: skip
    """The rows that no other beats; `most`: where rows are ranges, the most that copies and terms
    that are subtracted come to (more of them may be better).
    """
    if not blocks:
        width = len(spec.columns) + len(spec.uses)
        none = np.zeros(0, np.int64)
        blocks, masks, numbers = [np.zeros((0, width))], [(none, none)], [none]
    columns = np.vstack(blocks)
    claims = np.concatenate([own for own, _ in masks])
    denies = np.concatenate([denied for _, denied in masks])
    equal = np.array([*spec.equal, *([False] * len(spec.uses))])
    every, sizes = np.concatenate(numbers), [len(rows) for rows in numbers]
    if most is None:
        best = undominated(columns, claims, denies, equal)
        high = None
    else:
        more = most[every][:, [*np.flatnonzero(equal), *range(len(spec.columns), len(equal))]]
        both = np.hstack([columns, more.max(axis=0, initial=1.0) - more])
        best = undominated(both, claims, denies, np.zeros(both.shape[1], np.bool_))
        high = np.maximum(columns, most[every])[best]
    where = every[best]
    kept = np.ascontiguousarray(columns[best])
    return Table(
        tuple(rows[where] for rows in chains),
        tuple(choices[block] for block in np.repeat(range(len(numbers)), sizes)[best].tolist()),
        grow(kept, claims[best], denies[best], high) if len(best) else _EMPTY,
        len(columns),
    )


_EMPTY = Tree(*(np.zeros((0, 0)),) * 2, *(np.zeros(0, np.int64),) * 4, np.zeros(0))


def _pairs(lists: list[Ints], trips: list[Ints], spec: PartSpec) -> list[Ints]:
    """Rows of each axis' list that together stay within every dimension of the fan-outs."""
    shape = tuple(len(rows) for rows in lists)
    fits = np.ones(shape, np.bool_)
    for spreads, room in zip(spec.uses, spec.rooms, strict=True):
        used = np.ones((1,) * len(shape))
        for axis, slot in spreads:
            own = [1] * len(shape)
            own[axis] = -1
            used = used * trips[axis][:, slot].reshape(own)
        fits &= used <= room
    return [np.asarray(index) for index in np.nonzero(fits)]


def _choices(slidings: Sequence[Sliding]) -> Iterator[tuple[Sliding, ...]]:
    """For each keep one way to slide or none; one loop per gap."""
    keeps = sorted({sliding.keep for sliding in slidings})
    options = [[None, *(s for s in slidings if s.keep == keep)] for keep in keeps]
    for combination in itertools.product(*options):
        chosen = tuple(sliding for sliding in combination if sliding is not None)
        loops: dict[int, tuple[int, int]] = {}
        if all(loops.setdefault(s.gap, s.loop) == s.loop for s in chosen):
            yield chosen


class _Values:
    """Shares of all rows, each computed once."""

    def __init__(
        self, spec: PartSpec, lists: list[Ints], lows: list[Ints], picked: list[Ints]
    ) -> None:
        self.spec, self.picked, self.lists = spec, picked, lows
        self.loose = any(low is not rows for low, rows in zip(lows, lists, strict=True))
        self.heads: dict[tuple[int, tuple[int, ...]], _Heads] = {}
        self.known: dict[tuple[Share, tuple[int, int] | None], Floats] = {}
        counts = {s for c in spec.columns for s in c.shares if isinstance(s, Count)}
        for axis, cut in enumerate(spec.cuts):
            own = sorted((c for c in counts if c.axis == axis), key=lambda c: (c.ways, c.weighted))
            if own:
                ways = np.array([c.ways for c in own], np.int64).reshape(len(own), -1)
                weighted = np.array([c.weighted for c in own])
                if lows[axis] is lists[axis]:
                    values = count_rows(lists[axis], ways, cut.size, weighted)
                else:
                    values = least_rows(lists[axis], lows[axis], ways, cut.size, weighted)
                for number, count in enumerate(own):
                    self.known[count, None] = values[picked[axis], number]

    def columns(self, choice: tuple[Sliding, ...]) -> Floats:
        """All columns with some windows sliding: (rows, columns)."""
        out = np.ones((len(self.picked[0]), len(self.spec.columns)))
        slides = {sliding.keep: sliding.loop for sliding in choice}
        for number, column in enumerate(self.spec.columns):
            loops = {slides[keep] for keep in column.keeps if keep in slides}
            loop = min(loops) if loops else None
            for share in column.shares:
                out[:, number] *= self._share(share, loop)
        return out

    def most(self, lists: list[Ints], lows: list[Ints]) -> Floats:
        """At least the columns that forms subtract (0 in the others), for rows that are ranges."""
        out = np.zeros((len(self.picked[0]), len(self.spec.columns)))
        for number, column in enumerate(self.spec.columns):
            if not self.spec.equal[number]:
                continue
            out[:, number] = 1.0
            for share in column.shares:
                if isinstance(share, Count):
                    out[:, number] *= self._pieces(
                        lists, lows, share.axis, share.ways, share.weighted
                    )
                    continue
                for axis, row in enumerate(share.kinds):
                    ways = tuple(FIRST if kind in (ORIGIN, AFTER) else COUNT if kind >= 0 else SKIP
                                 for kind in row)  # fmt: skip
                    out[:, number] *= self._pieces(lists, lows, axis, ways, False)
                sizes = [cut.size - 1 for cut in self.spec.cuts]
                for line in share.group.coefficients:
                    reach = sum(abs(c) * n for c, n in zip(line, sizes, strict=True))
                    out[:, number] *= reach + 1
        return out

    def _pieces(
        self, lists: list[Ints], lows: list[Ints], axis: int, ways: tuple[int, ...], weighted: bool
    ) -> Floats:
        rows = most_rows(
            lists[axis], lows[axis], np.array([ways], np.int64).reshape(1, -1),
            self.spec.cuts[axis].size, np.array([weighted]),
        )  # fmt: skip
        return np.asarray(rows[self.picked[axis], 0])

    def _share(self, share: Share, loop: tuple[int, int] | None) -> Floats:
        if isinstance(share, Count) or share.largest:
            loop = None
        key = share, loop
        if key not in self.known:
            assert isinstance(share, Window), "counts are known from the start"
            if self.loose and not share.largest:  # each element once, at least
                none = tuple((-1,) * len(row) for row in share.kinds)
                self.known[key] = self._walk(share, none)
            elif loop is None:
                self.known[key] = self._walk(share, share.kinds)
            else:
                first, after = _with(share.kinds, loop, ORIGIN), _with(share.kinds, loop, ADVANCE)
                self.known[key] = self._walk(share, first) + self._walk(share, after, moved=True)
        return self.known[key]

    def _walk(
        self, share: Window, kinds: tuple[tuple[int, ...], ...], *, moved: bool = False
    ) -> Floats:
        """Walk the tiles of all pairs of distinct prefixes of chains."""
        heads = [self._heads(axis, row) for axis, row in enumerate(kinds)]
        sums = _windows(
            share.group,
            tuple(cut.size for cut in self.spec.cuts),
            tuple(head.kinds for head in heads),
            tuple((head.tiles.shape, head.tiles.tobytes()) for head in heads),
            share.clip,
            share.group.bounding,
            moved,
        )
        at = np.ravel_multi_index(
            [head.number for head in heads], tuple(len(head.tiles) for head in heads)
        )
        return sums[1 if share.largest else 0][at]

    def _heads(self, axis: int, kinds: tuple[int, ...]) -> _Heads:
        """The distinct ways in which the chains of an axis cut it by slots of these kinds."""
        if (axis, kinds) not in self.heads:
            spec = self.spec
            head = _heads(spec.cuts[axis], spec.factors, spec.relaxed, any(spec.equal), kinds)
            self.heads[axis, kinds] = replace(head, number=head.number[self.picked[axis]])
        return self.heads[axis, kinds]


@dataclass(frozen=True, slots=True)
class _Heads:
    """Tiles of some slots, the slots' kinds, which tiles each row has."""

    tiles: Ints
    kinds: tuple[int, ...]
    number: Ints


@lru_cache(maxsize=1 << 12)
def _heads(cut: Cut, factors: str, relaxed: bool, every: bool, kinds: tuple[int, ...]) -> _Heads:
    """The distinct ways in which all chains of an axis of several (`_chains`) cut it."""
    tiles, own = distinct(
        _lows(_chains(cut, factors, relaxed, every), cut, relaxed), kinds, cut.size
    )
    base = cut.size + 1
    if len(own) * math.log2(base) < 62:  # a number per row sorts faster than rows do
        key = tiles @ (base ** np.arange(len(own), dtype=np.int64))
        _, first, number = np.unique(key, return_index=True, return_inverse=True)
        return _Heads(tiles[first], own, number)
    tiles, number = np.unique(tiles, axis=0, return_inverse=True)
    return _Heads(tiles, own, number.reshape(-1))


def distinct(
    chains: Ints, kinds: tuple[int, ...], size: int
) -> tuple[Ints, tuple[int, ...]]:  # fmt: skip
    """The tiles and kinds of the slots that matter (kind -1: not), with the same tiles wherever
    chains cut the axis alike.

    Of two slots of one kind, one within the other, the outer one changes nothing where its tile is
    a multiple of the inner one's, or where both are seen from the origin.
    """
    used = [slot for slot, kind in enumerate(kinds) if kind >= 0]
    own = [BEFORE if kinds[slot] == COPIES else kinds[slot] for slot in used]
    tiles = np.array(chains[:, used], np.int64)
    above = np.full(len(tiles), size)
    for s in range(len(used)):
        if s + 1 < len(used) and own[s] == own[s + 1] and own[s] in _NESTED:
            idle = tiles[:, s] % tiles[:, s + 1] == 0
            tiles[:, s] = np.where(idle | (own[s] == ORIGIN), above, tiles[:, s])
        tiles[:, s] = np.minimum(tiles[:, s], above)
        above = tiles[:, s]
    outer = np.hstack([np.full((len(tiles), 1), size), tiles[:, :-1]])
    kept = [s for s in range(len(used)) if own[s] == ADVANCE or (tiles[:, s] < outer[:, s]).any()]
    return np.ascontiguousarray(tiles[:, kept]), tuple(own[s] for s in kept)


_NESTED = (BEFORE, ORIGIN, UNION, POOL)


@lru_cache(maxsize=1 << 12)
def _windows(
    group: Group, sizes: tuple[int, ...], kinds: tuple[tuple[int, ...], ...],
    heads: tuple[tuple[tuple[int, ...], bytes], ...], clip: bool, bounding: bool, moved: bool,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Sums and largest tiles of windows for all combinations of tiles: height and width, and many
    templates, ask for the same.
    """
    lists = [np.frombuffer(data, np.int64).reshape(shape) for shape, data in heads]
    width = max(1, *(len(row) for row in kinds))
    table = np.zeros((len(kinds), width), np.int64)
    tiles = np.ones((math.prod(len(rows) for rows in lists), len(kinds), width), np.int64)
    places = np.unravel_index(np.arange(len(tiles)), tuple(len(rows) for rows in lists))
    for a, row in enumerate(kinds):
        table[a, : len(row)] = row
        tiles[:, a, : len(row)] = lists[a][places[a]]
    slots = np.array([len(row) for row in kinds], np.int64)
    if len(kinds) == 2 and len(group.offsets) == 1 and min(group.coefficients[0]) > 0:
        pairs = np.zeros((len(tiles), 2), np.int64)
        window_batch(
            table, tiles, slots, np.array(sizes, np.int64),
            np.array(group.coefficients[0], np.int64), group.offsets[0], group.shape[0], clip,
            bounding, moved, pairs,
        )  # fmt: skip
        return pairs[:, 0].astype(np.float64), pairs[:, 1].astype(np.float64)
    out = np.zeros((4, len(tiles)), np.int64)
    shared_batch(
        table, tiles, slots, np.array([sizes] * len(tiles), np.int64),
        np.array(group.coefficients, np.int64), np.array(group.offsets, np.int64),
        np.array([group.shape] * len(tiles), np.int64).reshape(len(tiles), -1), clip, bounding,
        True, out,
    )  # fmt: skip
    value = out[0] - out[1] - out[2] if moved else out[0]
    return value.astype(np.float64), out[3].astype(np.float64)


def _with(
    kinds: tuple[tuple[int, ...], ...], loop: tuple[int, int], kind: int
) -> tuple[tuple[int, ...], ...]:
    """The kinds with another one for a slot."""
    return tuple(
        tuple(kind if (a, s) == loop else k for s, k in enumerate(row))
        for a, row in enumerate(kinds)
    )


def share_of(factor: Factor, part: tuple[str, ...], slots: dict[str, tuple[int, ...]],
             group: Group | None, *, largest: bool) -> Share:  # fmt: skip
    """A factor of a plan as a share of a part's table; `group`: the factor's, with its sizes."""
    if group is None or group.plain:
        axis = factor.axes[0]
        by_node = dict(zip(factor.nodes[0], factor.kinds[0], strict=True))
        ways = tuple(
            SKIP if n not in by_node else FIRST if by_node[n] == ORIGIN else COUNT
            for n in slots[axis]
        )
        return Count(part.index(axis), *canonical(ways, weighted=group is not None))
    rows: list[tuple[int, ...]] = []
    for axis in part:
        a = factor.axes.index(axis) if axis in factor.axes else -1
        by_node = dict(zip(factor.nodes[a], factor.kinds[a], strict=True)) if a >= 0 else {}
        rows.append(tuple(by_node.get(n, -1) for n in slots[axis]))
    return Window(group, tuple(rows), factor.clip, largest)
