"""Why a task fits in no way: which tensor, which memory, how many bytes, and what would fit.

The least that a nest needs in a memory: one element of each operand that may not pass it by; the
whole of an operand that is resident there; and in the outermost memory, where everything begins and
ends, all elements that the nest touches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hwopt.cost.footprint import touched_elements
from hwopt.cost.naming import tensors_of
from hwopt.cost.tables import OpTable, Request, Task, with_sizes
from hwopt.errors import InfeasibleError
from hwopt.hardware.accelerator import Accelerator, Memory, OperandRole
from hwopt.mapping.problem import Operand, Problem
from hwopt.quantities import show_bytes

Homes: TypeAlias = Mapping[OperandRole, str]
"""The memory in which each resident operand stays."""
HomesOf: TypeAlias = Callable[[Request, Accelerator], Homes | None]
WIDTHS = (32, 16, 8, 4, 2, 1)
"""Widths of elements, in bits, that are tried for one that fits."""


@dataclass(frozen=True, slots=True)
class Need:
    """The least of one operand in a memory: its role, the tensor's name ("" where it is a part of
    one), bytes, and whether these are the whole operand or one element.
    """

    role: OperandRole
    tensor: str
    demand_bytes: float
    whole: bool

    def __str__(self) -> str:
        name = f"{self.role} {self.tensor}".rstrip()
        part = "the whole of" if self.whole else "one element of"
        return f"{part} {name} {show_bytes(self.demand_bytes)}"


@dataclass(frozen=True, slots=True)
class Shortage:
    """One memory that cannot hold the least that a nest needs there.

    `levers`: what would fit, each by itself. `sizes`: the largest size of each axis of the nest
    with which it would fit, the others being as they are; (axis, largest, now).
    """

    memory: str
    needs: tuple[Need, ...]
    bound_bytes: float
    levers: tuple[str, ...]
    sizes: tuple[tuple[str, int, int], ...] = ()

    @property
    def demand_bytes(self) -> float:
        """The least that is needed."""
        return sum(need.demand_bytes for need in self.needs)

    @property
    def gap_bytes(self) -> float:
        """How much is missing."""
        return self.demand_bytes - self.bound_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "memory": self.memory, "demand": self.demand_bytes, "bound": self.bound_bytes,
            "gap": self.gap_bytes, "unit": "bytes", "levers": list(self.levers),
            "needs": [
                {"role": n.role, "tensor": n.tensor, "demand": n.demand_bytes, "whole": n.whole}
                for n in self.needs
            ],
            "sizes": [
                {"axis": axis, "largest": largest, "now": now} for axis, largest, now in self.sizes
            ],
        }  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.memory} needs {show_bytes(self.demand_bytes)}, has "
            f"{show_bytes(self.bound_bytes)}: {show_bytes(self.gap_bytes)} missing "
            f"({', '.join(map(str, self.needs))})"
        )


class DoesNotFitError(InfeasibleError):
    """A task that no mapping carries out; `shortages` says what is missing where."""

    def __init__(
        self, task: Task, machine: Accelerator, shortages: tuple[Shortage, ...], cause: str
    ) -> None:
        self.task = task.name
        self.accelerator = machine.name
        self.shortages = shortages
        levers = dict.fromkeys(lever for shortage in shortages for lever in shortage.levers)
        super().__init__(
            f"{task.name} ({task.kind}) does not fit",
            where=machine.name,
            value="; ".join(map(str, shortages)) or cause or None,
            fix=", or ".join(levers) or "relax the constraints on its mapping",
        )

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints in place of a result."""
        return {
            "infeasible": self.what, "accelerator": self.accelerator, "operator": self.task,
            "shortages": [shortage.to_json() for shortage in self.shortages],
            "cause": None if self.shortages else self.value, "fix": self.fix,
        }  # fmt: skip


def shortages(
    request: Request, machine: Accelerator, homes: Homes,
    tensors: Mapping[OperandRole, str] | None = None,
) -> Iterator[Shortage]:  # fmt: skip
    """The memories that cannot hold the least that a nest needs.

    `homes`: where resident operands stay; `tensors`: names of the operands, where they have one.
    """
    for memory in machine.memories:
        needs = _needs(request.problem, memory, machine, homes, tensors or {})
        demand = sum(need.demand_bytes for need in needs)
        if demand > memory.usable_bytes:
            sizes = tuple(_sizes(request.problem, memory, machine, homes))
            levers = tuple(_levers(request.problem, memory, machine, needs, sizes))
            yield Shortage(memory.name, needs, memory.usable_bytes, levers, sizes)


def _needs(
    problem: Problem, memory: Memory, machine: Accelerator, homes: Homes,
    tensors: Mapping[OperandRole, str],
) -> tuple[Need, ...]:  # fmt: skip
    """The least of each operand in a memory; operands that need nothing there are left out."""
    names = [each.name for each in machine.memories]
    found = []
    for role, operand in problem.operand.items():
        home = homes.get(role)
        if home == memory.name:
            elements, whole = math.prod(operand.shape), True
        elif home is not None and names.index(home) > names.index(memory.name):
            continue  # it never goes there
        elif memory is machine.memories[0]:
            elements, whole = _touched(operand, problem), True
        elif role in memory.keeps and role not in memory.bypass:
            elements, whole = 1, False
        else:
            continue
        found.append(Need(role, tensors.get(role, ""), elements * operand.bits / 8, whole))
    return tuple(found)


def _touched(operand: Operand, problem: Problem) -> int:
    return touched_elements(operand.access, problem.sizes, operand.shape)


def _demand(problem: Problem, memory: Memory, machine: Accelerator, homes: Homes) -> float:
    return sum(need.demand_bytes for need in _needs(problem, memory, machine, homes, {}))


def _sizes(
    problem: Problem, memory: Memory, machine: Accelerator, homes: Homes
) -> Iterator[tuple[str, int, int]]:
    """The largest size of each axis that fits; axes that alone cannot help are left out."""

    def fits(axis: str, size: int) -> bool:
        smaller = with_sizes(problem, {axis: size})
        return _demand(smaller, memory, machine, homes) <= memory.usable_bytes

    for axis, now in problem.sizes.items():
        if not fits(axis, 1):
            continue
        low, high = 1, now  # the size `low` fits, `high` does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(axis, middle) else (low, middle)
        yield axis, low, now


def _levers(
    problem: Problem, memory: Memory, machine: Accelerator, needs: tuple[Need, ...],
    sizes: tuple[tuple[str, int, int], ...],
) -> Iterator[str]:  # fmt: skip
    """What would fit, each by itself."""
    demand = sum(need.demand_bytes for need in needs)
    factor = 2 if memory.double_buffered else 1
    yield f"{memory.name}.capacity_bytes of {show_bytes(factor * demand)} or more"
    if memory.double_buffered and demand <= 2 * memory.usable_bytes:
        yield f"{memory.name} without double buffering"
    if memory is not machine.memories[0]:
        yield f"a bypass of {memory.name}"
    for axis, largest, now in sizes:
        yield f"{axis} of at most {largest} (now {now})"
    widest = max(problem.operand[need.role].bits for need in needs)
    for bits in WIDTHS:
        narrow = (
            need.demand_bytes * min(1.0, bits / problem.operand[need.role].bits) for need in needs
        )
        if bits < widest and sum(narrow) <= memory.usable_bytes:
            yield f"elements of {bits} bits (now {widest})"
            return


def does_not_fit(
    table: OpTable, task: Task, machine: Accelerator, homes_of: HomesOf,
    errors: Iterable[InfeasibleError] = (),
) -> DoesNotFitError:  # fmt: skip
    """The report on a task: shortages of its last way, operator by operator, which needs least."""
    found: dict[str, Shortage] = {}
    last = max(alternative.tier for alternative in task.alternatives)
    for alternative in task.alternatives:
        if alternative.tier != last:
            continue
        for stage in alternative.stages:
            if stage.request is None:
                continue
            homes = homes_of(stage.request, machine) or {}
            tensors = tensors_of(table, task.ops, stage)
            for shortage in shortages(stage.request, machine, homes, tensors):
                known = found.get(shortage.memory)
                if known is None or known.demand_bytes < shortage.demand_bytes:
                    found[shortage.memory] = shortage
    cause = "; ".join(dict.fromkeys(error.what for error in errors))
    return DoesNotFitError(task, machine, tuple(found.values()), cause)
