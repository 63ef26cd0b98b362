"""Branch and bound over boxes of tile chains (compiled).

A *box* is one tree node per part: all mappings that take, for each part, a row below its node. The
least value of every product over the box is the product of the least values of its parts; so the
least price is bounded from below by the price of these. A box is pruned

* when its bound is no better than what is known (objective, then latency, then energy);
* when its least footprints exceed a capacity, or its least use a fan-out;
* when one of its parts denies what another claims;

else its widest part is split in two. Steps are never fewer than the points divided by the copies
that the box can use. Terms that a form subtracts are bounded by their largest values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True)  # type: ignore[untyped-decorator]
def _lines(forms: Any, fixed: Any, terms: int, machine: Any, memories: Any, out: Any) -> int:
    """What bounds the time, as rows of `out`: constant, then a coefficient per term, in seconds.

    Returns how many there are; row 0 is compute, and the last row (`out[-1]`) the energy in joules
    without leakage. `machine` = clock, fill cycles, joules of all multiply-accumulates, leakage;
    `memories[m]` = usable bytes, seconds per byte over the read, write and shared port, joules per
    byte read and written.
    """
    out[:] = 0.0
    out[0, 0] = fixed[0] / 8.0 / machine[0]
    for t in range(terms):
        out[0, 1 + t] = forms[0, t] / 8.0 / machine[0]
    count, last = 1, out.shape[0] - 1
    out[last, 0] = machine[2]
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
            out[last, 0] += cost * fixed[3 + 4 * m + side]
            for t in range(terms):
                out[last, 1 + t] += cost * forms[3 + 4 * m + side, t]
    return count


@njit(cache=True)  # type: ignore[untyped-decorator]
def _others(
    values: Any, base: Any, box: Any, by: int, parts: int, factors: Any, many: Any, constant: Any,
    count: int, out: Any,
) -> None:  # fmt: skip
    """Products of all parts but `by`."""
    for j in range(count):
        out[j] = constant[j]
    for p in range(parts):
        if p != by:
            start = base[box[p]]
            for i in range(many[p]):
                out[factors[p, i, 0]] *= values[start + factors[p, i, 1]]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _agree(claims: Any, denies: Any, box: Any, parts: int) -> bool:
    """Whether no part claims what a part denies."""
    claimed, denied = np.int64(0), np.int64(0)
    for p in range(parts):
        claimed |= claims[box[p]]
        denied |= denies[box[p]]
    return (claimed & denied) == 0


@njit(cache=True)  # type: ignore[untyped-decorator]
def _better(a: Any, b: Any) -> bool:
    """Lexicographic order of (objective, seconds, joules)."""
    for i in range(3):
        if a[i] < b[i]:
            return True
        if a[i] > b[i]:
            return False
    return False


@njit(cache=True)  # type: ignore[untyped-decorator]
def _fits(
    low: Any, high: Any, counts: Any, memory: Any, room: Any, limits: Any, filled: Any
) -> float:
    """The most copies that a box can use (-1: it fits nowhere). `filled`: scratch, per memory."""
    terms, sizes, dims = counts[0], counts[1], counts[2]
    copies = 1.0
    for d in range(dims):
        if low[terms + sizes + d] > room[d]:
            return -1.0
        copies *= min(high[terms + sizes + d], room[d])
    for f in range(sizes):
        m = memory[f]
        filled[m] += low[terms + f]
        if filled[m] > limits[m]:
            return -1.0
    return copies


@njit(cache=True)  # type: ignore[untyped-decorator]
def _price(
    low: Any, high: Any, terms: int, copies: float, points: float, lines: Any, count: int,
    machine: Any, objective: int, key: Any,
) -> None:  # fmt: skip
    """Bound of (objective, seconds, joules) from the least (or largest) terms."""
    seconds = np.ceil(points / copies) / machine[0]
    for l in range(count):
        value = lines[l, 0]
        for t in range(terms):
            c = lines[l, 1 + t]
            value += c * (low[t] if c >= 0 else high[t])
        seconds = max(seconds, value)
    seconds += machine[1] / machine[0]
    last = lines.shape[0] - 1
    joules = lines[last, 0] + machine[3] * seconds
    for t in range(terms):
        c = lines[last, 1 + t]
        joules += c * (low[t] if c >= 0 else high[t])
    key[0] = joules if objective == 1 else seconds if objective == 0 else seconds * joules
    key[1], key[2] = seconds, joules


@njit(cache=True)  # type: ignore[untyped-decorator]
def _child(
    values: Any, start: int, factors: Any, many: int, others: Any, count: int, out: Any
) -> None:
    """Products with one more part, whose columns begin at `start`."""
    for j in range(count):
        out[j] = others[j]
    for i in range(many):
        out[factors[i, 0]] *= values[start + factors[i, 1]]


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
    rows = 3 * memories.shape[0] + 2
    lines = np.zeros((rows, 1 + forest.forms.shape[2]))
    low, high = np.zeros(products), np.zeros(products)
    other, wide = np.zeros(products), np.zeros(products)
    filled, limits = np.zeros(memories.shape[0]), np.zeros(memories.shape[0])
    roots, place = np.full((spaces, 3), np.inf), np.zeros(spaces, np.int64)
    box = np.zeros(width, np.int64)
    key = np.full((2, 3), np.inf)
    boxes, leaves, least = 0, 0, np.inf
    for k in range(spaces):  # bounds of whole spaces
        parts, counts = forest.parts[k], forest.counts[k]
        count = counts[0] + counts[1] + counts[2]
        box[:parts] = forest.root[k, :parts]
        limits[:] = 8.0 * memories[:, 0] - forest.resident[k]
        filled[:] = 0.0
        for values, out in ((forest.lo, low), (forest.hi, high)):
            _others(values, forest.base, box, -1, parts, forest.factors[k], forest.many[k],
                    forest.constant[k], count, out)  # fmt: skip
        boxes += 1
        copies = _fits(low, high, counts, forest.memory[k], forest.room[k], limits, filled)
        if copies < 0 or limits.min() < 0:
            continue
        lined = _lines(forest.forms[k], forest.fixed[k], counts[0], machine, memories, lines)
        _price(low, high, counts[0], copies, points, lines, lined, machine, objective, roots[k])
    for k in range(spaces):  # insertion sort: the most promising space first
        at = k
        while at > 0 and _better(roots[k], roots[place[at - 1]]):
            place[at] = place[at - 1]
            at -= 1
        place[at] = k
    depth = 64 * width + 8
    stack, keys = np.zeros((depth, width), np.int64), np.zeros((depth, 3))
    for turn in range(spaces):
        k = place[turn]
        if not _better(roots[k], best):
            break
        parts, counts = forest.parts[k], forest.counts[k]
        terms, sizes = counts[0], counts[1]
        count = terms + sizes + counts[2]
        factors, many, constant = forest.factors[k], forest.many[k], forest.constant[k]
        wider, wides = forest.wider[k], forest.wides[k]
        memory, room = forest.memory[k], forest.room[k]
        limits[:] = 8.0 * memories[:, 0] - forest.resident[k]
        lined = _lines(forest.forms[k], forest.fixed[k], terms, machine, memories, lines)
        stack[0, :parts] = forest.root[k, :parts]
        keys[0] = roots[k]
        top = 1
        while top > 0:
            top -= 1
            if not _better(keys[top], best):
                continue
            if boxes >= budget:
                least = min(least, keys[top, 0])
                continue
            box[:parts] = stack[top, :parts]
            by, widest = -1, 0.0
            for p in range(parts):
                if forest.width[box[p]] > widest:
                    widest, by = forest.width[box[p]], p
            if by < 0:
                leaves += 1
                best[:] = keys[top]
                found[0] = k
                for p in range(parts):
                    found[1 + p] = forest.row[box[p]]
                continue
            node = box[by]
            ready = False
            for side in range(2):
                child = forest.left[node] + side
                box[by] = child
                boxes += 1
                key[side] = np.inf
                if not _agree(forest.claims, forest.denies, box, parts):
                    continue
                if not ready:
                    ready = True
                    _others(forest.lo, forest.base, box, by, parts, factors, many, constant,
                            count, other)  # fmt: skip
                    _others(forest.hi, forest.base, box, by, parts, wider, wides, constant,
                            count, wide)  # fmt: skip
                start = forest.base[child]
                _child(forest.lo, start, factors[by], many[by], other, count, low)
                _child(forest.hi, start, wider[by], wides[by], wide, count, high)
                filled[:] = 0.0
                copies = _fits(low, high, counts, memory, room, limits, filled)
                if copies > 0:
                    _price(low, high, terms, copies, points, lines, lined, machine, objective,
                           key[side])  # fmt: skip
            first = 1 if _better(key[0], key[1]) else 0  # pushed first, popped last
            for side in (first, 1 - first):
                if key[side, 0] < np.inf and _better(key[side], best):
                    box[by] = forest.left[node] + side
                    stack[top, :parts], keys[top] = box[:parts], key[side]
                    top += 1
    return boxes, leaves, least
