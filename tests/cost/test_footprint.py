"""What an operator touches: equal to listing every index."""

from hypothesis import given
from hypothesis import strategies as st

from hwopt.cost.footprint import element_bytes, operand_bytes, touched_elements
from hwopt.ir.access import Access, Affine, Axis, parse_access
from hwopt.ir.graph import Graph
from hwopt.ir.op import Nest, Op, Opaque
from hwopt.ir.tensor import Tensor

AXES = ("a", "b", "c", "d")


@st.composite
def accesses(draw):
    """A two-dimensional access whose dimensions use different axes, sizes, and a shape."""
    sizes = {axis: draw(st.integers(1, 5)) for axis in AXES}
    index = []
    for axes in (("a", "b"), ("c", "d")):
        terms = {axis: draw(st.integers(-3, 3)) for axis in axes}
        index.append(Affine.of(terms, draw(st.integers(-4, 12))))
    shape = (draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    return Access(tuple(index), 0.0), sizes, shape


def listed(access, sizes, shape):
    """Every in-range index, by walking the whole iteration space."""
    points = [{}]
    for axis, size in sizes.items():
        points = [{**point, axis: value} for point in points for value in range(size)]
    found = set()
    for point in points:
        index = tuple(
            affine.offset + sum(c * point[axis] for axis, c in affine.terms)
            for affine in access.index
        )
        if all(0 <= i < size for i, size in zip(index, shape, strict=True)):
            found.add(index)
    return len(found)


@given(accesses())
def test_touched_elements_equal_a_walk(case):
    """Strides, offsets, windows, padding and reversed axes: exact."""
    access, sizes, shape = case
    assert touched_elements(access, sizes, shape) == listed(access, sizes, shape)


def test_shared_axes_are_bounded_by_points_and_tensor():
    """A diagonal touches at most its points, never more than the tensor."""
    access = parse_access("a", "a")
    assert touched_elements(access, {"a": 4}, (4, 4)) == 4
    assert touched_elements(parse_access("a", "a + b"), {"a": 9, "b": 9}, (4, 4)) <= 16


def test_large_windows_are_not_listed():
    """Beyond the limit the span is taken, quickly."""
    access = parse_access("a + 3*b")
    sizes = {"a": 2, "b": 10**7}
    assert touched_elements(access, sizes, (10**9,)) <= 3 * 10**7


def test_operands_of_each_body():
    """Nests count what they touch, gathers what they declare, opaque ones everything."""
    tensors = (Tensor("x", (8, 4), role="input"), Tensor("y", (2, 4)))
    nest = Nest((Axis("i", 2), Axis("j", 4)), (parse_access("i + 3", "j"),), parse_access("i", "j"))
    op = Op("slice", "copy", nest, "memory", ("x",), ("y",))
    graph = Graph("g", tensors, (op,), ("y",))
    assert operand_bytes(op, graph, {}) == ({"x": 32.0}, {"y": 32.0})  # 8 elements, 4 bytes each
    assert operand_bytes(op, graph, {"input": 8, "output": 16}) == ({"x": 8.0}, {"y": 16.0})
    opaque = Op("o", "opaque", Opaque("what"), "memory", ("x",), ("y",))
    assert operand_bytes(opaque, graph, {}) == ({"x": 128.0}, {"y": 32.0})


def test_an_operand_named_twice_is_moved_once():
    """X + x reads x once."""
    tensors = (Tensor("x", (4,), role="input"), Tensor("y", (4,)))
    body = Nest((Axis("i", 4),), (parse_access("i"), parse_access("i")), parse_access("i"))
    op = Op("double", "add", body, "vector", ("x", "x"), ("y",))
    assert operand_bytes(op, Graph("g", tensors, (op,), ("y",)), {})[0] == {"x": 16.0}


def test_machine_widths_apply_to_real_numbers_only():
    """Indices keep their own width; parameters take the weight's."""
    bits = {"input": 8, "weight": 4, "output": 16}
    assert element_bytes(Tensor("t", (1,), "int64"), bits, writes=False) == 8
    assert element_bytes(Tensor("t", (1,), "float32"), bits, writes=False) == 1
    assert element_bytes(Tensor("t", (1,), "bfloat16", "parameter"), bits, writes=False) == 0.5
    assert element_bytes(Tensor("t", (1,), "float32", "parameter"), bits, writes=True) == 2
