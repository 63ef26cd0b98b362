"""Classify: operators that cost the same share a class, so that each class is priced once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from typing_extensions import override

from hwopt.ir.graph import Graph
from hwopt.ir.op import Op
from hwopt.ir.program import Constraint, Group, Program
from hwopt.passes.manager import Pass, passes
from hwopt.passes.rewriting import Bodies

if TYPE_CHECKING:
    from hwopt.hardware.accelerator import Accelerator

Key: TypeAlias = tuple[object, ...]


@passes.register("classify")
@dataclass(frozen=True)
class Classify(Pass):
    """Give identical operators the class of the first of them.

    Identical: same body, kind, resource and phase; operands of the same shape, element type and
    part (kept: parameters, buffers and what is computed from them alone; cache; given or
    computed); the same place in a fusion group of the same structure; the same constraint. The
    graph stays whole: 96 equal layers keep 96 operators of each kind, in one class each.

    Before: `y1 = matmul(x, w1); y2 = matmul(y1, w2)`, of equal shapes, without classes.
    After:  `class_of = {y1: y1, y2: y1}`.
    """

    ensures: ClassVar[frozenset[str]] = frozenset({"classified"})

    @override
    def run(self, program: Program, target: Accelerator | None) -> Program:
        """The same graph with classes."""
        graph = program.graph
        own = _own_keys(program)
        place: dict[str, Key] = {}
        signatures: dict[Key, int] = {}
        origin = _origins(graph)
        for group in program.groups:
            signature = _signature(graph, group, own, origin)
            number = signatures.setdefault(signature, len(signatures))
            place.update((name, (number, i)) for i, name in enumerate(group.ops))
        first: dict[Key, str] = {}
        class_of = {
            op.name: first.setdefault((own[op.name], place.get(op.name, ())), op.name)
            for op in graph.ops
        }
        return replace(program, class_of=class_of)


def _own_keys(program: Program) -> dict[str, int]:
    """A number per operator, equal for operators that are alike by themselves."""
    graph, bodies = program.graph, Bodies()
    kept = {name for op in graph.ops if op.name in graph.static for name in op.writes}
    kept |= {t.name for t in graph.tensors if t.role in ("parameter", "buffer", "constant")}
    operand: dict[str, Key] = {
        t.name: (t.shape, t.dtype, "kept" if t.name in kept else t.role == "cache")
        for t in graph.tensors
    }
    keys: dict[Key, int] = {}
    return {op.name: keys.setdefault(_key(op, program, bodies, operand), len(keys))
            for op in graph.ops}  # fmt: skip


def _key(op: Op, program: Program, bodies: Bodies, operand: dict[str, Key]) -> Key:
    # Which operands are one tensor matters too: x * x reads half of what x * y does.
    order = {name: i for i, name in enumerate(dict.fromkeys((*op.reads, *op.writes)))}
    operands = tuple((order[name], operand[name]) for name in (*op.reads, *op.writes))
    rule = program.constraints.get(op.name, Constraint())
    static = op.name in program.graph.static
    return bodies(op.body), op.kind, op.resource, op.phase, static, operands, rule


def _origins(graph: Graph) -> dict[str, str]:
    """The tensor that a tensor is a view of: itself where it is none."""
    origin: dict[str, str] = {}
    for op in graph.ops:
        if op.is_view and len(op.reads) == 1:
            origin.update((name, origin.get(op.reads[0], op.reads[0])) for name in op.writes)
    return origin


def _signature(graph: Graph, group: Group, own: dict[str, int], origin: dict[str, str]) -> Key:
    """Equal for groups of like operators that are joined, and left, in the same way."""
    inside = set(group.ops)
    local: dict[str, int] = {}
    rows = []
    for name in group.ops:
        op = graph.op[name]
        ends = tuple(
            local.setdefault(origin.get(t, t), len(local)) for t in (*op.reads, *op.writes)
        )
        leaves = tuple(_leaves(graph, tensor, inside) for tensor in op.writes)
        rows.append((own[name], ends, leaves))
    return group.kind, group.ops.index(group.anchor), *rows


def _leaves(graph: Graph, tensor: str, inside: set[str]) -> bool:
    """Whether anything outside the group reads a tensor, through views."""
    if tensor in graph.outputs:
        return True
    return any(
        any(_leaves(graph, name, inside) for name in op.writes)
        if op.is_view
        else op.name not in inside
        for op in graph.consumers[tensor]
    )
