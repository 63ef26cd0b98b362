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
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.hardware.accelerator import Accelerator, Fanout, Memory, OperandRole
from hwopt.hardware.conventions import Conventions
from hwopt.ir.program import Constraint
from hwopt.mapping.chains import Factors, number_of_chains
from hwopt.mapping.mapping import Keep, Mapping, Spread
from hwopt.mapping.plan import Group, Plan, above, groups_of, make_plan, structure
from hwopt.mapping.problem import Problem
from hwopt.mapping.tables import (
    Column,
    Cut,
    PartSpec,
    Share,
    Sliding,
    Table,
    Window,
    build_table,
    share_of,
)
from hwopt.mapping.template import Template, templates

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Skeleton: TypeAlias = tuple[tuple[Any, ...], ...]
"""What a mapspace depends on of a machine: levels, what they keep, fan-outs; no capacities."""

MOST_CHAINS, MOST_PAIRS, THINNED_CHAINS = 4e6, 1.5e4, 7e2
"""Chains of any integers that are listed for one axis, and for axes that share a dimension; beyond,
tile sizes are thinned out to leave so many."""


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


def skeleton(accelerator: Accelerator) -> Skeleton:
    """The structure of a machine."""
    return tuple(
        (level.name, level.multicast, level.reduces,
         tuple((dim.name, dim.size, dim.axes) for dim in level.dims))
        if isinstance(level, Fanout)
        else (level.name, level.keeps, level.bypass)
        for level in accelerator.levels
    )  # fmt: skip


def bare(structure_: Skeleton) -> Accelerator:
    """A machine of this structure without any numbers."""
    levels = tuple(
        Memory(name=level[0], keeps=level[1], bypass=level[2])
        if len(level) == 3
        else Fanout(
            name=level[0], multicast=level[1], reduces=level[2],
            dims=tuple({"name": n, "size": s, "axes": a} for n, s, a in level[3]),
        )
        for level in structure_
    )  # fmt: skip
    return Accelerator(name="skeleton", clock_hz=1.0, levels=levels)


@dataclass(frozen=True)
class _Recipe:
    """A template and its plan: the same for all problems of a kind."""

    template: Template
    plan: Plan


Kind: TypeAlias = tuple[object, ...]
_RECIPES: dict[tuple[object, ...], tuple[_Recipe, ...]] = {}


def _recipes(
    problem: Problem, structure_: Skeleton, constraint: Constraint, conventions: Conventions,
    stays: tuple[tuple[OperandRole, str], ...],
) -> tuple[_Recipe, ...]:  # fmt: skip
    """Templates with plans, remembered by what they depend on: not the sizes."""
    kind: Kind = (
        tuple(axis.name for axis in problem.axes), problem.sequential,
        tuple(
            (o.role, tuple((g.axes, g.plain) for g in groups_of(o, problem, conventions)))
            for o in problem.operands
        ),
    )  # fmt: skip
    key = kind, structure_, constraint.spatial, conventions, stays
    if key not in _RECIPES:
        machine = bare(structure_)
        counted = _counted(conventions)
        _RECIPES[key] = tuple(
            _Recipe(
                template,
                make_plan(
                    problem,
                    structure(Mapping(template.nodes), machine),
                    above(machine),
                    counted,
                    stays,
                ),
            )
            for template in templates(problem, machine, constraint, dict(stays), conventions)
        )
    return _RECIPES[key]


@lru_cache(maxsize=16)
def _counted(conventions: Conventions) -> Conventions:
    """The conventions under which every loop above a keep fetches: how templates are counted."""
    from dataclasses import replace

    return replace(conventions, fetch="counted", halo="none")


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
        self.relaxed = relaxed
        self.conventions, self.stays = conventions, stays
        self.recipes = _recipes(problem, structure_, constraint, conventions, stays)
        self.machine = bare(structure_)
        self.memories = [memory.name for memory in self.machine.memories]
        self.groups: dict[tuple[OperandRole, tuple[str, ...]], Group] = {
            (o.role, g.axes): g
            for o in problem.operands
            for g in groups_of(o, problem, conventions)
        }
        self.parts = parts_of(problem, conventions)
        self.bits = {o.role: o.bits for o in problem.operands}
        self.indexed = {o.role: o.access.axes for o in problem.operands}

    def space(self, recipe: _Recipe) -> Space:
        """One template with its tables."""
        template, plan = recipe.template, recipe.plan
        dims = list(dict.fromkeys(template.rooms.values()))
        products: list[tuple[tuple[int, ...], bool, tuple[int, ...]]] = [
            (term.factors, False, keeps) for term, keeps in self._terms(template, plan)
        ]
        sizes = [(k, v) for k, v in plan.footprints.items() if isinstance(v, tuple)]
        products += [(v, True, ()) for _, v in sizes]
        count = len(products) + len(dims)
        constant, column = np.ones(count), np.full((count, len(self.parts)), -1, np.int64)
        tables, thinned = [], list[str]()
        for p, part in enumerate(self.parts):
            spec, where, uses = self._spec(part, template, plan, products, dims)
            table = build_table(spec)
            tables.append(table)
            thinned += [axis for axis, cut in zip(part, spec.cuts, strict=True) if cut.tried]
            varies = _varies(table)
            for j in range(count):
                at = where[j] if j < len(products) else (
                    len(spec.columns) + uses[j - len(products)]
                    if j - len(products) in uses else -1
                )  # fmt: skip
                if at < 0 or not len(table):
                    continue
                if varies[at]:
                    column[j, p] = at
                else:
                    constant[j] *= table.tree.lo[0, at]
        for number, ((_, role), _) in enumerate(sizes):
            constant[len(plan.terms) + number] *= self.bits[role]
        forms, fixed = self._forms(plan, constant, column)
        resident = np.zeros(len(self.memories))
        for (memory, role), size in plan.footprints.items():
            if isinstance(size, int):
                whole = math.prod(self.problem.operand[role].shape)
                resident[self.memories.index(memory)] += whole * self.bits[role]
        places = np.array([self.memories.index(name) for (name, _), _ in sizes], np.int64)
        used = np.array(
            [*np.flatnonzero(forms.any(axis=0)), *range(len(plan.terms), count)], np.int64
        )
        terms = len(used) - (count - len(plan.terms))
        return Space(
            template, self.parts, plan.slots, tuple(tables), constant[used],
            np.ascontiguousarray(column[used]), terms,
            np.ascontiguousarray(forms[:, used[:terms]]), fixed, places,
            np.array([float(size) for _, size in dims]), resident, tuple(thinned),
        )  # fmt: skip

    def _terms(self, template: Template, plan: Plan):  # type: ignore[no-untyped-def]
        """Each term with the keeps whose windows it fetches."""
        sliding = {(slide.role, slide.keep) for slide in template.slides}
        for number, term in enumerate(plan.terms):
            keeps = tuple(
                node for role, node in sorted(sliding) if number in plan.entries[role, node]
            )
            yield term, keeps

    def _spec(
        self, part: tuple[str, ...], template: Template, plan: Plan,
        products: list[tuple[tuple[int, ...], bool, tuple[int, ...]]],
        dims: list[tuple[str, int]],
    ) -> tuple[PartSpec, list[int], dict[int, int]]:  # fmt: skip
        """The table's specification, the column of each product, the place of each dimension."""
        columns: dict[Column, int] = {}
        where = []
        negative = self._negative(plan)
        equal = set[int]()
        for j, (factors, largest, keeps) in enumerate(products):
            shares = [
                self._share(plan, f, part, largest=largest)
                for f in factors if plan.factors[f].axes[0] in part
            ]  # fmt: skip
            if not shares:
                where.append(-1)
                continue
            window = any(isinstance(s, Window) for s in shares)
            column = Column(tuple(sorted(shares, key=repr)), keeps if window else ())
            where.append(columns.setdefault(column, len(columns)))
            if j in negative:
                equal.add(where[-1])
        spreads: dict[int, list[tuple[int, int]]] = {}
        for a, axis in enumerate(part):
            for s, node in enumerate(plan.slots[axis]):
                if node in template.rooms:
                    spreads.setdefault(dims.index(template.rooms[node]), []).append((a, s))
        marks, slidings = self._slidings(part, template, plan)
        spec = PartSpec(
            self._cuts(part, template), tuple(columns),
            tuple(tuple(s) for s in spreads.values()), tuple(dims[d][1] for d in spreads),
            marks, slidings, self.factors, self.conventions.strided == "bounding",
            tuple(n in equal for n in range(len(columns))), self.relaxed,
        )  # fmt: skip
        return spec, where, {d: n for n, d in enumerate(spreads)}

    def _share(self, plan: Plan, number: int, part: tuple[str, ...], *, largest: bool) -> Share:
        factor = plan.factors[number]
        group = factor.group
        if group is not None and group.role is not None:
            group = self.groups[group.role, group.axes]
        return share_of(factor, part, plan.slots, group, largest=largest)

    def _negative(self, plan: Plan) -> set[int]:
        """Terms that some column subtracts and that are not the same for all rows."""
        return {term for form in plan.columns.values() for term, c in form.items() if c < 0}

    def _cuts(self, part: tuple[str, ...], template: Template) -> tuple[Cut, ...]:
        """The slots of the axes, and the tile sizes to try where there are too many chains."""
        cuts = [self._cut(axis, template) for axis in part]
        chains = [number_of_chains(cut.size, len(cut.slots) - 1) for cut in cuts]
        most = MOST_CHAINS if len(part) == 1 else MOST_PAIRS
        if self.factors == "perfect" or math.prod(chains) <= most:
            return tuple(cuts)
        most = THINNED_CHAINS
        for turn, at in enumerate(sorted(range(len(cuts)), key=lambda n: chains[n])):
            share = most ** (1 / (len(cuts) - turn))
            cut = cuts[at]
            if chains[at] > share:
                sizes = thinned_sizes(cut.size, len(cut.slots) - 1, round(share))
                if len(sizes) < cut.size:
                    cuts[at] = Cut(cut.size, cut.slots, sizes)
            most /= min(chains[at], share)
        return tuple(cuts)

    def _cut(self, axis: str, template: Template) -> Cut:
        """The slots of an axis with the tile limits of the constraint."""
        size = self.problem.sizes[axis]
        limits = {memory: dict(tiles) for memory, tiles in self.constraint.tile}
        slots: list[tuple[int, int]] = []
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

    def _slidings(
        self, part: tuple[str, ...], template: Template, plan: Plan
    ) -> tuple[tuple[tuple[tuple[int, int], int], ...], tuple[Sliding, ...]]:
        """Bits that walked loops of a part claim, and the ways in which its windows slide."""
        slides = template.slides
        if not slides:
            return (), ()
        watched = sorted({node for slide in slides for node in slide.idle})
        gaps = sorted({(slide.gap, slide.axes) for slide in slides})
        bit = {item: 1 << n for n, item in enumerate([*watched, *gaps])}
        place = {
            node: (a, s) for a, axis in enumerate(part) for s, node in enumerate(plan.slots[axis])
        }
        marks = tuple((place[node], bit[node]) for node in watched if node in place)
        found = []
        for slide in slides:
            if slide.loop not in place:
                continue
            own = tuple(place[node] for node in slide.idle if node in place)
            denies = sum(bit[node] for node in slide.idle if node not in place)
            denies += sum(bit[g] for g in gaps if g[0] == slide.gap and g[1] != slide.axes)
            claims = bit[slide.gap, slide.axes]
            found.append(Sliding(slide.keep, place[slide.loop], slide.gap, own, claims, denies))
        return marks, tuple(found)

    def _forms(self, plan: Plan, constant: Floats, column: Ints) -> tuple[Floats, Floats]:
        """Columns of a row (without footprints) in bits as combinations of terms that vary, and the
        constants of those that do not.
        """
        names = ("busiest_read", "busiest_write", "total_read", "total_write")
        forms = np.zeros((1 + 4 * len(self.memories), len(plan.terms)))
        forms[0, plan.steps] = 8.0
        for (memory, role, name), form in plan.columns.items():
            at = 1 + 4 * self.memories.index(memory) + names.index(name)
            for term, coefficient in form.items():
                forms[at, term] += coefficient * self.bits[role]
        still = (column[: len(plan.terms)] < 0).all(axis=1)
        fixed = forms[:, still] @ constant[: len(plan.terms)][still]
        forms[:, still] = 0.0
        return forms, np.asarray(fixed)


def _varies(table: Table) -> npt.NDArray[np.bool_]:
    """Columns that are not the same for all rows."""
    if not len(table):
        return np.zeros(0, np.bool_)
    return np.asarray(table.tree.lo[0] != table.tree.hi[0])


def parts_of(problem: Problem, conventions: Conventions) -> tuple[tuple[str, ...], ...]:
    """Classes of axes that share a tensor dimension in any operand."""
    classes: list[set[str]] = [{axis.name} for axis in problem.axes]
    for operand in problem.operands:
        for group in groups_of(operand, problem, conventions):
            joined = [c for c in classes if c & set(group.axes)]
            classes = [c for c in classes if c not in joined]
            classes.append(set().union(*joined))
    order = [axis.name for axis in problem.axes]
    found = [tuple(name for name in order if name in c) for c in classes]
    return tuple(sorted(found, key=lambda c: order.index(c[0])))


@lru_cache(maxsize=1 << 10)
def thinned_sizes(size: int, free: int, most: int) -> tuple[int, ...]:
    """Tile sizes to try where there are too many: divisors, and the smallest tiles of counts in
    geometric steps, with about `most` chains.
    """
    divisors = {d for n in range(1, math.isqrt(size) + 1) if size % n == 0 for d in (n, size // n)}
    step = 1.02
    while True:
        tried, count = set(divisors), 1.0
        while count <= size:
            tried.add(-(-size // round(count)))
            count = max(count + 1, count * step)
        if math.comb(len(tried) + free - 1, free) <= most or step > 4:
            return tuple(sorted(tried))
        step = 1 + (step - 1) * 1.3
