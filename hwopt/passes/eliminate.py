"""Eliminate: work that changes nothing, is done twice, or that nobody reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hwopt.hardware.accelerator import Accelerator
from hwopt.ir.graph import Graph
from hwopt.ir.op import Gather, Nest, Op, Opaque, Scan
from hwopt.ir.program import Program
from hwopt.ir.scalar import IDENTITY, Apply, Operand
from hwopt.passes.manager import Pass, compiler_pass

RANDOM = frozenset({"random"})
"""Functions that give something new each time: never merged."""


@compiler_pass("eliminate")
class Eliminate(Pass):
    """Drop dead operators, merge equal ones, drop copies and casts that change nothing.

    Before: a = cast(x) to its own type; b = relu(a); c = relu(x); y = b + c; z = exp(x), unread.
    After: b = relu(x); y = b + b.
    """

    ensures = frozenset({"live"})

    def run(self, program: Program, target: Accelerator | None) -> Program:  # noqa: ARG002
        """The smaller graph; outputs keep their names."""
        graph = program.graph
        ops = _live(_merged(graph), graph.outputs)
        if len(ops) == len(graph.ops) and all(a is b for a, b in zip(ops, graph.ops, strict=True)):
            return program
        used = {name for op in ops for name in (*op.reads, *op.writes)} | set(graph.outputs)
        computed = {name for op in graph.ops for name in op.writes}
        tensors = tuple(t for t in graph.tensors if t.name in used or t.name not in computed)
        return program.with_graph(replace(graph, tensors=tensors, ops=tuple(ops)))


def _merged(graph: Graph) -> list[Op]:
    """Operators in order, no-ops and repetitions left out, their readers redirected."""
    outputs = set(graph.outputs)
    renamed: dict[str, str] = {}
    seen: dict[tuple[object, ...], Op] = {}
    kept: list[Op] = []
    for op in graph.ops:
        if any(name in renamed for name in op.reads):
            op = op.renamed(renamed, op.name)
        if outputs.isdisjoint(op.writes):
            if _is_noop(op, graph):
                renamed[op.writes[0]] = op.reads[0]
                continue
            first = seen.setdefault(_key(op, graph), op)
            if first is not op:
                renamed.update(zip(op.writes, first.writes, strict=True))
                continue
        kept.append(op)
    return kept


def _is_noop(op: Op, graph: Graph) -> bool:
    """A nest that writes what it reads, at the same place, in the same type."""
    body = op.body
    if not isinstance(body, Nest) or len(op.reads) != 1 or body.reduction != "none":
        return False
    if body.scalar not in (IDENTITY, Apply("cast", (Operand(0),))):
        return False
    source, result = graph.tensor[op.reads[0]], graph.tensor[op.writes[0]]
    same = (source.shape, source.dtype) == (result.shape, result.dtype)
    return same and body.reads[0].index == body.write.index and body.points == result.elements


def _key(op: Op, graph: Graph) -> tuple[object, ...]:
    """Equal keys give equal results; an operator whose result is not fixed by it is unique."""
    fixed = not isinstance(op.body, Opaque) and not (
        isinstance(op.body, Gather | Scan) and op.body.function in RANDOM
    )
    if not fixed:
        return (op.name,)
    results = tuple((graph.tensor[n].shape, graph.tensor[n].dtype) for n in op.writes)
    return op.body, op.resource, op.phase, op.reads, results


def _live(ops: list[Op], outputs: Iterable[str]) -> list[Op]:
    """Operators with a result that an output needs."""
    needed = set(outputs)
    kept = []
    for op in reversed(ops):
        if not needed.isdisjoint(op.writes):
            kept.append(op)
            needed.update(op.reads)
    return kept[::-1]
