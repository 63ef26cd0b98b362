"""Problems from operators, in normal form."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hwopt.ir.access import Axis, parse_access
from hwopt.ir.graph import Graph
from hwopt.ir.op import Gather, Nest, Op
from hwopt.ir.scalar import PRODUCT
from hwopt.ir.tensor import Tensor
from hwopt.mapping.problem import Operand, Problem, may_spread, normalise, problems_of
from hwopt.testing import problems


def linear() -> tuple[Op, Graph]:
    """y[b, s, n] = x[b, s, k] w[n, k], with one axis of size 1."""
    nest = Nest(
        (Axis("b", 4), Axis("s", 16), Axis("u", 1), Axis("n", 8), Axis("k", 32)),
        (parse_access("b", "s", "k"), parse_access("n + u", "k")),
        parse_access("b", "s", "n"),
        PRODUCT,
        "sum",
    )
    op = Op("y", "matmul", nest, "matrix", ("x", "w"), ("y",))
    tensors = (
        Tensor("x", (4, 16, 32), "float16", "input"),
        Tensor("w", (8, 32), "float16", "parameter"),
        Tensor("y", (4, 16, 8), "float32"),
    )
    return op, Graph("linear", tensors, (op,), ("y",))


def test_batch_and_sequence_of_a_linear_layer_become_one_axis() -> None:
    """Axes that index the same operands in dimensions of their own are one; size 1 is dropped."""
    op, graph = linear()
    (problem,) = problems_of(op, graph, {})
    assert problem.sizes == {"b_s": 64, "n": 8, "k": 32}
    assert [operand.shape for operand in problem.operands] == [(64, 32), (8, 32), (64, 8)]
    assert [operand.bits for operand in problem.operands] == [16, 16, 32]
    assert problem.points == op.macs


def test_the_machine_imposes_widths() -> None:
    """`bits` by role replaces the tensors' own."""
    op, graph = linear()
    (problem,) = problems_of(op, graph, {"input": 8, "output": 24})
    assert [operand.bits for operand in problem.operands] == [8, 16, 24]


def test_nests_inside_a_gather_have_the_elements_they_touch() -> None:
    """An expert's product has no tensor of its own: its shape is its index range."""
    nest = Nest(
        (Axis("m", 6), Axis("n", 5), Axis("k", 7)),
        (parse_access("m", "k"), parse_access("n", "k")),
        parse_access("m", "n"), PRODUCT, "sum",
    )  # fmt: skip
    body = Gather("experts", (), (1, 1), (1,), 0, (nest,))
    op = Op("y", "experts", body, "matrix", ("x", "w"), ("y",))
    tensors = tuple(Tensor(name, (99,), "bfloat16", "input") for name in "xwy")
    (problem,) = problems_of(op, Graph("moe", tensors, (op,), ("y",)), {})
    assert [operand.shape for operand in problem.operands] == [(6, 7), (5, 7), (6, 5)]
    assert {operand.bits for operand in problem.operands} == {16}


def test_other_nests_are_not_mapped() -> None:
    """A maximum is not a sum of products."""
    nest = Nest((Axis("m", 3), Axis("k", 4)), (parse_access("m", "k"),), parse_access("m"),
                reduction="max")  # fmt: skip
    op = Op("y", "reduction", nest, "vector", ("x",), ("y",))
    tensors = (Tensor("x", (3, 4), role="input"), Tensor("y", (3,)))
    assert problems_of(op, Graph("max", tensors, (op,), ("y",)), {}) == ()


def test_sliding_windows_and_sequential_axes_stay_apart() -> None:
    """Only whole dimensions merge, and a recurrence keeps its time axis."""
    problem = Problem(
        (Axis("t", 3), Axis("b", 2), Axis("p", 4), Axis("r", 3)),
        (
            Operand("input", parse_access("t", "b", "p + r"), (3, 2, 6), 8),
            Operand("weight", parse_access("r"), (3,), 8),
            Operand("output", parse_access("t", "b", "p"), (3, 2, 4), 8),
        ),
        ("t",),
    )
    assert normalise(problem) == problem


def test_merged_axes_may_be_spread_where_a_part_may() -> None:
    """`b_s` stands for `b` and for `s`."""
    assert may_spread("b_s", ("s",))
    assert may_spread("b_s", ())
    assert not may_spread("b_s", ("k",))


@settings(max_examples=40)
@given(st.data())
def test_normal_form_is_exact_and_stable(data: st.DataObject) -> None:
    """Points stay, no axis has size 1, and a second time changes nothing."""
    problem = data.draw(problems())
    once = normalise(problem)
    assert once.points == problem.points
    assert all(axis.size > 1 for axis in once.axes)
    assert normalise(once) == once
