"""A program's execution as a Chrome trace (open it in Perfetto): one slice per task and resource.

Tracks: the tasks one after the other; within each, how long the matrix engine, the vector unit and
each memory are busy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwopt.cost.reference import Machine, StageCost
from hwopt.files import write_json

if TYPE_CHECKING:
    from hwopt.cost.cost import Cost

MOST_REPEATS = 200
"""Repetitions of one task drawn one by one; the rest is drawn as one slice."""


def write_timeline(cost: Cost, path: str | Path) -> None:
    """Write the trace; times in microseconds, tasks in program order (identical ones together)."""
    write_json(path, {"displayTimeUnit": "ns", "traceEvents": events(cost)})


def events(cost: Cost) -> list[dict[str, Any]]:
    """Complete ("X") events and the names of their tracks."""
    machine = Machine(cost.accelerator)
    tracks = ["tasks", "compute", "vector", *machine.names]
    result: list[dict[str, Any]] = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "args": {"name": name}}
        for tid, name in enumerate(tracks)
    ]
    clock = 0.0
    for task in cost.tasks:
        single = min(task.task.count, MOST_REPEATS)
        for repeat in range(single):
            times = 1 if repeat < single - 1 else task.task.count - single + 1
            start, clock = clock, clock + task.seconds * times
            result.append(
                _slice(task.task.name, 0, start, clock - start,
                       {"kind": task.task.kind, "repetitions": times,
                        "how": task.alternative.label, "macs": task.task.macs})
            )  # fmt: skip
            for stage in task.stages:
                busy = _busy(cost, stage, machine)
                for tid, name in enumerate(tracks[1:], 1):
                    seconds = busy.get(name, 0.0) * stage.stage.count * times
                    if seconds > 0:
                        result.append(_slice(stage.stage.name, tid, start, seconds, {}))
                start += stage.seconds * stage.stage.count * times
    return result


def _slice(
    name: str, tid: int, start: float, seconds: float, about: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X", "name": name, "pid": 1, "tid": tid, "ts": start * 1e6, "dur": seconds * 1e6,
        "args": about,
    }  # fmt: skip


def _busy(cost: Cost, stage: StageCost, machine: Machine) -> dict[str, float]:
    """Seconds that each resource works during one repetition of a stage."""
    side = stage.stage.side
    busy = {"vector": side.vector_operations / machine.value["vector_operations_per_s"]}
    flows: dict[str, tuple[float, float]] = {}
    if stage.stage.request is not None and (best := cost.mappings[stage.stage.request]):
        busy["compute"] = best.analysis.steps / machine.value["clock_hz"]
        for name in machine.names:
            flows[name] = (
                best.analysis.bytes_of(name, "busiest_read"),
                best.analysis.bytes_of(name, "busiest_write"),
            )
    for index, name in enumerate(machine.names):
        reads, writes = flows.get(name, (0.0, 0.0))
        if index == 0:
            reads, writes = reads + side.outer_read_bytes, writes + side.outer_write_bytes
        if index == machine.vector_memory:
            reads, writes = reads + side.chip_read_bytes, writes + side.chip_write_bytes
        memory = machine.memory[index]
        busy[name] = max(
            reads * memory["read_seconds_per_byte"],
            writes * memory["write_seconds_per_byte"],
            (reads + writes) * memory["port_seconds_per_byte"],
        )
    return busy
