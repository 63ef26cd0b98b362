"""Graphs: totals, sources, saved tensors, static operators, the networkx view."""

from hwopt.ir.access import Axis, parse_access
from hwopt.ir.graph import Graph
from hwopt.ir.op import Gather, Nest, Op, Opaque
from hwopt.ir.scalar import PRODUCT, Operand, apply
from hwopt.ir.tensor import Tensor

MATMUL = Nest(
    (Axis("m", 4), Axis("n", 5), Axis("k", 6)),
    (parse_access("m", "k"), parse_access("n", "k")),
    parse_access("m", "n"),
    PRODUCT,
    "sum",
)
RELU = Nest(
    (Axis("m", 4), Axis("n", 5)),
    (parse_access("m", "n"),),
    parse_access("m", "n"),
    apply("maximum", Operand(0), 0.0),
)
SCALE = Nest(
    (Axis("n", 5), Axis("k", 6)),
    (parse_access("n", "k"),),
    parse_access("n", "k"),
    apply("mul", Operand(0), 2.0),
)
GRAPH = Graph(
    "mlp",
    (
        Tensor("x", (4, 6), role="input"),
        Tensor("w", (5, 6), role="parameter"),
        Tensor("w2", (5, 6)),
        Tensor("h", (4, 5)),
        Tensor("y", (4, 5), "float16"),
    ),
    (
        Op("scale", "mul", SCALE, "vector", ("w",), ("w2",)),
        Op("mm", "matmul", MATMUL, "matrix", ("x", "w2"), ("h",)),
        Op("relu", "relu", RELU, "vector", ("h",), ("y",)),
    ),
    ("y",),
)


def test_totals():
    """MACs are points of contractions on the matrix engine; bytes count each element once."""
    assert GRAPH.macs == 4 * 5 * 6
    assert GRAPH.flops == 2 * GRAPH.macs
    assert GRAPH.parameter_count == 30
    # scale: 30 + 30 words; mm: 24 + 30 + 20 words; relu: 20 words and 20 half words
    assert GRAPH.moved_bytes == 4 * 60 + 4 * 74 + 4 * 20 + 2 * 20
    assert [op.work for op in GRAPH.ops] == [30, 0, 20]


def test_sources_and_neighbours():
    """Sources are what nothing writes; consumers come in graph order."""
    assert [t.name for t in GRAPH.sources] == ["x", "w"]
    assert [t.name for t in GRAPH.inputs] == ["x"]
    assert GRAPH.producer["h"].name == "mm"
    assert [op.name for op in GRAPH.consumers["h"]] == ["relu"]
    view = GRAPH.networkx()
    assert list(view.edges(data="tensors")) == [("scale", "mm", ["w2"]), ("mm", "relu", ["h"])]


def test_static_operators_depend_on_parameters_alone():
    """Weight preparation runs once at load; with a backward pass nothing is static."""
    assert GRAPH.static == {"scale"}
    trained = (*GRAPH.ops[:2], Op("b", "relu", RELU, "vector", ("h",), ("y",), "backward"))
    graph = Graph("t", GRAPH.tensors, trained, ("y",))
    assert graph.static == frozenset()
    assert [t.name for t in graph.saved_for_backward] == ["h"]


def test_recomputation_is_counted_apart():
    """A product done a second time in the backward pass is not part of `flops`."""
    again = Op("mm2", "matmul", MATMUL, "matrix", ("x", "w"), ("h",), "recompute")
    graph = Graph("t", GRAPH.tensors, (again,), ("h",))
    assert graph.flops == 0
    assert graph.recompute_flops == 240


def test_gather_declares_its_traffic():
    """An embedding touches its rows, not its table; an opaque operator makes totals a bound."""
    rows = Gather("embedding", (), (3, 3 * 8), (3 * 8,))
    tensors = (
        Tensor("ids", (3,), "int64", "input"),
        Tensor("table", (1000, 8), "float32", "parameter"),
        Tensor("y", (3, 8)),
    )
    graph = Graph(
        "e", tensors, (Op("e", "embedding", rows, "memory", ("ids", "table"), ("y",)),), ("y",)
    )
    assert graph.moved_bytes == 3 * 8 + 24 * 4 + 24 * 4
    assert not graph.is_bound
    bound = Op("e", "opaque", Opaque("aten.x"), "memory", ("ids", "table"), ("y",))
    assert Graph("e", tensors, (bound,), ("y",)).is_bound


def test_equality_ignores_sources_of_operators():
    """Two graphs that compute the same are equal wherever they were written."""
    from dataclasses import replace

    from hwopt.ir.op import Source

    moved = replace(GRAPH.ops[1], source=Source("model.layer", "m.py:3", "aten.mm.default"))
    assert moved == GRAPH.ops[1]


def test_bytes_of_partial_reads():
    """Two halves of one tensor are read once in all; a strided read counts what it touches."""
    halves = Nest(
        (Axis("i", 4),), (parse_access("i"), parse_access("i + 4")), parse_access("i"),
        apply("add", Operand(0), Operand(1)),
    )  # fmt: skip
    strided = Nest((Axis("i", 4),), (parse_access("2*i"),), parse_access("i"))
    tensors = (Tensor("x", (8,), role="input"), Tensor("y", (4,)), Tensor("z", (4,)))
    ops = (
        Op("y", "add", halves, "vector", ("x", "x"), ("y",)),
        Op("z", "slice", strided, "memory", ("x",), ("z",)),
    )
    graph = Graph("g", tensors, ops, ("y", "z"))
    assert graph.op_bytes(graph.op["y"]) == 4 * (8 + 4)
    assert graph.op_bytes(graph.op["z"]) == 4 * (4 + 4)
