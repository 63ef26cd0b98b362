"""The rules of graphs: each broken rule is one typed error that shows the neighbourhood."""

import time
from dataclasses import replace

import pytest
from hypothesis import given

from hwopt.errors import (
    CycleError,
    DuplicateWriterError,
    GraphError,
    HwoptError,
    ShapeError,
    SizeError,
    UndefinedTensorError,
)
from hwopt.ir.access import Axis, parse_access
from hwopt.ir.graph import Graph
from hwopt.ir.op import Gather, Nest, Op, Scan, Source
from hwopt.ir.scalar import PRODUCT, Literal, Operand, apply
from hwopt.ir.tensor import Tensor
from hwopt.ir.text import parse
from hwopt.ir.verify import neighbourhood, verify
from hwopt.testing import graphs

GRAPH = parse("""
graph "mlp"
  %x : float32[4, 6] input
  %w : float32[5, 6] parameter
  $0 = nest (m=4, n=5, k=6) reads ([m, k], [n, k]) writes [m, n] sum mul(#0, #1)
  %h : float32[4, 5] = matmul on matrix $0(%x, %w) // "layers.0.fc" "model.py:12" "aten.mm"
  $1 = nest (m=4, n=5) reads ([m, n]) writes [m, n] none maximum(#0, 0.0)
  %y : float32[4, 5] = relu on vector $1(%h)
  %z : float32[4, 5] = @last relu on vector $1(%y)
return %z
""")


def changed(name: str, /, **changes: object) -> Graph:
    """The graph with one operator or tensor replaced."""
    ops = tuple(replace(o, **changes) if o.name == name else o for o in GRAPH.ops)
    tensors = tuple(
        replace(t, **changes) if t.name == name and name not in GRAPH.op else t
        for t in GRAPH.tensors
    )
    return replace(GRAPH, ops=ops, tensors=tensors)


def test_a_legal_graph_passes():
    """Nothing is raised, also twice."""
    verify(GRAPH)
    verify(GRAPH)


@given(graphs())
def test_random_legal_graphs_pass(graph):
    """What the lowerings' builder emits is legal."""
    verify(graph)


@pytest.mark.parametrize(
    ("graph", "error", "words"),
    [
        (changed("y", reads=("z",)), CycleError, ["circle", "y -> last"]),
        (changed("y", reads=("y",)), CycleError, ["circle"]),
        (replace(GRAPH, ops=GRAPH.ops[::-1]), UndefinedTensorError, ["before it is written"]),
        (changed("y", reads=("nosuch",)), UndefinedTensorError, ["nosuch"]),
        (replace(GRAPH, ops=GRAPH.ops[1:]), UndefinedTensorError, ["nothing defines", "'h'"]),
        (replace(GRAPH, outputs=("nosuch",)), UndefinedTensorError, ["output", "nosuch"]),
        (replace(GRAPH, ops=GRAPH.ops[:2]), UndefinedTensorError, ["output", "'z'"]),
        (changed("last", writes=("y",)), DuplicateWriterError, ["'y' and 'last'"]),
        (changed("last", name="y"), DuplicateWriterError, ["share a name"]),
        (changed("w", name="x"), DuplicateWriterError, ["declared twice"]),
        (changed("w", dtype="float31"), GraphError, ["float31", "float32"]),
        (changed("w", role="wheel"), GraphError, ["wheel", "parameter"]),
        (changed("w", shape=(5, 0)), SizeError, ["0", "'w'"]),
        (changed("w", shape=(-5, 6)), SizeError, ["-5"]),
        (changed("w", shape=(2**54,)), SizeError, ["2**53"]),
        (changed("w", shape=(2**30, 2**30)), SizeError, ["more elements"]),
        (changed("w", shape=(5, 6.0)), SizeError, ["6.0"]),
        (changed("w", shape=(6, 5)), ShapeError, ["read #1", "leaves its tensor in dim 1"]),
        (changed("w", shape=(5,)), ShapeError, ["2 indices"]),
        (changed("y", resource="magic"), GraphError, ["magic", "matrix"]),
        (changed("y", phase="sideways"), GraphError, ["sideways", "backward"]),
        (changed("y", reads=("h", "h")), ShapeError, ["2 read, 1 written"]),
        (changed("y", writes=()), GraphError, ["writes nothing"]),
    ],
)  # fmt: skip
def test_each_rule(graph, error, words):
    """The exact type of error, and the words that help."""
    with pytest.raises(error) as caught:
        verify(graph)
    for word in words:
        assert word in str(caught.value)


def nest(axes: dict[str, int], read: str, write: str, **more: object) -> Graph:
    """A graph of one nest on `x : [4, 6]` writing `y : [4, 6]`."""
    sizes = tuple(Axis(name, size) for name, size in axes.items())
    index = {"fill": more.pop("fill", None)}
    target = {"fill": more.pop("write_fill", None)}
    shape = more.pop("shape", (4, 6))
    body = Nest(
        sizes, (parse_access(*read.split(","), **index),),
        parse_access(*write.split(","), **target),
        more.pop("scalar", Operand(0)), more.pop("reduction", "none"), more.pop("sequential", ()),
    )  # fmt: skip
    tensors = (Tensor("x", (4, 6), role="input"), Tensor("y", shape))
    return Graph("g", tensors, (Op("y", "n", body, "vector", ("x",), ("y",)),), ("y",))


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (nest({"i": 4, "j": 6}, "i,j", "i,i"), "axes that the write lacks"),
        (nest({"i": 4, "j": 6, "k": 2}, "i,j", "i,j"), "nothing uses"),
        (nest({"i": 4}, "i,j", "i,0"), "not declared"),
        (nest({"i": 4, "j": 5}, "i,j", "i,j"), "does not cover"),
        (nest({"i": 4, "j": 6}, "i,j + 1", "i,j"), "leaves its tensor"),
        (nest({"i": 4, "j": 6}, "i,j", "i,j + 1"), "the write leaves"),
        (nest({"i": 4, "j": 3}, "i,j", "i,2*j"), "does not cover"),
        (nest({"i": 4, "j": 6}, "i,j", "0,i + j", shape=(1, 9)), "hits an element twice"),
        (nest({"i": 4, "j": 6}, "i,j", "i,j", scalar=Operand(1)), "a read that is not there"),
        (nest({"i": 4, "j": 6}, "i,j", "i,j", reduction="mean"), "unknown reduction"),
        (nest({"i": 4, "j": 0}, "i,j", "i,j"), "2**53"),
        (nest({"i": 2**30, "j": 2**30}, "0,0", "i,j"), "more points"),
        (nest({"i": 4, "j": 6}, "i,j", "i,j", sequential=("t",)), "not declared"),
        (nest({"i": 2**20, "j": 2**20}, "0,0", f"0,i + {2**40}*j", write_fill=0.0), "2**53"),
    ],
)
def test_rules_of_nests(graph, words):
    """Accesses, axes and writes."""
    with pytest.raises(GraphError, match=words.replace("*", r"\*").replace("#", r"\#")):
        verify(graph)


@pytest.mark.parametrize(
    "graph",
    [
        nest({"i": 4, "j": 6}, "i,j", "i,5 - j"),
        nest({"i": 4, "j": 6}, "i,j", "0,6*i + j", shape=(1, 24)),
        nest({"i": 4, "j": 6}, "i,j", "0,i + j", shape=(1, 9), reduction="sum"),
        nest({"i": 4, "j": 6}, "i,j - 1", "i,j", fill=0.0),
        nest({"i": 4, "j": 3}, "i,j", "i,2*j", write_fill=0.0),
        nest({"i": 4}, "i,i", "i,i", write_fill=0.0, shape=(4, 4)),
        nest({"i": 4, "j": 6}, "i,j", "i,2*j - 1", write_fill=0.0),
        nest({"t": 3, "j": 4}, "j,0", "j,0", sequential=("t",), shape=(4, 1), reduction="max"),
        nest({"i": 4, "j": 2, "k": 3}, "i,j + 2*k", "i,3*j + k"),
    ],
)
def test_unusual_nests_that_are_legal(graph):
    """Flips, merges, collisions that accumulate, strided and diagonal writes with a fill."""
    verify(graph)


def test_routines():
    """Gathers and scans: counts per operand, known functions, legal nests inside."""
    tensors = (Tensor("x", (4, 6), role="input"), Tensor("y", (4, 6)))

    def graph(body: Gather | Scan) -> Graph:
        return Graph("g", tensors, (Op("y", "s", body, "vector", ("x",), ("y",)),), ("y",))

    good = Scan("softmax", (("axis", 1), ("log", False)), (24,), (24,), 5, 3)
    verify(graph(good))
    inner = Nest((Axis("i", 2),), (), parse_access("i"), PRODUCT)
    for bad, words in (
        (replace(good, function="sotfmax"), "softmax"),
        (replace(good, read_elements=(24, 24)), "1 read, 1 written"),
        (replace(good, work=-1), "2\\*\\*53"),
        (replace(good, depth=2**60), "2\\*\\*53"),
        (replace(good, attributes=(("axis", 1), ("axis", 1))), "twice"),
        (replace(good, nests=(inner,)), "a read that is not there"),
    ):
        with pytest.raises(GraphError, match=words):
            verify(graph(bad))


def test_message_shows_neighbours_and_source():
    """Operands with types, producers, consumers, module path and source line."""
    with pytest.raises(ShapeError) as caught:
        verify(changed("x", shape=(3, 6)))
    message = str(caught.value)
    for part in (
        "'h' (layers.0.fc, model.py:12)", "%x : float32[3, 6]", "from input",
        "%h : float32[4, 5]", "to y", "0..2",
    ):  # fmt: skip
        assert part in message
    assert "from h" in neighbourhood(GRAPH, GRAPH.op["y"])
    assert "to last" in neighbourhood(GRAPH, GRAPH.op["y"])


def test_large_graphs_are_verified_in_a_second():
    """14,000 operators that share two bodies."""
    tensors, ops, last = [GRAPH.tensor["w"], GRAPH.tensor["h"]], [], "h"
    tensors[1] = replace(tensors[1], role="input")
    for number in range(14_000):
        tensors.append(Tensor(f"y{number}", (4, 5)))
        source = Source("m", "f.py:1")
        ops.append(Op(f"y{number}", "r", GRAPH.op["y"].body, "vector", (last,), (f"y{number}",),
                      source=source))  # fmt: skip
        last = f"y{number}"
    graph = Graph("large", tuple(tensors), tuple(ops), (last,))
    start = time.process_time()
    verify(graph)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("value", ["a", None, (1,)])
def test_literals_are_numbers(value):
    """Anything else in a scalar is refused."""
    with pytest.raises(HwoptError, match="literal"):
        verify(
            nest({"i": 4, "j": 6}, "i,j", "i,j", scalar=apply("add", Operand(0), Literal(value)))
        )
