"""The least latency, energy and EDP over every mapping of a small nest: the mapper's oracle.

The mapspace is that of `mapping.verify`, written down rather than derived: from the outside in, any
sequence of

* keeps: each operand's in the machine's order, with every choice of what bypasses a memory; those
  of different operands in any order (conventions that do not hoist fetches: all in the machine's);
* loops, each over any axis with every tile size below the present extent ("perfect": that divides
  it): between two keeps, an axis is walked once, and once more below each spread of it;
* spreads, wherever they may stand: any axes on any dimensions, each axis once over each dimension,
  as long as the copies fit.

Left out are exact repetitions only: loops of a single tile; neighbours whose order no count depends
on (two keeps; a spread beside a loop of another axis, or beside a keep that does not tell the
difference); orders of loops below the last keep. A branch is left when a tile already exceeds its
memory, or when what is already spent (costs only add up, and every element leaves or enters the
outermost memory once) exceeds the best complete mapping in every objective.

Counts are taken by walking every step of every copy with sets of elements (`walk`, which shares
nothing with the mapper or the closed forms).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from collections.abc import Mapping as MappingType
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwopt.hardware.accelerator import ROLES, Accelerator, Fanout
from hwopt.hardware.conventions import NATIVE, Conventions
from hwopt.mapping.analysis import Objective
from hwopt.mapping.mapping import Keep, Loop, Mapping, Node, Spread
from hwopt.mapping.problem import Problem, may_spread
from tests.oracles.elements import Ints, pack
from tests.oracles.walk import (
    KEEPS,
    NODES,
    Machine,
    link,
    ones,
    room,
    search,
    steps,
    tile_at_origin,
)
from tests.oracles.walk import price as price_row

OBJECTIVES: tuple[Objective, ...] = ("latency", "energy", "edp")
FETCHES = ("hoisted", "changed", "counted")
Key = tuple[float, float, float]


@dataclass(frozen=True)
class Optimum:
    """The best key (objective, seconds, joules) by objective, a mapping that has it (None when the
    key was given and nothing is better), and the number of complete mappings walked.
    """

    key: dict[Objective, Key]
    mapping: dict[Objective, Mapping | None]
    walked: int


def optimum(
    problem: Problem,
    accelerator: Accelerator,
    conventions: Conventions = NATIVE,
    *,
    factors: str = "any",
    known: MappingType[Objective, Key] | None = None,
    least_use: MappingType[str, int] | None = None,
) -> Optimum:
    """Enumerate; `known` are keys of mappings that exist, to look only for what is better;
    `least_use` the copies that must be used of dimensions ("PE.x").

    Prices that are small whole numbers and bandwidths that are powers of two keep sums exact, so
    that ties are ties. An infeasible problem has infinite keys. Raises `ValueError` for tensors of
    more than 64 positions, sequential axes and padded edges.
    """
    nest = pack(problem, conventions)
    machine = machine_of(problem, accelerator, conventions, factors, least_use or {})
    best = np.full((3, 3), math.inf)
    for number, objective in enumerate(OBJECTIVES):
        if known is not None:
            best[number] = known[objective]
    rows, keeps = np.zeros((3, NODES, 4), np.int64), np.zeros((3, NODES, 3), np.int64)
    sizes = np.zeros((3, 2), np.int64)
    sizes[:, 0] = -1
    walked = sum(
        int(search(nest, machine, chains, best, rows, keeps, sizes))
        for chains in _chains(problem, accelerator)
    )
    mapping: dict[Objective, Mapping | None] = dict.fromkeys(OBJECTIVES)
    for n, objective in enumerate(OBJECTIVES):
        if sizes[n, 0] >= 0:
            found, kept = rows[n, : sizes[n, 0]], keeps[n, : sizes[n, 1]]
            mapping[objective] = _mapping(problem, accelerator, found, kept)
    one, two, three = (tuple(map(float, key)) for key in best)
    return Optimum(dict(zip(OBJECTIVES, (one, two, three), strict=True)), mapping, walked)


def walked(
    problem: Problem, mapping: Mapping, accelerator: Accelerator, conventions: Conventions = NATIVE
) -> tuple[list[float], Key]:
    """The row of one legal mapping (`Analysis.row`) and its key for latency, by this walk."""
    nest = pack(problem, conventions)
    machine = machine_of(problem, accelerator, conventions, "any", {})
    names = list(problem.sizes)
    fanouts = [fanout.name for fanout in accelerator.fanouts]
    memories = [memory.name for memory in accelerator.memories]
    node, count = np.full((NODES, 4), -1, np.int64), 0
    stops, inside = [[0], [0], [0]], [[0], [0], [0]]
    for one in mapping.walked(problem.sizes).nodes:
        if not isinstance(one, Keep):
            fanout = fanouts.index(one.fanout) if isinstance(one, Spread) else -1
            node[count] = names.index(one.axis), one.tile, fanout, -1
            count += 1
            continue
        for role in one.roles if one.memory != memories[0] else ():
            stops[ROLES.index(role)].append(count)
            inside[ROLES.index(role)].append(memories.index(one.memory))
    row = np.zeros(1 + 5 * len(memories))
    row[0] = steps(nest, node, count)
    for role in range(3):
        above = np.array([*stops[role], count], np.int64)
        where = np.array([*inside[role], -1], np.int64)
        for last in range(1, len(above) if nest.bits[role] else 0):
            link(nest, machine, role, node, count, above, where, last, row, room(len(names), 1))
        row[1] += nest.bits[role] * int(ones(np.uint64(tile_at_origin(nest, role, nest.sizes))))
    priced = np.zeros(3)
    price_row(row, machine, priced)
    fits = bool(np.all(row[1::5] <= 8 * machine.memory[:, 0]))
    seconds, joules = (float(x) if fits else math.inf for x in priced[1:])
    row[1:] /= 8
    return row.tolist(), (seconds, seconds, joules)


def _chains(problem: Problem, accelerator: Accelerator) -> Iterator[Ints]:
    """Every choice of the memories below the outermost one that keep each operand."""
    each: list[list[tuple[int, ...]]] = []
    for role in ROLES:
        memories = [
            (number, role in memory.bypass)
            for number, memory in enumerate(accelerator.memories)
            if number and role in memory.keeps and role in problem.operand
        ]
        free = [number for number, bypass in memories if bypass]
        each.append([
            tuple(number for number, bypass in memories if not bypass or number in extra)
            for count in range(len(free) + 1)
            for extra in itertools.combinations(free, count)
        ])  # fmt: skip
    for chosen in itertools.product(*each):
        chains = np.full((3, KEEPS), -1, np.int64)
        for role, chain in enumerate(chosen):
            chains[role, : len(chain)] = chain
        yield chains


def machine_of(
    problem: Problem, accelerator: Accelerator, conventions: Conventions, factors: str,
    least_use: MappingType[str, int],
) -> Machine:  # fmt: skip
    """The numbers of a machine, packed for a problem."""
    if problem.sequential or conventions.edges == "padded":
        raise ValueError("sequential axes and padded edges are not enumerated")
    fanouts, dims = accelerator.fanouts, [(f, d) for f in accelerator.fanouts for d in f.dims]
    several, above, before, memories = 0, list[int](), list[int](), 0
    for level in accelerator.levels:
        if isinstance(level, Fanout):
            several |= (level.size > 1) << len(before)
            before.append(memories)
        else:
            above.append(several)
            memories += 1
    inf = math.inf
    memory = np.array([
        (m.usable_bytes, m.read_bytes_per_s or inf, m.write_bytes_per_s or inf,
         m.bytes_per_s or inf, m.read_joules_per_byte or 0.0, m.write_joules_per_byte or 0.0)
        for m in accelerator.memories
    ])  # fmt: skip
    watts = (accelerator.compute.leakage_watts or 0.0) * accelerator.lanes
    for one in accelerator.memories:
        watts += (one.leakage_watts or 0.0) * accelerator.instances(one.name)
    numbers: npt.NDArray[np.float64] = np.array([
        accelerator.clock_hz, accelerator.fill_cycles,
        problem.points * (accelerator.compute.joules_per_mac or 0.0), watts,
        accelerator.lanes, problem.points,
    ], np.float64)  # fmt: skip
    rules = np.array([
        conventions.halo == "shift", conventions.first_write == "nothing", factors == "perfect",
        FETCHES.index(conventions.fetch), conventions.fetch != "hoisted",
    ], np.int64)  # fmt: skip
    nothing = [0] * len(problem.sizes)
    return Machine(
        memory, np.array(above, np.int64), np.array([*before, 0], np.int64),
        np.array([[r in f.multicast for r in ROLES] for f in fanouts] + [[0] * 3], np.int64),
        np.array([*(f.reduces for f in fanouts), 0], np.int64),
        np.array([*(d.size for _, d in dims), 1], np.int64),
        np.array([*(least_use.get(f"{f.name}.{d.name}", 1) for f, d in dims), 1], np.int64),
        np.array([*(fanouts.index(f) for f, _ in dims), 0], np.int64),
        np.array([[may_spread(a, d.axes) for a in problem.sizes] for _, d in dims] + [nothing],
                 np.int64),
        numbers, rules,
    )  # fmt: skip


def _mapping(problem: Problem, accelerator: Accelerator, rows: Ints, kept: Ints) -> Mapping:
    """The mapping of found rows; a row of `kept`: rows above the keep, operand, memory."""
    names = list(problem.sizes)
    dims = [(fanout.name, dim.name) for fanout in accelerator.fanouts for dim in fanout.dims]
    roles = tuple(role for role in ROLES if role in problem.operand)
    nodes: list[Node] = [Keep(accelerator.memories[0].name, roles)]
    for number in range(len(rows) + 1):
        nodes += [
            Keep(accelerator.memories[memory].name, (ROLES[role],))
            for above, role, memory in kept
            if above == number
        ]
        if number < len(rows):
            axis, tile, _, dim = (int(x) for x in rows[number])
            spread = dim >= 0
            nodes.append(
                Spread(*dims[dim], names[axis], tile) if spread else Loop(names[axis], tile)
            )
    return Mapping(tuple(nodes))
