"""The cost model in plain Python: what a table of tasks costs on one machine, readable.

The Numba kernel computes the same for many machines at once; a test holds them equal to 1e-12.

For a stage with traffic row `r` (steps, and per memory footprint, reads, writes) and side work s:

    seconds = max(steps / clock, vector operations / vector rate,
                  per memory: reads x read port, writes x write port, (reads + writes) x their port)
              + fill, + launches x launch time
    joules  = sum(reads x energy + writes x energy) + MACs x energy + vector operations x energy
              + leakage x seconds

where the side's outer bytes add to the outermost memory and its chip bytes to the vector unit's (no
chip bytes on a machine whose vector unit works from the outermost memory).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwopt.cost.tables import Alternative, OpTable, Request, Stage, Task
from hwopt.hardware.accelerator import Accelerator
from hwopt.hardware.table import COLUMNS, MEMORY_COLUMNS, hardware_row, vector_memory
from hwopt.mapping.analysis import PER_LEVEL

Rows = npt.NDArray[np.float64]
"""Candidate rows of one nest: (mappings, 1 + 5 x memories), see `mapping.analysis.row_columns`."""

RowsOf = Callable[[Request], Rows]
"""Gives the candidates of a nest; no rows where nothing fits."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage, once: the candidate `row` chosen (-1 without a nest), and what limits it."""

    stage: Stage
    row: int
    seconds: float
    joules: float
    bound: str

    @property
    def feasible(self) -> bool:
        """Whether some mapping fits."""
        return math.isfinite(self.seconds)


@dataclass(frozen=True, slots=True)
class TaskCost:
    """One task, once, in its best alternative; infinite when none fits."""

    task: Task
    alternative: Alternative
    stages: tuple[StageCost, ...]
    seconds: float
    joules: float


def price_table(
    table: OpTable, accelerator: Accelerator, rows_of: RowsOf, objective: str = "latency"
) -> tuple[TaskCost, ...]:
    """Every task of a table on one accelerator, once each (multiply by `task.count`)."""
    machine = Machine(accelerator)
    return tuple(_price_task(task, machine, rows_of, objective) for task in table.tasks)


def total(costs: Sequence[TaskCost]) -> tuple[float, float]:
    """Seconds and joules of all tasks, with their counts."""
    seconds = sum(cost.seconds * cost.task.count for cost in costs)
    joules = sum(cost.joules * cost.task.count for cost in costs)
    return seconds, joules


def key(objective: str, seconds: float, joules: float) -> tuple[float, float, float]:
    """What is minimised: the objective, then latency, then energy."""
    first = {"latency": seconds, "energy": joules, "edp": seconds * joules}[objective]
    return first, seconds, joules


class Machine:
    """One row of a hardware table under readable names."""

    def __init__(self, accelerator: Accelerator) -> None:
        row = hardware_row(accelerator)
        self.accelerator = accelerator
        self.value = dict(zip(COLUMNS, map(float, row), strict=False))
        self.names = [memory.name for memory in accelerator.memories]
        self.memory = [
            dict(zip(MEMORY_COLUMNS, map(float, row[start : start + 6]), strict=True))
            for start in range(len(COLUMNS), len(row), len(MEMORY_COLUMNS))
        ]
        self.vector_memory = vector_memory(accelerator)


def _price_task(task: Task, machine: Machine, rows_of: RowsOf, objective: str) -> TaskCost:
    """The best feasible chain of the lowest tier; infinite (the first way) when there is none."""
    stages = [
        tuple(price_stage(stage, machine, rows_of, objective) for stage in alternative.stages)
        for alternative in task.alternatives
    ]
    for tier in sorted({alternative.tier for alternative in task.alternatives}):
        chain = _best_chain(task, tier, stages, objective)
        if chain is not None:
            parts = [task.alternatives[index] for index in chain]
            found = tuple(cost for index in chain for cost in stages[index])
            whole = Alternative(_chain_label(parts), tuple(c.stage for c in found), tier)
            return TaskCost(task, whole, found, *_sums(found))
    return TaskCost(task, task.alternatives[0], stages[0], math.inf, math.inf)


def _best_chain(
    task: Task, tier: int, stages: Sequence[tuple[StageCost, ...]], objective: str
) -> list[int] | None:
    """Alternatives that cover the task from its first operator to its last, at the least cost.

    A shortest path: `best[i]` is the cheapest way to carry out the first i operators.
    """
    best: list[tuple[float, float] | None] = [(0.0, 0.0)] + [None] * len(task.ops)
    chains: list[list[int]] = [[] for _ in best]
    for end in range(1, len(best)):
        for index, alternative in enumerate(task.alternatives):
            before = best[alternative.span[0]]
            if alternative.tier != tier or alternative.span[1] != end or before is None:
                continue
            seconds, joules = _sums(stages[index])
            if not math.isfinite(seconds):
                continue
            new = before[0] + seconds, before[1] + joules
            old = best[end]
            if old is None or key(objective, *new) < key(objective, *old):
                best[end], chains[end] = new, [*chains[alternative.span[0]], index]
    return chains[-1] if best[-1] is not None else None


def _sums(stages: Sequence[StageCost]) -> tuple[float, float]:
    seconds = sum(cost.seconds * cost.stage.count for cost in stages)
    joules = sum(cost.joules * cost.stage.count for cost in stages)
    return seconds, joules


def _chain_label(parts: Sequence[Alternative]) -> str:
    """How the task is carried out: its only way, or the operators of each run ("fused 3+1")."""
    lengths = [end - first for first, end in (part.span for part in parts)]
    if len(parts) == 1 or max(lengths) == 1:
        return parts[0].label
    return "fused " + "+".join(map(str, lengths))


def price_stage(stage: Stage, machine: Machine, rows_of: RowsOf, objective: str) -> StageCost:
    """The best candidate of a stage; without a nest, the side work alone."""
    if stage.request is None:
        nothing = np.zeros(1 + len(PER_LEVEL) * len(machine.names))
        seconds, joules, bound = price_row(nothing, stage, machine)
        return StageCost(stage, -1, seconds, joules, bound)
    best = StageCost(stage, -1, math.inf, math.inf, "capacity")
    for index, row in enumerate(rows_of(stage.request)):
        seconds, joules, bound = price_row(row, stage, machine)
        if key(objective, seconds, joules) < key(objective, best.seconds, best.joules):
            best = StageCost(stage, index, seconds, joules, bound)
    return best


def price_row(
    row: npt.NDArray[np.float64], stage: Stage, machine: Machine
) -> tuple[float, float, str]:
    """Seconds, joules and bound of one candidate with the stage's side work."""
    side, value = stage.side, machine.value
    seconds, bound = float(row[0]) / value["clock_hz"], "compute"
    vector = side.vector_operations / value["vector_operations_per_s"]
    if vector > seconds:
        seconds, bound = vector, "vector"
    joules = stage.points * value["joules_per_mac"]
    joules += side.vector_operations * value["joules_per_operation"]
    for index, memory in enumerate(machine.memory):
        footprint, reads, writes, all_reads, all_writes = map(
            float, row[1 + 5 * index : 6 + 5 * index]
        )
        if footprint > memory["usable_bytes"]:
            return math.inf, math.inf, "capacity"
        beside_reads = side.outer_read_bytes if index == 0 else 0.0
        beside_writes = side.outer_write_bytes if index == 0 else 0.0
        if index == machine.vector_memory and index > 0:
            beside_reads += side.chip_read_bytes
            beside_writes += side.chip_write_bytes
        reads, writes = reads + beside_reads, writes + beside_writes
        transfer = max(
            reads * memory["read_seconds_per_byte"],
            writes * memory["write_seconds_per_byte"],
            (reads + writes) * memory["port_seconds_per_byte"],
        )
        if transfer > seconds:
            seconds, bound = transfer, f"{machine.names[index]} bandwidth"
        joules += (all_reads + beside_reads) * memory["read_joules_per_byte"]
        joules += (all_writes + beside_writes) * memory["write_joules_per_byte"]
    overhead = stage.launches * value["launch_seconds"]
    if stage.request is not None:
        overhead += value["fill_seconds"]
    if overhead > seconds:
        bound = "launch"
    seconds += overhead
    joules += value["leakage_watts"] * seconds
    return seconds, joules, bound
