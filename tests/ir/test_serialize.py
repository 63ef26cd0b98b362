"""Graphs as JSON: round trips, the schema, and refusals."""

import copy
import json

import jsonschema
import pytest
from hypothesis import given

from hwopt.errors import HwoptError
from hwopt.files import parse_json
from hwopt.ir.access import Axis, parse_access
from hwopt.ir.graph import Graph
from hwopt.ir.op import Gather, Nest, Op, Scan, Source
from hwopt.ir.scalar import Literal, Operand, apply
from hwopt.ir.serialize import from_json, graph_schema, to_json
from hwopt.ir.tensor import Tensor
from hwopt.testing import graphs

POOL = Nest(
    (Axis("p", 3), Axis("r", 2)), (parse_access("2*p + r - 1", fill=float("-inf")),),
    parse_access("p"), apply("maximum", Operand(0), Literal(float("nan"))), "max",
)  # fmt: skip
STEP = Nest((Axis("t", 2), Axis("i", 3)), (parse_access("i"),), parse_access("i"), Operand(0),
            "sum", ("t",))  # fmt: skip
SOFTMAX = Scan("softmax", (("axis", 0), ("log", False)), (3,), (3,), 15, 3, (STEP,))
GRAPH = Graph(
    "pool",
    (Tensor("x", (5,), role="input"), Tensor("y", (3,)), Tensor("z", (3,)), Tensor("i", (3,))),
    (
        Op("y", "pool", POOL, "vector", ("x",), ("y",), source=Source("net.pool", "net.py:3", "a")),
        Op("z", "softmax", SOFTMAX, "vector", ("y",), ("z",)),
        Op("i", "reshape", Gather("reshape", (("low", -float("inf")), ("names", ("a", (1, None)))),
                                  (3,), (3,)), "none", ("z",), ("i",), "backward"),
    ),
    ("i",),
)  # fmt: skip


def written(graph: Graph) -> dict[str, object]:
    """What a file would hold."""
    return parse_json(json.dumps(to_json(graph), sort_keys=True, allow_nan=False))


def test_round_trip_of_every_field():
    """Bodies, attributes, infinities, phases and sources survive; NaN is NaN."""
    again = from_json(written(GRAPH))
    assert written(again) == written(GRAPH)
    assert again.ops[1:] == GRAPH.ops[1:]
    assert [op.source for op in again.ops] == [op.source for op in GRAPH.ops]
    assert again.ops[0].body.reads == POOL.reads


@given(graphs())
def test_round_trip_of_random_graphs(graph):
    """from_json(to_json(g)) == g, and the data obeys the published schema."""
    data = written(graph)
    assert from_json(data) == graph
    jsonschema.validate(data, graph_schema())


def test_schema():
    """The schema is valid, closed, and accepts what is written."""
    jsonschema.Draft202012Validator.check_schema(graph_schema())
    jsonschema.validate(written(GRAPH), graph_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**written(GRAPH), "more": 1}, graph_schema())


def edited(*path: object, value: object) -> object:
    """The file's data with one place changed."""
    data = copy.deepcopy(written(GRAPH))
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return data


DEEP: object = 1
for _ in range(10_000):
    DEEP = [DEEP]
ROUND: list[object] = []
ROUND.append(ROUND)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "not a graph"),
        ([], "not a graph"),
        ({}, "Field required"),
        (edited("format", value="onnx"), "at format"),
        (edited("version", value=2), "at version"),
        (edited("extra", value=1), "at extra"),
        (edited("tensors", 0, "shape", value=[0]), "at tensors.0.shape.0"),
        (edited("tensors", 0, "shape", value=[2**60]), "at tensors.0.shape.0"),
        (edited("tensors", 0, "shape", value=[2.5]), "at tensors.0.shape.0"),
        (edited("tensors", 0, "shape", value=["5"]), "at tensors.0.shape.0"),
        (edited("tensors", 0, "role", value="wheel"), "at tensors.0.role"),
        (edited("tensors", 0, "dtype", value="float31"), "float31"),
        (edited("operators", 0, "body", value=99), "no such body"),
        (edited("operators", 0, "body", value=-1), "at operators.0.body"),
        (edited("operators", 0, "reads", value=["nosuch"]), "nosuch"),
        (edited("operators", 0, "reads", value=["y"]), "circle"),
        (edited("operators", 0, "phase", value="sideways"), "at operators.0.phase"),
        (edited("bodies", 0, "type", value="nets"), "at bodies.0"),
        (edited("bodies", 0, "scalar", value="system(#0)"), "not a scalar"),
        (edited("bodies", 0, "scalar", value="neg(" * 9999), "not a scalar"),
        (edited("bodies", 0, "reads", 0, "index", value=["p*p"]), "not an index"),
        (edited("bodies", 0, "reads", 0, "fill", value=float("nan")), "at bodies.0"),
        (edited("bodies", 0, "reads", 0, "index", value=["p", "r"]), "2 indices"),
        (edited("bodies", 0, "reads", value=DEEP), "at bodies.0"),
        (edited("bodies", 1, "attributes", 0, "value", value=DEEP), "too deeply"),
        (edited("bodies", 1, "attributes", 0, "value", value=ROUND), "too deeply"),
        (edited("bodies", 1, "attributes", 0, "value", value=float("inf")), "finite"),
        (edited("bodies", 1, "attributes", 0, "value", value={"a": 1}), "not a value"),
        (edited("bodies", 1, "function", value="sotfmax"), "softmax"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(data, words):
    """Malformed, deep, huge, cyclic and NaN input: one clear, short error."""
    with pytest.raises(HwoptError) as caught:
        from_json(data, "graph.json")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1500
