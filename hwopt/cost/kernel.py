"""The pricing kernel: every design of a hardware table against every task of an op table, jitted.

The same model as `reference`, over flat arrays: for each design, stages are priced once (an argmin
over the candidate rows of their nest for the design's fan-out shape), alternatives are sums of
stages, tasks take the best chain of alternatives of the lowest tier that fits. Float64 throughout;
counts above 2**53 are refused when tables are packed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwopt.cost.tables import OpTable, Request, Stage
from hwopt.errors import SizeError
from hwopt.hardware.accelerator import Accelerator
from hwopt.hardware.table import COLUMNS, MEMORY_COLUMNS, HardwareTable, vector_memory
from hwopt.ir.access import MAX_COUNT

os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")  # survives fork; omp does not

from numba import njit, prange

OBJECTIVES = {"latency": 0, "energy": 1, "edp": 2}
BLOCK = 16
"""Designs that one thread prices at a time."""

Candidates = Callable[[Request, Accelerator], npt.NDArray[np.float64]]
"""Rows of a nest on a skeleton: the staircase of a study, or the best mapping of one machine."""


@dataclass(frozen=True)
class CostTable:
    """The answer per design: `seconds`, `joules`, `area_m2`, `feasible`, each (designs,)."""

    seconds: npt.NDArray[np.float64]
    joules: npt.NDArray[np.float64]
    area_m2: npt.NDArray[np.float64]
    feasible: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Packed:
    """An op table as flat arrays, with the candidate rows of each (nest, skeleton) pair.

    `stages` columns: nest (-1 without), count, launches, points, vector operations, outer read,
    outer write, chip read and chip write bytes. `alternatives`: first stage, end, tier, first
    operator, end; sorted by tier, then by end. `tasks`: first alternative, end, count, operators.
    """

    rows: npt.NDArray[np.float64]
    span: npt.NDArray[np.int64]
    stages: npt.NDArray[np.float64]
    alternatives: npt.NDArray[np.int64]
    tasks: npt.NDArray[np.int64]
    vector_memory: int


def pack(table: OpTable, hardware: HardwareTable, candidates: Candidates) -> Packed:
    """Flatten a table; `candidates` is asked once per (nest, skeleton).

    Raises `SizeError` for a count above 2**53.
    """
    nests = {request: index for index, request in enumerate(table.requests)}
    blocks: list[npt.NDArray[np.float64]] = []
    span = np.zeros((len(nests), len(hardware.skeletons), 2), dtype=np.int64)
    end = 0
    for request, index in nests.items():
        for shape, skeleton in enumerate(hardware.skeletons):
            block = candidates(request, skeleton)
            blocks.append(block)
            span[index, shape] = end, end + len(block)
            end += len(block)
    width = 1 + 5 * len(hardware.skeletons[0].memories)
    rows = np.concatenate(blocks) if blocks else np.zeros((0, width))
    stages: list[tuple[float, ...]] = []
    alternatives: list[tuple[int, ...]] = []
    tasks: list[tuple[int, ...]] = []
    for task in table.tasks:
        first = len(alternatives)
        for alternative in sorted(task.alternatives, key=lambda a: (a.tier, a.span[1])):
            start = len(stages)
            stages += [_stage_row(stage, nests) for stage in alternative.stages]
            alternatives.append((start, len(stages), alternative.tier, *alternative.span))
        tasks.append((first, len(alternatives), task.count, len(task.ops)))
    packed = np.array(stages, dtype=np.float64).reshape(-1, 9)
    if packed.size and packed.max() > MAX_COUNT:
        raise SizeError("a count of one operator is too large to be exact", value=packed.max(),
                        allowed="at most 2**53")  # fmt: skip
    return Packed(
        np.ascontiguousarray(rows), span, packed,
        np.array(alternatives, dtype=np.int64).reshape(-1, 5),
        np.array(tasks, dtype=np.int64).reshape(-1, 4), vector_memory(hardware.skeletons[0]),
    )  # fmt: skip


def _stage_row(stage: Stage, nests: dict[Request, int]) -> tuple[float, ...]:
    side = stage.side
    return (
        -1 if stage.request is None else nests[stage.request], stage.count, stage.launches,
        stage.points, side.vector_operations, side.outer_read_bytes, side.outer_write_bytes,
        side.chip_read_bytes, side.chip_write_bytes,
    )  # fmt: skip


def price(packed: Packed, hardware: HardwareTable, objective: str = "latency") -> CostTable:
    """Price every design of the table."""
    seconds, joules = _price(
        hardware.rows, hardware.skeleton, packed.rows, packed.span, packed.stages,
        packed.alternatives, packed.tasks, packed.vector_memory, OBJECTIVES[objective],
        len(COLUMNS), len(MEMORY_COLUMNS), BLOCK,
    )  # fmt: skip
    area = hardware.rows[:, COLUMNS.index("area_m2")].copy()
    return CostTable(seconds, joules, area, np.isfinite(seconds))


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _key(objective: int, seconds: float, joules: float) -> float:
    if objective == 0:
        return seconds
    return joules if objective == 1 else seconds * joules


@njit(cache=True)  # type: ignore[untyped-decorator]
def _better(objective: Any, seconds: Any, joules: Any, best_seconds: Any, best_joules: Any) -> Any:
    """Objective first, then latency, then energy."""
    new, old = _key(objective, seconds, joules), _key(objective, best_seconds, best_joules)
    if new != old:
        return new < old
    if seconds != best_seconds:
        return seconds < best_seconds
    return joules < best_joules


@njit(cache=True)  # type: ignore[untyped-decorator]
def _price_stage(
    design: Any,
    rows: Any,
    first: Any,
    end: Any,
    stage: Any,
    vector: Any,
    objective: Any,
    top: Any,
    per_memory: Any,
) -> Any:
    """Best (seconds, joules) of one stage on one design; the loop of `reference.price_row`."""
    memories = (len(design) - top) // per_memory
    nest = stage[0] >= 0
    least = stage[4] / design[6]
    fixed = stage[3] * design[3] + stage[4] * design[7]
    after = stage[2] * design[2] + (design[1] if nest else 0.0)
    best_seconds, best_joules = np.inf, np.inf
    for index in range(first, end if nest else first + 1):
        seconds, joules = least, fixed
        if nest:
            seconds = max(seconds, rows[index, 0] / design[0])
        fits = True
        for memory in range(memories):
            at, price = 1 + 5 * memory, top + per_memory * memory
            beside_reads = stage[5] if memory == 0 else 0.0
            beside_writes = stage[6] if memory == 0 else 0.0
            if memory == vector and memory > 0:
                beside_reads += stage[7]
                beside_writes += stage[8]
            reads, writes = beside_reads, beside_writes
            all_reads, all_writes = beside_reads, beside_writes
            if nest:
                if rows[index, at] > design[price]:
                    fits = False
                    break
                reads += rows[index, at + 1]
                writes += rows[index, at + 2]
                all_reads += rows[index, at + 3]
                all_writes += rows[index, at + 4]
            seconds = max(
                seconds, reads * design[price + 1], writes * design[price + 2],
                (reads + writes) * design[price + 3],
            )  # fmt: skip
            joules += all_reads * design[price + 4] + all_writes * design[price + 5]
        if not fits:
            continue
        seconds += after
        joules += design[4] * seconds
        if _better(objective, seconds, joules, best_seconds, best_joules):
            best_seconds, best_joules = seconds, joules
    return best_seconds, best_joules


@njit(cache=True)  # type: ignore[untyped-decorator]
def _price_task(
    design: Any,
    shape: Any,
    task: Any,
    rows: Any,
    span: Any,
    stages: Any,
    alternatives: Any,
    vector: Any,
    objective: Any,
    top: Any,
    per_memory: Any,
    path: Any,
) -> Any:
    """(seconds, joules) of a task: a shortest path over its operators, tier by tier.

    `path` is scratch, at least (operators + 1, 2): the cheapest way to the i-th operator.
    """
    count = task[3]
    a = task[0]
    while a < task[1]:
        tier = alternatives[a, 2]
        path[0, 0], path[0, 1] = 0.0, 0.0
        path[1 : count + 1] = np.inf
        while a < task[1] and alternatives[a, 2] == tier:
            before, end = alternatives[a, 3], alternatives[a, 4]
            seconds, joules = 0.0, 0.0
            if path[before, 0] == np.inf:
                seconds = np.inf
            for s in range(alternatives[a, 0], alternatives[a, 1]):
                if seconds == np.inf:
                    break
                nest = int(stages[s, 0])
                first, last = 0, 1
                if nest >= 0:
                    first, last = span[nest, shape, 0], span[nest, shape, 1]
                one, energy = _price_stage(
                    design, rows, first, last, stages[s], vector, objective, top, per_memory
                )
                seconds += one * stages[s, 1]
                joules += energy * stages[s, 1]
            if seconds < np.inf:
                seconds, joules = path[before, 0] + seconds, path[before, 1] + joules
                if _better(objective, seconds, joules, path[end, 0], path[end, 1]):
                    path[end, 0], path[end, 1] = seconds, joules
            a += 1
        if path[count, 0] < np.inf:
            return path[count, 0], path[count, 1]
    return np.inf, np.inf


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _price(
    designs: Any,
    skeleton: Any,
    rows: Any,
    span: Any,
    stages: Any,
    alternatives: Any,
    tasks: Any,
    vector: Any,
    objective: Any,
    top: Any,
    per_memory: Any,
    block: Any,
) -> Any:
    """Seconds and joules per design; infinite where some task has no alternative that fits."""
    count = len(designs)
    seconds_out, joules_out = np.zeros(count), np.zeros(count)
    longest = 0
    for t in range(len(tasks)):
        longest = max(longest, tasks[t, 3])
    for b in prange((count + block - 1) // block):
        path = np.empty((longest + 1, 2))
        for i in range(b * block, min(count, (b + 1) * block)):
            seconds_sum, joules_sum = 0.0, 0.0
            for t in range(len(tasks)):
                seconds, joules = _price_task(
                    designs[i], skeleton[i], tasks[t], rows, span, stages, alternatives, vector,
                    objective, top, per_memory, path,
                )  # fmt: skip
                seconds_sum += seconds * tasks[t, 2]
                joules_sum += joules * tasks[t, 2]
            seconds_out[i], joules_out[i] = seconds_sum, joules_sum
    return seconds_out, joules_out
