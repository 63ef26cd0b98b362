"""What there is to price: a program as tasks, stages and the work beside them.

A *task* is what is launched together: a fusion group, or an operator by itself. It may be carried
out in several ways, its *alternatives* (fused; unfused; attention in blocks of queries). Each is a
sequence of *stages*. A stage is at most one nest on the matrix engine (a `Problem`, mapped and
priced by its traffic) and the work beside it (`Side`), which overlap; stages follow one another.
Identical tasks are priced once and counted.

Nothing here knows a size, bandwidth or price of a machine: one table serves a whole search.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from hwopt.hardware.accelerator import OperandRole
from hwopt.ir.program import Constraint
from hwopt.mapping.problem import Problem


@dataclass(frozen=True, slots=True)
class Side:
    """Work beside a nest: vector operations, and bytes moved by other operands than the nest's.

    `outer_*` cross the outermost memory; `chip_*` are accesses of the vector unit's memory.
    `outer_write_bytes` may be negative beside a nest whose own output stays on the chip: it is the
    result that leaves, less the output that the nest's traffic counts.
    """

    vector_operations: int = 0
    outer_read_bytes: float = 0.0
    outer_write_bytes: float = 0.0
    chip_read_bytes: float = 0.0
    chip_write_bytes: float = 0.0

    def __add__(self, other: Side) -> Side:
        return Side(
            self.vector_operations + other.vector_operations,
            self.outer_read_bytes + other.outer_read_bytes,
            self.outer_write_bytes + other.outer_write_bytes,
            self.chip_read_bytes + other.chip_read_bytes,
            self.chip_write_bytes + other.chip_write_bytes,
        )

    def scaled(self, share: float) -> Side:
        """A share of it (the vector operations rounded)."""
        return Side(
            round(self.vector_operations * share),
            self.outer_read_bytes * share,
            self.outer_write_bytes * share,
            self.chip_read_bytes * share,
            self.chip_write_bytes * share,
        )

    def divided(self, parts: int) -> Side:
        """An equal share of it (the vector operations rounded up)."""
        return Side(
            -(-self.vector_operations // parts),
            self.outer_read_bytes / parts,
            self.outer_write_bytes / parts,
            self.chip_read_bytes / parts,
            self.chip_write_bytes / parts,
        )


@dataclass(frozen=True)
class Request:
    """A nest to be mapped, and what narrows the choice.

    `resident` operands never leave the outermost on-chip memory that keeps them.
    """

    problem: Problem
    resident: tuple[OperandRole, ...] = ()
    constraint: Constraint = field(default=Constraint())


@dataclass(frozen=True)
class Stage:
    """`count` repetitions of a nest with its side work.

    `launches`: kernels started per repetition; a fraction where one kernel does several.
    """

    name: str
    request: Request | None
    side: Side
    count: int = 1
    launches: float = 0.0

    @property
    def points(self) -> int:
        """Multiply-accumulates of one repetition."""
        return 0 if self.request is None else self.request.problem.points


@dataclass(frozen=True)
class Alternative:
    """One way to carry out the operators `span[0]` to `span[1]` (exclusive) of a task.

    A way to carry out the task is a chain of alternatives of one tier that covers it; the best
    feasible chain of the lowest tier counts.
    """

    label: str
    stages: tuple[Stage, ...]
    tier: int = 0
    span: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Task:
    """Identical groups of operators: `ops` names the members of the first, `count` how many."""

    name: str
    kind: str
    ops: tuple[str, ...]
    count: int
    macs: int
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True)
class OpTable:
    """All tasks of a program. `is_bound`: opaque operators make every total a lower bound.

    `members`: for each operator of the program that costs something, the task it belongs to.
    `tensors`: what an operator with one nest reads and writes, in the order of its operands.
    """

    name: str
    tasks: tuple[Task, ...]
    members: dict[str, str]
    is_bound: bool = False
    tensors: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one execution, recomputation included."""
        return sum(task.macs * task.count for task in self.tasks)

    @cached_property
    def requests(self) -> tuple[Request, ...]:
        """The distinct nests to map, in order of appearance."""
        found: dict[Request, None] = {}
        for task in self.tasks:
            for alternative in task.alternatives:
                for stage in alternative.stages:
                    if stage.request is not None:
                        found[stage.request] = None
        return tuple(found)


def with_sizes(problem: Problem, sizes: dict[str, int]) -> Problem:
    """The same nest on a block: some axes shortened, operand shapes cut to what is touched."""
    axes = tuple(replace(axis, size=sizes.get(axis.name, axis.size)) for axis in problem.axes)
    trips = {axis.name: axis.size for axis in axes}
    operands = tuple(
        replace(
            operand,
            shape=tuple(affine.bounds(trips)[1] + 1 for affine in operand.access.index),
        )
        for operand in problem.operands
    )
    return Problem(axes, operands, problem.sequential)
