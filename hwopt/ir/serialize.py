"""Graphs as JSON: plain data under a published schema, and back.

    {"format": "hwopt-graph", "version": 1, "name": ..., "bodies": [...], "tensors": [...],
     "operators": [...], "outputs": [...]}

Bodies stand once each, in order of first use; operators refer to them by position. Affine indices
and scalars are text (`2*p + r - 1`, `mul(#0, #1)`, see `hwopt.ir`). Infinities and NaN, which JSON
lacks, are the words "inf", "-inf" and "nan". Equal graphs give equal data.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hwopt.errors import FileFormatError, HwoptError
from hwopt.ir.access import MAX_COUNT, Access, Affine, Axis
from hwopt.ir.graph import Graph
from hwopt.ir.op import (
    Attribute,
    Body,
    Gather,
    Nest,
    Op,
    Opaque,
    Phase,
    Reduction,
    Resource,
    Scan,
    Source,
)
from hwopt.ir.parser import Parser
from hwopt.ir.scalar import Scalar
from hwopt.ir.tensor import Role, Tensor

MAX_DEPTH = 32
"""Deepest nesting of an attribute."""

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Size = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Text = Annotated[str, Field(max_length=4096)]
Word = Literal["inf", "-inf", "nan"]


class _Part(BaseModel):
    """Base of the file's parts: nothing unknown, no conversion, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Access(_Part):
    """`index`: one affine expression per dimension; `fill`: the value outside."""

    index: list[Text]
    fill: float | Word | None = None


class _Axis(_Part):
    name: Text
    size: Size


class _Nest(_Part):
    type: Literal["nest"]
    axes: list[_Axis]
    reads: list[_Access]
    write: _Access
    scalar: Annotated[str, Field(max_length=65536)]
    reduction: Reduction
    sequential: list[Text] = []


class _Attribute(_Part):
    """`value`: bool, number, text, null, {"float": "inf"} or a list of values."""

    name: Text
    value: Any


class _Routine(_Part):
    function: Text
    attributes: list[_Attribute]
    read_elements: list[Count]
    write_elements: list[Count]
    work: Count
    nests: list[_Nest] = []


class _Gather(_Routine):
    type: Literal["gather"]


class _Scan(_Routine):
    type: Literal["scan"]
    depth: Count


class _Opaque(_Part):
    type: Literal["opaque"]
    target: Text


class _Tensor(_Part):
    name: Text
    shape: list[Size]
    dtype: Text
    role: Role


class _Source(_Part):
    module: str = ""
    line: str = ""
    target: str = ""


class _Operator(_Part):
    """`body`: position in `bodies`."""

    name: Text
    kind: Text
    body: Count
    resource: Resource
    reads: list[Text]
    writes: list[Text]
    phase: Phase = "forward"
    source: _Source = _Source()


class _Graph(_Part):
    """An operator graph (see `hwopt.ir`)."""

    format: Literal["hwopt-graph"]
    version: Literal[1]
    name: Text
    bodies: list[Annotated[_Nest | _Gather | _Scan | _Opaque, Field(discriminator="type")]]
    tensors: list[_Tensor]
    operators: list[_Operator]
    outputs: list[Text]


_VALUE: dict[str, Any] = {
    "anyOf": [
        {"type": ["boolean", "number", "string", "null"]},
        {"type": "array", "items": {"$ref": "#/$defs/Value"}},
        {
            "type": "object", "required": ["float"], "additionalProperties": False,
            "properties": {"float": {"enum": ["inf", "-inf", "nan"]}},
        },
    ]
}  # fmt: skip


def graph_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of graph files."""
    schema = _Graph.model_json_schema()
    definitions = {**schema.pop("$defs"), "Value": _VALUE}
    definitions["_Attribute"]["properties"]["value"] = {"$ref": "#/$defs/Value"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Operator graph",
        "$defs": definitions,
    }


def to_json(graph: Graph) -> dict[str, Any]:
    """The graph as plain data (dicts, lists, text, numbers), canonical: see the module's form."""
    bodies: list[dict[str, Any]] = []
    position: dict[int, int] = {}
    known: dict[tuple[str, Body], int] = {}
    for op in graph.ops:
        if id(op.body) not in position:
            # The printed scalar is part of the key: 1, 1.0 and True are equal but not the same.
            key = (_exact(op.body), op.body)
            if key not in known:
                known[key] = len(bodies)
                bodies.append(_body_data(op.body))
            position[id(op.body)] = known[key]
    tensors = [
        {"name": t.name, "shape": list(t.shape), "dtype": t.dtype, "role": t.role}
        for t in graph.tensors
    ]
    return {
        "format": "hwopt-graph", "version": 1, "name": graph.name, "bodies": bodies,
        "tensors": tensors, "operators": [_op_data(op, position[id(op.body)]) for op in graph.ops],
        "outputs": list(graph.outputs),
    }  # fmt: skip


def from_json(data: Any, where: str = "<json>") -> Graph:
    """The graph of plain data, verified.

    Raises `FileFormatError` with the dotted path of what is not as the schema says, and the
    errors of `verify` for a graph that breaks a rule.
    """
    from hwopt.ir.verify import verify

    try:
        file = _Graph.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        value = first.get("input")
        shown = value if isinstance(value, str | int | float) else type(value).__name__
        raise FileFormatError(
            f"not a graph: {first['msg']}", where=f"{where} at {path or '.'}",
            value=shown if not isinstance(shown, str) else shown[:80],
            fix="schemas/graph.schema.json describes the form",
        ) from error  # fmt: skip
    except RecursionError as error:
        raise FileFormatError("nested too deeply", where=where) from error
    bodies = [_body(body, f"{where} at bodies.{i}") for i, body in enumerate(file.bodies)]
    graph = Graph(
        file.name,
        tuple(Tensor(t.name, tuple(t.shape), t.dtype, t.role) for t in file.tensors),
        tuple(_op(op, bodies, f"{where} at operators.{i}") for i, op in enumerate(file.operators)),
        tuple(file.outputs),
    )
    verify(graph)
    return graph


def _op_data(op: Op, body: int) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": op.name, "kind": op.kind, "body": body, "resource": op.resource,
        "reads": list(op.reads), "writes": list(op.writes), "phase": op.phase,
    }  # fmt: skip
    if op.source != Source():
        data["source"] = {
            "module": op.source.module,
            "line": op.source.line,
            "target": op.source.target,
        }
    return data


def _exact(body: Body) -> str:
    """What equality of bodies does not tell apart."""
    if isinstance(body, Nest):
        return str(body.scalar)
    if isinstance(body, Opaque):
        return ""
    return repr(body.attributes) + "".join(str(nest.scalar) for nest in body.nests)


def _body_data(body: Body) -> dict[str, Any]:
    if isinstance(body, Nest):
        return _nest_data(body)
    if isinstance(body, Opaque):
        return {"type": "opaque", "target": body.target}
    data = {
        "type": "gather" if isinstance(body, Gather) else "scan",
        "function": body.function,
        "attributes": [{"name": n, "value": _value_data(v)} for n, v in body.attributes],
        "read_elements": list(body.read_elements),
        "write_elements": list(body.write_elements),
        "work": body.work,
        "nests": [_nest_data(nest) for nest in body.nests],
    }
    return data if isinstance(body, Gather) else {**data, "depth": body.depth}


def _nest_data(nest: Nest) -> dict[str, Any]:
    return {
        "type": "nest",
        "axes": [{"name": axis.name, "size": axis.size} for axis in nest.axes],
        "reads": [_access_data(access) for access in nest.reads],
        "write": _access_data(nest.write),
        "scalar": str(nest.scalar),
        "reduction": nest.reduction,
        "sequential": list(nest.sequential),
    }


def _access_data(access: Access) -> dict[str, Any]:
    index = [str(affine) for affine in access.index]
    if access.fill is None:
        return {"index": index}
    fill = float(access.fill)
    return {"index": index, "fill": fill if math.isfinite(fill) else repr(fill)}


def _value_data(value: Attribute) -> Any:
    if isinstance(value, tuple):
        return [_value_data(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


def _op(op: _Operator, bodies: list[Body], where: str) -> Op:
    if op.body >= len(bodies):
        raise FileFormatError(
            "no such body", where=f"{where}.body", value=op.body,
            allowed=f"0 to {len(bodies) - 1}",
        )  # fmt: skip
    source = Source(op.source.module, op.source.line, op.source.target)
    return Op(
        op.name, op.kind, bodies[op.body], op.resource, tuple(op.reads), tuple(op.writes),
        op.phase, source,
    )  # fmt: skip


def _body(body: _Nest | _Gather | _Scan | _Opaque, where: str) -> Body:
    if isinstance(body, _Nest):
        return _nest(body, where)
    if isinstance(body, _Opaque):
        return Opaque(body.target)
    nests = tuple(_nest(nest, f"{where}.nests.{i}") for i, nest in enumerate(body.nests))
    attributes = tuple(
        (each.name, _value(each.value, f"{where}.attributes.{i}", 0))
        for i, each in enumerate(body.attributes)
    )
    reads, writes = tuple(body.read_elements), tuple(body.write_elements)
    if isinstance(body, _Gather):
        return Gather(body.function, attributes, reads, writes, body.work, nests)
    return Scan(body.function, attributes, reads, writes, body.work, body.depth, nests)


def _nest(nest: _Nest, where: str) -> Nest:
    return Nest(
        tuple(Axis(axis.name, axis.size) for axis in nest.axes),
        tuple(_access(access, f"{where}.reads.{i}") for i, access in enumerate(nest.reads)),
        _access(nest.write, f"{where}.write"), _scalar(nest.scalar, f"{where}.scalar"),
        nest.reduction, tuple(nest.sequential),
    )  # fmt: skip


def _access(access: _Access, where: str) -> Access:
    fill = None if access.fill is None else float(access.fill)
    index = tuple(_affine(text, f"{where}.index") for text in access.index)
    return Access(index, math.nan if fill is not None and math.isnan(fill) else fill)


@lru_cache(maxsize=8192)
def _affine(text: str, where: str) -> Affine:
    try:
        return Parser(text).affine()
    except HwoptError as error:
        raise FileFormatError(f"not an index: {error.what}", where=where, value=text) from error


def _scalar(text: str, where: str) -> Scalar:
    try:
        return Parser(text).scalar()
    except HwoptError as error:
        raise FileFormatError(f"not a scalar: {error.what}", where=where) from error


def _value(value: Any, where: str, depth: int) -> Attribute:
    if depth > MAX_DEPTH:
        raise FileFormatError("nested too deeply", where=where, allowed=f"{MAX_DEPTH} levels")
    if isinstance(value, list):
        return tuple(_value(item, where, depth + 1) for item in value)
    if isinstance(value, dict) and set(value) == {"float"}:
        words = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
        if value["float"] in ("inf", "-inf", "nan"):
            return words[value["float"]]
    if isinstance(value, float) and not math.isfinite(value):
        raise FileFormatError("not a finite number", where=where, value=value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise FileFormatError("not a value", where=where, value=type(value).__name__)
