"""Why a task fits in no way: demand, bound, gap, and what would relax it.

The least that a nest needs in a memory is one element of each operand that may not pass it by, and
the whole of an operand that is resident there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hwopt.cost.tables import Request, Task
from hwopt.errors import InfeasibleError
from hwopt.hardware.accelerator import Accelerator, OperandRole
from hwopt.quantities import show_bytes

Homes: TypeAlias = Mapping[OperandRole, str]
"""The memory in which each resident operand stays."""
HomesOf: TypeAlias = Callable[[Request, Accelerator], Homes | None]


@dataclass(frozen=True, slots=True)
class Shortage:
    """One memory that cannot hold the least that a nest needs there."""

    memory: str
    demand_bytes: float
    bound_bytes: float
    levers: tuple[str, ...]

    @property
    def gap_bytes(self) -> float:
        """How much is missing."""
        return self.demand_bytes - self.bound_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "memory": self.memory, "demand": self.demand_bytes, "bound": self.bound_bytes,
            "gap": self.gap_bytes, "unit": "bytes", "levers": list(self.levers),
        }  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.memory} needs {show_bytes(self.demand_bytes)}, has "
            f"{show_bytes(self.bound_bytes)}: {show_bytes(self.gap_bytes)} missing"
        )


class DoesNotFitError(InfeasibleError):
    """A task that no mapping carries out; `shortages` says what is missing where."""

    def __init__(
        self, task: Task, machine: Accelerator, shortages: tuple[Shortage, ...], cause: str
    ) -> None:
        self.task = task.name
        self.shortages = shortages
        levers = dict.fromkeys(lever for shortage in shortages for lever in shortage.levers)
        super().__init__(
            f"{task.name} ({task.kind}) does not fit",
            where=machine.name,
            value="; ".join(map(str, shortages)) or cause or None,
            fix=", or ".join(levers) or "relax the constraints on its mapping",
        )


def shortages(request: Request, machine: Accelerator, homes: Homes) -> Iterator[Shortage]:
    """The memories that cannot hold the least that a nest needs; `homes`: resident operands."""
    operands = request.problem.operand
    for memory in machine.memories:
        demand = 0.0
        for role, operand in operands.items():
            if homes.get(role) == memory.name:
                demand += math.prod(operand.shape) * operand.bits / 8
            elif role in memory.keeps and role not in memory.bypass:
                demand += operand.bits / 8
        if demand > memory.usable_bytes:
            factor = 2 if memory.double_buffered else 1
            levers = [f"{memory.name}.capacity_bytes of {show_bytes(factor * demand)} or more"]
            if memory.double_buffered:
                levers.append(f"{memory.name} without double buffering")
            if memory is not machine.memories[0]:
                levers.append(f"a bypass of {memory.name}")
            yield Shortage(memory.name, demand, memory.usable_bytes, tuple(levers))


def does_not_fit(
    task: Task, machine: Accelerator, homes_of: HomesOf, errors: Iterable[InfeasibleError]
) -> DoesNotFitError:
    """The report on a task: shortages of its last way, operator by operator, which needs least."""
    found: dict[str, Shortage] = {}
    last = max(alternative.tier for alternative in task.alternatives)
    for alternative in task.alternatives:
        if alternative.tier != last:
            continue
        for stage in alternative.stages:
            if stage.request is None:
                continue
            for shortage in shortages(
                stage.request, machine, homes_of(stage.request, machine) or {}
            ):
                known = found.get(shortage.memory)
                if known is None or known.demand_bytes < shortage.demand_bytes:
                    found[shortage.memory] = shortage
    cause = "; ".join(dict.fromkeys(error.what for error in errors))
    return DoesNotFitError(task, machine, tuple(found.values()), cause)
