"""Tables of tile chains: what each choice of tiles along one composite axis contributes.

A *part* is a class of axes that some operand joins in one tensor dimension (alone: one axis). For
one template and one part, a row is one chain of tiles for every axis of the part, at all nodes that
cut it. Its columns are the part's share of every term of the template's plan, of every footprint,
and of every dimension of a fan-out. Counts of a whole mapping are products over parts.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.hardware.accelerator import Accelerator, OperandRole
from hwopt.hardware.conventions import Conventions
from hwopt.ir.program import Constraint
from hwopt.mapping.mapping import Keep, Mapping, Spread
from hwopt.mapping.plan import Plan, above, groups_of, make_plan, structure
from hwopt.mapping.problem import Problem
from hwopt.mapping.template import Template
from hwopt.mapping.traffic import Distinct, chain_sums, padded, touched

Factors: TypeAlias = Literal["any", "perfect"]
Floats: TypeAlias = npt.NDArray[np.float64]
Chain = tuple[int, ...]

ROWS = {"any": 700, "perfect": 250}
"""Rows of one table at most: the sizes tried are thinned until they fit."""
SHARED_ROWS = 400
"""The same for the axes of a sliding window, whose sums are walked tile by tile."""


@dataclass(frozen=True)
class Table:
    """One part: `chains[row]` = tiles at `nodes`; `wanted`, `kept`, `overlap` (rows, terms);
    `extents` (rows, footprints); `uses` (rows, fan-out dimensions).
    """

    nodes: tuple[int, ...]
    chains: tuple[Chain, ...]
    wanted: Floats
    kept: Floats
    overlap: Floats
    extents: Floats
    uses: Floats


def parts_of(problem: Problem, conventions: Conventions) -> list[tuple[str, ...]]:
    """Classes of axes that share a tensor dimension in any operand."""
    classes: list[set[str]] = [{axis.name} for axis in problem.axes]
    for operand in problem.operands:
        for group in groups_of(operand, problem, conventions):
            joined = [c for c in classes if c & set(group.axes)]
            classes = [c for c in classes if c not in joined]
            classes.append(set().union(*joined))
    order = [axis.name for axis in problem.axes]
    return sorted(
        (tuple(name for name in order if name in c) for c in classes),
        key=lambda c: order.index(c[0]),
    )


@lru_cache(maxsize=1 << 14)
def sizes_of(extent: int, factors: Factors, most: int) -> tuple[int, ...]:
    """Tile sizes to try along an extent, largest first: divisors, or every smallest size of its
    count of tiles (`ceil(extent / n)`), thinned evenly to `most`, divisors last.
    """
    divisors = {d for n in range(1, math.isqrt(extent) + 1) if extent % n == 0
                for d in (n, extent // n)}  # fmt: skip
    if factors == "perfect":
        found = sorted(divisors, reverse=True)
    else:
        quotients = set()
        n = 1
        while n <= extent:
            size = -(-extent // n)
            quotients.add(size)
            if size == 1:
                break
            n = (extent - 1) // (size - 1) + 1
        found = sorted(quotients | divisors, reverse=True)
    if len(found) <= most:
        return tuple(found)
    exact = [size for size in found if size in divisors]
    rest = [size for size in found if size not in divisors]
    if len(exact) >= most:
        return _thinned(exact, most)
    return tuple(sorted((*exact, *_thinned(rest, most - len(exact))), reverse=True))


def _thinned(sizes: list[int], most: int) -> tuple[int, ...]:
    """`most` of the sizes, evenly, with the first and the last."""
    if most == 1:
        return (sizes[len(sizes) // 2],)
    step = (len(sizes) - 1) / (most - 1)
    return tuple(dict.fromkeys(sizes[round(i * step)] for i in range(most)))


@dataclass(frozen=True)
class Slot:
    """A node that cuts an axis: room in space (0: in time), and the largest tile allowed below."""

    node: int
    room: int
    largest: int


def slots_of(axis: str, size: int, template: Template, constraint: Constraint) -> tuple[Slot, ...]:
    """The nodes of a template that cut an axis, with the tile limits of a constraint."""
    limits = {memory: dict(tiles) for memory, tiles in constraint.tile}
    slots: list[Slot] = []
    for number, node in enumerate(template.nodes):
        if isinstance(node, Keep):
            most = limits.get(node.memory, {}).get(axis, size)
            if most < size:
                slots = [
                    Slot(s.node, s.room, min(s.largest, most)) if i == len(slots) - 1 else s
                    for i, s in enumerate(slots)
                ]
        elif node.axis == axis:
            room = template.rooms[number][1] if isinstance(node, Spread) else 0
            slots.append(Slot(number, room, size))
    return tuple(slots)


@lru_cache(maxsize=1 << 12)
def chains_of(
    size: int, slots: tuple[tuple[int, int], ...], factors: Factors, rows: int
) -> tuple[Chain, ...]:
    """Chains of nested tiles for slots `(room, largest)`; the last slot ends at 1.

    The sizes tried per slot are halved until there are at most `rows` chains.
    """
    for most in (4096, 64, 32, 24, 16, 12, 9, 7, 5, 4, 3, 2):
        found = _chains(size, slots, factors, most, rows)
        if found is not None:
            return found
    return _chains(size, slots, "perfect", 2, 1 << 30) or ()


def _chains(
    size: int, slots: tuple[tuple[int, int], ...], factors: Factors, most: int, rows: int
) -> tuple[Chain, ...] | None:
    """All chains at this many sizes per slot; None when there are more than `rows`."""
    partial: list[Chain] = [()]
    for position, (room, largest) in enumerate(slots):
        last = position == len(slots) - 1
        longer: list[Chain] = []
        for chain in partial:
            extent = chain[-1] if chain else size
            options = (1,) if last else sizes_of(extent, factors, most)
            longer += [
                (*chain, tile)
                for tile in options
                if tile <= largest and (room == 0 or -(-extent // tile) <= room)
            ]
        if len(longer) > 8 * rows and most > 2:
            return None
        partial = longer
    return tuple(partial) if len(partial) <= rows or most == 2 else None


@dataclass(frozen=True)
class Space:
    """One template ready for search: plan, tables, linear forms.

    Column `c` of a row is `sum_t forms[c, t] * term_t`, in bytes times 8 (`steps`: steps times 8).
    `whole[t]`: all that is wanted counts; else what transitions fetch. Memory `m`'s footprint is
    `fixed[m] + sum over footprints of weights[m, f] * product of extents`, in bits.
    `floors[c]`: least value of column `c`: each element is moved once at least.
    """

    template: Template
    plan: Plan
    tables: tuple[Table, ...]
    whole: npt.NDArray[np.bool_]
    forms: Floats
    weights: Floats
    fixed: Floats
    rooms: Floats
    floors: Floats

    def tiles(self, rows: tuple[int, ...]) -> tuple[int, ...]:
        """Tiles at the template's nodes for one row of each table."""
        tiles = [1] * len(self.template.nodes)
        for table, row in zip(self.tables, rows, strict=True):
            for node, tile in zip(table.nodes, table.chains[row], strict=True):
                tiles[node] = tile
        return tuple(tiles)


def build_space(
    problem: Problem, template: Template, accelerator: Accelerator, constraint: Constraint,
    conventions: Conventions, resident: tuple[tuple[OperandRole, str], ...], factors: Factors,
    rows: int,
) -> Space:  # fmt: skip
    """Tables of one template."""
    plan = make_plan(
        problem, structure(Mapping(template.nodes), accelerator), above(accelerator),
        conventions, resident,
    )  # fmt: skip
    footprints = [key for key, size in plan.footprints.items() if isinstance(size, tuple)]
    dims = list(dict.fromkeys(
        (f"{f.name}.{d.name}", d.size) for f in accelerator.fanouts for d in f.dims
    ))  # fmt: skip
    tables = tuple(
        _table(problem, part, template, plan, footprints, [name for name, _ in dims],
               constraint, conventions, factors, rows)
        for part in parts_of(problem, conventions)
    )  # fmt: skip
    memories = [memory.name for memory in accelerator.memories]
    forms = np.zeros((1 + 4 * len(memories), len(plan.terms)))
    forms[0, plan.steps] = 8
    names = ("busiest_read", "busiest_write", "total_read", "total_write")
    for (memory, role, name), form in plan.columns.items():
        column = 1 + 4 * memories.index(memory) + names.index(name)
        for term, coefficient in form.items():
            forms[column, term] += coefficient * problem.operand[role].bits
    floors, copies = np.zeros(len(forms)), dict(above(accelerator))
    for (memory, role, name), form in plan.columns.items():
        again = role == "output" and name.endswith("read") and memory == _outermost(plan, role)
        if form and not again and (name.startswith("total") or not copies[memory]):
            floors[1 + 4 * memories.index(memory) + names.index(name)] += (
                touched(problem, role, conventions) * problem.operand[role].bits
            )
    weights = np.zeros((len(memories), len(footprints)))
    for number, (memory, role) in enumerate(footprints):
        weights[memories.index(memory), number] = problem.operand[role].bits
    fixed = np.zeros(len(memories))
    for (memory, role), size in plan.footprints.items():
        if isinstance(size, int):
            fixed[memories.index(memory)] += size * problem.operand[role].bits
    whole = np.array([term.whole for term in plan.terms])
    used = np.flatnonzero(forms.any(axis=0))
    tables = tuple(
        Table(t.nodes, t.chains, np.ascontiguousarray(t.wanted[:, used]),
              np.ascontiguousarray(t.kept[:, used]), np.ascontiguousarray(t.overlap[:, used]),
              t.extents, t.uses)
        for t in tables
    )  # fmt: skip
    return Space(
        template, plan, tables, whole[used], np.ascontiguousarray(forms[:, used]), weights,
        fixed, np.array([float(size) for _, size in dims]), floors,
    )  # fmt: skip


def _outermost(plan: Plan, role: OperandRole) -> str:
    """The first memory that keeps an operand: where its partial sums have no value at first."""
    return next(memory for memory, kept in plan.footprints if kept == role)


def _table(
    problem: Problem, part: tuple[str, ...], template: Template, plan: Plan,
    footprints: list[tuple[str, OperandRole]], dims: list[str], constraint: Constraint,
    conventions: Conventions, factors: Factors, rows: int,
) -> Table:  # fmt: skip
    sizes = problem.sizes
    slots = [slots_of(axis, sizes[axis], template, constraint) for axis in part]
    share = _share(min(rows, SHARED_ROWS), len(part)) if len(part) > 1 else rows
    by_axis = [
        chains_of(sizes[axis], tuple((s.room, s.largest) for s in own), factors, share)
        for axis, own in zip(part, slots, strict=True)
    ]
    combined = [sum(combination, ()) for combination in itertools.product(*by_axis)]
    nodes = tuple(slot.node for own in slots for slot in own)
    chains = tuple(chain for chain in combined if _fits(chain, slots, template, sizes, part))
    values = _values(problem, part, plan, template, nodes, chains, conventions)
    count = len(chains)
    wanted, kept = np.ones((2, count, len(plan.terms)))
    overlap = np.zeros((count, len(plan.terms)))
    for number, term in enumerate(plan.terms):
        for factor in term.factors:
            if factor in values:
                w, k, o, _ = values[factor]
                overlap[:, number] = overlap[:, number] * k + kept[:, number] * o
                wanted[:, number] *= w
                kept[:, number] *= k
    extents = np.ones((count, len(footprints)))
    for number, key in enumerate(footprints):
        sizes_here = plan.footprints[key]
        assert isinstance(sizes_here, tuple)
        for factor in sizes_here:
            if factor in values:
                extents[:, number] *= values[factor][3]
    uses = np.ones((count, len(dims)))
    for row, chain in enumerate(chains):
        for name, copies in _uses(chain, slots, template, sizes, part):
            uses[row, dims.index(name)] *= copies
    return Table(nodes, chains, wanted, kept, overlap, extents, uses)


def _share(rows: int, axes: int) -> int:
    """Rows per axis of a part of several axes."""
    return max(6, round(math.pow(rows, 1 / axes) * 1.3))


def _uses(
    chain: Chain, slots: list[tuple[Slot, ...]], template: Template, sizes: dict[str, int],
    part: tuple[str, ...],
) -> list[tuple[str, int]]:  # fmt: skip
    """Copies in use along each dimension of a fan-out."""
    uses, at = [], 0
    for axis, own in zip(part, slots, strict=True):
        extent = sizes[axis]
        for slot in own:
            tile = chain[at]
            if slot.room:
                uses.append((template.rooms[slot.node][0], -(-extent // tile)))
            extent, at = min(extent, tile), at + 1
    return uses


def _fits(
    chain: Chain, slots: list[tuple[Slot, ...]], template: Template, sizes: dict[str, int],
    part: tuple[str, ...],
) -> bool:  # fmt: skip
    """Whether the axes of the part together stay within each dimension of the fan-outs."""
    used: dict[str, int] = {}
    rooms = dict(template.rooms.values())
    for name, copies in _uses(chain, slots, template, sizes, part):
        used[name] = used.get(name, 1) * copies
    return all(copies <= rooms[name] for name, copies in used.items())


def _values(
    problem: Problem, part: tuple[str, ...], plan: Plan, template: Template,
    nodes: tuple[int, ...], chains: tuple[Chain, ...], conventions: Conventions,
) -> dict[int, Floats]:  # fmt: skip
    """For each factor on the part's axes: wanted, kept, overlap, largest by row (4, rows)."""
    mine = [n for n, factor in enumerate(plan.factors) if factor.axes[0] in part]
    tiles = np.ones((len(chains), len(template.nodes)), np.int64)
    if chains:
        tiles[:, list(nodes)] = np.array(chains, np.int64).reshape(len(chains), len(nodes))
    sizes = problem.sizes
    grown = np.array([[sizes[axis] for axis in part]] * len(chains), np.int64)
    if conventions.edges == "padded":
        for row in range(len(chains)):
            full, cut = padded(plan, sizes, tuple(int(t) for t in tiles[row]))
            tiles[row] = cut
            grown[row] = [full[axis] for axis in part]
    distinct: Distinct = {}
    return {
        n: chain_sums(plan.factors[n], problem, part, tiles, grown, conventions, distinct)
        for n in mine
    }
