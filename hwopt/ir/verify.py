"""The rules of the IR: `verify(graph)` raises a typed error that shows the neighbourhood.

Rules: names are unique; every tensor read is given or written before; no tensor has two writers; no
circles; element types, roles, resources, phases and functions are known; sizes are at least 1, and
no count exceeds 2**53; every body fits its operands (`hwopt.ir.nestrules`). Linear in the number of
operators: a body is checked once per combination of operand shapes.
"""

from __future__ import annotations

import difflib
from typing import get_args

from hwopt.errors import (
    CycleError,
    DuplicateWriterError,
    GraphError,
    ShapeError,
    SizeError,
    UndefinedTensorError,
)
from hwopt.ir.access import MAX_COUNT
from hwopt.ir.graph import Graph
from hwopt.ir.nestrules import Broken, check_alone, check_nest
from hwopt.ir.op import Gather, Nest, Op, Opaque, Phase, Resource, Scan
from hwopt.ir.tensor import DTYPE_BITS, ROLES

_RESOURCES = frozenset(get_args(Resource))
_PHASES = frozenset(get_args(Phase))
_MUST_BE_WRITTEN = frozenset({"activation"})


def verify(graph: Graph) -> None:
    """Raise the first broken rule: `CycleError`, `UndefinedTensorError`, `DuplicateWriterError`,
    `ShapeError`, `SizeError`, or `GraphError` for an unknown name.
    """
    _verify_tensors(graph)
    _verify_names(graph)
    _verify_order(graph)
    done: set[tuple[object, ...]] = set()
    for op in graph.ops:
        operands = tuple(graph.tensor[name] for name in (*op.reads, *op.writes))
        shapes = tuple(tensor.shape for tensor in operands)
        key = (id(op.body), len(op.reads), op.resource, op.phase, shapes)
        if key in done:
            continue
        _verify_op(graph, op, shapes)
        done.add(key)


def neighbourhood(graph: Graph, op: Op) -> str:
    """The operator with its operands, who writes what it reads, and who reads what it writes."""
    producers, consumers = _relations(graph)
    lines = [f"{op.kind} {op.name!r} on {op.resource}"]
    for way, names, relations, word in (
        ("reads ", op.reads, producers, "from"), ("writes", op.writes, consumers, "to"),
    ):  # fmt: skip
        for name in names:
            tensor = graph.tensor.get(name)
            others = relations.get(name, [])[:4]
            ends = ", ".join(others) or (tensor.role if tensor and word == "from" else "nobody")
            lines.append(f"    {way} {tensor or f'%{name} : undefined'}  {word} {ends}")
    return "\n".join(lines)


def place(op: Op) -> str:
    """`operator 'conv1' (layer1.0, resnet.py:12)`: where an error message points."""
    source = ", ".join(part for part in (op.source.module, op.source.line) if part)
    return f"operator {op.name!r}" + (f" ({source})" if source else "")


def _relations(graph: Graph) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Writers and readers by tensor, also of graphs that break the rules."""
    writers: dict[str, list[str]] = {}
    readers: dict[str, list[str]] = {}
    for op in graph.ops:
        for name in op.writes:
            writers.setdefault(name, []).append(op.name)
        for name in op.reads:
            readers.setdefault(name, []).append(op.name)
    return writers, readers


def _fail(
    kind: type[GraphError], graph: Graph, op: Op, what: str, *,
    value: object = None, allowed: str = "", fix: str = "",
) -> GraphError:  # fmt: skip
    """The error, with the operator's neighbourhood in its message."""
    return kind(
        f"{what}\n  {neighbourhood(graph, op)}", where=f"graph {graph.name!r}, {place(op)}",
        value=value, allowed=allowed, fix=fix,
    )  # fmt: skip


def _verify_tensors(graph: Graph) -> None:
    seen: set[str] = set()
    for tensor in graph.tensors:
        where = f"graph {graph.name!r}, tensor {tensor.name!r}"
        if not tensor.name:
            raise GraphError("a tensor without a name", where=f"graph {graph.name!r}")
        if tensor.name in seen:
            raise DuplicateWriterError("a tensor is declared twice", where=where)
        seen.add(tensor.name)
        if tensor.dtype not in DTYPE_BITS:
            raise GraphError(
                "unknown element type", where=where, value=tensor.dtype,
                allowed=", ".join(DTYPE_BITS),
            )  # fmt: skip
        if tensor.role not in ROLES:
            raise GraphError(
                "unknown role", where=where, value=tensor.role, allowed=", ".join(ROLES)
            )
        for size in tensor.shape:
            if type(size) is not int or not 1 <= size <= MAX_COUNT:
                raise SizeError(
                    "a size must be a whole number from 1 to 2**53", where=where, value=size
                )
        if tensor.elements > MAX_COUNT:
            raise SizeError(
                "more elements than can be counted exactly", where=where, value=tensor.elements,
                allowed="at most 2**53",
            )  # fmt: skip


def _verify_names(graph: Graph) -> None:
    """Names of operators are unique, operands are declared, every tensor has one writer."""
    names: set[str] = set()
    writer: dict[str, Op] = {}
    tensors = graph.tensor
    for op in graph.ops:
        if not op.name or op.name in names:
            raise _fail(DuplicateWriterError, graph, op, "two operators share a name")
        names.add(op.name)
        if not op.writes:
            raise _fail(GraphError, graph, op, "an operator that writes nothing")
        for name in (*op.reads, *op.writes):
            if name not in tensors:
                raise _fail(
                    UndefinedTensorError, graph, op, "an operand that is not declared", value=name
                )
        for name in op.writes:
            if name in writer:
                raise _fail(
                    DuplicateWriterError, graph, op,
                    f"two operators write one tensor: {writer[name].name!r} and {op.name!r}",
                    value=name, fix="write a new tensor",
                )  # fmt: skip
            writer[name] = op
    for name in graph.outputs:
        if name not in tensors:
            raise UndefinedTensorError(
                "an output that is not declared", where=f"graph {graph.name!r}", value=name
            )


def _verify_order(graph: Graph) -> None:
    """Every tensor is given, or written before it is read."""
    written = {name for op in graph.ops for name in op.writes}
    ready = {
        t.name for t in graph.tensors if t.name not in written and t.role not in _MUST_BE_WRITTEN
    }
    for op in graph.ops:
        for name in op.reads:
            if name in ready:
                continue
            if name not in written:
                raise _fail(
                    UndefinedTensorError, graph, op, "a tensor that nothing defines", value=name,
                    fix="give it the role input, or add the operator that writes it",
                )  # fmt: skip
            if circle := _circle(graph, op):
                raise _fail(
                    CycleError, graph, op,
                    "operators depend on one another in a circle: " + " -> ".join(circle),
                )  # fmt: skip
            raise _fail(
                UndefinedTensorError, graph, op, "a tensor is read before it is written",
                value=name, fix="put operators in an order of dependence",
            )  # fmt: skip
        ready.update(op.writes)
    for name in graph.outputs:
        if name not in ready:
            raise UndefinedTensorError(
                "an output that nothing defines", where=f"graph {graph.name!r}", value=name
            )


def _circle(graph: Graph, start: Op) -> list[str]:
    """Operator names along a circle that the operator depends on, or nothing."""
    import networkx as nx

    view = graph.networkx()
    upstream = view.subgraph(nx.ancestors(view, start.name) | {start.name})
    try:
        edges = nx.find_cycle(upstream)
    except nx.NetworkXNoCycle:
        return []
    names = [edge[0] for edge in edges]
    shown = names if len(names) <= 8 else [*names[:4], "...", *names[-3:]]
    return [*shown, names[0]]


def _verify_op(graph: Graph, op: Op, shapes: tuple[tuple[int, ...], ...]) -> None:
    """Words of the operator, and its body against the operands' shapes."""
    if op.resource not in _RESOURCES or op.phase not in _PHASES:
        value = op.resource if op.resource not in _RESOURCES else op.phase
        allowed = ", ".join(sorted(_RESOURCES if op.resource not in _RESOURCES else _PHASES))
        raise _fail(GraphError, graph, op, "unknown word", value=value, allowed=allowed)
    body = op.body
    if isinstance(body, Opaque):
        return
    if isinstance(body, Nest):
        if (len(op.reads), len(op.writes)) != (len(body.reads), 1):
            raise _fail(
                ShapeError, graph, op, "the number of operands differs from the body's",
                value=f"{len(op.reads)} read, {len(op.writes)} written",
                allowed=f"{len(body.reads)} read, 1 written",
            )  # fmt: skip
        broken = check_nest(body, shapes[:-1], shapes[-1])
    else:
        broken = _check_routine(body, len(op.reads), len(op.writes))
    if broken is not None:
        raise _fail(broken.kind, graph, op, broken.what, value=broken.value, allowed=broken.allowed)


def _check_routine(body: Gather | Scan, reads: int, writes: int) -> Broken | None:
    """Counts per operand, function, attributes, and the nests inside."""
    from hwopt.ir.routines import ROUTINES

    if (len(body.read_elements), len(body.write_elements)) != (reads, writes):
        return Broken(
            ShapeError, "the number of operands differs from the body's",
            f"{reads} read, {writes} written",
            f"{len(body.read_elements)} read, {len(body.write_elements)} written",
        )  # fmt: skip
    if body.function not in ROUTINES:
        near = difflib.get_close_matches(body.function, ROUTINES, n=3) or sorted(ROUTINES)
        return Broken(GraphError, "unknown function", body.function, ", ".join(near))
    counts = (*body.read_elements, *body.write_elements, body.work)
    if isinstance(body, Scan):
        counts = (*counts, body.depth)
    for count in counts:
        if type(count) is not int or not 0 <= count <= MAX_COUNT:
            return Broken(SizeError, "a count must be a whole number from 0 to 2**53", count)
    if len({name for name, _ in body.attributes}) != len(body.attributes):
        return Broken(GraphError, "an attribute is given twice", [n for n, _ in body.attributes])
    return next(filter(None, map(check_alone, body.nests)), None)
