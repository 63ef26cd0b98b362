"""The mapspace of one nest on one structure, as arrays for the compiled search.

Every count of a mapping is a product over parts, or a sum of such products:

    product j = constant[j] * product over parts p of column[j, p] of the row chosen for p

Products are, in this order, the terms of traffic and steps, the footprints of operands in memories
(in bits), and the copies used of each dimension of a fan-out. What a price reads (`row_columns`) is
a form: a combination of terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.hardware.accelerator import OperandRole
from hwopt.hardware.conventions import Conventions
from hwopt.ir.program import Constraint
from hwopt.mapping.chains import Factors, number_of_chains, number_of_divisions
from hwopt.mapping.layout import (
    Layout,
    Recipe,
    Skeleton,
    bare,
    filled,
    nameless,
    parts_of,
    recipes,
    skeleton,
)
from hwopt.mapping.mapping import Keep, Mapping, Spread
from hwopt.mapping.plan import Group, groups_of
from hwopt.mapping.problem import Problem
from hwopt.mapping.tables import Cut, PartSpec, Table, build_table
from hwopt.mapping.template import Template

__all__ = ["Skeleton", "Space", "bare", "skeleton", "spaces_of"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
MOST_CHAINS, MOST_NESTED, MOST_PAIRS = 4e6, 2e5, 2e3
"""Chains of any integers that are listed for one axis with at most two free slots (few of them are
not beaten), with more, and for axes that share a dimension; beyond, tile sizes are thinned out."""

MOST_DIVISIONS, TRIED_DIVISIONS = 3e4, 1e4
"""Chains of divisors that are listed for one part; beyond, divisors are thinned out to leave about
so many."""

TRIED_CHAINS, CELLS, THINNED_CHAINS = 3e3, 3e3, 7e2
"""About how many chains are left then: of one axis, of one axis where each size stands for others,
and of axes that share a dimension."""


@dataclass(frozen=True)
class Space:
    """One template: tables by part, and its products (see above).

    `column[j, p]`: column of part `p` in product `j`, -1 for none; `terms`: how many products are
    terms; `forms` (columns of a row in bits, terms) and `fixed` their constants; `room[d]` of the
    dimensions; `memory[f]` of the footprints; `resident` (memories,) bits that are always there;
    `thinned`: axes of which not every tile size is tried.
    """

    template: Template
    parts: tuple[tuple[str, ...], ...]
    slots: dict[str, tuple[int, ...]]
    tables: tuple[Table, ...]
    constant: Floats
    column: Ints
    terms: int
    forms: Floats
    fixed: Floats
    memory: Ints
    room: Floats
    resident: Floats
    thinned: tuple[str, ...]

    def mapping(self, rows: tuple[int, ...], sizes: dict[str, int]) -> Mapping:
        """The mapping of a choice of one row per part."""
        tiles = [1] * len(self.template.nodes)
        slid: list[int] = []
        for part, table, row in zip(self.parts, self.tables, rows, strict=True):
            for axis, chains in zip(part, table.chains, strict=True):
                for node, tile in zip(self.slots[axis], chains[row].tolist(), strict=True):
                    tiles[node] = tile
            slid += [self.slots[part[axis]][slot] for axis, slot in table.slid[row]]
        return self.template.mapping(tuple(tiles), sizes, tuple(slid))

    @property
    def mappings(self) -> int:
        """How many mappings it spans."""
        return math.prod(table.listed for table in self.tables)


@lru_cache(maxsize=512)
def spaces_of(
    problem: Problem, structure_: Skeleton, constraint: Constraint, conventions: Conventions,
    stays: tuple[tuple[OperandRole, str], ...], factors: Factors, relaxed: bool = False,
) -> tuple[Space, ...]:  # fmt: skip
    """All templates of a problem on a structure with their tables (`relaxed`: see `PartSpec`)."""
    build = _Builder(problem, structure_, constraint, conventions, stays, factors, relaxed)
    spaces = [build.space(recipe) for recipe in build.recipes]
    return tuple(space for space in spaces if all(len(table) for table in space.tables))


class _Builder:
    """What the spaces of one problem share."""

    def __init__(
        self, problem: Problem, structure_: Skeleton, constraint: Constraint,
        conventions: Conventions, stays: tuple[tuple[OperandRole, str], ...], factors: Factors,
        relaxed: bool,
    ) -> None:  # fmt: skip
        self.problem, self.constraint, self.factors = problem, constraint, factors
        self.relaxed, self.conventions = relaxed, conventions
        self.recipes = recipes(problem, structure_, constraint, conventions, stays)
        parts = parts_of(problem, conventions)
        self.groups: dict[tuple[OperandRole | None, tuple[str, ...]], Group] = {
            (o.role, g.axes): nameless(g, next(part for part in parts if g.axes[0] in part))
            for o in problem.operands
            for g in groups_of(o, problem, conventions)
        }
        self.bits = {o.role: o.bits for o in problem.operands}
        self.indexed = {o.role: o.access.axes for o in problem.operands}

    def space(self, recipe: Recipe) -> Space:
        """One template with its tables."""
        terms, sizes = len(recipe.plan.terms), len(recipe.footprints)
        count = terms + sizes + len(recipe.dims)
        constant, column = np.ones(count), np.full((count, len(recipe.parts)), -1, np.int64)
        tables, thinned = [], list[str]()
        for p, (part, layout) in enumerate(zip(recipe.parts, recipe.layouts, strict=True)):
            spec = self._spec(part, layout, recipe)
            table = build_table(spec, layout.bits)
            tables.append(table)
            thinned += [axis for axis, cut in zip(part, spec.cuts, strict=True) if cut.tried]
            for j, axis in layout.sizes:
                constant[j] *= self.problem.sizes[axis]
            if not len(table):
                continue
            at = layout.at
            there = np.append(table.varies, False)[at]
            column[there, p] = at[there]
            still = ~there & (at >= 0)
            constant[still] *= table.tree.lo[0, at[still]]
        for number, (_, role, _) in enumerate(recipe.footprints):
            constant[terms + number] *= self.bits[role]
        forms, fixed = self._forms(recipe, constant, column)
        resident = np.zeros(len(recipe.memories))
        for memory, role in recipe.residents:
            resident[memory] += math.prod(self.problem.operand[role].shape) * self.bits[role]
        used = np.concatenate([np.flatnonzero(forms.any(axis=0)), np.arange(terms, count)])
        kept = len(used) - (count - terms)
        return Space(
            recipe.template, recipe.parts, recipe.plan.slots, tuple(tables), constant[used],
            column[used], kept, np.ascontiguousarray(forms[:, used[:kept]]), fixed,
            np.array([memory for memory, _, _ in recipe.footprints], np.int64),
            np.array([float(size) for _, size in recipe.dims]), resident, tuple(thinned),
        )  # fmt: skip

    def _spec(self, part: tuple[str, ...], layout: Layout, recipe: Recipe) -> PartSpec:
        columns = layout.columns
        if layout.windows:
            columns = tuple(filled(column, self.groups) for column in columns)
        return PartSpec(
            self._cuts(part, recipe), columns, layout.uses, layout.rooms, layout.marks,
            layout.slidings, self.factors, layout.equal, self.relaxed,
        )  # fmt: skip

    def _cuts(self, part: tuple[str, ...], recipe: Recipe) -> tuple[Cut, ...]:
        """The slots of the axes, and the tile sizes to try where there are too many chains."""
        cuts = [self._cut(axis, recipe) for axis in part]
        perfect = self.factors == "perfect"
        number = number_of_divisions if perfect else number_of_chains
        chains = [float(number(cut.size, len(cut.slots) - 1)) for cut in cuts]
        most = MOST_DIVISIONS if perfect else MOST_PAIRS
        if len(part) == 1 and not perfect:
            most = MOST_CHAINS if len(cuts[0].slots) <= 3 else MOST_NESTED
        if math.prod(chains) <= most:
            return tuple(cuts)
        most = TRIED_DIVISIONS if perfect and not self.relaxed else THINNED_CHAINS
        if len(part) == 1 and not perfect:
            most = CELLS if self.relaxed else TRIED_CHAINS
        thin = thinned_divisors if perfect and not self.relaxed else thinned_sizes
        for turn, at in enumerate(sorted(range(len(cuts)), key=lambda n: chains[n])):
            share = most ** (1 / (len(cuts) - turn))
            cut = cuts[at]
            if chains[at] > share:
                sizes = thin(cut.size, len(cut.slots) - 1, round(share))
                if len(sizes) < cut.size:
                    cuts[at] = Cut(cut.size, cut.slots, sizes)
            most /= min(chains[at], share)
        return tuple(cuts)

    def _cut(self, axis: str, recipe: Recipe) -> Cut:
        """The slots of an axis with the tile limits of the constraint."""
        size = self.problem.sizes[axis]
        if not self.constraint.tile and axis not in self.problem.sequential:
            return Cut(size, tuple((room, size) for room in recipe.rooms[axis]))
        limits = {memory: dict(tiles) for memory, tiles in self.constraint.tile}
        slots: list[tuple[int, int]] = []
        template = recipe.template
        for number, node in enumerate(template.nodes):
            if isinstance(node, Keep):
                most = limits.get(node.memory, {}).get(axis, size)
                if most < size and any(axis in self.indexed[role] for role in node.roles):
                    if not slots:
                        return Cut(size, ())  # the whole axis is kept: no chain
                    slots[-1] = slots[-1][0], min(slots[-1][1], most)
            elif node.axis == axis:
                slots.append((template.rooms[number][1] if isinstance(node, Spread) else 0, size))
        if axis in self.problem.sequential:
            slots = [(room, 1) for room, _ in slots]
        return Cut(size, tuple(slots))

    def _forms(self, recipe: Recipe, constant: Floats, column: Ints) -> tuple[Floats, Floats]:
        """Columns of a row (without footprints) in bits as combinations of terms that vary, and the
        constants of those that do not.
        """
        forms = recipe.forms[None].copy()
        for role, own in recipe.forms.items():
            if role is not None:
                forms += own * self.bits[role]
        terms = forms.shape[1]
        still = (column[:terms] < 0).all(axis=1)
        fixed = forms[:, still] @ constant[:terms][still]
        forms[:, still] = 0.0
        return forms, np.asarray(fixed)


@lru_cache(maxsize=1 << 10)
def thinned_sizes(size: int, free: int, most: int) -> tuple[int, ...]:
    """Tile sizes to try where there are too many: the smallest tiles of counts in geometric steps,
    with at most about `most` chains; divisors are searched by themselves before.
    """
    step = 1.02
    while True:
        tried, count = {1, size}, 1.0
        while count <= size:
            tried.add(-(-size // round(count)))
            count = max(count + 1, count * step)
        if math.comb(len(tried) + free - 1, free) <= most or step > size:
            return tuple(sorted(tried))
        step = 1 + (step - 1) * 1.3


@lru_cache(maxsize=1 << 10)
def thinned_divisors(size: int, free: int, most: int) -> tuple[int, ...]:
    """Divisors to try where there are too many: those left out first are next to others."""
    tried = [d for d in range(1, size + 1) if size % d == 0]
    while len(tried) > 2 and _divisions(tuple(tried), free) > most:
        inner = range(1, len(tried) - 1)
        tried.pop(min(inner, key=lambda n: tried[n + 1] / tried[n - 1]))
    return tuple(tried)


def _divisions(tried: tuple[int, ...], free: int) -> int:
    """Chains of these sizes in which each divides the one before it."""
    ways = dict.fromkeys(tried, 1)
    for _ in range(free):
        ways = {d: sum(n for e, n in ways.items() if d % e == 0) for d in tried}
    return ways[tried[-1]]
