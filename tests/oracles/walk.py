"""The compiled half of the enumerating oracle: literal walks, prices, and the search through them.

A mapping is a list of rows (axis, tile, fan-out or -1 for a loop in time, dimension) with, for each
operand, the number of rows above each of its keeps (`stops`) and the memories of these (`inside`;
-1 for the compute units). Words of bits are sets of elements (`elements`); every count is the size
of a set that some copy takes in at some step, as `hwopt.mapping.simulate` defines it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from tests.oracles.elements import Ints

NODES, COPIES, PLACES, DEEP, KEEPS = 40, 64, 512, 64, 9
"""Room for rows, copies of one memory, combined indices of one axis, decisions, keeps."""
HOISTED, CHANGED, COUNTED = range(3)
SLOTS, WORDS, PROBES = 1 << 18, 8, 4
"""Walks remembered, words of a question, places tried for it."""


class Machine(NamedTuple):
    """The numbers of an accelerator: `memory` has a row of capacity bytes, read, write and shared
    bytes/s, joules per byte read and written; `above` the fan-outs (bits) above each memory that
    have several copies; `before` the number of memories above each fan-out; `rooms` and `least`
    copies of each dimension, `owner` its fan-out, `allowed` its axes; `numbers` hertz, fill cycles,
    joules of all MACs, watts, lanes, points; `rules` halo kept, first write reads nothing,
    perfect factors, fetch, nodes in the machine's order.
    """

    memory: Any
    above: Ints
    before: Ints
    multicast: Ints
    reduces: Ints
    rooms: Ints
    least: Ints
    owner: Ints
    allowed: Ints
    numbers: Any
    rules: Ints


@njit(cache=True)  # type: ignore[untyped-decorator]
def room(axes: Any, slots: Any) -> Any:
    """Arrays of a walk: see its first line for their names; the last three remember answers."""
    return (
        np.empty((KEEPS, axes, PLACES), np.int64), np.empty((KEEPS, NODES), np.int64),
        np.empty((KEEPS, COPIES, axes), np.int64), np.empty((KEEPS, COPIES, axes), np.int64),
        np.empty((KEEPS, COPIES), np.int64), np.empty((KEEPS, COPIES), np.int64),
        np.empty((KEEPS, COPIES, 4), np.uint64), np.empty((KEEPS, COPIES), np.bool_),
        np.empty((KEEPS, COPIES), np.uint64), np.empty((3, COPIES), np.uint64),
        np.empty((10, COPIES), np.int64), np.empty((KEEPS, axes), np.int64),
        np.zeros((slots, WORDS), np.int64), np.zeros((slots, 5), np.int64),
        np.empty(WORDS, np.int64),
    )  # fmt: skip


@njit(cache=True)  # type: ignore[untyped-decorator]
def ones(word: Any) -> Any:
    """Bits set in a word."""
    count = 0
    while word:
        word &= word - np.uint64(1)
        count += 1
    return count


@njit(cache=True)  # type: ignore[untyped-decorator]
def tile_at_origin(nest: Any, role: Any, extent: Any) -> Any:
    """The first tile of this extent."""
    tile = ~np.uint64(0)
    for p in range(nest.parts[role]):
        where = nest.offset[role, p]
        for a in range(len(extent)):
            if nest.part[role, a] == p:
                where += nest.stride[role, a] * extent[a]
        tile &= nest.masks[0, where]
    return tile if nest.parts[role] else np.uint64(1)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _ranges(  # noqa: C901 - one walk, compiled as one function
    nest: Any, node: Any, rows: Any, stop: Any, above: Any, solo: Any, limit: Any, table: Any,
    weight: Any, place: Any, pool: Any, flat: Any,
) -> Any:  # fmt: skip
    """What the rows can leave of each axis at one stop, by combined index; its copies, its pool.

    Rows above the stop count, and spreads over fan-outs above its memory wherever they stand (with
    index 0 of the loops before them). Other spreads are pooled: the memory holds all their parts.
    """
    axes, copies, pools = len(nest.sizes), 1, 1
    for a in range(axes):
        base, filled = nest.sizes[a] + 1, 1
        table[a, 0] = nest.sizes[a]
        for i in range(rows):
            if node[i, 0] != a:
                continue
            tile, fan, trips = node[i, 1], node[i, 2], limit[i]
            mine = fan >= 0 and (above >> fan) & 1
            weight[i] = 0
            if i >= stop and not mine:
                later = False
                for j in range(i + 1, rows):
                    later = later or (
                        node[j, 0] == a and node[j, 2] >= 0 and (above >> node[j, 2]) & 1
                    )
                if fan >= 0 or not later:
                    continue
                trips = 1
            if mine and (solo >> fan) & 1:
                trips = 1
            weight[i] = filled
            assert filled * trips <= PLACES
            for index in range(trips - 1, -1, -1):  # 0 last: it overwrites its source
                for j in range(filled):
                    before = table[a, j]
                    start, length = before // base, before % base - index * tile
                    after = -1
                    if before >= 0 and length > 0:
                        after = (start + index * tile) * base + min(tile, length)
                    table[a, index * filled + j] = after
            filled *= trips
    for i in range(rows):
        if node[i, 2] >= 0:
            if (above >> node[i, 2]) & 1:
                copies *= 1 if (solo >> node[i, 2]) & 1 else limit[i]
            elif i < stop:
                pools *= limit[i]
    assert copies <= COPIES
    assert pools <= COPIES
    for q in range(max(copies, pools)):
        one, all_ = q, q
        for a in range(axes):
            place[q, a], pool[q, a] = 0, 0
        for i in range(rows - 1, -1, -1):
            fan = node[i, 2]
            if fan < 0:
                continue
            if (above >> fan) & 1:
                if not (solo >> fan) & 1:
                    place[q, node[i, 0]] += one % limit[i] * weight[i]
                    one //= limit[i]
            elif i < stop:
                pool[q, node[i, 0]] += all_ % limit[i] * weight[i]
                all_ //= limit[i]
    flat[0], flat[1] = copies, pools


@njit(cache=True)  # type: ignore[untyped-decorator]
def _part(
    nest: Any, role: Any, p: Any, counted: Any, table: Any, at: Any, pool: Any, pools: Any
) -> Any:
    """The set of one composite axis: of everything that the pooled spreads reach together."""
    found = np.uint64(0)
    for u in range(pools):
        where, whole = nest.offset[role, p], True
        for a in range(len(nest.sizes)):
            if nest.part[role, a] == p:
                code = table[a, at[a] + pool[u, a]]
                whole = whole and code >= 0
                where += nest.stride[role, a] * code
        if whole:
            found |= nest.masks[counted, where]
    return found


@njit(cache=True)  # type: ignore[untyped-decorator]
def walk(  # noqa: C901 - one walk, compiled as one function
    nest: Any, machine: Any, role: Any, node: Any, rows: Any, stops: Any, inside: Any, last: Any,
    solo: Any, counted: Any, out: Any, arrays: Any,
) -> None:  # fmt: skip
    """Walk an operand down to its stop `last`.

    `out`: reads and writes of the keep above, reads and writes here, largest tile, over all
    copies; fan-outs in `solo` have one copy only.
    """
    table, weight, place, pool, group, outer, held, seen, fresh, words, flat, now_at, _, _, _ = (
        arrays
    )
    limit, loop, order, total, extent, at, copies, pools, inner, slides = flat
    taken, union, now = words
    sizes, axes, parts = nest.sizes, len(nest.sizes), nest.parts[role]
    output, leaf = role == 2, inside[last] < 0
    halo, nothing, fetch = machine.rules[0], machine.rules[1], machine.rules[3]
    for a in range(axes):
        extent[a] = sizes[a]
    for i in range(rows):
        a, tile = node[i, 0], node[i, 1]
        limit[i], loop[i] = -(-extent[a] // tile), 0
        extent[a] = min(extent[a], tile)
    for s in range(1, last + 1):
        above = machine.above[inside[s]] if inside[s] >= 0 else -1
        over = machine.above[inside[s - 1]]
        _ranges(
            nest, node, rows, stops[s], above, solo, limit, table[s], weight[s], place[s], pool[s],
            at,
        )  # fmt: skip
        copies[s], pools[s], inner[s] = at[0], at[1], -1
        for a in range(axes):
            now_at[s, a] = 0
        for i in range(stops[s]):
            if node[i, 2] < 0 and limit[i] > 1 and nest.part[role, node[i, 0]] >= 0:
                inner[s] = i
        slides[s] = halo and inner[s] >= 0
        for q in range(copies[s]):
            rest, mine, step, upper, wide = q, 0, 1, 0, 1
            for i in range(rows - 1, -1, -1):
                fan = node[i, 2]
                if fan < 0 or not (above >> fan) & 1 or (solo >> fan) & 1:
                    continue
                index = rest % limit[i]
                rest //= limit[i]
                if (over >> fan) & 1:
                    merged = False
                elif output:
                    merged = machine.reduces[fan] and nest.part[role, node[i, 0]] < 0
                else:
                    merged = machine.multicast[fan, role] > 0
                if not merged:
                    mine += index * step
                    step *= limit[i]
                if (over >> fan) & 1:
                    upper += index * wide
                    wide *= limit[i]
            group[s, q], outer[s, q], seen[s, q] = mine, upper, False
            fresh[s, q] = 0
    for q in range(COPIES):
        fresh[0, q] = 0  # at the outermost keep: what has a value
    for i in range(5):
        out[i] = 0
    deepest = -1  # the innermost loop that is not at its start
    while True:
        for s in range(1 if output else last, last + 1):
            if deepest >= stops[s] or (fetch == HOISTED and inside[s] >= 0 and deepest > inner[s]):
                continue
            groups = 0
            for q in range(copies[s]):
                taken[q] = 0
                works = True
                for a in range(axes):
                    at[a] = now_at[s, a] + place[s, q, a]
                    some = False
                    for u in range(pools[s]):
                        some = some or table[s, a, at[a] + pool[s, u, a]] >= 0
                    works = works and some
                if not works:
                    continue
                tile, changed, moved = ~np.uint64(0), 0, 0
                for p in range(parts):
                    now[p] = _part(nest, role, p, counted, table[s], at, pool[s], pools[s])
                    tile &= now[p]
                    if seen[s, q] and held[s, q, p] != now[p]:
                        changed, moved = changed + 1, p
                if parts == 0:
                    tile = np.uint64(1)
                if s == last:
                    out[4] = max(out[4], ones(tile))
                if s < last or not leaf:
                    if fetch == CHANGED:
                        if seen[s, q] and changed == 0:
                            continue
                        if seen[s, q] and changed == 1 and halo:
                            tile &= ~held[s, q, moved]
                        seen[s, q] = True
                        for p in range(parts):
                            held[s, q, p] = now[p]
                    elif fetch == HOISTED and slides[s] and loop[inner[s]]:
                        a = node[inner[s], 0]
                        at[a] -= weight[s, inner[s]]
                        p = nest.part[role, a]
                        tile &= ~_part(nest, role, p, counted, table[s], at, pool[s], pools[s])
                taken[q] = tile
                if tile == 0:
                    continue
                known = False
                for g in range(groups):
                    known = known or order[g] == group[s, q]
                if not known:
                    order[groups] = group[s, q]
                    union[group[s, q]], total[group[s, q]] = 0, 0
                    groups += 1
                union[group[s, q]] |= tile
                total[group[s, q]] += ones(tile)
            for number in range(groups):
                g = order[number]
                items = union[g]
                if not output:
                    out[0] += ones(items)
                    out[3] += total[g]
                    continue
                back, first = items, True
                for q in range(copies[s]):
                    if group[s, q] != g or taken[q] == 0:
                        continue
                    if first and nothing:
                        up = outer[s, q]
                        if s == 1:
                            back = items & fresh[0, up]
                            fresh[0, up] |= items
                        else:
                            back = items & ~fresh[s - 1, up]
                            fresh[s - 1, up] &= ~items
                    valued = back if first else np.uint64(0)
                    fresh[s, q] = (fresh[s, q] & ~(taken[q] & valued)) | (taken[q] & ~valued)
                    first = False
                if s == last:
                    out[0] += ones(back)
                    out[1] += ones(items)
                    out[2] += total[g]
                    out[3] += ones(back)
        advanced = False
        for i in range(rows - 1, -1, -1):
            if node[i, 2] >= 0 or (not leaf and i >= stops[last]):
                continue
            advanced = loop[i] + 1 < limit[i]
            step = 1 if advanced else -loop[i]
            loop[i] += step
            for s in range(1, last + 1):
                if i < stops[s]:
                    now_at[s, node[i, 0]] += step * weight[s, i]
            if advanced:
                deepest = i
                break
        if not advanced:
            return


@njit(cache=True)  # type: ignore[untyped-decorator]
def _remembered(  # noqa: C901 - one question, compiled as one function
    nest: Any, machine: Any, role: Any, node: Any, rows: Any, stops: Any, inside: Any, last: Any,
    solo: Any, counted: Any, out: Any, arrays: Any,
) -> None:  # fmt: skip
    """`walk`, or what the same question was answered before.

    Of an input, only the last keep counts. Below the last keep no count depends on the order of
    rows of different axes: nothing there remembers the step before.
    """
    asked, answers, question = arrays[-3], arrays[-2], arrays[-1]
    leaf = inside[last] < 0
    ordered = stops[last] if not leaf else (stops[last - 1] if role == 2 else 0)
    for w in range(WORDS):
        question[w] = 0
    question[0] = 1 + role + 4 * counted + 8 * solo + 64 * (ordered + 1)
    for s in range(0 if role == 2 else last - 1, last + 1):
        place = stops[s] if role == 2 and s < last else 0
        question[1] = (question[1] * 64 + place) * 8 + inside[s] + 1
    if rows > 5 * (WORDS - 2) or last > 5:
        walk(nest, machine, role, node, rows, stops, inside, last, solo, counted, out, arrays)
        return
    put = 0
    for a in range(-1, len(nest.sizes)):
        for i in range(0 if a < 0 else ordered, ordered if a < 0 else rows):
            if a < 0 or node[i, 0] == a:
                one = ((node[i, 0] * 16 + node[i, 1]) * 8 + node[i, 2] + 1) | 2048
                question[2 + put // 5] = question[2 + put // 5] * 4096 + one
                put += 1
    spot = np.int64(1469598103934665603)
    for w in range(WORDS):
        spot = (spot ^ question[w]) * np.int64(1099511628211)
        spot ^= (spot >> 29) & np.int64(0x7FFFFFFFF)
    spot &= SLOTS - 1
    for probe in range(PROBES if len(asked) == SLOTS else 0):
        at = (spot + probe) & (SLOTS - 1)
        same = True
        for w in range(WORDS):
            same = same and asked[at, w] == question[w]
        if same:
            for i in range(5):
                out[i] = answers[at, i]
            return
        if asked[at, 0] == 0 or probe == PROBES - 1:
            walk(nest, machine, role, node, rows, stops, inside, last, solo, counted, out, arrays)
            for w in range(WORDS):
                asked[at, w] = question[w]
            for i in range(5):
                answers[at, i] = out[i]
            return
    walk(nest, machine, role, node, rows, stops, inside, last, solo, counted, out, arrays)


@njit(cache=True)  # type: ignore[untyped-decorator]
def steps(nest: Any, node: Any, rows: Any) -> Any:
    """Readings of the odometer at which copy 0, the one with the largest tiles, works."""
    axes, count = len(nest.sizes), 0
    loop, limit = np.zeros(NODES, np.int64), np.zeros(NODES, np.int64)
    extent = np.empty(axes, np.int64)
    for a in range(axes):
        extent[a] = nest.sizes[a]
    for i in range(rows):
        limit[i] = -(-extent[node[i, 0]] // node[i, 1]) if node[i, 2] < 0 else 1
        extent[node[i, 0]] = min(extent[node[i, 0]], node[i, 1])
    while True:
        works = True
        for a in range(axes):
            extent[a] = nest.sizes[a]
        for i in range(rows):
            a = node[i, 0]
            extent[a] = min(node[i, 1], extent[a] - loop[i] * node[i, 1])
            works = works and extent[a] > 0
        count += works
        advanced = False
        for i in range(rows - 1, -1, -1):
            if loop[i] + 1 < limit[i]:
                loop[i] += 1
                advanced = True
                break
            loop[i] = 0
        if not advanced:
            return count


@njit(cache=True)  # type: ignore[untyped-decorator]
def price(row: Any, machine: Any, out: Any) -> None:
    """Seconds and joules (`out[1:]`) of a row: steps, then bits per memory and column."""
    numbers = machine.numbers
    seconds, joules = row[0] / numbers[0], numbers[2]
    for m in range(len(machine.memory)):
        memory = machine.memory[m]
        read, write = row[2 + 5 * m] / 8, row[3 + 5 * m] / 8
        seconds = max(seconds, read / memory[1], write / memory[2], (read + write) / memory[3])
        joules += row[4 + 5 * m] / 8 * memory[4] + row[5 + 5 * m] / 8 * memory[5]
    out[1] = seconds + numbers[1] / numbers[0]
    out[2] = joules + numbers[3] * out[1]


@njit(cache=True)  # type: ignore[untyped-decorator]
def link(
    nest: Any, machine: Any, role: Any, node: Any, rows: Any, stops: Any, inside: Any, last: Any,
    row: Any, arrays: Any,
) -> None:  # fmt: skip
    """Add to a row what passes between an operand's stop `last - 1` and the next one.

    Totals are those of all copies; the busiest copy is the one at the origin, alone.
    """
    out, bits = np.zeros(5, np.int64), nest.bits[role]
    for world in range(3):  # all copies; one copy of the upper memory; one of the lower
        memory = inside[last] if world == 2 else inside[last - 1]
        if memory < 0:
            break
        solo = machine.above[memory] if world else memory - memory
        if world == 0 or (solo and not (world == 2 and solo == machine.above[inside[last - 1]])):
            first = 0
            for s in range(last if inside[last] < 0 else last + 1):
                if machine.above[inside[s]] & solo != solo:
                    first = s
            _remembered(
                nest, machine, role, node, rows, stops[first:], inside[first:], last - first, solo,
                min(world, 1), out, arrays,
            )  # fmt: skip
        if world == 0:
            for side in range(2):
                memory = inside[last - 1 + side]
                if memory >= 0:
                    row[4 + 5 * memory] += out[2 * side] * bits
                    row[5 + 5 * memory] += out[2 * side + 1] * bits
            if memory >= 0:
                row[1 + 5 * memory] += out[4] * bits
        else:
            row[2 + 5 * memory] += out[2 * (world - 1)] * bits
            row[3 + 5 * memory] += out[2 * (world - 1) + 1] * bits


@njit(cache=True)  # type: ignore[untyped-decorator]
def _copy(stack: Any, new: Any, old: Any) -> None:
    """One row over another (a loop compiles faster than a slice)."""
    for i in range(stack.shape[1]):
        stack[new, i] = stack[old, i]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _promising(row: Any, machine: Any, best: Any, priced: Any) -> Any:
    """Whether what is spent is not above the best in every objective (a margin for rounding)."""
    price(row, machine, priced)
    more = 1 - 1e-9
    return (
        priced[1] * more <= best[0, 0] or priced[2] * more <= best[1, 0]
        or priced[1] * priced[2] * more <= best[2, 0]
    )  # fmt: skip


@njit(cache=True)  # type: ignore[untyped-decorator]
def _before(one: Any, two: Any) -> Any:
    """Lexicographic comparison of keys."""
    for i in range(3):
        if one[i] != two[i]:
            return one[i] < two[i]
    return False


@njit(cache=True)  # type: ignore[untyped-decorator]
def _may_spread(
    nest: Any, machine: Any, a: Any, dim: Any, inside: Any, keeps: Any, fans: Any, spread: Any
) -> Any:
    """Whether the rules let an axis be spread here."""
    fan = machine.owner[dim]
    if not machine.allowed[dim, a] or fan < fans[a] or (spread[a] >> dim) & 1:
        return False
    for role in range(3):
        lowest = inside[role, keeps[role] - 1]
        below = lowest >= machine.before[fan]
        if below and (nest.part[role, a] >= 0 or machine.rules[4]):
            return False
    return True


@njit(cache=True)  # type: ignore[untyped-decorator]
def _use(nest: Any, node: Any, rows: Any, dim: Any) -> Any:
    """Copies that a mapping uses of one dimension of a fan-out."""
    use = 1
    for i in range(rows):
        if node[i, 2] >= 0 and node[i, 3] == dim:
            extent = nest.sizes[node[i, 0]]
            for j in range(i):
                if node[j, 0] == node[i, 0]:
                    extent = min(extent, node[j, 1])
            use *= -(-extent // node[i, 1])
    return use


@njit(cache=True)  # type: ignore[untyped-decorator]
def search(  # noqa: C901 - one walk, compiled as one function
    nest: Any, machine: Any, chains: Any, best: Any, found: Any, found_keeps: Any, found_size: Any
) -> Any:
    """Every mapping in which operand r is kept in `chains[r]`; returns the complete ones walked."""
    axes, memories, dims = len(nest.sizes), len(machine.memory), len(machine.rooms) - 1
    widest, width = nest.sizes.max(), 1 + 5 * memories
    arrays = room(axes, SLOTS)
    node, kept = np.empty((NODES, 4), np.int64), np.zeros((NODES, 3), np.int64)
    option, size, stored = (
        np.zeros(DEEP, np.int64),
        np.zeros(DEEP, np.int64),
        np.zeros(DEEP, np.int64),
    )
    used, latest = np.zeros(DEEP, np.int64), np.full(DEEP, -1, np.int64)
    extent, free = np.empty((DEEP, axes), np.int64), np.empty((DEEP, dims + 1), np.int64)
    fans, spread = np.full((DEEP, axes), -1, np.int64), np.zeros((DEEP, axes), np.int64)
    row, priced = np.zeros((DEEP, width)), np.zeros(3)
    stops, inside = np.zeros((3, KEEPS), np.int64), np.zeros((3, KEEPS), np.int64)
    keeps, goal = np.ones((DEEP, 3), np.int64), 0
    whole = np.zeros(3)  # every element leaves or enters the outermost memory at least once
    for a in range(axes):
        extent[0, a] = nest.sizes[a]
    for d in range(dims + 1):
        free[0, d] = machine.rooms[d]
    for role in range(3):
        for memory in chains[role]:
            goal += memory >= 0
        whole[role] = nest.bits[role] * ones(tile_at_origin(nest, role, extent[0]))
        row[0, 4 + (role == 2)] += whole[role]
        row[0, 2 + (role == 2)] += whole[role]
    row[0, 0] = -(-machine.numbers[5] // machine.numbers[4])  # no more lanes work than there are
    depth, walked = 0, 0
    while depth >= 0:
        choice = option[depth]
        option[depth] += 1
        new, n, loose = depth + 1, size[depth], stored[depth] == goal
        assert new < DEEP
        option[new], size[new], stored[new] = 0, n, stored[depth]
        used[new], latest[new] = used[depth], latest[depth]
        _copy(extent, new, depth)
        _copy(free, new, depth)
        _copy(fans, new, depth)
        _copy(spread, new, depth)
        _copy(keeps, new, depth)
        for i in range(width):
            row[new, i] = row[depth, i]
        run = stored[depth] and kept[stored[depth] - 1, 0] == n  # nothing since the last keep
        if choice < 3:  # the next keep of an operand
            role, last = choice, keeps[depth, choice]
            memory = chains[role, last - 1]
            if memory < 0:
                continue
            alike = not machine.rules[4] or kept[stored[depth] - 1, 2] == memory
            if run and alike and kept[stored[depth] - 1, 1] > role:
                continue  # the same as the other order
            if machine.rules[4]:
                deeper = False
                for i in range(stored[depth]):
                    deeper = deeper or kept[i, 2] > memory
                for i in range(n):
                    deeper = deeper or (node[i, 2] >= 0 and machine.before[node[i, 2]] > memory)
                if deeper:
                    continue
            least = nest.bits[role] * ones(tile_at_origin(nest, role, extent[depth]))
            if row[new, 1 + 5 * memory] + least > 8 * machine.memory[memory, 0]:
                continue
            kept[stored[depth], 0], kept[stored[depth], 1], kept[stored[depth], 2] = n, role, memory
            stops[role, last], inside[role, last] = n, memory
            stored[new] += 1
            keeps[new, role] += 1
            used[new], latest[new] = 0, -1
            if machine.above[memory] == 0:
                if last == 1:
                    row[new, 4 + (role == 2)] -= whole[role]
                    row[new, 2 + (role == 2)] -= whole[role]
                link(nest, machine, role, node, n, stops[role], inside[role], last, row[new],
                     arrays)  # fmt: skip
                if row[new, 1 + 5 * memory] > 8 * machine.memory[memory, 0]:
                    continue
                if not _promising(row[new], machine, best, priced):
                    continue
            depth = new
            continue
        if choice == 3:  # the compute units
            short = False
            for d in range(dims):
                short = short or _use(nest, node, n, d) < machine.least[d]
            if not loose or short:
                continue
            for a in range(axes):
                if extent[depth, a] > 1:
                    node[n, 0], node[n, 1], node[n, 2], node[n, 3] = a, 1, -1, -1
                    n += 1
            walked += 1
            row[new, 0] = steps(nest, node, n)
            good = _promising(row[new], machine, best, priced)
            for role in range(3):
                stops[role, keeps[new, role]], inside[role, keeps[new, role]] = n, -1
                for last in range(1, keeps[new, role] + 1):
                    memory = inside[role, last]
                    if (
                        nest.bits[role] == 0
                        or not good
                        or (memory >= 0 and machine.above[memory] == 0)
                    ):
                        continue
                    if last == 1:
                        row[new, 4 + (role == 2)] -= whole[role]
                        row[new, 2 + (role == 2)] -= whole[role]
                    link(nest, machine, role, node, n, stops[role], inside[role], last, row[new],
                         arrays)  # fmt: skip
                    good = _promising(row[new], machine, best, priced)
                    if memory >= 0 and row[new, 1 + 5 * memory] > 8 * machine.memory[memory, 0]:
                        good = False
            for o in range(3 if good else 0):
                priced[0] = priced[1] if o == 0 else priced[2]
                if o == 2:
                    priced[0] = priced[1] * priced[2]
                if _before(priced, best[o]):
                    for i in range(3):
                        best[o, i] = priced[i]
                    found_size[o, 0], found_size[o, 1] = n, goal
                    for i in range(NODES):
                        for j in range(4):
                            found[o, i, j] = node[i, j]
                        for j in range(3):
                            found_keeps[o, i, j] = kept[i, j]
            continue
        tile, rest = (choice - 4) % widest + 1, (choice - 4) // widest
        a, dim = rest % axes, rest // axes - 1
        if dim >= dims:
            depth -= 1
            continue
        length = extent[depth, a]
        if tile >= length or (machine.rules[2] and length % tile):
            continue
        node[n, 0], node[n, 1], node[n, 2], node[n, 3] = a, tile, -1, -1
        if loose and a < latest[depth]:
            continue  # below the last keep the order of axes does not matter
        top = stored[depth] == 0 or kept[stored[depth] - 1, 0] < n
        own = top and n > 0 and node[n - 1, 0] == a  # just after a row of the same axis, same gap
        if dim < 0:
            if (used[depth] >> a) & 1:
                continue
            used[new] = used[depth] | (1 << a) | (1 << 62)
        else:
            fan, copies = machine.owner[dim], -(-length // tile)
            if copies > free[depth, dim] or not _may_spread(
                nest, machine, a, dim, inside, keeps[depth], fans[depth], spread[depth]
            ):
                continue
            if not own:  # else it stands first in its gap, where it matters to the keep above
                if not loose and (used[depth] >> 62 or a < latest[depth]):
                    continue
                if stored[depth] and not machine.rules[4]:
                    role, memory = kept[stored[depth] - 1, 1], kept[stored[depth] - 1, 2]
                    if (machine.above[memory] >> fan) & 1 or nest.part[role, a] < 0:
                        continue
            node[n, 2], node[n, 3] = fan, dim
            free[new, dim] = free[depth, dim] // copies
            used[new] = used[depth] & ~(1 << a)
            fans[new, a] = fan
            spread[new, a] = spread[depth, a] | (1 << dim)
        latest[new], extent[new, a], size[new], depth = a, tile, n + 1, new
    return walked
