"""The best mapping of one nest on one machine, with a certificate.

Every template (order of keeps, loops, spreads, bypass) is searched by branch and bound over tables
of tile chains (`tables`, `search`); the incumbent is shared. Tiles may be any integer: tried are
the smallest size of every count of tiles and all divisors, at every node, thinned where a table
would grow beyond `rows`. The certificate says over what the result is optimal, or how far from it
the result may be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from hwopt.errors import InfeasibleError
from hwopt.hardware.accelerator import ROLES, Accelerator, Fanout, OperandRole
from hwopt.hardware.conventions import NATIVE, Conventions
from hwopt.ir.program import Constraint
from hwopt.mapping.analysis import OBJECTIVES, Analysis, Objective, leakage_watts, price
from hwopt.mapping.mapping import Mapping
from hwopt.mapping.problem import Problem
from hwopt.mapping.search import Forest, solve
from hwopt.mapping.tables import ROWS, Factors, Space, build_space
from hwopt.mapping.template import templates
from hwopt.mapping.traffic import analyse, check_size
from hwopt.quantities import show_bytes

BUDGET = 60_000
"""Boxes bounded per problem before the search stops with a stated gap."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was searched: templates, mappings they span, boxes bounded; whether it was exhausted.

    `gap` is the most by which a mapping of this space may be better (0.02: the objective could be
    2 % lower); 0 when the search was exhausted.
    """

    templates: int
    mappings: int
    boxes: int
    exhausted: bool
    gap: float

    def __str__(self) -> str:
        over = f"{self.mappings:.3g} mappings of {self.templates} templates"
        if self.exhausted:
            return f"best of {over} ({self.boxes} boxes bounded)"
        return f"within {self.gap:.1%} of the best of {over} ({self.boxes} boxes bounded)"


@dataclass(frozen=True)
class Best:
    """A mapping with its counts and price."""

    mapping: Mapping
    analysis: Analysis
    seconds: float
    joules: float
    bound: str
    certificate: Certificate


def best_mapping(
    problem: Problem,
    accelerator: Accelerator,
    *,
    objective: Objective = "latency",
    constraint: Constraint | None = None,
    conventions: Conventions = NATIVE,
    resident: MappingType[OperandRole, str] | None = None,
    factors: Factors | None = None,
    rows: int | None = None,
    budget: int = BUDGET,
) -> Best:
    """The mapping with the least objective; ties go to lower latency, then lower energy.

    `accelerator` has every number filled in (`resolved()`). `factors` ("any" integer tiles or
    "perfect" divisors) defaults to the constraint's; `rows` bounds the tables. Raises
    `InfeasibleError` with the operand, memory and bytes when not even tiles of one element fit.
    """
    check_size(problem)
    constraint = constraint or Constraint()
    stays = tuple(sorted((resident or {}).items()))
    kind: Factors = factors or ("perfect" if constraint.factors == "perfect" else "any")
    spaces = spaces_of(
        problem, skeleton(accelerator), freeze(constraint), conventions, stays, kind,
        rows or ROWS[kind],
    )  # fmt: skip
    machine, memories = machine_arrays(accelerator)
    best, chosen, boxes, least = np.full(3, np.inf), None, 0, math.inf
    ranked = _ranked(spaces, problem, machine, memories, objective)
    for number, (space, forest) in enumerate(ranked):
        found = np.zeros(len(space.tables), np.int64)
        before = best.copy()
        share = max(2000, (budget - boxes) // max(1, (len(ranked) - number) // 3))
        used, left = solve(
            forest.packed, float(problem.points), machine, memories, OBJECTIVES.index(objective),
            best, found, share if np.isfinite(best[0]) else 50 * share,
        )  # fmt: skip
        boxes, least = boxes + used, min(least, left)
        if not np.array_equal(before, best):
            chosen = space, tuple(int(row) for row in found)
    if chosen is None:
        raise _infeasible(problem, accelerator, dict(stays))
    space, picked = chosen
    mapping = space.template.mapping(space.tiles(picked), problem.sizes)
    analysis = analyse(problem, mapping, accelerator, conventions, dict(stays))
    paid = price(analysis.row(accelerator), accelerator, problem.points)
    exhausted = not least < best[0]
    certificate = Certificate(
        len(spaces), sum(math.prod(len(t.chains) for t in s.tables) for s, _ in spaces), boxes,
        exhausted, 0.0 if exhausted else 1 - least / float(best[0]),
    )  # fmt: skip
    return Best(mapping, analysis, paid.seconds, paid.joules, paid.bound, certificate)


def skeleton(accelerator: Accelerator) -> str:
    """What a mapspace depends on: levels, what they keep, fan-outs. Not sizes of memories."""
    levels = tuple(
        Fanout(**level.model_dump()) if isinstance(level, Fanout)
        else type(level)(name=level.name, keeps=level.keeps, bypass=level.bypass)
        for level in accelerator.levels
    )  # fmt: skip
    return Accelerator(name="skeleton", clock_hz=1.0, levels=levels).model_dump_json()


def freeze(constraint: Constraint) -> Constraint:
    """Without the choice of factors, which is passed by itself."""
    return Constraint(constraint.spatial, constraint.tile)


@lru_cache(maxsize=256)
def spaces_of(
    problem: Problem, structure: str, constraint: Constraint, conventions: Conventions,
    stays: tuple[tuple[OperandRole, str], ...], factors: Factors, rows: int,
) -> tuple[tuple[Space, Forest], ...]:  # fmt: skip
    """All templates of a problem on a structure, ready for search."""
    accelerator = Accelerator.model_validate_json(structure)
    found = []
    for template in templates(problem, accelerator, constraint, dict(stays)):
        space = build_space(
            problem, template, accelerator, constraint, conventions, stays, factors, rows
        )
        if all(table.chains for table in space.tables):
            found.append((space, Forest(space)))
    return tuple(found)


def machine_arrays(
    accelerator: Accelerator,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The numbers of `analysis.price`, packed for the search."""
    machine = np.array([
        accelerator.clock_hz, accelerator.fill_cycles,
        accelerator.compute.joules_per_mac or 0.0, leakage_watts(accelerator),
    ])  # fmt: skip
    memories = np.array([
        (m.usable_bytes, m.read_bytes_per_s or math.inf, m.write_bytes_per_s or math.inf,
         m.bytes_per_s or math.inf, m.read_joules_per_byte or 0.0, m.write_joules_per_byte or 0.0)
        for m in accelerator.memories
    ])  # fmt: skip
    return machine, memories


def _ranked(
    spaces: tuple[tuple[Space, Forest], ...], problem: Problem,
    machine: npt.NDArray[np.float64], memories: npt.NDArray[np.float64], objective: Objective,
) -> list[tuple[Space, Forest]]:  # fmt: skip
    """Spaces, most promising first: by what a short dive into each one finds."""
    keys = []
    for number, (space, forest) in enumerate(spaces):
        best, found = np.full(3, np.inf), np.zeros(len(space.tables), np.int64)
        solve(
            forest.packed, float(problem.points), machine, memories, OBJECTIVES.index(objective),
            best, found, 300,
        )  # fmt: skip
        keys.append((*best, number))
    return [spaces[int(key[3])] for key in sorted(keys)]


def _infeasible(
    problem: Problem, accelerator: Accelerator, resident: dict[OperandRole, str]
) -> InfeasibleError:
    """Which memory cannot hold even one element of each operand that it must keep."""
    for memory in accelerator.memories:
        needs = {}
        for role in (r for r in ROLES if r in problem.operand and r in memory.keeps):
            operand = problem.operand[role]
            if resident.get(role) == memory.name:
                needs[role] = math.prod(operand.shape) * operand.bits / 8
            elif role not in memory.bypass:
                needs[role] = operand.bits / 8
        if sum(needs.values()) > memory.usable_bytes:
            parts = ", ".join(f"{role} {show_bytes(size)}" for role, size in needs.items())
            return InfeasibleError(
                "the least that an operator needs does not fit", where=memory.name,
                value=f"{show_bytes(sum(needs.values()))} ({parts})",
                allowed=f"{show_bytes(memory.usable_bytes)} usable",
                fix=f"a capacity of {show_bytes(sum(needs.values()))} or more, or a bypass",
            )  # fmt: skip
    return InfeasibleError(
        "no mapping satisfies the constraints of this operator", where=accelerator.name,
        value=", ".join(f"{a.name}={a.size}" for a in problem.axes),
        fix="relax the constraint on tiles or on spatial axes",
    )  # fmt: skip
