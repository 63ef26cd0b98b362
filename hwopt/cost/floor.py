"""`lower_bound`: what a program costs at least, in milliseconds of work instead of a search.

Tasks, counts, side work and the pricing formula are those of `evaluate`; only the mapping of each
nest is not searched for but taken to be ideal:

* every lane of the machine works (steps = points / lanes), more steps where operands are wider
  than the compute unit: two for float32 on tensor cores of 16 bits, as TF32 has half their rate;
* the outermost memory moves each element that the nest touches once; inner memories keep up;
* an operand that must stay on the chip takes its room in its memory and moves nothing.

So it is never above `evaluate` on a machine that imposes its element widths. It serves planners
that price thousands of shapes, where differences between mappings are smaller than what is unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwopt.cost.cost import homes_of
from hwopt.cost.footprint import touched_elements
from hwopt.cost.infeasibility import does_not_fit
from hwopt.cost.reference import RowsOf, price_table, total
from hwopt.cost.tables import Request, Stage
from hwopt.cost.tasks import op_table
from hwopt.hardware.accelerator import Accelerator
from hwopt.ir.program import Program
from hwopt.mapping.analysis import PER_LEVEL
from hwopt.mapping.problem import Operand, Problem


@dataclass(frozen=True)
class LowerBound:
    """Least seconds and joules of one execution, bytes over the outermost memory, and the MACs.

    `by_phase`: seconds and bytes of the operators of each phase ("forward", "backward", ...).
    `opaque`: some operators are opaque, so even their work is only bounded.
    """

    seconds: float
    joules: float
    moved_bytes: float
    macs: int
    by_phase: dict[str, tuple[float, float]]
    opaque: bool = False


def lower_bound(
    program: Program, accelerator: Accelerator, *, fusion: str = "groups"
) -> LowerBound:
    """Price a program with an ideal mapping of every nest; arguments and errors as `evaluate`."""
    machine = accelerator.resolved()
    table = op_table(program, machine.bits, fusion)
    tasks = price_table(table, machine, _ideal(machine))
    for cost in tasks:
        if not math.isfinite(cost.seconds):
            raise does_not_fit(table, cost.task, machine, homes_of)
    seconds, joules = total(tasks)
    by_phase: dict[str, tuple[float, float]] = {}
    for cost in tasks:
        phase = program.graph.op[cost.task.ops[0]].phase
        moved = sum(part.stage.count * _outer_bytes(part.stage) for part in cost.stages)
        before = by_phase.get(phase, (0.0, 0.0))
        by_phase[phase] = (
            before[0] + cost.task.count * cost.seconds, before[1] + cost.task.count * moved,
        )  # fmt: skip
    moved = sum(part[1] for part in by_phase.values())
    return LowerBound(seconds, joules, moved, table.macs, by_phase, table.is_bound)


def _ideal(machine: Accelerator) -> RowsOf:
    """One candidate per nest: the ideal one. No candidate where what must stay has no memory."""
    known: dict[Request, npt.NDArray[np.float64]] = {}
    width = 1 + len(PER_LEVEL) * len(machine.memories)

    def rows(request: Request) -> npt.NDArray[np.float64]:
        if request not in known:
            known[request] = find(request)
        return known[request]

    def find(request: Request) -> npt.NDArray[np.float64]:
        homes = homes_of(request, machine)
        if homes is None:
            return np.zeros((0, width))
        row = np.zeros(width)
        row[0] = _steps(request.problem, machine)
        reads, writes = _outer_traffic(request)
        row[2:6] = reads, writes, reads, writes
        names = [memory.name for memory in machine.memories]
        for role, memory in homes.items():
            operand = request.problem.operand[role]
            row[1 + 5 * names.index(memory)] += math.prod(operand.shape) * operand.bits / 8
        return row[np.newaxis]

    return rows


def _steps(problem: Problem, machine: Accelerator) -> int:
    """Cycles with every lane at work."""
    widest = max(operand.bits for operand in problem.operands if operand.role != "output")
    return -(-problem.points * max(1, -(-widest // machine.compute.bits)) // machine.lanes)


def _outer_traffic(request: Request) -> tuple[float, float]:
    """Bytes read from and written to the outermost memory, each element once."""
    problem = request.problem
    moving = [o for o in problem.operands if o.role not in request.resident]
    reads = sum(_touched_bytes(o, problem) for o in moving if o.role != "output")
    writes = sum(_touched_bytes(o, problem) for o in moving if o.role == "output")
    return reads, writes


def _touched_bytes(operand: Operand, problem: Problem) -> float:
    return touched_elements(operand.access, problem.sizes, operand.shape) * operand.bits / 8


def _outer_bytes(stage: Stage) -> float:
    """Bytes of one repetition over the outermost memory, those of the side work included."""
    side = stage.side
    beside = side.outer_read_bytes + side.outer_write_bytes
    return beside + (sum(_outer_traffic(stage.request)) if stage.request is not None else 0.0)
