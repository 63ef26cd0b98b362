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
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.errors import InfeasibleError
from hwopt.hardware.accelerator import ROLES, Accelerator, Fanout, OperandRole
from hwopt.hardware.conventions import NATIVE, Conventions
from hwopt.ir.program import Constraint
from hwopt.mapping.analysis import OBJECTIVES, Analysis, Objective, leakage_watts, price
from hwopt.mapping.forest import Forest
from hwopt.mapping.mapping import Mapping
from hwopt.mapping.problem import Problem
from hwopt.mapping.search import improve, solve
from hwopt.mapping.tables import ROWS, Factors, Space, build_space
from hwopt.mapping.template import templates
from hwopt.mapping.traffic import analyse, check_size
from hwopt.quantities import show_bytes

BUDGET = 60_000
"""Boxes bounded per kind of factors, besides local search, before a search stops with a gap."""
DIVE, BETTERED, ROUNDS = 150, 12, 2
"""Boxes of a dive (one per objective and template), dives improved, rounds of that."""


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
    machine, memories = machine_arrays(accelerator)
    numbers = (float(problem.points), machine, memories, OBJECTIVES.index(objective))
    best, winner = np.full(3, np.inf), None
    count, mappings, boxes, least = 0, 0, 0, math.inf
    kinds: tuple[Factors, ...] = ("perfect",) if kind == "perfect" else ("perfect", "any")
    for sizes in kinds:
        spaces = spaces_of(
            problem, skeleton(accelerator), freeze(constraint), conventions, stays, sizes,
            rows or ROWS[sizes],
        )  # fmt: skip
        found = _search(spaces, numbers, best, budget)
        winner = found.winner or winner
        count, boxes, least = count + len(spaces), boxes + found.boxes, min(least, found.least)
        mappings += sum(math.prod(len(t.chains) for t in s.tables) for s, _ in spaces)
    if winner is None:
        raise _infeasible(problem, accelerator, dict(stays))
    space, picked = winner
    mapping = space.template.mapping(space.tiles(picked), problem.sizes)
    analysis = analyse(problem, mapping, accelerator, conventions, dict(stays))
    paid = price(analysis.row(accelerator), accelerator, problem.points)
    exhausted = not least < best[0]
    gap = 0.0 if exhausted else 1 - least / float(best[0])
    certificate = Certificate(count, mappings, boxes, exhausted, gap)
    return Best(mapping, analysis, paid.seconds, paid.joules, paid.bound, certificate)


@dataclass(frozen=True)
class _Found:
    """What a search of some spaces bettered (None: nothing), and how far it looked."""

    winner: tuple[Space, tuple[int, ...]] | None
    boxes: int
    least: float


def _search(
    spaces: tuple[tuple[Space, Forest], ...], numbers: Numbers,
    best: npt.NDArray[np.float64], budget: int,
) -> _Found:  # fmt: skip
    """Lower `best` by dives, local search, then branch and bound of every space in turn."""
    winner = None
    least = math.inf
    starts, boxes = start(spaces, numbers, BETTERED, ROUNDS)
    for key, number, found in starts:
        if tuple(key) < tuple(best):
            best[:], winner = key, (number, found)
    order = list(dict.fromkeys(number for _, number, _ in starts))
    order += [number for number in range(len(spaces)) if number not in order]
    for number in order:
        space, forest = spaces[number]
        found = np.zeros(len(space.tables), np.int64)
        before = best.copy()
        share = budget // len(spaces)
        share = share if np.isfinite(best[0]) else 50 * BUDGET
        used, left = solve(forest.packed, *numbers, best, found, share)
        boxes, least = boxes + used, min(least, left)
        if not np.array_equal(before, best):
            winner = number, found
    if winner is None:
        return _Found(None, boxes, least)
    number, found = winner
    return _Found((spaces[number][0], tuple(int(row) for row in found)), boxes, least)


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


Numbers: TypeAlias = tuple[float, npt.NDArray[np.float64], npt.NDArray[np.float64], int]
Start: TypeAlias = tuple[npt.NDArray[np.float64], int, npt.NDArray[np.int64]]
"""Key (objective, seconds, joules), number of the space, row per table."""


def start(
    spaces: tuple[tuple[Space, Forest], ...], numbers: Numbers, bettered: int, rounds: int
) -> tuple[list[Start], int]:
    """Short dives into every space, one per objective; local search from the best `bettered`.

    Returns the results, best first, and the boxes bounded.
    """
    starts: list[Start] = []
    boxes, objective = 0, numbers[3]
    for number, (space, forest) in enumerate(spaces):
        for other in range(len(OBJECTIVES)):
            key, found = np.full(3, np.inf), np.zeros(len(space.tables), np.int64)
            boxes += solve(forest.packed, *numbers[:3], other, key, found, DIVE)[0]
            if np.isfinite(key[0]):
                key[0] = (key[1], key[2], key[1] * key[2])[objective]
                starts.append((key, number, found))
    starts.sort(key=lambda item: (*item[0], item[1]))
    for key, number, found in starts[:bettered]:
        boxes += improve(spaces[number][1].packed, *numbers, key, found, rounds)
    return sorted(starts, key=lambda item: (*item[0], item[1])), boxes


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
