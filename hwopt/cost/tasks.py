"""From a program to its table of tasks: groups, the ways to carry them out, what is identical.

* An operator by itself reads its operands from the outermost memory and writes its results there.
* An *epilogue* or *pointwise* group keeps the tensors between its operators on the chip: pointwise
  work is applied to the anchor's output tiles as they are produced.
* An *attention* group is carried out block by block (some heads, some queries at a time): the
  scores of a block stay on the chip, keys and values are fetched again for each block of queries.
  Several block sizes are alternatives; the cheapest that fits is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Literal, TypeAlias, get_args

from hwopt.cost.tables import Alternative, OpTable, Request, Side, Stage, Task, side_of, with_sizes
from hwopt.errors import HwoptError
from hwopt.hardware.accelerator import OperandRole
from hwopt.ir.graph import Graph
from hwopt.ir.op import Nest, Op
from hwopt.ir.program import Constraint, Group, Program
from hwopt.mapping.problem import Problem, problems_of

Fusion: TypeAlias = Literal["off", "groups", "optimal"]
"""off: every operator by itself. groups: fused as the fuse pass found, wherever that fits. optimal:
per group the best of all its alternatives (a fused epilogue or chain is never worse than its parts;
attention in blocks may be, because keys and values are fetched again)."""

BLOCK_STEP = 4
"""Attention blocks are tried in sizes this factor apart: heads first, then queries."""


def op_table(program: Program, bits: dict[OperandRole, int], fusion: str = "groups") -> OpTable:
    """The table of a program. `bits`: element widths that the machine imposes, by operand role."""
    if fusion not in get_args(Fusion):
        raise HwoptError("unknown fusion", value=fusion, allowed=", ".join(get_args(Fusion)))
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
    return OpTable(program.graph.name, tuple(tasks.values()), members, program.graph.is_bound)


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
    leaving = _leaving(graph, group)
    local: dict[str, int] = {}
    wiring = []
    for name in group.ops:
        op = graph.op[name]
        ends = tuple(local.setdefault(t, len(local)) for t in (*op.reads, *op.writes))
        leaves = tuple(tensor in leaving for tensor in op.writes)
        wiring.append((program.class_of.get(name, name), ends, leaves))
    return (group.kind, *wiring)


def _leaving(graph: Graph, group: Group) -> frozenset[str]:
    """Tensors written in the group that something outside reads, or that outlive the graph."""
    inside = set(group.ops)
    outputs = set(graph.outputs)
    return frozenset(
        tensor
        for name in group.ops
        for tensor in graph.op[name].writes
        if tensor in outputs or any(r not in inside for r in _readers(graph, tensor))
    )


def _readers(graph: Graph, tensor: str) -> Iterator[str]:
    """Names of the operators that read a tensor, looking through views."""
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
        self._fusion = fusion

    def task(self, group: Group) -> Task:
        ops = [self._graph.op[name] for name in group.ops]
        anchor = self._graph.op[group.anchor] if group.anchor in group.ops else ops[0]
        alternatives: list[Alternative] = []
        if len(ops) > 1:
            if group.kind == "attention":
                alternatives += self._attention(group, ops)
            else:
                alternatives.append(Alternative("fused", self._fused(group, ops)))
        optimal = self._fusion == "optimal"
        apart = tuple(stage for op in ops for stage in self._fused(_alone(op), [op]))
        alternatives.append(Alternative("apart", apart, 0 if optimal or not alternatives else 1))
        macs = sum(op.macs for op in ops)
        return Task(anchor.name, anchor.kind, group.ops, 1, macs, tuple(alternatives))

    def _fused(self, group: Group, ops: Sequence[Op]) -> tuple[Stage, ...]:
        """One launch: nests one after the other, all side work beside the last."""
        leaving = _leaving(self._graph, group)
        inside = self._inside(ops)
        nests: list[Request] = []
        side = Side()
        for op in ops:
            if op.macs:
                constraint = self._constraints.get(op.name, Constraint())
                problems = problems_of(op, self._graph, self._bits)
                nests += [Request(problem, (), constraint) for problem in problems]
                side = side + Side(0 if isinstance(op.body, Nest) else op.work)
                side = side + self._unmapped_results(op, leaving, inside)
            else:
                side = side + side_of(op, self._graph, inside, leaving)
        side = self._without_anchor_output(ops, leaving, side)
        name = ops[0].name
        if not nests:
            return (Stage(name, None, side, 1, 1),)
        share = side.divided(len(nests))
        return tuple(Stage(name, problem, share, 1, int(i == 0)) for i, problem in enumerate(nests))

    def _inside(self, ops: Sequence[Op]) -> frozenset[str]:
        """Tensors that the group itself writes, under every name that views give them."""
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
        return frozenset(written)

    def _unmapped_results(self, op: Op, leaving: frozenset[str], inside: frozenset[str]) -> Side:
        """Operands of a matrix operator beyond the three that its nests move (routing, states)."""
        if isinstance(op.body, Nest):
            return Side()
        extra = side_of(op, self._graph, inside, leaving)
        mapped = sum(_compulsory_bytes(p) for p in problems_of(op, self._graph, self._bits))
        moved = extra.outer_read_bytes + extra.outer_write_bytes
        share = max(0.0, 1.0 - mapped / moved) if moved else 0.0
        return Side(
            0, extra.outer_read_bytes * share, extra.outer_write_bytes * share,
            extra.chip_read_bytes * share, extra.chip_write_bytes * share,
        )  # fmt: skip

    def _without_anchor_output(
        self, ops: Sequence[Op], leaving: frozenset[str], side: Side
    ) -> Side:
        """The nest already writes its output once: it stands for the group's result.

        Where the nest's own output stays inside, the bytes that leave in its place are not
        counted a second time.
        """
        spared = sum(
            self._graph.tensor[tensor].nbytes
            for op in ops
            if op.macs and isinstance(op.body, Nest)
            for tensor in op.writes
            if tensor not in leaving
        )
        return replace(side, outer_write_bytes=max(0.0, side.outer_write_bytes - spared))

    def _attention(self, group: Group, ops: Sequence[Op]) -> Iterator[Alternative]:
        """Scores, their pointwise work and softmax, then values, per block of heads and queries."""
        products = [op for op in ops if op.macs]
        if len(products) != 2 or not all(isinstance(op.body, Nest) for op in products):
            return
        (scores,) = problems_of(products[0], self._graph, self._bits)
        (values,) = problems_of(products[1], self._graph, self._bits)
        rows = _rows(scores), _rows(values)
        if [scores.sizes[a] for a in rows[0]] != [values.sizes[a] for a in rows[1]]:
            return
        leaving, inside = _leaving(self._graph, group), self._inside(ops)
        side = Side()
        for op in ops:
            if not op.macs:
                side = side + side_of(op, self._graph, inside, leaving)
        side = self._without_anchor_output(products[1:], leaving, side)
        sizes = [scores.sizes[axis] for axis in rows[0]]
        for block in _blocks(sizes):
            stages: list[Stage] = []
            total = _product(sizes)
            for counts, part in _edges(sizes, block):
                share = counts * _product(part) / total
                per_block = _scaled(side, share / counts)
                first = Request(
                    with_sizes(scores, dict(zip(rows[0], part, strict=True))), ("output",)
                )
                second = Request(
                    with_sizes(values, dict(zip(rows[1], part, strict=True))), ("input",)
                )
                launches = int(not stages)
                stages += [
                    Stage(products[0].name, first, per_block, counts, launches),
                    Stage(products[1].name, second, Side(), counts, 0),
                ]
            yield Alternative(f"blocks of {'x'.join(map(str, block))}", tuple(stages))


def _alone(op: Op) -> Group:
    return Group((op.name,), op.name, "single")


def _compulsory_bytes(problem: Problem) -> float:
    """Every operand once."""
    return sum(_product(o.shape) * o.bits / 8 for o in problem.operands)


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _scaled(side: Side, factor: float) -> Side:
    return Side(
        round(side.vector_operations * factor), side.outer_read_bytes * factor,
        side.outer_write_bytes * factor, side.chip_read_bytes * factor,
        side.chip_write_bytes * factor,
    )  # fmt: skip


def _rows(problem: Problem) -> list[str]:
    """Axes of a score row's position: those that input and output share, batch axes first."""
    axes = [problem.operand[role].access.axes for role in ("input", "weight", "output")]
    shared = [a.name for a in problem.axes if a.name in axes[0] and a.name in axes[2]]
    return sorted(shared, key=lambda name: name not in axes[1])


def _blocks(sizes: list[int]) -> Iterator[list[int]]:
    """Block sizes, largest first: axes shrink in turn, by `BLOCK_STEP`, down to 1."""
    block = list(sizes)
    yield list(block)
    for position in range(len(block)):
        while block[position] > 1:
            block[position] = -(-block[position] // BLOCK_STEP)
            yield list(block)


def _edges(sizes: list[int], block: list[int]) -> Iterator[tuple[int, list[int]]]:
    """Full and edge blocks: how many there are of each, and their sizes."""
    choices = []
    for size, part in zip(sizes, block, strict=True):
        full, rest = divmod(size, part)
        choices.append([(full, part)] + ([(1, rest)] if rest else []))
    for combination in product(*choices):
        yield _product([n for n, _ in combination]), [part for _, part in combination]
