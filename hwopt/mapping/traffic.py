"""Closed forms of footprints, traffic and steps: equal to `simulate`, which is the definition.

A tile changes only when a loop advances. When loop J advances, the loops inside it start anew, and
each composite axis of the tensor either changes its set of indices or does not, whatever the
others do. So what all transitions of J fetch is a sum over independent states, one per composite
axis; `sums` gives each axis' share and `plan` says which shares multiply and add up to what.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from functools import lru_cache

import numpy as np

from hwopt.errors import SizeError
from hwopt.hardware.accelerator import ROLES, Accelerator, OperandRole
from hwopt.hardware.conventions import NATIVE, Conventions
from hwopt.ir.access import MAX_COUNT, Axis
from hwopt.mapping.analysis import Analysis, Flow
from hwopt.mapping.analysis import row_columns as row_columns
from hwopt.mapping.mapping import Keep, Mapping
from hwopt.mapping.plan import Factor, Group, Plan, above, make_plan, structure
from hwopt.mapping.problem import Problem
from hwopt.mapping.sums import plain_sum, shared_sum
from hwopt.mapping.verify import verify_mapping

Sums = tuple[int, int, int, int]
"""Wanted, kept, overlap (see `sums`) and the largest tile."""


def analyse(
    problem: Problem,
    mapping: Mapping,
    accelerator: Accelerator,
    conventions: Conventions = NATIVE,
    resident: MappingType[OperandRole, str] | None = None,
) -> Analysis:
    """Steps, footprints and traffic of a mapping; see `simulate` for what they mean.

    `resident[role]` names the memory that the operand never leaves. Raises `MappingError` for a
    mapping that is not legal, `SizeError` for counts above 2**53.
    """
    verify_mapping(problem, mapping, accelerator)
    check_size(problem)
    stays = tuple(sorted((resident or {}).items()))
    plan = make_plan(
        problem, structure(mapping, accelerator), above(accelerator), conventions, stays
    )
    tiles = tuple(1 if isinstance(node, Keep) else node.tile for node in mapping.nodes)
    return fill(plan, problem, tiles, accelerator, conventions)


def check_size(problem: Problem) -> None:
    """Refuse problems whose counts float64 cannot hold exactly."""
    if problem.points > MAX_COUNT:
        raise SizeError(
            "an operator is too large to count exactly", value=problem.points,
            allowed="at most 2**53 multiply-accumulates",
        )  # fmt: skip


def fill(
    plan: Plan, problem: Problem, tiles: tuple[int, ...], accelerator: Accelerator,
    conventions: Conventions,
) -> Analysis:  # fmt: skip
    """The analysis of a plan at these tiles (one per node; those of keeps are ignored)."""
    sizes = problem.sizes
    if conventions.edges == "padded":
        sizes, tiles = padded(plan, sizes, tiles)
    values = [evaluate(factor, problem, sizes, tiles, conventions) for factor in plan.factors]
    terms = []
    for term in plan.terms:
        wanted, kept, overlap = 1, 1, 0
        for number in term.factors:
            w, k, o, _ = values[number]
            wanted, kept, overlap = wanted * w, kept * k, overlap * k + kept * o
        terms.append(wanted if term.whole else wanted - kept - overlap)
    flows: dict[str, dict[OperandRole, Flow]] = {}
    roles = [role for role in ROLES if role in problem.operand]
    for memory in accelerator.memories:
        flows[memory.name] = {}
        for role in roles:
            counts = {
                name: sum(c * terms[t] for t, c in plan.columns.get(
                    (memory.name, role, name), {}).items())
                for name in ("busiest_read", "busiest_write", "total_read", "total_write")
            }  # fmt: skip
            size = plan.footprints.get((memory.name, role), 0)
            if isinstance(size, tuple):
                product = 1
                for number in size:
                    product *= values[number][3]
                size = product
            flows[memory.name][role] = Flow(size, **counts)
    bits = {role: problem.operand[role].bits for role in roles}
    return Analysis(terms[plan.steps], problem.points, flows, bits)


def padded(
    plan: Plan, sizes: dict[str, int], tiles: tuple[int, ...]
) -> tuple[dict[str, int], tuple[int, ...]]:
    """Sizes and tiles when edge tiles run as full ones: each tile is a multiple of the next."""
    grown, cuts = dict(sizes), list(tiles)
    for axis, nodes in plan.slots.items():
        extent, counts = sizes[axis], []
        for number in nodes:
            counts.append(-(-extent // tiles[number]))
            extent = min(extent, tiles[number])
        for number, count in zip(reversed(nodes), reversed(counts), strict=True):
            cuts[number], extent = extent, extent * count
        grown[axis] = extent
    return grown, tuple(cuts)


def evaluate(
    factor: Factor, problem: Problem, sizes: dict[str, int], tiles: tuple[int, ...],
    conventions: Conventions,
) -> Sums:  # fmt: skip
    """One factor at the tiles of a mapping's nodes; `sizes` as `padded` may have grown them."""
    cuts = tuple(tuple(tiles[number] for number in nodes) for nodes in factor.nodes)
    extents = tuple(sizes[axis] for axis in factor.axes)
    growth = tuple(sizes[axis] - problem.sizes[axis] for axis in factor.axes)
    return _sums(
        factor.group, factor.kinds, cuts, extents, growth, factor.clip,
        conventions.strided == "bounding", conventions.halo == "shift",
    )  # fmt: skip


@lru_cache(maxsize=1 << 16)
def _sums(
    group: Group | None, kinds: tuple[tuple[int, ...], ...], cuts: tuple[tuple[int, ...], ...],
    extents: tuple[int, ...], growth: tuple[int, ...], clip: bool, bounding: bool, keep_halo: bool,
) -> Sums:  # fmt: skip
    if group is None or group.plain:
        kind, cut = np.array(kinds[0], np.int64), np.array(cuts[0], np.int64)
        wanted, kept, states = plain_sum(kind, cut, extents[0])
        if group is None:
            return int(states), int(states), 0, 1
        return int(wanted), int(kept), 0, min((extents[0], *cuts[0]))
    width = max(1, *(len(cut) for cut in cuts))
    kind, cut = (np.zeros((len(cuts), width), np.int64) for _ in range(2))
    for a, (these, those) in enumerate(zip(kinds, cuts, strict=True)):
        kind[a, : len(these)], cut[a, : len(those)] = these, those
    slots = np.array([len(these) for these in cuts], np.int64)
    coefficients = np.array(group.coefficients, np.int64)
    shape = np.array(group.shape, np.int64) + np.maximum(coefficients, 0) @ np.array(growth)
    wanted, kept, overlap, largest = shared_sum(
        kind, cut, slots, np.array(extents, np.int64), coefficients,
        np.array(group.offsets, np.int64), shape, clip, bounding, keep_halo,
    )  # fmt: skip
    return int(wanted), int(kept), int(overlap), int(largest)
