"""Reading through views: every composition equals running the view first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwopt.ir.access import Access, Affine, Axis, parse_access, parse_affine
from hwopt.ir.interpret import run_nest
from hwopt.ir.nestrules import check_nest
from hwopt.ir.op import Nest
from hwopt.ir.scalar import Iota, Operand, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder
from hwopt.ops.lowering import Call
from hwopt.passes.composition import compose, divide, is_plain_view, split_axis


def view_of(source: tuple[int, ...], result: tuple[int, ...]) -> Nest:
    """The nest of a reshape."""
    build, out = Builder(), Tensor("y", result)
    build.reshape(Call("view", "y", {}, (out,)), Tensor("x", source))
    return build.ops[0].body


def same(reader: Nest, view: Nest, source, result, written) -> Nest | None:
    """Compose and compare with running both; returns the composed nest."""
    composed = compose(reader, 0, view, source, result)
    x = np.random.default_rng(0).normal(size=source)
    y = run_nest(view, [x], Tensor("y", result, "float64"))
    wanted = run_nest(reader, [y], Tensor("z", written, "float64"))
    if composed is not None:
        assert composed.points == reader.points
        assert check_nest(composed, (source,), written) is None
        got = run_nest(composed, [x], Tensor("z", written, "float64"))
        np.testing.assert_allclose(got, wanted)
    return composed


def copy_of(shape: tuple[int, ...]) -> Nest:
    """The nest that reads and writes each element."""
    axes = tuple(Axis(f"e{i}", size) for i, size in enumerate(shape))
    at = Access(tuple(Affine.axis(axis.name) for axis in axes))
    return Nest(axes, (at,), at)


SHAPES = st.lists(st.sampled_from((1, 2, 3, 4, 6)), min_size=1, max_size=4).map(tuple)


@given(SHAPES, st.data())
def test_reshapes(shape, data):
    """Any affine reshape read element by element composes: the reader's axes are split."""
    elements = int(np.prod(shape))
    result = []
    for _ in range(data.draw(st.integers(0, 3))):
        size = data.draw(st.sampled_from([d for d in (1, 2, 3, 4, 6) if elements % d == 0]))
        result.append(size)
        elements //= size
    result = (*result, elements)
    view = view_of(shape, result)
    if isinstance(view, Nest):
        assert same(copy_of(result), view, shape, result, result) is not None


@given(st.data())
def test_strided_and_shifted_readers_of_reshapes(data):
    """Whatever composes is right, and points are conserved; the rest is refused."""
    source = data.draw(st.sampled_from([(4, 6), (2, 3, 4), (24,), (6, 2, 2), (3, 8)]))
    result = data.draw(st.sampled_from([(24,), (4, 6), (2, 12), (6, 4), (2, 2, 6)]))
    view = view_of(source, result)
    if not isinstance(view, Nest):
        return
    axes, index = [], []
    for dim, size in enumerate(result):
        step = data.draw(st.sampled_from((1, 2, 3, -1)))
        count = data.draw(st.integers(1, 1 + (size - 1) // abs(step)))
        reach = abs(step) * (count - 1)
        start = data.draw(st.integers(0, size - 1 - reach)) + (reach if step < 0 else 0)
        axes.append(Axis(f"e{dim}", count))
        index.append(Affine.of({f"e{dim}": step}, start))
    write = Access(tuple(Affine.axis(axis.name) for axis in axes))
    reader = Nest(tuple(axes), (Access(tuple(index)),), write)
    same(reader, view, source, result, tuple(axis.size for axis in axes))


@pytest.mark.parametrize(
    ("view", "source", "result"),
    [
        (Nest((Axis("i", 3), Axis("j", 4)), (parse_access("j", "i"),), parse_access("i", "j")),
         (4, 3), (3, 4)),
        (Nest((Axis("i", 3), Axis("j", 2)), (parse_access("i", "j + 1"),), parse_access("i", "j")),
         (3, 4), (3, 2)),
        (Nest((Axis("i", 3), Axis("j", 4)), (parse_access("i", "3 - j"),), parse_access("i", "j")),
         (3, 4), (3, 4)),
        (Nest((Axis("i", 3), Axis("j", 4)), (parse_access("j"),), parse_access("i", "j")),
         (4,), (3, 4)),
        (Nest((Axis("j", 4),), (parse_access("j"),), parse_access(0, "j")), (4,), (1, 4)),
    ],
    ids=["transpose", "slice", "flip", "expand", "unsqueeze"],
)  # fmt: skip
def test_padded_readers(view, source, result):
    """Padding survives where the padded dimension is a whole one of the source, turned or not;
    elsewhere what is outside the view may be inside the source, and nothing is composed.
    """
    rows, columns = result
    reader = Nest(
        (Axis("p", rows), Axis("q", columns), Axis("s", 3)),
        (parse_access("p", "q + s - 1", fill=0.25),), parse_access("p", "q"), Operand(0), "sum",
    )  # fmt: skip
    composed = same(reader, view, source, result, result)
    sliced = source[1:] == (4,) and columns == 2
    assert (composed is None) == sliced


def test_keys_of_grouped_queries():
    """H = 3*kv + g: the reader's head axis is split, and the key is read once per key head."""
    repeat = Nest(
        tuple(Axis(n, s) for n, s in zip("bhgse", (2, 2, 3, 5, 4), strict=True)),
        (parse_access("b", "h", "s", "e"),), parse_access("b", "3*h + g", "s", "e"),
    )  # fmt: skip
    composed = same(copy_of((2, 6, 5, 4)), repeat, (2, 2, 5, 4), (2, 6, 5, 4), (2, 6, 5, 4))
    assert composed is not None
    assert str(composed.reads[0]) == "[e0, e10, e2, e3]"
    assert str(composed.write) == "[e0, 3*e10 + e11, e2, e3]"


def test_what_is_not_composed():
    """A sum over a repeated element would lose its axis; a mask computes with its axis; the order
    of a recurrence is not split.
    """
    repeat = Nest((Axis("i", 3), Axis("j", 2)), (parse_access("i"),), parse_access("i", "j"))
    total = Nest((Axis("p", 3), Axis("q", 2)), (parse_access("p", "q"),), parse_access("p"),
                 Operand(0), "sum")  # fmt: skip
    assert compose(total, 0, repeat, (3,), (3, 2)) is None
    flat = view_of((2, 3), (6,))
    mask = Nest((Axis("p", 6),), (parse_access("p"),), parse_access("p"),
                apply("mul", Operand(0), Iota("p")))  # fmt: skip
    assert compose(mask, 0, flat, (2, 3), (6,)) is None
    steps = Nest((Axis("p", 6),), (parse_access("p"),), parse_access("p"), sequential=("p",))
    assert compose(steps, 0, flat, (2, 3), (6,)) is None
    assert not is_plain_view(total)
    assert is_plain_view(repeat)


STEPS = st.sampled_from((-6, -4, -2, -1, 1, 2, 3, 4, 8, 12))


@given(
    st.dictionaries(st.sampled_from("abc"), STEPS), st.integers(0, 30), st.integers(2, 6),
    st.fixed_dictionaries(dict.fromkeys("abc", st.integers(1, 3))),
)  # fmt: skip
def test_division(terms, offset, block, sizes):
    """Where a quotient and remainder are given they are those of every point."""
    index = Affine.of(terms, offset)
    divided = divide(index, block, sizes)
    if not isinstance(divided, tuple):
        return
    quotient, rest = divided
    for a in range(sizes["a"]):
        for b in range(sizes["b"]):
            for c in range(sizes["c"]):
                at = {"a": a, "b": b, "c": c}

                def value(affine, at=at):
                    return affine.offset + sum(k * at[n] for n, k in affine.terms)

                assert divmod(value(index), block) == (value(quotient), value(rest))


def test_split_axis():
    """Names stay identifiers without underscores, and free of clashes."""
    nest = Nest((Axis("k", 6), Axis("k0", 2)), (parse_access("2*k + k0"),), parse_access("k", "k0"))
    split = split_axis(nest, "k", 3)
    assert [(axis.name, axis.size) for axis in split.axes] == [("k0x", 2), ("k1", 3), ("k0", 2)]
    assert split.reads[0].index[0] == parse_affine("6*k0x + 2*k1 + k0")
