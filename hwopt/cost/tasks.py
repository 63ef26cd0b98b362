"""From a program to its table of tasks: groups, the ways to carry them out, what is identical.

* An operator by itself reads its operands from the outermost memory and writes its results there.
* An *epilogue* or *pointwise* group keeps the tensors between its operators on the chip: pointwise
  work is applied to the anchor's output tiles as they are produced; what several of its operators
  read is fetched once.
* An *attention* group is carried out block by block (`attention`). Several block sizes are
  alternatives; the cheapest that fits is taken.

With fusion "optimal" any run of consecutive operators of a group may be fused, and the cheapest
partition into runs is taken: a shortest path over the group's operators.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal, TypeAlias, get_args

from hwopt.cost.attention import Attention
from hwopt.cost.footprint import operand_bytes
from hwopt.cost.tables import Alternative, OpTable, Request, Side, Stage, Task
from hwopt.errors import HwoptError
from hwopt.hardware.accelerator import OperandRole
from hwopt.ir.graph import Graph
from hwopt.ir.op import Nest, Op
from hwopt.ir.program import Constraint, Group, Program
from hwopt.mapping.problem import Operand, problems_of

Fusion: TypeAlias = Literal["off", "groups", "optimal"]
"""off: every operator by itself. groups: fused as the fuse pass found, wherever that fits. optimal:
the best partition of each group, never worse than either (for EDP: task by task)."""

FUSIONS: tuple[str, ...] = get_args(Fusion)


def op_table(program: Program, bits: dict[OperandRole, int], fusion: str = "groups") -> OpTable:
    """The table of a program. `bits`: element widths that the machine imposes, by operand role."""
    if fusion not in FUSIONS:
        raise HwoptError("unknown fusion", value=fusion, allowed=", ".join(FUSIONS))
    builder = _Builder(program, bits, fusion)
    tasks: dict[tuple[object, ...], Task] = {}
    members: dict[str, str] = {}
    for group in _groups(program, fusion):
        key = _signature(program, group)
        if key in tasks:
            known = tasks[key]
            tasks[key] = replace(known, count=known.count + 1)
        else:
            tasks[key] = builder.task(group)
        members.update(dict.fromkeys(group.ops, tasks[key].name))
    tensors = {
        op.name: (*op.reads, *op.writes)
        for op in program.graph.ops
        if op.macs and isinstance(op.body, Nest)
    }
    graph = program.graph
    return OpTable(graph.name, tuple(tasks.values()), members, graph.is_bound, tensors)


def _groups(program: Program, fusion: str) -> Iterator[Group]:
    """Groups, and operators that are in none as groups of one; views and static ones are free."""
    graph = program.graph
    start = {g.ops[0]: g for g in program.groups} if fusion != "off" else {}
    grouped = {name for group in start.values() for name in group.ops}
    for op in graph.ops:
        if op.name in start:
            group = start[op.name]
            kept = tuple(n for n in group.ops if not _is_free(graph, n))
            if kept:
                yield replace(group, ops=kept)
        elif op.name not in grouped and not _is_free(graph, op.name):
            yield Group((op.name,), op.name, "single")


def _is_free(graph: Graph, name: str) -> bool:
    return name in graph.static or graph.op[name].is_view


def _signature(program: Program, group: Group) -> tuple[object, ...]:
    """Groups with equal signatures cost the same: same classes, joined and left the same way."""
    graph = program.graph
    leaving = _leaving(graph, group.ops)
    local: dict[str, int] = {}
    wiring = []
    for name in group.ops:
        op = graph.op[name]
        ends = tuple(local.setdefault(t, len(local)) for t in (*op.reads, *op.writes))
        leaves = tuple(tensor in leaving for tensor in op.writes)
        wiring.append((program.class_of.get(name, name), ends, leaves))
    return (group.kind, *wiring)


def _leaving(graph: Graph, names: Sequence[str]) -> frozenset[str]:
    """Tensors written by these operators that others read, or that outlive the graph."""
    inside = set(names)
    outputs = set(graph.outputs)
    return frozenset(
        tensor
        for name in names
        for tensor in graph.op[name].writes
        if tensor in outputs or any(r not in inside for r in _readers(graph, tensor))
    )


def _readers(graph: Graph, tensor: str) -> Iterator[str]:
    """Names of the operators that read a tensor, looking through views ("" for the caller)."""
    for op in graph.consumers[tensor]:
        if op.is_view:
            for written in op.writes:
                if written in graph.outputs:
                    yield ""
                yield from _readers(graph, written)
        else:
            yield op.name


class _Builder:
    """Turns one group into a task."""

    def __init__(self, program: Program, bits: dict[OperandRole, int], fusion: str) -> None:
        self._graph = program.graph
        self._constraints = program.constraints
        self._bits = bits
        self._optimal = fusion == "optimal"

    def task(self, group: Group) -> Task:
        """The task of a group, with every way to carry it out."""
        ops = [self._graph.op[name] for name in group.ops]
        anchor = self._graph.op[group.anchor] if group.anchor in group.ops else ops[0]
        macs = sum(op.macs for op in ops)
        ways = tuple(self._ways(group, ops))
        return Task(anchor.name, anchor.kind, group.ops, 1, macs, ways)

    def _ways(self, group: Group, ops: Sequence[Op]) -> Iterator[Alternative]:
        count = len(ops)
        whole = (0, count)
        fused: list[Alternative] = []
        if count > 1 and group.kind == "attention":
            attention = self._attention(ops)
            if attention is not None and attention.is_blockwise:
                fused += [Alternative(label, s, 0, whole) for label, s in attention.ways()]
        if count > 1 and _products(ops) < 2:
            fused.append(Alternative("fused", self._run(ops), 0, whole))
        yield from fused
        singles = [self._run([op]) for op in ops]
        tier = 0 if self._optimal or not fused else 1
        label = "apart" if count > 1 else "single"
        for index, stages in enumerate(singles):
            yield Alternative(label, stages, tier, (index, index + 1))
        if self._optimal and count > 2:
            for first, end in combinations(range(count + 1), 2):
                if 1 < end - first < count and _products(ops[first:end]) < 2:
                    yield Alternative("fused", self._run(ops[first:end]), 0, (first, end))
            # the prefixes of a shortest path need not be those of the least energy x delay
            yield Alternative("apart", tuple(s for stages in singles for s in stages), 0, whole)

    def _run(self, ops: Sequence[Op]) -> tuple[Stage, ...]:
        """Operators as one launch: nests one after the other, the side work spread beside them."""
        names = [op.name for op in ops]
        leaving, inside = _leaving(self._graph, names), self._inside(ops)
        requests: list[Request] = []
        side, fetched = Side(), set(inside)
        for op in ops:
            if op.macs:
                constraint = self._constraints.get(op.name, Constraint())
                problems = problems_of(op, self._graph, self._bits)
                requests += [Request(problem, (), constraint) for problem in problems]
                side = side + self._beside_nests(op, leaving, fetched)
            else:
                side = side + self._side(op, leaving, fetched)
        if not requests:
            return (Stage(names[0], None, side, 1, 1.0),)
        if len(requests) == 1:
            return (Stage(names[0], requests[0], side, 1, 1.0),)
        share = side.divided(len(requests))
        return tuple(
            Stage(names[0], request, share, 1, float(i == 0)) for i, request in enumerate(requests)
        )

    def _inside(self, ops: Sequence[Op]) -> set[str]:
        """Tensors that the operators themselves write, under every name that views give them."""
        written = {tensor for op in ops for tensor in op.writes}
        grown = True
        while grown:
            views = {
                result
                for tensor in written
                for op in self._graph.consumers[tensor]
                if op.is_view
                for result in op.writes
            }
            grown = not views <= written
            written |= views
        return written

    def _side(self, op: Op, leaving: frozenset[str], fetched: set[str]) -> Side:
        """Vector work and data movement of an operator without a nest to map.

        Every operand passes through the vector unit's memory once; what comes from or goes to the
        outermost memory is written there and read there on its way. `fetched`: what is on the chip.
        """
        reads, writes = operand_bytes(op, self._graph, self._bits)
        outer_in = sum(size for name, size in reads.items() if name not in fetched)
        outer_out = sum(size for name, size in writes.items() if name in leaving)
        fetched.update(reads)
        total_in, total_out = sum(reads.values()), sum(writes.values())
        return Side(op.work, outer_in, outer_out, total_in + outer_out, total_out + outer_in)

    def _beside_nests(self, op: Op, leaving: frozenset[str], fetched: set[str]) -> Side:
        """What a matrix operator does beside its nests.

        A plain nest moves its three operands itself; where its output does not leave the chip, the
        bytes that its traffic counts for it are taken back here. A scan or gather with nests inside
        (recurrent layers, experts) also moves the operands that these do not (states, routing).
        """
        reads, writes = operand_bytes(op, self._graph, self._bits)
        if isinstance(op.body, Nest):
            kept = sum(size for name, size in writes.items() if name not in leaving)
            return Side(outer_write_bytes=-kept)
        problems = problems_of(op, self._graph, self._bits)
        operands = [o for problem in problems for o in problem.operands]
        mapped_in = sum(_nbytes(o) for o in operands if o.role != "output")
        mapped_out = sum(_nbytes(o) for o in operands if o.role == "output")
        outer_in = sum(size for name, size in reads.items() if name not in fetched)
        outer_out = sum(size for name, size in writes.items() if name in leaving)
        extra_in, extra_out = max(0.0, outer_in - mapped_in), max(0.0, outer_out - mapped_out)
        return Side(op.work, extra_in, extra_out, extra_in + extra_out, extra_in + extra_out)

    def _attention(self, ops: Sequence[Op]) -> Attention | None:
        """The parts of an attention group; None when it is not two products with work between."""
        products = [op for op in ops if op.macs]
        if len(products) != 2 or not all(isinstance(op.body, Nest) for op in products):
            return None
        names = [op.name for op in ops]
        leaving, fetched = _leaving(self._graph, names), self._inside(ops)
        side = Side()
        for op in ops:
            if not op.macs:
                side = side + self._side(op, leaving, fetched)
        (scores,), (values,) = (problems_of(op, self._graph, self._bits) for op in products)
        first, second = (self._constraints.get(op.name, Constraint()) for op in products)
        return Attention(
            (products[0].name, products[1].name), scores, values, (first, second), side
        )


def _products(ops: Sequence[Op]) -> int:
    """Operators that run on the matrix engine."""
    return sum(op.macs > 0 for op in ops)


def _nbytes(operand: Operand) -> float:
    """Bytes of a whole operand."""
    return math.prod(operand.shape) * operand.bits / 8
