"""Prices of many mappings of one order of nodes, each from its tiles alone.

Nothing is remembered between mappings: no tables, no bounds. For samplers and for benchmarks; the
optimum is `best`'s. Tiles along an axis are counted by size class: a tile cuts an extent into full
ones and a rest, so that a depth has a few classes. Counts that begin alike share the walk: the ways
of counting (`chains.COUNT` each tile of a slot, `FIRST` the first alone) form a tree per axis, and
of that tree only what a mapping needs is walked. Where every tile divides the one around it, all
counts are products of trips. Mappings are taken in blocks, side by side.

Loops that take one trip are as if absent. So, where fetches are hoisted, how many loops a keep's
fetches repeat for depends on the tiles: on the innermost loop above the keep that takes several
trips and indexes the operand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hwopt.errors import MappingError
from hwopt.hardware.accelerator import Accelerator, OperandRole
from hwopt.hardware.conventions import NATIVE, Conventions
from hwopt.ir.access import Axis
from hwopt.mapping.analysis import PER_LEVEL, leakage_watts, price
from hwopt.mapping.chains import COUNT, FIRST
from hwopt.mapping.mapping import Keep, Loop, Mapping, Spread
from hwopt.mapping.plan import Factor, LoopNode, Plan, above, make_plan, structure
from hwopt.mapping.problem import Problem
from hwopt.mapping.sums import ORIGIN
from hwopt.mapping.traffic import analyse, check_size

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
BLOCK = 16
"""Mappings that are taken side by side."""
_UNIT = "1"
"""An axis of one point, walked by the innermost loop: sets what the compute units fetch apart."""


def price_mappings(
    problem: Problem, mapping: Mapping, accelerator: Accelerator, tiles: Ints,
    conventions: Conventions = NATIVE, resident: MappingType[OperandRole, str] | None = None,
) -> Floats:  # fmt: skip
    """Seconds and joules (rows, 2) of mappings with these nodes; infinite for what does not fit.

    `tiles[row, n]` is the tile of loop or spread `n` of `mapping` (ignored for a keep). Equal to
    `traffic.analyse` and `analysis.price` of each. Operators with sliding windows, and conventions
    that look at what changed or pad edges, are analysed one by one. The order of the nodes is
    taken to be legal (`verify_mapping`). Raises `MappingError` where tiles do not nest down to 1.
    """
    check_size(problem)
    stays = tuple(sorted((resident or {}).items()))
    recipe = None
    if conventions.fetch != "changed" and conventions.edges == "exact":
        recipe = _recipe(problem, mapping, accelerator, conventions, stays)
    out = np.full((len(tiles), 2), np.inf)
    if recipe is not None:
        bad = _prices(recipe, np.ascontiguousarray(tiles, dtype=np.int64), out)
        if bad >= 0:
            raise MappingError(
                "tiles are not nested down to 1", where=f"row {bad}", value=tiles[bad].tolist(),
                allowed="each at most the one of the same axis before it, the last of an axis 1",
            )  # fmt: skip
        return out
    for number, row in enumerate(tiles.tolist()):
        one = Mapping(tuple(
            node if isinstance(node, Keep) else replace(node, tile=tile)
            for node, tile in zip(mapping.nodes, row, strict=True)
        ))  # fmt: skip
        if _within(one, problem, accelerator):
            found = analyse(problem, one, accelerator, conventions, resident).row(accelerator)
            paid = price(found, accelerator, problem.points)
            out[number] = paid.seconds, paid.joules
    return out


def _within(mapping: Mapping, problem: Problem, accelerator: Accelerator) -> bool:
    """Whether the spreads fit the fan-outs."""
    used = {(f.name, d.name): [1, d.size] for f in accelerator.fanouts for d in f.dims}
    extent = dict(problem.sizes)
    for node in mapping.nodes:
        if isinstance(node, Keep):
            continue
        if isinstance(node, Spread):
            used[node.fanout, node.dim][0] *= -(-extent[node.axis] // node.tile)
        extent[node.axis] = node.tile
    return all(count <= size for count, size in used.values())


class _Recipe(NamedTuple):
    """What the kernel reads.

    `nodes[n]` = axis (-1: a keep), dimension (-1: a loop); `cuts[n + 1, a]`: loops of axis `a` down
    to node `n`. The tree of ways: `steps[i]` = parent (-1: a whole axis), axis, node, way.
    `column[c]` = 1 if weighted by extents, hoist (-1: none), axis; `variant[c, s]`: its step where
    the first `s` loops of the axis count. `hoists[h]` = keep, then 1 for each axis that indexes its
    operand. Product `j` multiplies the columns `factors[begin[j] : begin[j + 1]]`: first the terms,
    then a footprint in each memory `homes[f]` with elements of `bits[f]`. Traffic `i` adds up
    `forms[ends[i] : ends[i + 1]]` = (term, bits). `constant` bits per memory. `ports`, `machine`:
    the numbers of `analysis.price`.

    Where all tiles divide, product `j` multiplies the `trips[starts[j] : starts[j + 1]]`: of a
    node, or (beyond the nodes) of a loop inside a hoist, which counts if a loop further in that
    indexes the operand takes several trips. `moves`, by hoist from the inside out = node (-1: the
    next hoist), place of its trips beyond the nodes or -1 for a loop that indexes the operand.
    """

    sizes: Ints
    nodes: Ints
    cuts: Ints
    rooms: Ints
    steps: Ints
    column: Ints
    variant: Ints
    hoists: Ints
    begin: Ints
    factors: Ints
    walked: int
    ends: Ints
    forms: Ints
    homes: Ints
    bits: Ints
    constant: Floats
    ports: Floats
    machine: Floats
    starts: Ints
    trips: Ints
    moves: Ints


@dataclass
class _Builder:
    """Numbers steps, columns, hoists and products."""

    axes: list[str]
    plan: Plan
    loops: frozenset[int]
    steps: dict[tuple[int, int, int, int], int] = field(default_factory=dict)
    columns: dict[tuple[object, ...], int] = field(default_factory=dict)
    variants: list[list[int]] = field(default_factory=list)
    hoists: dict[tuple[int, ...], int] = field(default_factory=dict)
    begin: list[int] = field(default_factory=lambda: [0])
    factors: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    trips: list[int] = field(default_factory=list)
    moving: dict[tuple[int, int], int] = field(default_factory=dict)

    def product(self, factors: tuple[int, ...], nodes: int, hoist: tuple[int, ...] | None) -> None:
        """A term or a footprint; `hoist` as in `_Recipe.hoists`."""
        own = [self.plan.factors[number] for number in factors]
        number = -1 if hoist is None else self.hoists.setdefault(hoist, len(self.hoists))
        self.factors += [self.column(factor, number) for factor in own]
        self.begin.append(len(self.factors))
        for factor in own:
            kinds = dict(zip(factor.nodes[0], factor.kinds[0], strict=True))
            for node in self.plan.slots[factor.axes[0]] if factor.group else factor.nodes[0]:
                if node >= nodes or kinds.get(node) == ORIGIN:
                    continue
                if factor.group is None and hoist is not None and node in self.loops:
                    place = self.moving.setdefault((number, node), len(self.moving))
                    self.trips.append(nodes + place)
                else:
                    self.trips.append(node)
        self.starts.append(len(self.trips))

    def moves(self) -> list[tuple[int, int]]:
        """As in `_Recipe`."""
        found = list[tuple[int, int]]()
        for number, (child, *relevant) in enumerate(self.hoists):
            indexed = {
                n for axis, one in zip(self.axes, relevant, strict=True) if one
                for n in self.plan.slots[axis]
            }  # fmt: skip
            for node in sorted(self.loops, reverse=True):
                if node < child and node in indexed:
                    found.append((node, -1))
                elif (number, node) in self.moving:
                    found.append((node, self.moving[number, node]))
            found.append((-1, -1))
        return found

    def column(self, factor: Factor, hoist: int) -> int:
        """A factor of one axis, where the loops inside a hoist count once."""
        axis, nodes, kinds = self.axes.index(factor.axes[0]), factor.nodes[0], factor.kinds[0]
        weighted = int(factor.group is not None)
        if weighted:
            hoist = -1
        key = (weighted, hoist, axis, nodes, kinds)
        if key in self.columns:
            return self.columns[key]
        loops = [n for n in self.plan.slots[factor.axes[0]] if n in self.loops]
        row = []
        for cut in range(len(loops) + 1):
            at = self.step((-1, axis, -1, FIRST))
            for n, kind in zip(nodes, kinds, strict=True):
                inside = hoist >= 0 and n in self.loops and loops.index(n) >= cut
                at = self.step((at, axis, n, FIRST if kind == ORIGIN or inside else COUNT))
            row.append(at)
        self.variants.append(row)
        return self.columns.setdefault(key, len(self.columns))

    def step(self, item: tuple[int, int, int, int]) -> int:
        """The number of a step of the tree of ways."""
        return self.steps.setdefault(item, len(self.steps))


def _recipe(
    problem: Problem, mapping: Mapping, accelerator: Accelerator, conventions: Conventions,
    stays: tuple[tuple[OperandRole, str], ...],
) -> _Recipe | None:  # fmt: skip
    """The recipe of an order of nodes; None where an axis slides or is cut by padding."""
    apart = replace(problem, axes=(*problem.axes, Axis(_UNIT, 1)))
    counted = replace(conventions, fetch="counted", halo="none")
    nodes = (*structure(mapping, accelerator), LoopNode(_UNIT))
    plan = make_plan(apart, nodes, above(accelerator), counted, stays)
    if any(f.group is not None and not f.group.plain for f in plan.factors):
        return None
    axes = list(apart.sizes)
    build = _Builder(
        axes, plan, frozenset(n for n, node in enumerate(nodes) if isinstance(node, LoopNode))
    )
    hoist_of = dict[int, tuple[int, ...]]()
    if conventions.fetch == "hoisted":
        for (role, child), terms in plan.entries.items():
            if child < len(nodes):
                relevant = apart.operand[role].access.axes
                hoist = (child, *(int(axis in relevant) for axis in axes))
                hoist_of.update(dict.fromkeys(terms, hoist))
    for number, term in enumerate(plan.terms):
        build.product(term.factors, len(mapping.nodes), hoist_of.get(number))
    homes = list[tuple[str, OperandRole]]()
    for home, size in plan.footprints.items():
        if not isinstance(size, int):
            build.product(size, len(mapping.nodes), None)
            homes.append(home)
    return _pack(problem, mapping, accelerator, build, homes)


def _pack(
    problem: Problem, mapping: Mapping, accelerator: Accelerator, build: _Builder,
    homes: list[tuple[str, OperandRole]],
) -> _Recipe:  # fmt: skip
    """The recipe as arrays; products are padded to whole vectors."""
    places = {(f.name, d.name): d.size for f in accelerator.fanouts for d in f.dims}
    dims, names = list(places), [memory.name for memory in accelerator.memories]
    nodes, walked = list[tuple[int, int]](), dict.fromkeys(build.axes, 0)
    cuts = [list(walked.values())]
    for node in mapping.nodes:
        if isinstance(node, Keep):
            nodes.append((-1, -1))
        else:
            walked[node.axis] += isinstance(node, Loop)
            dim = dims.index((node.fanout, node.dim)) if isinstance(node, Spread) else -1
            nodes.append((build.axes.index(node.axis), dim))
        cuts.append(list(walked.values()))
    bits = {operand.role: operand.bits for operand in problem.operands}
    constant, sums = np.zeros(len(names)), [dict[int, int]() for _ in range(4 * len(names))]
    for (memory, role), size in build.plan.footprints.items():
        constant[names.index(memory)] += size * bits[role] if isinstance(size, int) else 0
    for (memory, role, name), form in build.plan.columns.items():
        total = sums[4 * names.index(memory) + PER_LEVEL.index(name) - 1]
        for term, c in form.items():
            total[term] = total.get(term, 0) + c * bits[role]
    ends = np.cumsum([0, *(len(total) for total in sums)])
    forms = [pair for total in sums for pair in total.items()]
    most = max(len(row) for row in build.variants)
    ports = [
        (m.usable_bytes, *(math.inf if p is None else p for p in (
            m.read_bytes_per_s, m.write_bytes_per_s, m.bytes_per_s)),
         m.read_joules_per_byte or 0.0, m.write_joules_per_byte or 0.0)
        for m in accelerator.memories
    ]  # fmt: skip
    return _Recipe(
        np.array([*problem.sizes.values(), 1], np.int64), np.array(nodes, np.int64),
        np.array(cuts, np.int64), np.array(list(places.values()), np.int64),
        np.array(list(build.steps), np.int64),
        np.array([key[:3] for key in build.columns], np.int64),
        np.array([[*row, *[-1] * (most - len(row))] for row in build.variants], np.int64),
        np.array(list(build.hoists), np.int64).reshape(-1, 1 + len(build.axes)),
        np.array(build.begin, np.int64), np.array(build.factors, np.int64), build.plan.steps,
        ends, np.array(forms, np.int64).reshape(-1, 2),
        np.array([names.index(memory) for memory, _ in homes], np.int64),
        np.array([bits[role] for _, role in homes], np.int64), constant, np.array(ports),
        np.array([
            accelerator.clock_hz, accelerator.fill_cycles / accelerator.clock_hz,
            problem.points * (accelerator.compute.joules_per_mac or 0.0),
            leakage_watts(accelerator),
        ]), np.array(build.starts, np.int64), np.array(build.trips, np.int64),
        np.array(build.moves(), np.int64).reshape(-1, 2),
    )  # fmt: skip


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _prices(recipe: Any, tiles: Any, out: Any) -> int:  # noqa: C901 - one compiled loop
    """Seconds and joules of each row of tiles; rows that do not fit are left as they are. Returns
    the first row whose tiles are not nested down to 1, or -1.
    """
    sizes, nodes, cuts, rooms = recipe.sizes, recipe.nodes, recipe.cuts, recipe.rooms
    steps, column, variant, hoists = recipe.steps, recipe.column, recipe.variant, recipe.hoists
    begin, factors, forms, ends = recipe.begin, recipe.factors, recipe.forms, recipe.ends
    homes, bits, constant, machine = recipe.homes, recipe.bits, recipe.constant, recipe.machine
    starts, trips, moves, ports = recipe.starts, recipe.trips, recipe.moves, recipe.ports
    axes, count, memories = sizes.size, nodes.shape[0], ports.shape[0]
    products = begin.size - 1
    terms = products - homes.size
    # side by side
    extent, used = np.zeros((axes, BLOCK)), np.zeros((rooms.size, BLOCK))
    outer, rest = np.zeros((count, BLOCK)), np.zeros((count, BLOCK))
    full = np.ones((count + trips.size, BLOCK))
    seen, edges, fits = np.zeros(BLOCK), np.zeros(BLOCK), np.zeros(BLOCK)
    product, filled = np.ones((products, BLOCK)), np.zeros((memories, BLOCK))
    traffic, nested = np.zeros((4, BLOCK)), np.zeros(BLOCK)
    seconds, joules = np.zeros(BLOCK), np.zeros(BLOCK)
    # one by one
    inner = np.zeros(hoists.shape[0], np.int64)
    walked, same = np.full(steps.shape[0], -1, np.int64), np.arange(steps.shape[0])
    extents, classes = np.zeros((steps.shape[0], count + 3)), np.ones(steps.shape[0], np.int64)
    copies = np.zeros((steps.shape[0], count + 3))
    path, value = np.zeros(count + 2, np.int64), np.zeros(column.shape[0])
    for i in range(steps.shape[0]):
        if steps[i, 0] < 0:
            extents[i, 0], copies[i, 0] = sizes[steps[i, 1]], 1.0
    for start in range(0, tiles.shape[0], BLOCK):
        here = min(BLOCK, tiles.shape[0] - start)
        for a in range(axes):
            for r in range(BLOCK):
                extent[a, r] = sizes[a]
        used[:] = 1.0
        edges[:], fits[:], nested[:] = 0.0, 1.0, 1.0
        for n in range(count):
            a, d = nodes[n, 0], nodes[n, 1]
            if a < 0:
                continue
            for r in range(here):
                rest[n, r] = tiles[start + r, n]
            for r in range(BLOCK):
                t, e = rest[n, r] if r < here else 1.0, extent[a, r]
                q = np.floor(e / t)
                full[n, r], outer[n, r], rest[n, r] = q, e, e - q * t
                nested[r] = nested[r] if 1.0 <= t <= e else 0.0
                extent[a, r] = t
            for r in range(BLOCK):
                edges[r] += rest[n, r]
            if d >= 0:
                for r in range(BLOCK):
                    used[d, r] *= full[n, r] + (1.0 if rest[n, r] > 0.0 else 0.0)
        for a in range(axes):
            for r in range(BLOCK):
                nested[r] = nested[r] if extent[a, r] == 1.0 else 0.0
        for r in range(here):
            if nested[r] == 0.0:
                return start + r
        for d in range(rooms.size):
            for r in range(BLOCK):
                fits[r] = fits[r] if used[d, r] <= rooms[d] else 0.0
        seen[:] = 0.0
        for i in range(moves.shape[0]):
            n, place = moves[i, 0], moves[i, 1]
            if n < 0:
                seen[:] = 0.0
            elif place < 0:
                for r in range(BLOCK):
                    seen[r] = 1.0 if full[n, r] > 1.0 else seen[r]
            else:
                for r in range(BLOCK):
                    full[count + place, r] = 1.0 + seen[r] * (full[n, r] - 1.0)
        for j in range(products):
            for r in range(BLOCK):
                product[j, r] = 1.0
            for i in range(starts[j], starts[j + 1]):
                n = trips[i]
                for r in range(BLOCK):
                    product[j, r] *= full[n, r]
        for r in range(here):
            if edges[r] == 0.0 or fits[r] == 0.0:
                continue
            row = start + r
            for h in range(inner.size):
                inner[h] = -1
                for n in range(hoists[h, 0]):
                    a = nodes[n, 0]
                    loop = a >= 0 and nodes[n, 1] < 0 and tiles[row, n] < outer[n, r]
                    if loop and hoists[h, 1 + a] == 1:
                        inner[h] = n
            for c in range(value.size):
                cut = 0
                if column[c, 1] >= 0:
                    cut = cuts[inner[column[c, 1]] + 1, column[c, 2]]
                step, length = variant[c, cut], 0
                last = step
                while steps[step, 0] >= 0 and walked[step] != row:
                    path[length] = step
                    length += 1
                    step = steps[step, 0]
                while length > 0:
                    length -= 1
                    step = path[length]
                    walked[step] = row
                    above, n = same[steps[step, 0]], steps[step, 2]
                    if n >= count or tiles[row, n] >= outer[n, r]:  # one trip
                        same[step] = above
                        continue
                    same[step] = step
                    t, whole, found, many = float(tiles[row, n]), outer[n, r], 1, 0.0
                    first = steps[step, 3] == FIRST
                    for i in range(classes[above]):
                        e, m = extents[above, i], copies[above, i]
                        q, left = full[n, r], rest[n, r]
                        if e < t:
                            q, left = 0.0, e
                        elif first:
                            q, left = 1.0, 0.0
                        elif e != whole:
                            q = np.floor(e / t)
                            left = e - q * t
                        many += q * m
                        if left > 0.0:
                            extents[step, found], copies[step, found] = left, m
                            found += 1
                    extents[step, 0], copies[step, 0] = t, many
                    classes[step] = found
                at, total = same[last], 0.0
                if column[c, 0] == 1:
                    for i in range(classes[at]):
                        total += extents[at, i] * copies[at, i]
                else:
                    for i in range(classes[at]):
                        total += copies[at, i]
                value[c] = total
            for j in range(products):
                total = 1.0
                for i in range(begin[j], begin[j + 1]):
                    total *= value[factors[i]]
                product[j, r] = total
        for m in range(memories):
            for r in range(BLOCK):
                filled[m, r] = constant[m]
        for f in range(homes.size):
            m, width = homes[f], float(bits[f])
            for r in range(BLOCK):
                filled[m, r] += width * product[terms + f, r]
        for m in range(memories):
            for r in range(BLOCK):
                fits[r] = fits[r] if filled[m, r] <= 8.0 * ports[m, 0] else 0.0
        for r in range(BLOCK):
            seconds[r], joules[r] = product[recipe.walked, r] / machine[0], machine[2]
        for m in range(memories):
            for i in range(4):
                for r in range(BLOCK):
                    traffic[i, r] = 0.0
                for j in range(ends[4 * m + i], ends[4 * m + i + 1]):
                    t, weight = forms[j, 0], forms[j, 1] / 8.0
                    for r in range(BLOCK):
                        traffic[i, r] += weight * product[t, r]
            read, write, both = ports[m, 1], ports[m, 2], ports[m, 3]
            for r in range(BLOCK):
                moved = traffic[0, r] + traffic[1, r]
                late = max(traffic[0, r] / read, traffic[1, r] / write, moved / both)
                seconds[r] = max(seconds[r], late)
                joules[r] += traffic[2, r] * ports[m, 4]
                joules[r] += traffic[3, r] * ports[m, 5]
        for r in range(here):
            if fits[r] == 1.0:
                late = seconds[r] + machine[1]
                out[start + r, 0], out[start + r, 1] = late, joules[r] + machine[3] * late
    return -1
