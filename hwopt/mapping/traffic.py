"""Closed forms of footprints, traffic and steps: equal to `simulate`, which is the definition.

A tile changes only when a loop advances. When loop J advances, the loops inside it start anew, and
each composite axis of the tensor either changes its set of indices or does not, whatever the
others do. So what all transitions of J fetch is a sum over independent states, one per composite
axis; `sums` gives each axis' share and `plan` says which shares multiply and add up to what.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.errors import MappingError, SizeError
from hwopt.hardware.accelerator import ROLES, Accelerator, OperandRole
from hwopt.hardware.conventions import NATIVE, Conventions
from hwopt.ir.access import MAX_COUNT, Axis
from hwopt.mapping.analysis import Analysis, Flow, row_columns
from hwopt.mapping.mapping import Keep, Loop, Mapping
from hwopt.mapping.plan import Factor, Group, Plan, above, groups_of, make_plan, structure
from hwopt.mapping.problem import Problem
from hwopt.mapping.sums import plain_batch, shared_batch
from hwopt.mapping.verify import verify_mapping

__all__ = ["analyse", "chain_sums", "check_size", "fill", "padded", "row_columns", "touched"]

Sums: TypeAlias = tuple[int, int, int, int]
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
    _check_order(mapping, accelerator, conventions)
    mapping = mapping.walked(problem.sizes)
    plan = make_plan(
        problem, structure(mapping, accelerator), above(accelerator), conventions, stays
    )
    tiles = tuple(1 if isinstance(node, Keep) else node.tile for node in mapping.nodes)
    return fill(plan, problem, tiles, accelerator, conventions)


def _check_order(mapping: Mapping, accelerator: Accelerator, conventions: Conventions) -> None:
    """Conventions without hoisting know only keeps and spreads in the machine's order."""
    order = {level.name: number for number, level in enumerate(accelerator.levels)}
    depth = 0
    for node in mapping.nodes:
        if isinstance(node, Loop):
            continue
        here = order[node.memory if isinstance(node, Keep) else node.fanout]
        if here < depth and conventions.fetch != "hoisted":
            raise MappingError(
                "these conventions need all nodes in the machine's order", where=conventions.name,
                value=str(node),
            )  # fmt: skip
        depth = max(depth, here)


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
                    group = plan.factors[number].group
                    assert group is not None, "footprints are of what an operand is indexed by"
                    product *= values[number][0 if group.plain else 3]
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
    originals = tuple(problem.sizes[axis] for axis in factor.axes)
    return _sums(factor, cuts, extents, originals, conventions)


def touched(problem: Problem, role: OperandRole, conventions: Conventions) -> int:
    """Distinct elements of an operand that the problem uses."""
    total = 1
    for group in groups_of(problem.operand[role], problem, conventions):
        empty = tuple(() for _ in group.axes)
        factor = Factor(group.axes, empty, empty, group, conventions.padding == "free")
        total *= evaluate(factor, problem, problem.sizes, (), conventions)[0]
    return total


@lru_cache(maxsize=1 << 16)
def _sums(
    factor: Factor, cuts: tuple[tuple[int, ...], ...], extents: tuple[int, ...],
    originals: tuple[int, ...], conventions: Conventions,
) -> Sums:  # fmt: skip
    """`chain_sums` of a single row, remembered."""
    places = [
        range(sum(map(len, cuts[:a])), sum(map(len, cuts[: a + 1]))) for a in range(len(cuts))
    ]
    local = replace(factor, nodes=tuple(tuple(place) for place in places))
    axes = tuple(Axis(name, size) for name, size in zip(factor.axes, originals, strict=True))
    tiles = np.array([[tile for cut in cuts for tile in cut]], np.int64)
    sizes = np.array([extents], np.int64)
    values = chain_sums(local, Problem(axes, ()), factor.axes, tiles, sizes, conventions, {})
    return tuple(int(value) for value in values[:, 0])  # type: ignore[return-value]


Distinct: TypeAlias = dict[tuple[int, ...], tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]
"""Rows that differ in some columns, and for each row which of them it is like, by columns."""


def chain_sums(
    factor: Factor, problem: Problem, part: tuple[str, ...], tiles: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64], conventions: Conventions, distinct: Distinct,
) -> npt.NDArray[np.float64]:  # fmt: skip
    """One factor for many mappings: `tiles` (rows, nodes), `sizes` (rows, axes of the part).

    Returns (4, rows): wanted, kept, overlap, largest tile. `distinct` is filled for the next factor
    of the same rows.
    """
    own = [part.index(axis) for axis in factor.axes]
    nodes = [number for numbers in factor.nodes for number in numbers]
    key = (*nodes, *(-1 - axis for axis in own))
    if key not in distinct:
        keys = np.concatenate([tiles[:, nodes], sizes[:, own]], axis=1)
        _, first, back = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        distinct[key] = first, back.reshape(-1)
    first, back = distinct[key]
    out = np.zeros((4, len(first)), np.int64)
    if factor.group is None or factor.group.plain:
        plain_batch(
            np.array(factor.kinds[0], np.int64), np.ascontiguousarray(tiles[first][:, nodes]),
            np.ascontiguousarray(sizes[first, own[0]]), out,
        )  # fmt: skip
        if factor.group is None:
            out[0], out[1], out[3] = out[2], out[2], 1
        out[2] = 0
    else:
        _shared(factor, problem, tiles[first], sizes[first][:, own], conventions, out)
    return out[:, back].astype(np.float64)


def _shared(
    factor: Factor, problem: Problem, tiles: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64], conventions: Conventions, out: npt.NDArray[np.int64],
) -> None:  # fmt: skip
    group = factor.group
    assert group is not None
    width = max(1, *(len(nodes) for nodes in factor.nodes))
    kinds = np.zeros((len(factor.axes), width), np.int64)
    cuts = np.ones((len(tiles), len(factor.axes), width), np.int64)
    for a, (nodes, these) in enumerate(zip(factor.nodes, factor.kinds, strict=True)):
        kinds[a, : len(these)] = these
        cuts[:, a, : len(nodes)] = tiles[:, list(nodes)]
    slots = np.array([len(nodes) for nodes in factor.nodes], np.int64)
    coefficients = np.array(group.coefficients, np.int64)
    growth = sizes - np.array([problem.sizes[axis] for axis in factor.axes])
    shapes = np.array(group.shape) + growth @ np.maximum(coefficients, 0).T
    nameless = replace(group, axes=("",) * len(group.axes))
    out[:] = _shared_sums(
        nameless, kinds.tobytes(), cuts.tobytes(), slots.tobytes(), sizes.tobytes(),
        shapes.tobytes(), factor.clip, conventions.halo == "shift",
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _shared_sums(
    group: Group, kinds: bytes, cuts: bytes, slots: bytes, sizes: bytes, shapes: bytes, clip: bool,
    keep_halo: bool,
) -> npt.NDArray[np.int64]:  # fmt: skip
    """Sums of a group, remembered: height and width, and many templates, ask for the same."""
    axes, dims = len(group.axes), len(group.offsets)
    extents = np.frombuffer(sizes, np.int64).reshape(-1, axes)
    out = np.zeros((4, len(extents)), np.int64)
    shared_batch(
        np.frombuffer(kinds, np.int64).reshape(axes, -1),
        np.frombuffer(cuts, np.int64).reshape(len(extents), axes, -1),
        np.frombuffer(slots, np.int64), extents, np.array(group.coefficients, np.int64),
        np.array(group.offsets, np.int64), np.frombuffer(shapes, np.int64).reshape(-1, dims),
        clip, group.bounding, keep_halo, out,
    )  # fmt: skip
    out.flags.writeable = False
    return out
