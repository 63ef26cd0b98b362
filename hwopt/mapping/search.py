"""Branch and bound over boxes of tile chains (compiled).

A *box* is one tree node per part: all mappings that take, for each part, a row below its node. The
least value of every product over the box is the product of the least values of its parts; so the
least price is bounded from below by the price of these. A box is pruned

* when its bound is no better than what is known (objective, then latency, then energy);
* when its least footprints exceed a capacity, or its least use a fan-out;
* when one of its parts denies what another claims;

else the part is split in two whose split promises to raise the bound, or what is used of
capacities, most. Steps are never fewer than the points divided by the copies
that the box can use. Terms that a form subtracts are bounded by their largest values.

For one machine a space is boiled down to *entries*: products, at their least or largest values,
that may still decide something; and *lines*: sums of entries that may bound the time, and the
energy. The values of a tree node by entry are gathered when the node is first met, so that a box is
a few products of short vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

LANES = 4
"""Lines are summed so many at a time."""
DIVE = 256
"""Boxes popped at most in each space to find something to compare with."""
TIES, EVEN = 0.2, 1e-9
"""Weight of energy where latency decides first, and of the width of a part, in what to split."""


@njit(cache=True)  # type: ignore[untyped-decorator]
def _lines(forms: Any, fixed: Any, terms: int, machine: Any, memories: Any, out: Any) -> int:
    """The energy without leakage, then what bounds the time, as rows of `out`: a constant, then a
    coefficient per term, in joules and in seconds; returns how many rows.

    `machine` = clock, fill cycles, joules of all multiply-accumulates, leakage; `memories[m]` =
    usable bytes, seconds per byte over the read, write and shared port, joules per byte read and
    written.
    """
    out[:] = 0.0
    out[1, 0] = fixed[0] / 8.0 / machine[0]
    for t in range(terms):
        out[1, 1 + t] = forms[0, t] / 8.0 / machine[0]
    count = 2
    out[0, 0] = machine[2]
    for m in range(memories.shape[0]):
        read, write = 1 + 4 * m, 2 + 4 * m
        for port in range(3):
            cost = memories[m, 1 + port] / 8.0
            if cost == 0.0:
                continue
            for side in range(2):
                if port != 2 and side != port:
                    continue
                at = read if side == 0 else write
                out[count, 0] += cost * fixed[at]
                for t in range(terms):
                    out[count, 1 + t] += cost * forms[at, t]
            count += 1
        for side in range(2):
            cost = memories[m, 4 + side] / 8.0
            out[0, 0] += cost * fixed[3 + 4 * m + side]
            for t in range(terms):
                out[0, 1 + t] += cost * forms[3 + 4 * m + side, t]
    return count


@njit(cache=True)  # type: ignore[untyped-decorator]
def _ends(forest: Any, k: int, low: Any, high: Any) -> None:
    """Least and largest value of every product of a whole space."""
    counts = forest.counts[k]
    for j in range(counts[0] + counts[1] + counts[2]):
        low[j] = high[j] = forest.constant[k, j]
    for p in range(forest.parts[k]):
        start = forest.base[forest.root[k, p]]
        for i in range(forest.many[k, p]):
            j, c = forest.factors[k, p, i, 0], forest.factors[k, p, i, 1]
            low[j] *= forest.lo[start + c]
            high[j] *= forest.hi[start + c]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _value(line: Any, low: Any, high: Any, terms: int) -> float:
    """The least of a line."""
    value = line[0]
    for t in range(terms):
        c = line[1 + t]
        value += c * (low[t] if c >= 0 else high[t])
    return value


@njit(cache=True)  # type: ignore[untyped-decorator]
def _matter(lines: Any, count: int, low: Any, high: Any, terms: int) -> int:
    """Drop lines that never bound the time: always below one that stays; returns how many stay."""
    kept = 1
    for line in range(1, count):
        beaten = False
        for other in range(1, count):
            if other == line or kept <= other < line:
                continue
            above, same = lines[other, 0] >= lines[line, 0], lines[other, 0] == lines[line, 0]
            for t in range(terms):
                above = above and lines[other, 1 + t] >= lines[line, 1 + t]
                same = same and lines[other, 1 + t] == lines[line, 1 + t]
            if not above:  # else in no row
                above = _value(lines[other], low, high, terms) >= -_value(
                    -lines[line], low, high, terms
                )
            if above and (not same or other < kept):
                beaten = True
                break
        if not beaten:
            lines[kept] = lines[line]
            kept += 1
    return kept


@njit(cache=True)  # type: ignore[untyped-decorator]
def _entries(
    forest: Any, k: int, lines: Any, lined: int, high: Any, limits: Any, entry: Any, weights: Any,
    spans: Any,
) -> None:  # fmt: skip
    """What a box has to know: `entry[e]` = product, 1 for the largest value, memory or dimension.

    `spans` = ends of the entries for: copies (largest uses), uses checked, footprints, terms.
    `weights[e, line]`: coefficients of the terms in the lines.
    """
    terms, sizes, dims = forest.counts[k, 0], forest.counts[k, 1], forest.counts[k, 2]
    count = 0
    for d in range(dims):
        entry[count, 0], entry[count, 1], entry[count, 2] = terms + sizes + d, 1, d
        count += 1
    spans[0] = count
    for d in range(dims):
        if high[terms + sizes + d] > forest.room[k, d]:
            entry[count, 0], entry[count, 1], entry[count, 2] = terms + sizes + d, 0, d
            count += 1
    spans[1] = count
    for m in range(limits.size):
        most = 0.0
        for f in range(sizes):
            most += high[terms + f] if forest.memory[k, f] == m else 0.0
        for f in range(sizes):
            if most > limits[m] and forest.memory[k, f] == m:
                entry[count, 0], entry[count, 1], entry[count, 2] = terms + f, 0, m
                count += 1
    spans[2] = count
    weights[:] = 0.0
    for side in range(2):
        for t in range(terms):
            some = False
            for line in range(lined):
                c = lines[line, 1 + t]
                if (c < 0.0) if side == 1 else (c > 0.0):
                    weights[count, line] = c
                    some = True
            if some:
                entry[count, 0], entry[count, 1], entry[count, 2] = t, side, 0
                count += 1
    spans[3] = count


@njit(cache=True)  # type: ignore[untyped-decorator]
def _columns(forest: Any, k: int, entry: Any, count: int, column: Any, constant: Any) -> None:
    """`column[p, e]` of each part in each entry (-1: none), and the entries' constants."""
    column[:] = -1
    for e in range(count):
        constant[e] = forest.constant[k, entry[e, 0]]
    for p in range(forest.parts[k]):
        for i in range(forest.many[k, p]):
            for e in range(count):
                if entry[e, 0] == forest.factors[k, p, i, 0]:
                    column[p, e] = forest.factors[k, p, i, 1]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _gather(
    forest: Any, node: int, column: Any, entry: Any, copies: int, count: int, row: Any, gain: Any
) -> None:
    """Values of a node by entry, and by what share they move, on average, when it is split."""
    left = forest.left[node]
    row[:] = 1.0
    gain[:] = 0.0
    for e in range(count):
        c = column[e]
        if c < 0:
            continue
        values = forest.hi if entry[e, 1] == 1 else forest.lo
        row[e] = values[forest.base[node] + c]
        if left >= 0 and e >= copies and row[e] > 0.0:
            split = values[forest.base[left] + c] + values[forest.base[left + 1] + c]
            gain[e] = abs(0.5 * split / row[e] - 1.0)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _urges(
    entry: Any, spans: Any, room: Any, limits: Any, constant: Any, weights: Any, lined: int,
    objective: int, leakage: float, least: Any, out: Any,
) -> None:  # fmt: skip
    """How much a unit of each entry weighs in the choice of the part to split: its share of what
    is decided first, or of a capacity; for latency, energy a little, for it breaks ties.
    """
    out[:] = 0.0
    seconds, joules = max(least[1], 1e-300), max(least[2], 1e-300)
    late = leakage * seconds / joules if objective == 1 else 1.0
    early = TIES if objective == 0 else 1.0
    for e in range(spans[0], spans[3]):
        if e < spans[1]:
            out[e] = constant[e] / room[entry[e, 2]]
        elif e < spans[2]:
            out[e] = constant[e] / limits[entry[e, 2]]
        else:
            most = 0.0
            for line in range(1, lined):
                most = max(most, abs(weights[e, line]))
            share = early * abs(weights[e, 0]) / joules + late * most / seconds
            out[e] = constant[e] * share


@njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _promise(value: Any, gain: Any, count: int) -> float:
    """What a split may change."""
    total = 0.0
    for e in range(count):
        total += value[e] * gain[e]
    return total


@njit(cache=True)  # type: ignore[untyped-decorator]
def _before(a: Any, b: Any) -> bool:
    """Lexicographic order of (objective, seconds, joules)."""
    for i in range(3):
        if a[i] < b[i]:
            return True
        if a[i] > b[i]:
            return False
    return False


@njit(cache=True)  # type: ignore[untyped-decorator]
def _bound(
    value: Any, entry: Any, spans: Any, room: Any, limits: Any, points: float, base: Any,
    weights: Any, lined: int, clock: float, fill: float, leakage: float, objective: int, key: Any,
) -> bool:  # fmt: skip
    """Write the least (objective, seconds, joules) of a box; False where nothing in it fits."""
    for e in range(spans[0], spans[1]):
        if value[e] > room[entry[e, 2]]:
            return False
    filled, memory = 0.0, np.int64(-1)
    for e in range(spans[1], spans[2]):
        if entry[e, 2] != memory:
            filled, memory = 0.0, entry[e, 2]
        filled += value[e]
        if filled > limits[memory]:
            return False
    copies = 1.0
    for e in range(spans[0]):
        copies *= min(value[e], room[entry[e, 2]])
    a, b, c, d = base[0], base[1], base[2], base[3]
    for e in range(spans[2], spans[3]):
        v = value[e]
        a += weights[e, 0] * v
        b += weights[e, 1] * v
        c += weights[e, 2] * v
        d += weights[e, 3] * v
    joules, seconds = a, max(b, c, d, np.ceil(points / copies) / clock)
    for line in range(LANES, lined, LANES):
        a, b, c, d = base[line], base[line + 1], base[line + 2], base[line + 3]
        for e in range(spans[2], spans[3]):
            v = value[e]
            a += weights[e, line] * v
            b += weights[e, line + 1] * v
            c += weights[e, line + 2] * v
            d += weights[e, line + 3] * v
        seconds = max(seconds, a, b, c, d)
    seconds += fill
    joules += leakage * seconds
    key[0] = joules if objective == 1 else seconds if objective == 0 else seconds * joules
    key[1], key[2] = seconds, joules
    return True


@njit(cache=True)  # type: ignore[untyped-decorator]
def solve(  # noqa: C901 - one compiled loop: calls would pass every array again
    forest: Any, points: float, machine: Any, memories: Any, objective: int, best: Any,
    found: Any, budget: int,
) -> tuple[int, int, float]:  # fmt: skip
    """Lower `best` (objective, seconds, joules); `found` = space, then a row per part.

    Returns the boxes bounded, the leaves reached, and the least objective of what was left
    unexplored when the budget ended (infinite when the search is exhausted: `best` is optimal).
    """
    spaces, width = forest.root.shape
    products = forest.constant.shape[1]
    lanes = LANES * ((3 * memories.shape[0] + 2 + LANES - 1) // LANES)
    lines = np.zeros((lanes, 1 + forest.forms.shape[2]))
    base, entry = np.zeros(lanes), np.zeros((2 * products, 3), np.int64)
    weights, spans = np.zeros((2 * products, lanes)), np.zeros(4, np.int64)
    low, high = np.zeros(products), np.zeros(products)
    column, constant = np.zeros((width, 2 * products), np.int64), np.ones(2 * products)
    roots, place = np.full((spaces, 3), np.inf), np.zeros(spaces, np.int64)
    clock, fill, leakage = machine[0], machine[1] / machine[0], machine[3]
    offset = np.zeros(width, np.int64)
    nodes, boxes, leaves, least = 0, 0, 0, np.inf
    for k in range(spaces):
        nodes = max(nodes, forest.size[k, : forest.parts[k]].sum())
    pitch = 4 * ((2 * products + 3) // 4)
    rows, gains, ready = (
        np.empty((nodes, pitch)),
        np.empty((nodes, pitch)),
        np.zeros(nodes, np.bool_),
    )
    urge = np.zeros(pitch)
    other, value = np.ones(pitch), np.ones(pitch)
    box, key = np.zeros(width, np.int64), np.full((2, 3), np.inf)
    depth = 64 * width + 8
    stack, keys = np.zeros((depth, width), np.int64), np.zeros((depth, 3))
    for turn in range(-spaces, 2 * spaces):  # bounds of whole spaces, a dive in each, then all
        k = turn + spaces if turn < 0 else place[turn % spaces]
        diving = turn < spaces
        if turn >= 0 and not _before(roots[k], best):
            continue
        parts = forest.parts[k]
        limits = 8.0 * memories[:, 0] - forest.resident[k]
        if limits.min() < 0.0:
            continue
        room = forest.room[k]
        _ends(forest, k, low, high)
        lined = _lines(forest.forms[k], forest.fixed[k], forest.counts[k, 0], machine, memories,
                       lines)  # fmt: skip
        lined = _matter(lines, lined, low, high, forest.counts[k, 0])
        _entries(forest, k, lines, lined, high, limits, entry, weights, spans)
        count = spans[3]
        _columns(forest, k, entry, count, column, constant)
        base[:] = 0.0
        base[:lined] = lines[:lined, 0]
        if turn < 0:
            boxes += 1
            for e in range(count):
                value[e] = high[entry[e, 0]] if entry[e, 1] == 1 else low[entry[e, 0]]
            if not _bound(value, entry, spans, room, limits, points, base, weights, lined, clock,
                          fill, leakage, objective, roots[k]):  # fmt: skip
                roots[k] = np.inf
            at = k  # insertion sort: the most promising space first
            while at > 0 and _before(roots[k], roots[place[at - 1]]):
                place[at] = place[at - 1]
                at -= 1
            place[at] = k
            continue
        padded = 4 * ((count + 3) // 4)
        used = 0
        for p in range(parts):
            offset[p] = used - forest.root[k, p]
            used += forest.size[k, p]
        ready[:used] = False
        _urges(entry, spans, room, limits, constant, weights, lined, objective, leakage, roots[k],
               urge)  # fmt: skip
        stack[0, :parts] = forest.root[k, :parts]
        keys[0] = roots[k]
        top, popped = 1, 0
        while top > 0:
            top -= 1
            if not _before(keys[top], best):
                continue
            popped += 1
            if diving and popped > DIVE:
                break
            if boxes >= budget:
                if not diving:
                    least = min(least, keys[top, 0])
                continue
            for e in range(padded):
                value[e] = urge[e]
            for p in range(parts):
                box[p] = node = stack[top, p]
                n = node + offset[p]
                if not ready[n]:
                    ready[n] = True
                    _gather(forest, node, column[p], entry, spans[0], count, rows[n], gains[n])
                for e in range(padded):
                    value[e] *= rows[n, e]
            by, most = -1, -1.0
            for p in range(parts):
                if forest.left[box[p]] >= 0:
                    promise = _promise(value, gains[box[p] + offset[p]], padded)
                    promise += EVEN * forest.width[box[p]]
                    if promise > most:
                        most, by = promise, p
            if by < 0:
                leaves += 1
                best[:] = keys[top]
                found[0] = k
                for p in range(parts):
                    found[1 + p] = forest.row[box[p]]
                if diving:
                    break
                continue
            claimed, denied = np.int64(0), np.int64(0)
            for e in range(padded):
                other[e] = constant[e]
            for p in range(parts):
                if p != by:
                    node = box[p]
                    claimed |= forest.claims[node]
                    denied |= forest.denies[node]
                    n = node + offset[p]
                    for e in range(padded):
                        other[e] *= rows[n, e]
            left = forest.left[box[by]]
            boxes += 2
            for side in range(2):
                node = left + side
                key[side, 0] = np.inf
                if (claimed | forest.claims[node]) & (denied | forest.denies[node]):
                    continue
                n = node + offset[by]
                if not ready[n]:
                    ready[n] = True
                    _gather(forest, node, column[by], entry, spans[0], count, rows[n], gains[n])
                for e in range(padded):
                    value[e] = other[e] * rows[n, e]
                if not _bound(value, entry, spans, room, limits, points, base, weights, lined,
                              clock, fill, leakage, objective, key[side]):  # fmt: skip
                    key[side, 0] = np.inf
            first = 1 if _before(key[0], key[1]) else 0  # pushed first, popped last
            for turned in range(2):
                side = first if turned == 0 else 1 - first
                if key[side, 0] < np.inf and _before(key[side], best):
                    for p in range(parts):
                        stack[top, p] = box[p]
                    stack[top, by] = left + side
                    keys[top] = key[side]
                    top += 1
    return boxes, leaves, least
