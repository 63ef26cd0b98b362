"""What there is to price: a program as tasks, stages and the work beside them.

A *task* is what is launched together: a fusion group, or an operator by itself. It may be carried
out in several ways, its *alternatives* (fused; unfused; attention in blocks of queries). Each is a
sequence of *stages*. A stage is at most one nest on the matrix engine (a `Problem`, mapped and
priced by its traffic) and the work beside it (`Side`), which overlap; stages follow one another.
Identical tasks are priced once and counted.

Nothing here knows a size, bandwidth or price of a machine: one table serves a whole search.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

from hwopt.hardware.accelerator import OperandRole
from hwopt.ir.graph import Graph
from hwopt.ir.op import Op
from hwopt.ir.program import Constraint
from hwopt.ir.tensor import Tensor
from hwopt.mapping.problem import Problem


@dataclass(frozen=True, slots=True)
class Side:
    """Work beside a nest: vector operations, and bytes moved by other operands than the nest's.

    `outer_*` cross the outermost memory; `chip_*` are accesses of the vector unit's memory.
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
    """`count` repetitions of a nest with its side work; `launches` of them start a kernel."""

    name: str
    request: Request | None
    side: Side
    count: int = 1
    launches: int = 0

    @property
    def points(self) -> int:
        """Multiply-accumulates of one repetition."""
        return 0 if self.request is None else self.request.problem.points


@dataclass(frozen=True)
class Alternative:
    """One way to carry out a task. Of the feasible ones of the lowest `tier`, the best counts."""

    label: str
    stages: tuple[Stage, ...]
    tier: int = 0


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
    """

    name: str
    tasks: tuple[Task, ...]
    members: dict[str, str]
    is_bound: bool = False

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


def side_of(op: Op, graph: Graph, inside: frozenset[str], written: frozenset[str]) -> Side:
    """The side work of one operator of a group.

    `inside`: tensors that stay on the chip; `written`: those of its results that must leave it.
    Every operand passes through the vector unit's memory once; what comes from or goes to the
    outermost memory is written there and read there on its way.
    """
    reads = _operand_bytes(op, graph, op.reads, "read_elements")
    writes = _operand_bytes(op, graph, op.writes, "write_elements")
    outer_in = sum(size for name, size in reads if name not in inside)
    outer_out = sum(size for name, size in writes if name in written)
    total_in, total_out = sum(size for _, size in reads), sum(size for _, size in writes)
    return Side(op.work, outer_in, outer_out, total_in + outer_out, total_out + outer_in)


def _operand_bytes(
    op: Op, graph: Graph, names: Iterable[str], touched: str
) -> list[tuple[str, float]]:
    """Tensor name and bytes touched, per operand; an operand named twice is moved once."""
    counts = getattr(op.body, touched, None)
    result: dict[str, float] = {}
    for position, name in enumerate(names):
        tensor = graph.tensor[name]
        elements = counts[position] if counts else tensor.elements
        size = elements * _element_bytes(tensor)
        result[name] = max(result.get(name, 0.0), size)
    return list(result.items())


def _element_bytes(tensor: Tensor) -> float:
    return tensor.nbytes / max(1, tensor.elements)


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
