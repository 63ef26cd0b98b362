"""What the tables of a template hold: the same for all problems of a kind, whatever their sizes.

Columns are written in one way (`chains.canonical`, a fixed order, keeps and gaps numbered from 0),
so that templates, operators, height and width ask for the same tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.hardware.accelerator import Accelerator, Fanout, Memory, OperandRole
from hwopt.hardware.conventions import Conventions
from hwopt.ir.program import Constraint
from hwopt.mapping.chains import SKIP
from hwopt.mapping.mapping import Keep, Mapping, Spread
from hwopt.mapping.plan import Group, Plan, above, groups_of, make_plan, structure
from hwopt.mapping.problem import Problem
from hwopt.mapping.tables import Column, Count, Share, Sliding, Window, share_of
from hwopt.mapping.template import Template, templates

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Skeleton: TypeAlias = tuple[tuple[Any, ...], ...]
"""What a mapspace depends on of a machine: levels, what they keep, fan-outs; no capacities."""

LINES = ("busiest_read", "busiest_write", "total_read", "total_write")


def skeleton(accelerator: Accelerator) -> Skeleton:
    """The structure of a machine."""
    return tuple(
        (level.name, level.multicast, level.reduces,
         tuple((dim.name, dim.size, dim.axes) for dim in level.dims))
        if isinstance(level, Fanout)
        else (level.name, level.keeps, level.bypass)
        for level in accelerator.levels
    )  # fmt: skip


@lru_cache(maxsize=256)
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
class Layout:
    """The table of one part: `at[j]` the column of product `j` (-1: none), `sizes` the products
    that the whole size of an axis multiplies; the rest as in `tables.PartSpec`, with masks of bits
    that are numbered from 0 (`bits`: what each is in the template). `windows`: some share is one.
    """

    columns: tuple[Column, ...]
    equal: tuple[bool, ...]
    at: Ints
    sizes: tuple[tuple[int, str], ...]
    uses: tuple[tuple[tuple[int, int], ...], ...]
    rooms: tuple[int, ...]
    marks: tuple[tuple[tuple[int, int], int], ...]
    slidings: tuple[Sliding, ...]
    bits: tuple[int, ...]
    windows: bool


@dataclass(frozen=True)
class Recipe:
    """A template, its plan and the layouts of its parts."""

    template: Template
    plan: Plan
    parts: tuple[tuple[str, ...], ...]
    memories: tuple[str, ...]

    @cached_property
    def dims(self) -> tuple[tuple[str, int], ...]:
        """Dimensions of fan-outs that are used, with their sizes."""
        return tuple(dict.fromkeys(self.template.rooms.values()))

    @cached_property
    def rooms(self) -> dict[str, tuple[int, ...]]:
        """Copies that fit at each slot of an axis (0: a loop in time)."""
        found: dict[str, list[int]] = {axis: [] for part in self.parts for axis in part}
        for number, node in enumerate(self.template.nodes):
            if not isinstance(node, Keep):
                room = self.template.rooms[number][1] if isinstance(node, Spread) else 0
                found[node.axis].append(room)
        return {axis: tuple(rooms) for axis, rooms in found.items()}

    @cached_property
    def footprints(self) -> tuple[tuple[int, OperandRole, tuple[int, ...]], ...]:
        """Memory, operand and factors of each footprint that depends on tiles."""
        return tuple(
            (self.memories.index(memory), role, factors)
            for (memory, role), factors in self.plan.footprints.items()
            if isinstance(factors, tuple)
        )

    @cached_property
    def residents(self) -> tuple[tuple[int, OperandRole], ...]:
        """Memory and operand of each footprint that does not."""
        return tuple(
            (self.memories.index(memory), role)
            for (memory, role), size in self.plan.footprints.items()
            if isinstance(size, int)
        )

    @cached_property
    def forms(self) -> dict[OperandRole | None, Floats]:
        """(columns of a row, terms): what a bit of each operand adds; None: steps, per byte."""
        shape = 1 + 4 * len(self.memories), len(self.plan.terms)
        forms: dict[OperandRole | None, Floats] = {None: np.zeros(shape)}
        forms[None][0, self.plan.steps] = 8.0
        for (memory, role, name), form in self.plan.columns.items():
            at = 1 + 4 * self.memories.index(memory) + LINES.index(name)
            own = forms.setdefault(role, np.zeros(shape))
            for term, coefficient in form.items():
                own[at, term] += coefficient
        return forms

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """One per part."""
        sliding = sorted({(slide.role, slide.keep) for slide in self.template.slides})
        products: list[tuple[tuple[int, ...], bool, tuple[int, ...]]] = [
            (term.factors, False,
             tuple(node for role, node in sliding if number in self.plan.entries[role, node]))
            for number, term in enumerate(self.plan.terms)
        ]  # fmt: skip
        products += [(factors, True, ()) for _, _, factors in self.footprints]
        return tuple(self._layout(part, products) for part in self.parts)

    def _layout(
        self, part: tuple[str, ...], products: list[tuple[tuple[int, ...], bool, tuple[int, ...]]]
    ) -> Layout:
        columns: dict[Column, list[int]] = {}
        sizes: list[tuple[int, str]] = []
        keeps = {node: n for n, node in enumerate(sorted({s.keep for s in self.template.slides}))}
        for j, (factors, largest, slid) in enumerate(products):
            shares: list[Share] = []
            for factor in (self.plan.factors[f] for f in factors):
                if factor.axes[0] not in part:
                    continue
                share = share_of(factor, part, self.plan.slots, factor.group, largest=largest)
                if isinstance(share, Window) or any(way != SKIP for way in share.ways):
                    shares.append(share)
                elif share.weighted:
                    sizes.append((j, part[share.axis]))
            if shares:
                window = any(isinstance(share, Window) for share in shares)
                own = tuple(keeps[node] for node in slid) if window else ()
                columns.setdefault(Column(tuple(sorted(shares, key=_order)), own), []).append(j)
        ordered = sorted(columns, key=lambda c: (tuple(_order(s) for s in c.shares), c.keeps))
        at = np.full(len(products) + len(self.dims), -1, np.int64)
        for number, column in enumerate(ordered):
            at[columns[column]] = number
        negative = {
            term for form in self.plan.columns.values() for term, c in form.items() if c < 0
        }
        spreads: dict[int, list[tuple[int, int]]] = {}
        for a, axis in enumerate(part):
            for s, node in enumerate(self.plan.slots[axis]):
                if node in self.template.rooms:
                    dim = self.dims.index(self.template.rooms[node])
                    spreads.setdefault(dim, []).append((a, s))
        for number, dim in enumerate(spreads):
            at[len(products) + dim] = len(ordered) + number
        marks, slidings, bits = self._slidings(part, keeps)
        return Layout(
            tuple(ordered), tuple(not negative.isdisjoint(columns[c]) for c in ordered), at,
            tuple(sizes), tuple(tuple(s) for s in spreads.values()),
            tuple(self.dims[d][1] for d in spreads), marks, slidings, bits,
            any(isinstance(share, Window) for column in ordered for share in column.shares),
        )  # fmt: skip

    def _slidings(
        self, part: tuple[str, ...], keeps: dict[int, int]
    ) -> tuple[
        tuple[tuple[tuple[int, int], int], ...], tuple[Sliding, ...], tuple[int, ...]
    ]:  # fmt: skip
        """Bits that walked loops of a part claim, the ways in which its windows slide, and what the
        bits are in the template.
        """
        slides = self.template.slides
        if not slides:
            return (), (), ()
        watched = sorted({node for slide in slides for node in slide.idle})
        gaps = sorted({(slide.gap, slide.axes) for slide in slides})
        places = sorted({slide.gap for slide in slides})
        bit = {item: 1 << n for n, item in enumerate([*watched, *gaps])}
        place = {
            node: (a, s)
            for a, axis in enumerate(part)
            for s, node in enumerate(self.plan.slots[axis])
        }
        own: dict[int, int] = {}

        def local(mask: int) -> int:
            """The mask in the part's own bits, numbered as they come up."""
            found = 0
            for one in (b for b in bit.values() if b & mask):
                found |= 1 << own.setdefault(one, len(own))
            return found

        marks = tuple((place[node], local(bit[node])) for node in watched if node in place)
        found = []
        for slide in slides:
            if slide.loop not in place:
                continue
            idle = tuple(place[node] for node in slide.idle if node in place)
            claims = local(bit[slide.gap, slide.axes])
            denies = sum(bit[node] for node in slide.idle if node not in place)
            denies += sum(bit[g] for g in gaps if g[0] == slide.gap and g[1] != slide.axes)
            found.append(
                Sliding(
                    keeps[slide.keep], place[slide.loop], places.index(slide.gap), idle, claims,
                    local(denies),
                )
            )  # fmt: skip
        return marks, tuple(found), tuple(own)


def _order(share: Share) -> tuple[Any, ...]:
    """A fixed order of shares that does not depend on names."""
    if isinstance(share, Count):
        return 0, share.axis, share.ways, share.weighted
    return 1, share.kinds, share.clip, share.largest


def nameless(group: Group, part: tuple[str, ...]) -> Group:
    """A group by the places of its axes in a part."""
    rows = tuple(
        tuple(
            row[group.axes.index(axis)] if axis in group.axes else 0 for axis in part
        )
        for row in group.coefficients
    )  # fmt: skip
    return replace(group, axes=(), coefficients=rows, role=None)


def filled(
    column: Column, groups: dict[tuple[OperandRole | None, tuple[str, ...]], Group]
) -> Column:
    """A column with the groups of a problem (`nameless`, by operand and axes)."""
    shares = tuple(
        replace(share, group=groups[share.group.role, share.group.axes])
        if isinstance(share, Window)
        else share
        for share in column.shares
    )
    return Column(shares, column.keeps)


_RECIPES: dict[tuple[object, ...], tuple[Recipe, ...]] = {}


def recipes(
    problem: Problem, structure_: Skeleton, constraint: Constraint, conventions: Conventions,
    stays: tuple[tuple[OperandRole, str], ...],
) -> tuple[Recipe, ...]:  # fmt: skip
    """Templates with plans, remembered by what they depend on: not the sizes."""
    kind = (
        tuple(axis.name for axis in problem.axes), problem.sequential,
        tuple(
            (o.role, tuple((g.axes, g.plain) for g in groups_of(o, problem, conventions)))
            for o in problem.operands
        ),
    )  # fmt: skip
    key = kind, structure_, constraint.spatial, conventions, stays
    if key not in _RECIPES:
        machine = bare(structure_)
        counted = replace(conventions, fetch="counted", halo="none")
        parts = parts_of(problem, conventions)
        memories = tuple(memory.name for memory in machine.memories)
        _RECIPES[key] = tuple(
            Recipe(
                template,
                make_plan(
                    problem, structure(Mapping(template.nodes), machine), above(machine), counted,
                    stays,
                ),
                parts, memories,
            )
            for template in templates(problem, machine, constraint, dict(stays), conventions)
        )  # fmt: skip
    return _RECIPES[key]


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
