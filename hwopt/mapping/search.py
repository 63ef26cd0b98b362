"""Branch and bound over boxes of tile chains (compiled).

A *box* is one tree node per part: all mappings that take, for each part, a row below its node. The
least value of every product over the box is the product of the least values of its parts; so the
least price is bounded from below by the price of these. A box is pruned

* when its bound is no better than what is known (objective, then latency, then energy);
* when its least footprints exceed a capacity, or its least use a fan-out;
* when one of its parts denies what another claims;

else the part is split in two whose split promises to raise the bound, or what is used of
capacities, most. Steps are never fewer than the points divided by the copies that the box can use.
Terms that a form subtracts are bounded by their largest values.

First a dive into every space finds something good to compare with. The values of a tree node, by
entry of the space (`entries`), are gathered when the node is first met: a box is a few products of
short vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

LANES = 4
"""Lines are summed so many at a time."""
TIES = 0.2
"""Weight of energy, where latency decides first, in the choice of what to split."""


@njit(cache=True)  # type: ignore[untyped-decorator]
def lines_of(forms: Any, fixed: Any, terms: int, machine: Any, memories: Any, out: Any) -> int:
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
def ends(forest: Any, k: int, low: Any, high: Any) -> None:
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
def _value(line: Any, low: Any, high: Any, terms: int) -> Any:
    """The least of a line."""
    value = line[0]
    for t in range(terms):
        c = line[1 + t]
        value += c * (low[t] if c >= 0 else high[t])
    return value


@njit(cache=True)  # type: ignore[untyped-decorator]
def matter(lines: Any, count: int, low: Any, high: Any, terms: int) -> int:
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
def entries(
    forest: Any, k: int, lines: Any, lined: int, high: Any, limits: Any, entry: Any, weights: Any,
    spans: Any,
) -> None:  # fmt: skip
    """What a box has to know: `entry[e]` = product, 1 for the largest value, memory or dimension;
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
def columns(forest: Any, k: int, entry: Any, count: int, column: Any, constant: Any) -> None:
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
def gather(
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
def urges(
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
            out[e] = constant[e] / max(limits[entry[e, 2]], 1.0)  # residents may leave nothing
        else:
            most = 0.0
            for line in range(1, lined):
                most = max(most, abs(weights[e, line]))
            share = early * abs(weights[e, 0]) / joules + late * most / seconds
            out[e] = constant[e] * share


DIVE = 256
"""Boxes popped at most in each space to find something to compare with."""
EVEN = 1e-9
"""Weight of the width of a part in the choice of what to split, where nothing else tells."""


@njit(cache=True)  # type: ignore[untyped-decorator]
def _insert(roots: Any, place: Any, k: int) -> None:
    """Keep `place` in the order of the bounds of the spaces so far."""
    at = k
    while at > 0:
        i, worse = place[at - 1], False
        for c in range(3):
            if roots[k, c] != roots[i, c]:
                worse = roots[k, c] > roots[i, c]
                break
            worse = c == 2
        if worse:
            break
        place[at] = i
        at -= 1
    place[at] = k


@njit(cache=True)  # type: ignore[untyped-decorator]
def solve(  # noqa: C901 - one compiled loop: calls would count references to every array
    forest: Any, points: float, machine: Any, memories: Any, objective: int, best: Any,
    found: Any, budget: int,
) -> tuple[int, int, float]:  # fmt: skip
    """Lower `best` (objective, seconds, joules); `found` = space, then a row per part.

    Returns the boxes bounded, the leaves reached, and the least objective of what was left
    unexplored when the budget ended (infinite when the search is exhausted: `best` is optimal).
    """
    spaces, width = forest.root.shape
    products = 2 * forest.constant.shape[1]
    most = LANES * ((3 * memories.shape[0] + 1) // LANES + 1)
    lines, weights = np.zeros((most, 1 + forest.forms.shape[2])), np.zeros((products, most))
    base, entry, spans = np.zeros(most), np.zeros((products, 3), np.int64), np.zeros(4, np.int64)
    low, high = np.zeros(products), np.zeros(products)
    column, offset = np.zeros((width, products), np.int64), np.zeros(width, np.int64)
    roots, place = np.full((spaces, 3), np.inf), np.zeros(spaces, np.int64)
    boxes, leaves, least = 0, 0, np.inf
    nodes = 1
    for k in range(spaces):
        nodes = max(nodes, 1 + forest.size[k, : forest.parts[k]].sum())
    pitch = 4 * ((products + 3) // 4)
    rows, gains = np.empty((nodes, pitch)), np.empty((nodes, pitch))
    ready = np.zeros(nodes, np.bool_)
    rows[0] = 1.0  # what a missing part contributes
    constant, urge, value = np.ones(pitch), np.zeros(pitch), np.ones(pitch)
    box, key = np.zeros(width, np.int64), np.full((2, 3), np.inf)
    at = np.zeros(width + 4, np.int64)
    stack, keys = np.zeros((64 * width + 8, width), np.int64), np.zeros((64 * width + 8, 3))
    left, spread = forest.left, forest.width
    claims, denies = forest.claims, forest.denies
    clock, fill, leakage = machine[0], machine[1] / machine[0], machine[3]
    best0, best1, best2 = best[0], best[1], best[2]
    for turn in range(-spaces, 2 * spaces):  # bounds of whole spaces, a dive in each, then all
        k = turn + spaces if turn < 0 else place[turn % spaces]
        whole, diving = turn < 0, turn < spaces
        limits, room, parts = (
            8.0 * memories[:, 0] - forest.resident[k],
            forest.room[k],
            forest.parts[k],
        )
        if not whole and roots[k, 0] > best0:
            continue
        ends(forest, k, low, high)
        lined = lines_of(forest.forms[k], forest.fixed[k], forest.counts[k, 0], machine, memories,
                         lines)  # fmt: skip
        lined = matter(lines, lined, low, high, forest.counts[k, 0])
        entries(forest, k, lines, lined, high, limits, entry, weights, spans)
        uses, checked, sizes, count = spans[0], spans[1], spans[2], spans[3]
        columns(forest, k, entry, count, column, constant)
        base[:] = 0.0
        base[:lined] = lines[:lined, 0]
        urges(entry, spans, room, limits, constant, weights, lined, objective, leakage, roots[k],
              urge)  # fmt: skip
        padded, used = 4 * ((count + 3) // 4), 1
        for p in range(parts):
            offset[p] = used - forest.root[k, p]
            used += forest.size[k, p]
            stack[0, p] = forest.root[k, p]
        ready[:used] = False
        keys[0] = roots[k]
        if whole:
            keys[0, 0] = -np.inf
        top, popped = 1 if limits.min() >= 0.0 else 0, 0
        while top > 0:
            top -= 1
            a, b = keys[top, 0], keys[top, 1]
            if a > best0 or (a == best0 and (b > best1 or (b == best1 and keys[top, 2] >= best2))):
                continue
            popped += 1
            if diving and popped > DIVE:
                break
            if boxes >= budget and not whole:
                if not diving:
                    least = min(least, a)
                continue
            for p in range(parts):
                box[p] = node = stack[top, p]
                at[p] = node + offset[p]
                if not ready[at[p]]:
                    ready[at[p]] = True
                    gather(forest, node, column[p], entry, uses, count, rows[at[p]], gains[at[p]])
            at[parts : parts + 4] = 0
            by, sides, child = 0, 1, box[0]
            if not whole:
                n, i, j, m = at[0], at[1], at[2], at[3]
                for e in range(padded):
                    value[e] = urge[e] * rows[n, e] * rows[i, e] * rows[j, e] * rows[m, e]
                for p in range(4, parts):
                    n = at[p]
                    for e in range(padded):
                        value[e] *= rows[n, e]
                by, promised = -1, -1.0
                for p in range(parts):
                    if left[box[p]] < 0:
                        continue
                    n = at[p]
                    a, b, c, d = EVEN * spread[box[p]], 0.0, 0.0, 0.0
                    for e in range(0, padded, 4):
                        a += value[e] * gains[n, e]
                        b += value[e + 1] * gains[n, e + 1]
                        c += value[e + 2] * gains[n, e + 2]
                        d += value[e + 3] * gains[n, e + 3]
                    a += b + c + d
                    if a > promised:
                        promised, by = a, p
                if by < 0:
                    leaves += 1
                    best0, best1, best2 = keys[top, 0], keys[top, 1], keys[top, 2]
                    found[0] = k
                    for p in range(parts):
                        found[1 + p] = forest.row[box[p]]
                    if diving:
                        break
                    continue
                sides, child = 2, left[box[by]]
            claimed, denied = np.int64(0), np.int64(0)
            for p in range(parts):
                if p != by:
                    claimed |= claims[box[p]]
                    denied |= denies[box[p]]
            boxes += sides
            for side in range(sides):
                node = child + side
                key[side, 0] = np.inf
                if (claimed | claims[node]) & (denied | denies[node]):
                    continue
                n = node + offset[by]
                if not ready[n]:
                    ready[n] = True
                    gather(forest, node, column[by], entry, uses, count, rows[n], gains[n])
                at[by] = n
                n, i, j, m = at[0], at[1], at[2], at[3]
                for e in range(padded):
                    value[e] = constant[e] * rows[n, e] * rows[i, e] * rows[j, e] * rows[m, e]
                for p in range(4, parts):
                    n = at[p]
                    for e in range(padded):
                        value[e] *= rows[n, e]
                fits = True
                for e in range(uses, checked):
                    fits = fits and value[e] <= room[entry[e, 2]]
                filled, memory = 0.0, np.int64(-1)
                for e in range(checked, sizes):
                    if entry[e, 2] != memory:
                        filled, memory = 0.0, entry[e, 2]
                    filled += value[e]
                    fits = fits and filled <= limits[memory]
                if not fits:
                    continue
                copies = 1.0
                for e in range(uses):
                    copies *= min(value[e], room[entry[e, 2]])
                seconds, joules = np.ceil(points / copies) / clock, 0.0
                for line in range(0, lined, LANES):
                    a, b, c, d = base[line], base[line + 1], base[line + 2], base[line + 3]
                    for e in range(sizes, count):
                        v = value[e]
                        a += weights[e, line] * v
                        b += weights[e, line + 1] * v
                        c += weights[e, line + 2] * v
                        d += weights[e, line + 3] * v
                    if line == 0:
                        joules, a = a, 0.0
                    seconds = max(seconds, a, b, c, d)
                    if (joules if objective == 1 else seconds if objective == 0 else 0.0) > best0:
                        break
                seconds += fill
                joules += leakage * seconds
                key[side, 0] = (
                    joules if objective == 1 else seconds if objective == 0 else seconds * joules
                )
                key[side, 1], key[side, 2] = seconds, joules
            if whole:
                roots[k] = key[0]
                continue
            first = 0  # pushed first, popped last
            if key[0, 0] != key[1, 0]:
                first = 1 if key[0, 0] < key[1, 0] else 0
            elif key[0, 1] != key[1, 1]:
                first = 1 if key[0, 1] < key[1, 1] else 0
            else:
                first = 1 if key[0, 2] < key[1, 2] else 0
            for turned in range(2):
                side = first if turned == 0 else 1 - first
                a, b = key[side, 0], key[side, 1]
                if a < best0 or (
                    a == best0
                    and a < np.inf
                    and (b < best1 or (b == best1 and key[side, 2] < best2))
                ):
                    for p in range(parts):
                        stack[top, p] = box[p]
                    stack[top, by] = child + side
                    keys[top, 0], keys[top, 1], keys[top, 2] = a, b, key[side, 2]
                    top += 1
        if whole:
            _insert(roots, place, k)
    best[0], best[1], best[2] = best0, best1, best2
    return boxes, leaves, least
