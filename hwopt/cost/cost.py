"""`evaluate`: what a program costs on an accelerator, operator by operator.

Every distinct nest gets its best mapping on this accelerator; tasks, counts and totals are then
priced by the plain reference model. The answer is a `Cost`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hwopt.cost.infeasibility import does_not_fit
from hwopt.cost.naming import find_task
from hwopt.cost.reference import RowsOf, StageCost, TaskCost, price_table, total
from hwopt.cost.tables import OpTable, Request, Stage
from hwopt.cost.tasks import op_table
from hwopt.errors import HwoptError, InfeasibleError
from hwopt.hardware.accelerator import Accelerator, OperandRole
from hwopt.hardware.conventions import NATIVE, Conventions
from hwopt.hardware.table import home, vector_memory
from hwopt.ir.program import Program
from hwopt.mapping.analysis import OBJECTIVES, PER_LEVEL, Objective
from hwopt.mapping.best import Best, best_mapping

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Row:
    """One task of the program, all its repetitions together.

    `bound` names what limits its longest stage: "compute", "vector", "launch" or the bandwidth of a
    memory ("DRAM bandwidth").
    """

    name: str
    kind: str
    count: int
    seconds: float
    joules: float
    macs: int
    utilisation: float
    bound: str
    outer_bytes: float
    how: str
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What one execution of a program costs on an accelerator.

    `seconds`, `joules` (leakage included), `area_m2`; `utilisation` is MACs done over MACs that
    the lanes could do in the time; `traffic` gives bytes read and written per memory and operand
    role ("side": vector and data-movement work). `is_bound`: a lower bound, because of opaque
    operators. `static_ops`: operators that run once at load and cost nothing here.
    """

    name: str
    accelerator: Accelerator
    table_of_tasks: OpTable
    tasks: tuple[TaskCost, ...]
    mappings: dict[Request, Best | None]
    seconds: float
    joules: float
    static_ops: tuple[str, ...] = ()
    is_bound: bool = False
    conventions: Conventions = NATIVE
    objective: Objective = "latency"

    @property
    def area_m2(self) -> float:
        """Area of the accelerator."""
        return self.accelerator.area_m2

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one execution."""
        return self.table_of_tasks.macs

    @property
    def utilisation(self) -> float:
        """MACs over what all lanes could do in `seconds`."""
        return (
            self.macs / (self.accelerator.peak_macs_per_s * self.seconds) if self.seconds else 0.0
        )

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """One row per task, in program order."""
        return tuple(self._row(cost) for cost in self.tasks)

    def _row(self, cost: TaskCost) -> Row:
        task = cost.task
        longest = max(cost.stages, key=lambda s: s.seconds * s.stage.count)
        seconds = cost.seconds * task.count
        peak = self.accelerator.peak_macs_per_s
        outer = self.accelerator.memories[0].name
        moved = sum(
            value for stage in cost.stages for (memory, _, _), value in self._traffic(stage).items()
            if memory == outer
        )  # fmt: skip
        return Row(
            task.name, task.kind, task.count, seconds, cost.joules * task.count,
            task.macs * task.count, task.macs * task.count / (peak * seconds) if seconds else 0.0,
            longest.bound, moved * task.count, cost.alternative.label, task.ops,
        )  # fmt: skip

    @cached_property
    def traffic(self) -> dict[str, dict[str, dict[str, float]]]:
        """`traffic[memory][role]["read" | "write"]` in bytes, all copies of the memory."""
        result: dict[str, dict[str, dict[str, float]]] = {
            memory.name: {} for memory in self.accelerator.memories
        }
        for cost in self.tasks:
            for stage in cost.stages:
                for (memory, role, way), value in self._traffic(stage).items():
                    ways = result[memory].setdefault(role, {"read": 0.0, "write": 0.0})
                    ways[way] += value * cost.task.count
        return result

    def _traffic(self, cost: StageCost) -> dict[tuple[str, str, str], float]:
        """Bytes of all repetitions of a stage by (memory, role, "read" or "write")."""
        stage = cost.stage
        moved: dict[tuple[str, str, str], float] = {}
        outer = self.accelerator.memories[0].name
        chip = self.accelerator.memories[vector_memory(self.accelerator)].name
        side = stage.side
        for memory, way, value in (
            (outer, "read", side.outer_read_bytes), (outer, "write", side.outer_write_bytes),
            (chip, "read", side.chip_read_bytes), (chip, "write", side.chip_write_bytes),
        ):  # fmt: skip
            if value:
                moved[memory, "side", way] = moved.get((memory, "side", way), 0.0) + value
        if stage.request is not None and (best := self.mappings[stage.request]):
            for memory, flows in best.analysis.flows.items():
                for role, flow in flows.items():
                    size = best.analysis.bits[role] / 8
                    moved[memory, role, "read"] = flow.total_read * size
                    moved[memory, role, "write"] = flow.total_write * size
        return {where: value * stage.count for where, value in moved.items()}

    def best(self, operator: str) -> list[tuple[Stage, Best]]:
        """The stages and mappings that carry out an operator, or the one whose name it is part of.

        Raises `UnknownNameError`.
        """
        task = find_task(self.table_of_tasks, self.tasks, operator)
        return [
            (stage, best)
            for stage in (s.stage for s in task.stages)
            if stage.request is not None and (best := self.mappings[stage.request]) is not None
        ]

    def mapping_text(self, operator: str) -> str:
        """The loop nests of an operator, with footprints, and why it is not faster."""
        from hwopt.cost.text import mapping_text

        return mapping_text(self, operator)

    def mapping_json(self, operator: str) -> dict[str, Any]:
        """The same as plain data."""
        from hwopt.cost.text import mapping_json

        return mapping_json(self, operator)

    def frame(self) -> pd.DataFrame:
        """The rows as a pandas frame."""
        import pandas as pd

        return pd.DataFrame([vars(row) for row in self.rows])

    def timeline(self, path: str | Path) -> None:
        """Write a Perfetto (Chrome trace) JSON with one slice per task."""
        from hwopt.cost.timeline import write_timeline

        write_timeline(self, path)

    def to_json(self) -> dict[str, Any]:
        """What `hwopt cost --json` prints."""
        return {
            "name": self.name,
            "accelerator": self.accelerator.name,
            "conventions": self.conventions.name,
            "objective": self.objective,
            "seconds": self.seconds,
            "joules": self.joules,
            "area_m2": self.area_m2,
            "macs": self.macs,
            "utilisation": self.utilisation,
            "is_bound": self.is_bound,
            "static_ops": list(self.static_ops),
            "traffic_bytes": self.traffic,
            "rows": [{**vars(row), "ops": list(row.ops)} for row in self.rows],
        }

    def table(self) -> str:
        """The rows and totals as text for people, the costliest first."""
        from hwopt.cost.text import cost_text

        return cost_text(self)


def evaluate(
    program: Program,
    accelerator: Accelerator,
    *,
    fusion: str = "groups",
    objective: str = "latency",
    conventions: Conventions = NATIVE,
) -> Cost:
    """Price a program on an accelerator.

    `objective` is what each mapping and each choice of alternative minimises: "latency", "energy"
    or "edp" (per task: a product is not a sum over tasks). Raises `DoesNotFitError`, which reports
    demand, bound and levers, when some task fits in no way.
    """
    if objective not in OBJECTIVES:
        raise HwoptError("unknown objective", value=objective, allowed=", ".join(OBJECTIVES))
    machine = accelerator.resolved()
    table = op_table(program, machine.bits, fusion)
    mappings: dict[Request, Best | None] = {}
    reports: list[InfeasibleError] = []
    rows_of = _rows_of(machine, objective, conventions, mappings, reports)
    tasks = price_table(table, machine, rows_of, objective)
    for cost in tasks:
        if not math.isfinite(cost.seconds):
            raise does_not_fit(table, cost.task, machine, homes_of, reports)
    seconds, joules = total(tasks)
    return Cost(
        program.graph.name, machine, table, tasks, mappings, seconds, joules,
        tuple(sorted(program.graph.static)), table.is_bound, conventions, objective,
    )  # fmt: skip


def _rows_of(
    machine: Accelerator, objective: Objective, conventions: Conventions,
    mappings: dict[Request, Best | None], reports: list[InfeasibleError],
) -> RowsOf:  # fmt: skip
    """One candidate per nest: its best mapping, found once."""

    def rows(request: Request) -> npt.NDArray[np.float64]:
        if request not in mappings:
            mappings[request] = find(request)
        best = mappings[request]
        if best is None:
            return np.zeros((0, 1 + len(PER_LEVEL) * len(machine.memories)))
        return best.analysis.row(machine)[np.newaxis]

    def find(request: Request) -> Best | None:
        homes = homes_of(request, machine)
        if homes is None:
            return None
        try:
            return best_mapping(
                request.problem, machine, objective=objective, conventions=conventions,
                constraint=request.constraint, resident=homes,
            )  # fmt: skip
        except InfeasibleError as error:
            reports.append(error)
            return None

    return rows


def homes_of(request: Request, machine: Accelerator) -> dict[OperandRole, str] | None:
    """The memory in which each resident operand stays; None when the machine has none for one."""
    homes: dict[OperandRole, str] = {}
    for role in request.resident:
        name = home(machine, role)
        if name is None:
            return None
        homes[role] = name
    return homes
