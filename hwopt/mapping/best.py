"""The best mapping of one nest on one machine, with a certificate.

The mapspace (`template` says why nothing better is left out of it): keeps of different operands in
every order, every choice of bypass, loops in every order, tiles of any integers (or divisors) in
every axis, several axes on one fan-out. It is searched by branch and bound (`search`) until nothing
is left that could be better. Where an axis has too many chains of any integers to list, its tile
sizes are thinned out; a second search, over tables in which each size stands for all that were left
out next to it, then bounds the optimum from below, and the certificate states the gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from hwopt.errors import InfeasibleError
from hwopt.hardware.accelerator import ROLES, Accelerator, OperandRole
from hwopt.hardware.conventions import NATIVE, Conventions
from hwopt.ir.program import Constraint
from hwopt.mapping.analysis import OBJECTIVES, Analysis, Objective, leakage_watts, price
from hwopt.mapping.chains import Factors
from hwopt.mapping.forest import Forest, plant
from hwopt.mapping.mapping import Mapping
from hwopt.mapping.problem import Problem
from hwopt.mapping.search import solve
from hwopt.mapping.space import Skeleton, Space, skeleton, spaces_of
from hwopt.mapping.traffic import analyse, check_size
from hwopt.quantities import show_bytes

BUDGET = 5_000_000
"""Boxes bounded at most; a search that needs more states its gap."""

_ROUNDING = 1e-12
"""Gaps below it are those of floating-point sums."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was searched: templates, mappings they span, boxes bounded.

    `gap` is the most by which a mapping of the full mapspace may be better (0.02: the objective
    could be 2 % lower); 0 when the result is proved optimal. `thinned`: axes of which not every
    tile size was tried.
    """

    templates: int
    mappings: int
    boxes: int
    gap: float
    thinned: tuple[str, ...] = ()

    @property
    def exhausted(self) -> bool:
        """Whether the result is proved optimal over the full mapspace."""
        return self.gap == 0

    def __str__(self) -> str:
        over = f"{self.mappings:.3g} mappings of {self.templates} templates"
        found = f"({self.boxes} boxes bounded)"
        if self.gap == 0:
            return f"optimal: best of {over} {found}"
        tiles = f", tile sizes of {', '.join(self.thinned)} thinned out" if self.thinned else ""
        return f"within {self.gap:.1%} of the optimum: searched {over}{tiles} {found}"


@dataclass(frozen=True)
class Best:
    """A mapping with its price. `bound` names what limits: "compute" or a memory."""

    mapping: Mapping
    seconds: float
    joules: float
    certificate: Certificate
    problem: Problem
    accelerator: Accelerator
    conventions: Conventions
    resident: tuple[tuple[OperandRole, str], ...]

    @cached_property
    def analysis(self) -> Analysis:
        """Its counts."""
        return analyse(
            self.problem, self.mapping, self.accelerator, self.conventions, dict(self.resident)
        )

    @cached_property
    def bound(self) -> str:
        """What limits the time: "compute" or a memory."""
        row = self.analysis.row(self.accelerator)
        return price(row, self.accelerator, self.problem.points).bound


def best_mapping(
    problem: Problem,
    accelerator: Accelerator,
    *,
    objective: Objective = "latency",
    constraint: Constraint | None = None,
    conventions: Conventions = NATIVE,
    resident: MappingType[OperandRole, str] | None = None,
    factors: Factors | None = None,
    budget: int = BUDGET,
) -> Best:
    """The mapping with the least objective; ties go to lower latency, then lower energy.

    `accelerator` has every number filled in (`resolved()`). `factors` ("any" integer tiles or
    "perfect" divisors) defaults to the constraint's. Raises `InfeasibleError` with the operand,
    memory and bytes when not even tiles of one element fit.
    """
    check_size(problem)
    constraint = constraint or Constraint()
    stays = tuple(sorted((resident or {}).items()))
    kind: Factors = factors or ("perfect" if constraint.factors == "perfect" else "any")
    machine, memories = machine_arrays(accelerator, problem.points)
    place = OBJECTIVES.index(objective)
    structure, frozen = skeleton(accelerator), freeze(constraint)
    best, winner, boxes, least = np.full(3, np.inf), None, 0, math.inf
    grove = None
    for sizes in ("perfect", "any") if kind == "any" else ("perfect",):
        grove = grove_of(problem, structure, frozen, conventions, stays, sizes)
        if grove is None:
            continue
        found = np.zeros(1 + len(grove.spaces[0].parts), np.int64)
        before = best.copy()
        used, _, least = solve(
            grove.forest, float(problem.points), machine, memories, place, best, found, budget
        )
        boxes += used
        if not np.array_equal(before, best):
            space = grove.spaces[found[0]]
            winner = space.mapping(tuple(found[1:].tolist()), problem.sizes)
    if winner is None or grove is None:
        raise _infeasible(problem, accelerator, dict(stays))
    if grove.thinned:
        loose = grove_of(problem, structure, frozen, conventions, stays, kind, relaxed=True)
        assert loose is not None, "what is relaxed has no fewer mappings"
        floor = best.copy()
        used, _, left = solve(
            loose.forest, float(problem.points), machine, memories, place, floor, found, budget
        )
        boxes, least = boxes + used, min(least, left, float(floor[0]))
    gap = max(0.0, 1 - least / float(best[0])) if best[0] > 0 else 0.0
    gap = 0.0 if gap < _ROUNDING else gap
    certificate = Certificate(len(grove.spaces), grove.mappings, boxes, gap, grove.thinned)
    return Best(
        winner, float(best[1]), float(best[2]), certificate, problem, accelerator, conventions,
        stays,
    )  # fmt: skip


@dataclass(frozen=True)
class Grove:
    """All spaces of a problem, packed for the search; axes whose tile sizes were thinned out."""

    spaces: tuple[Space, ...]
    forest: Forest
    mappings: int
    thinned: tuple[str, ...]


@lru_cache(maxsize=512)
def grove_of(
    problem: Problem, structure: Skeleton, constraint: Constraint, conventions: Conventions,
    stays: tuple[tuple[OperandRole, str], ...], factors: Factors, *, relaxed: bool = False,
) -> Grove | None:  # fmt: skip
    """The spaces of a problem, ready for search; None where no template has a mapping."""
    spaces = spaces_of(problem, structure, constraint, conventions, stays, factors, relaxed)
    if not spaces:
        return None
    thinned = {axis for space in spaces for axis in space.thinned}
    return Grove(
        spaces, plant(spaces), sum(space.mappings for space in spaces), tuple(sorted(thinned))
    )


def freeze(constraint: Constraint) -> Constraint:
    """Without the choice of factors, which is passed by itself."""
    return Constraint(constraint.spatial, constraint.tile)


def machine_arrays(
    accelerator: Accelerator, points: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The numbers of `analysis.price`, as `search` takes them."""
    machine = np.array([
        accelerator.clock_hz, accelerator.fill_cycles,
        points * (accelerator.compute.joules_per_mac or 0.0), leakage_watts(accelerator),
    ])  # fmt: skip
    memories = np.array([
        (m.usable_bytes, _slowness(m.read_bytes_per_s), _slowness(m.write_bytes_per_s),
         _slowness(m.bytes_per_s), m.read_joules_per_byte or 0.0, m.write_joules_per_byte or 0.0)
        for m in accelerator.memories
    ])  # fmt: skip
    return machine, memories


def _slowness(bytes_per_s: float | None) -> float:
    """Seconds per byte; 0 for a port without limit."""
    return 0.0 if bytes_per_s is None else 1.0 / bytes_per_s


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
