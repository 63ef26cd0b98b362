"""The pricing kernel: every design of a hardware table against every task of an op table, jitted.

The same model as `reference`, over flat arrays: for each design, stages are priced once (an argmin
over the candidate rows of their nest for the design's fan-out shape), alternatives are sums of
stages, tasks take the best alternative of the lowest tier that fits. Float64 throughout; counts
above 2**53 are refused when tables are packed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwopt.cost.tables import OpTable, Request
from hwopt.errors import SizeError
from hwopt.hardware.accelerator import Accelerator
from hwopt.hardware.table import COLUMNS, MEMORY_COLUMNS, HardwareTable, vector_memory
from hwopt.ir.access import MAX_COUNT

os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")  # survives fork; omp does not

from numba import njit, prange

OBJECTIVES = {"latency": 0, "energy": 1, "edp": 2}

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
    outer write, chip read and chip write bytes. `alternatives`: first stage, end, tier. `tasks`:
    first alternative, end, count.
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
    alternatives: list[tuple[int, int, int]] = []
    tasks: list[tuple[int, int, int]] = []
    for task in table.tasks:
        first = len(alternatives)
        for alternative in task.alternatives:
            start = len(stages)
            for stage in alternative.stages:
                nest = -1 if stage.request is None else nests[stage.request]
                side = stage.side
                stages.append(
                    (nest, stage.count, stage.launches, stage.points, side.vector_operations,
                     side.outer_read_bytes, side.outer_write_bytes, side.chip_read_bytes,
                     side.chip_write_bytes)
                )  # fmt: skip
            alternatives.append((start, len(stages), alternative.tier))
        tasks.append((first, len(alternatives), task.count))
    packed = np.array(stages, dtype=np.float64).reshape(-1, 9)
    if packed.size and packed.max() > MAX_COUNT:
        raise SizeError("a count of one operator is too large to be exact", value=packed.max(),
                        allowed="at most 2**53")  # fmt: skip
    return Packed(
        np.ascontiguousarray(rows), span, packed,
        np.array(alternatives, dtype=np.int64).reshape(-1, 3),
        np.array(tasks, dtype=np.int64).reshape(-1, 3), vector_memory(hardware.skeletons[0]),
    )  # fmt: skip


def price(packed: Packed, hardware: HardwareTable, objective: str = "latency") -> CostTable:
    """Price every design of the table."""
    seconds, joules = _price(
        hardware.rows, hardware.skeleton, packed.rows, packed.span, packed.stages,
        packed.alternatives, packed.tasks, packed.vector_memory, OBJECTIVES[objective],
        len(COLUMNS), len(MEMORY_COLUMNS),
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
            if memory == vector:
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
) -> Any:
    """Seconds and joules per design; infinite where some task has no alternative that fits."""
    count = len(designs)
    seconds_out, joules_out = np.zeros(count), np.zeros(count)
    for i in prange(count):
        seconds_sum, joules_sum = 0.0, 0.0
        for t in range(len(tasks)):
            best_seconds, best_joules, best_tier = np.inf, np.inf, np.int64(1 << 30)
            for a in range(tasks[t, 0], tasks[t, 1]):
                tier = alternatives[a, 2]
                if tier > best_tier:
                    continue
                seconds, joules = 0.0, 0.0
                for s in range(alternatives[a, 0], alternatives[a, 1]):
                    nest = int(stages[s, 0])
                    first, end = 0, 1
                    if nest >= 0:
                        first, end = span[nest, skeleton[i], 0], span[nest, skeleton[i], 1]
                    one, energy = _price_stage(
                        designs[i], rows, first, end, stages[s], vector, objective, top, per_memory
                    )
                    seconds += one * stages[s, 1]
                    joules += energy * stages[s, 1]
                    if seconds == np.inf:
                        break
                if seconds < np.inf and (
                    tier < best_tier
                    or _better(objective, seconds, joules, best_seconds, best_joules)
                ):
                    best_seconds, best_joules, best_tier = seconds, joules, tier
            seconds_sum += best_seconds * tasks[t, 2]
            joules_sum += best_joules * tasks[t, 2]
        seconds_out[i], joules_out[i] = seconds_sum, joules_sum
    return seconds_out, joules_out
