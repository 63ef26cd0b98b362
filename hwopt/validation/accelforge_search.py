"""Our best mappings of AccelForge's workloads, and the plainest ones, added up over operators."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hwopt.hardware.accelerator import ROLES, Accelerator, FanoutDim
from hwopt.hardware.conventions import ACCELFORGE
from hwopt.ir.program import Constraint
from hwopt.mapping.analysis import Objective, price
from hwopt.mapping.best import best_mapping
from hwopt.mapping.mapping import Keep, Loop
from hwopt.mapping.mapping import Mapping as Nest
from hwopt.mapping.problem import Problem
from hwopt.mapping.traffic import analyse
from hwopt.validation.accelforge_arch import Architecture, Machine
from hwopt.validation.accelforge_workload import Workload

Factors: TypeAlias = Literal["any", "perfect"]


@dataclass(frozen=True)
class Found:
    """Energy and latency of a workload; the certificates of its searches; mappings by problem."""

    joules: float
    seconds: float
    certificate: str = ""
    mappings: tuple[tuple[Problem, Nest], ...] = ()

    def value(self, objective: Objective) -> float:
        """What an objective names; of several operators the product of the sums."""
        return {"energy": self.joules, "latency": self.seconds}.get(
            objective, self.joules * self.seconds
        )


def search(
    workload: Workload, machines: Mapping[Problem, Machine], objective: Objective, factors: Factors
) -> Found:
    """The best mapping of each operator under AccelForge's conventions."""
    joules, seconds, notes, mappings = 0.0, 0.0, [], []
    for problem, count in workload.problems:
        machine = machines[problem]
        least = least_use(problem, machine, factors)
        best = best_mapping(
            problem, machine.accelerator, objective=objective, conventions=ACCELFORGE,
            factors=factors, constraint=Constraint(least_use=least),
        )  # fmt: skip
        joules += count * best.joules
        seconds += count * best.seconds
        notes.append(str(best.certificate))
        mappings.append((problem, best.mapping))
    passing = pass_on(workload, machines)
    return Found(
        joules + passing.joules, seconds + passing.seconds, "; ".join(dict.fromkeys(notes)),
        tuple(mappings),
    )  # fmt: skip


def least_use(problem: Problem, machine: Machine, factors: Factors) -> tuple[tuple[str, int], ...]:
    """For each dimension of a fan-out the copies that a mapping must use, or as many as it can.

    `min_usage` is a share of the copies; what no mapping reaches, AccelForge lowers to the highest
    use there is. Dimensions are looked at one by one.
    """
    found = []
    for fanout in machine.accelerator.fanouts:
        (dim,) = fanout.dims
        least = math.ceil(machine.usage[fanout.name] * dim.size - 1e-9)
        most = max(_uses(problem, dim, factors))
        if least > 1 and most > 1:
            found.append((f"{fanout.name}.{dim.name}", min(least, most)))
    return tuple(found)


def _uses(problem: Problem, dim: FanoutDim, factors: Factors) -> Iterator[int]:
    """Copies that some mapping uses: one count of tiles of each axis, multiplied."""
    counts = []
    for axis in dim.axes:
        size = problem.sizes[axis]
        tiles = (t for t in range(1, size + 1) if factors == "any" or size % t == 0)
        counts.append({n for t in tiles if (n := -(-size // t)) <= dim.size})
    reached = {1}
    for options in counts:
        reached = {a * b for a, b in itertools.product(reached, options) if a * b <= dim.size}
    yield from reached


def pass_on(workload: Workload, machines: Mapping[Problem, Machine]) -> Found:
    """Values that are read once and written once, through every memory that must hold them.

    Time is that of the slowest memory.
    """
    if not workload.passed:
        return Found(0.0, 0.0)
    accelerator = next(iter(machines.values())).accelerator
    moved = workload.passed * workload.bits / 8
    joules, seconds = 0.0, 0.0
    for number, memory in enumerate(accelerator.memories):
        ways = sum(r in memory.keeps and r not in memory.bypass for r in ("input", "output"))
        times = 1 if number == 0 else ways  # inside, each value comes in and goes out again
        read, write = memory.read_joules_per_byte or 0.0, memory.write_joules_per_byte or 0.0
        joules += moved * times * (read + write)
        ports = (memory.read_bytes_per_s, memory.write_bytes_per_s, memory.bytes_per_s)
        for port, part in zip(ports, (1, 1, 2), strict=True):
            if port is not None:
                seconds = max(
                    seconds, moved * times * part / port / accelerator.instances(memory.name)
                )
    return Found(joules, seconds)


def plainest(workload: Workload, architecture: Architecture) -> Found:
    """No reuse at all: every operand is kept only where it must be, one element at a time."""
    joules, seconds = 0.0, 0.0
    for problem, count in workload.problems:
        accelerator = architecture.machine(problem).accelerator
        row = analyse(problem, plain_nest(problem, accelerator), accelerator, ACCELFORGE).row(
            accelerator
        )
        paid = price(row, accelerator, problem.points)
        joules, seconds = joules + count * paid.joules, seconds + count * paid.seconds
    return Found(joules, seconds)


def plain_nest(problem: Problem, accelerator: Accelerator) -> Nest:
    """All loops outside all keeps, in the order of the axes, and nothing in space."""
    nodes: list[Keep | Loop] = [Keep(accelerator.memories[0].name, ROLES)]
    nodes += [Loop(axis, 1) for axis in problem.sizes]
    for memory in accelerator.memories[1:]:
        roles = tuple(role for role in memory.keeps if role not in memory.bypass)
        if roles:
            nodes.append(Keep(memory.name, roles))
    return Nest(tuple(nodes))
