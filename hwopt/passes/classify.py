"""Classify: operators that cost the same share a class, so that each class is priced once."""

from __future__ import annotations

from dataclasses import replace

from hwopt.hardware.accelerator import Accelerator
from hwopt.ir.graph import Graph
from hwopt.ir.op import Body, Op
from hwopt.ir.program import Program
from hwopt.passes.manager import Pass, compiler_pass


@compiler_pass("classify")
class Classify(Pass):
    """Give identical operators the class of the first of them.

    Identical: same body, kind, resource and phase, operands of the same shape, element type and
    role (a weight is not an activation). The graph stays whole: 96 equal layers keep 96 operators
    of each kind, in one class each.

    Before: no classes. After: `class_of` for every operator.
    """

    ensures = frozenset({"classified"})

    def run(self, program: Program, target: Accelerator | None) -> Program:  # noqa: ARG002
        """The same graph with classes."""
        first: dict[tuple[object, ...], str] = {}
        bodies = _Bodies()
        class_of = {
            op.name: first.setdefault(_key(op, program.graph, bodies), op.name)
            for op in program.graph.ops
        }
        return replace(program, class_of=class_of)


class _Bodies:
    """A small number per distinct body; shared bodies are compared by identity first."""

    def __init__(self) -> None:
        self._by_identity: dict[int, int] = {}
        self._by_value: dict[Body, int] = {}

    def number(self, body: Body) -> int:
        known = self._by_identity.get(id(body))
        if known is None:
            known = self._by_value.setdefault(body, len(self._by_value))
            self._by_identity[id(body)] = known
        return known


def _key(op: Op, graph: Graph, bodies: _Bodies) -> tuple[object, ...]:
    operands = tuple(
        (tensor.shape, tensor.dtype, tensor.role)
        for tensor in (graph.tensor[name] for name in (*op.reads, *op.writes))
    )
    return bodies.number(op.body), op.kind, op.resource, op.phase, operands
