"""The textual form: round trips, and one clear error for anything malformed."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwopt.errors import TextError
from hwopt.ir.access import Access, Affine, Axis
from hwopt.ir.graph import Graph
from hwopt.ir.op import Gather, Nest, Op, Opaque, Scan, Source
from hwopt.ir.scalar import FUNCTIONS, Apply, Iota, Literal, Operand
from hwopt.ir.tensor import DTYPE_BITS, ROLES, Tensor
from hwopt.ir.text import parse, print_graph
from hwopt.testing import graphs

AXES = ("i", "j2", "k_")
NAMES = st.one_of(
    st.sampled_from(("x", "layer.0.weight", "add_1", "inf", "True", "forward", "return")),
    st.text(max_size=6).filter(bool),
)
NUMBERS = st.one_of(
    st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.just(math.nan)
)
AFFINES = st.builds(
    Affine.of, st.dictionaries(st.sampled_from(AXES), st.integers(-9, 9)), st.integers(-9, 99)
)
ACCESSES = st.builds(
    Access, st.lists(AFFINES, max_size=3).map(tuple),
    st.none() | st.floats(allow_nan=False) | st.just(math.nan),
)  # fmt: skip
SCALARS = st.recursive(
    st.builds(Operand, st.integers(0, 3)) | st.builds(Literal, NUMBERS)
    | st.builds(Iota, st.sampled_from(AXES)),
    lambda inner: st.sampled_from(sorted(FUNCTIONS)).flatmap(
        lambda name: st.tuples(*[inner] * FUNCTIONS[name]).map(lambda a: Apply(name, a))
    ),
    max_leaves=6,
)  # fmt: skip
NESTS = st.builds(
    Nest,
    st.lists(st.builds(Axis, st.sampled_from(AXES), st.integers(-3, 99)), max_size=3).map(tuple),
    st.lists(ACCESSES, max_size=2).map(tuple), ACCESSES, SCALARS,
    st.sampled_from(("none", "sum", "argmax")),
    st.lists(st.sampled_from(AXES), max_size=2).map(tuple),
)  # fmt: skip
ATTRIBUTES = st.recursive(
    NUMBERS | st.none() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)  # fmt: skip
COUNTS = st.lists(st.integers(0, 99), max_size=2).map(tuple)
ROUTINE = (
    NAMES, st.lists(st.tuples(NAMES, ATTRIBUTES), max_size=2).map(tuple), COUNTS, COUNTS,
    st.integers(0, 99),
)  # fmt: skip
INNER = st.lists(NESTS, max_size=2).map(tuple)
BODIES = (
    NESTS | st.builds(Opaque, st.text(max_size=5)) | st.builds(Gather, *ROUTINE, INNER)
    | st.builds(Scan, *ROUTINE, st.integers(0, 9), INNER)
)  # fmt: skip


@st.composite
def strange_graphs(draw):
    """Graphs that need not obey any rule: the text must carry them all the same."""
    tensors = draw(
        st.lists(
            st.builds(
                Tensor, NAMES, st.lists(st.integers(-2, 99), max_size=3).map(tuple),
                st.sampled_from(sorted(DTYPE_BITS)), st.sampled_from(ROLES),
            ),
            max_size=6, unique_by=lambda t: t.name,
        )
    )  # fmt: skip
    operands = st.lists(st.sampled_from([t.name for t in tensors] or ["x"]), max_size=3).map(tuple)
    bodies = draw(st.lists(BODIES, min_size=1, max_size=3))
    sources = st.builds(Source, st.text(max_size=4), st.text(max_size=4), st.text(max_size=4))
    ops = draw(
        st.lists(
            st.builds(
                Op, NAMES, NAMES, st.sampled_from(bodies),
                st.sampled_from(("matrix", "vector", "none")), operands, operands,
                st.sampled_from(("forward", "backward")), sources,
            ),
            max_size=4,
        )
    )  # fmt: skip
    return Graph(draw(st.text(max_size=5)), tuple(tensors), tuple(ops), draw(operands))


@given(strange_graphs())
def test_any_graph_survives(graph):
    """parse(print(g)) prints the same and equals g, sources included."""
    text = print_graph(graph)
    again = parse(text)
    assert print_graph(again) == text
    assert again == graph or "nan" in text
    assert [op.source for op in again.ops] == [op.source for op in graph.ops]


@given(graphs())
def test_legal_graphs_survive(graph):
    """parse(print(g)) == g, and the digest is that of the content."""
    assert parse(print_graph(graph)) == graph
    assert parse(print_graph(graph)).digest == graph.digest


def test_numbers_keep_their_kind():
    """1, 1.0 and True are three bodies, though Python finds them equal."""
    axes = (Axis("i", 2),)
    at = (Affine.axis("i"),)
    ops = tuple(
        Op(f"y{n}", "fill", Nest(axes, (), Access(at), Literal(value)), "vector", (), (f"y{n}",))
        for n, value in enumerate((1, 1.0, True))
    )
    graph = Graph("g", tuple(Tensor(f"y{n}", (2,)) for n in range(3)), ops, ("y0", "y1", "y2"))
    text = print_graph(graph)
    assert text.count("$") == 6  # three definitions, three uses
    kinds = [type(op.body.scalar.value) for op in parse(text).ops]
    assert kinds == [int, float, bool]


TEXT = """\
graph "mlp"
  %x : float32[4, 6] input
  %w : float32[5, 6] parameter
  $0 = nest (m=4, n=5, k=6) reads ([m, k], [n, k]) writes [m, n] sum mul(#0, #1)
  %h : float32[4, 5] = matmul on matrix $0(%x, %w) // "fc" "model.py:12" "aten.mm.default"
  $1 = nest (m=4, n=5) reads ([m, n]) writes [m, n] none maximum(#0, 0.0)
  %y : float32[4, 5] = relu on vector $1(%h)
return %y
"""


def test_golden():
    """The example of the grammar prints as it is read."""
    assert print_graph(parse(TEXT)) == TEXT
    assert "// " not in print_graph(parse(TEXT), sources=False)
    assert parse("// by hand\n\n" + TEXT + "\n// the end\n") == parse(TEXT)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('graph "mlp"', "graf", "line 1, column 1"),
        ("float32[4, 6] input", "float32[4, 6", "line 2, column"),
        ("float32[5, 6]", "float32[5; 6]", "line 3, column 17"),
        ("mul(#0, #1)", "mul(#0)", "line 4, column"),
        ("mul(#0, #1)", "system(#0)", "line 4, column"),
        ("sum mul(#0, #1)", "sum __import__('os')", "line 4, column"),
        ("$0 = nest", "$0 = nets", "line 4, column 8"),
        ("[n, k])", "[n, k*k])", "line 4, column"),
        ("m=4, n=5, k=6", "m=4, n=5, k=6.5", "line 4, column"),
        ("$0(%x", "$7(%x", "line 5, column"),
        ('"fc" "model.py:12"', '"fc" model.py', "line 5, column"),
        ("$1 = nest", "$0 = nest", "line 6, column"),
        ("return %y\n", "", "line 7"),
        ("return %y", "return %y %h", "line 8, column 11"),
        ("return %y", "return %y\nmore", "line 9, column 1"),
        ("maximum(#0, 0.0)", "neg(" * 500 + "#0" + ")" * 500, "line 6, column"),
        ("m=4", "m=" + "9" * 50, "line 4, column"),
        ("%y :", '%"\\x" :', "line 7, column"),
    ],
)
def test_malformed(old, new, where):
    """Each mistake is one error that points at it and evaluates nothing."""
    assert old in TEXT
    with pytest.raises(TextError) as caught:
        parse(TEXT.replace(old, new))
    assert where in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["", "\n\n", "// nothing", 'graph "a"', "\0", '"' * 999])
def test_no_graph_at_all(text):
    """Text without a graph is refused the same way."""
    with pytest.raises(TextError):
        parse(text)


@given(st.text(max_size=80))
def test_arbitrary_text_is_refused_cleanly(text):
    """Nothing but `TextError` comes out of arbitrary text."""
    with pytest.raises(TextError):
        parse(text)


@given(st.integers(0, len(TEXT) - 1), st.characters())
def test_a_changed_character_never_crashes(position, character):
    """One character replaced gives a graph or a `TextError`."""
    with contextlib.suppress(TextError):
        parse(TEXT[:position] + character + TEXT[position + 1 :])


def test_large_graphs_are_fast():
    """14,000 operators that share bodies print, digest and parse in seconds."""
    import time

    one = parse(TEXT)
    tensors, ops = [one.tensor["x"], one.tensor["w"]], []
    for number in range(7000):
        h, y = f"h{number}", f"y{number}"
        tensors += [Tensor(h, (4, 5)), Tensor(y, (4, 5))]
        ops.append(Op(h, "matmul", one.op["h"].body, "matrix", ("x", "w"), (h,)))
        ops.append(Op(y, "relu", one.op["y"].body, "vector", (h,), (y,)))
    graph = Graph("large", tuple(tensors), tuple(ops), ("y6999",))
    start = time.process_time()
    assert len(graph.digest) == 64
    assert time.process_time() - start < 1.5
    assert parse(print_graph(graph)) == graph
