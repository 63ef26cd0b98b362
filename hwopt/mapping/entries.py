"""What of a space may still decide something on one machine (compiled; for `search`).

A space is boiled down to *entries*: products, at their least or largest values; and *lines*: sums
of entries, the energy and what may bound the time. `spans` = ends of the entries for: copies
(largest uses of the fan-outs), uses to be checked, footprints to be checked, terms of the lines.
"""

from __future__ import annotations

from typing import Any

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
            out[e] = constant[e] / limits[entry[e, 2]]
        else:
            most = 0.0
            for line in range(1, lined):
                most = max(most, abs(weights[e, line]))
            share = early * abs(weights[e, 0]) / joules + late * most / seconds
            out[e] = constant[e] * share
