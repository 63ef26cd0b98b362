"""The interpreter: nests against a walk over every point, graphs against torch."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwopt.errors import GraphError, ShapeError, UndefinedTensorError
from hwopt.ir import interpret as interpreter
from hwopt.ir.access import Access, Affine, Axis, parse_access
from hwopt.ir.graph import Graph
from hwopt.ir.interpret import interpret, run_nest
from hwopt.ir.nestrules import check_nest
from hwopt.ir.numeric import evaluate
from hwopt.ir.op import Nest, Op, Opaque
from hwopt.ir.scalar import PRODUCT, Iota, Operand, apply
from hwopt.ir.tensor import Tensor
from hwopt.testing import graphs, values_of


def walk(nest: Nest, reads: list[np.ndarray], write: Tensor) -> np.ndarray:
    """The oracle: every point in row-major order, with Python numbers."""
    hits: dict[tuple[int, ...], list[float]] = {}
    names = [axis.name for axis in nest.axes]
    for point in itertools.product(*(range(axis.size) for axis in nest.axes)):
        at = dict(zip(names, point, strict=True))

        def place(access: Access, at: dict[str, int] = at) -> tuple[int, ...]:
            return tuple(a.offset + sum(c * at[n] for n, c in a.terms) for a in access.index)

        operands = []
        for access, read in zip(nest.reads, reads, strict=True):
            index = place(access)
            inside = all(0 <= i < s for i, s in zip(index, read.shape, strict=True))
            operands.append(np.asarray(read[index] if inside else access.fill))
        axes = {name: np.asarray(value) for name, value in at.items()}
        value = evaluate(nest.scalar, operands, axes, write.dtype)
        hits.setdefault(place(nest.write), []).append(float(value))
    combine = {
        "none": lambda v: v[0], "sum": sum, "prod": math.prod, "max": max, "min": min,
        "argmax": lambda v: v.index(max(v)), "argmin": lambda v: v.index(min(v)),
        "any": lambda v: float(any(v)), "all": lambda v: float(all(v)),
    }[nest.reduction]  # fmt: skip
    result = np.full(write.shape, np.nan if nest.write.fill is None else nest.write.fill)
    for index, values in hits.items():
        if all(0 <= i < s for i, s in zip(index, write.shape, strict=True)):
            result[index] = combine(values)
    return result


@st.composite
def nests(draw):
    """Legal nests of up to four small axes, any access with a fill, any reduction."""
    axes = tuple(Axis(f"a{i}", draw(st.integers(1, 4))) for i in range(draw(st.integers(1, 4))))
    names = [axis.name for axis in axes]
    terms = st.dictionaries(st.sampled_from(names), st.integers(-2, 3), max_size=2)

    def access(fill):
        rank = draw(st.integers(0, 3))
        index = [Affine.of(draw(terms), draw(st.integers(-2, 3))) for _ in range(rank)]
        return Access(tuple(index), fill), tuple(draw(st.integers(1, 5)) for _ in range(rank))

    reads, shapes = zip(*(access(0.5) for _ in range(draw(st.integers(1, 2)))), strict=True)
    reduction = draw(
        st.sampled_from(("none", "sum", "prod", "max", "min", "argmax", "argmin", "any", "all"))
    )
    plain = draw(st.booleans()) or reduction in ("argmax", "argmin", "none")
    if plain:
        kept = names if reduction == "none" else draw(st.lists(st.sampled_from(names), unique=True))
        sizes = {axis.name: axis.size for axis in axes}
        write = Access(tuple(map(Affine.axis, kept)))
        target = tuple(sizes[name] for name in kept)
    else:
        write, target = access(0.25)
    scalars = [Operand(0), apply("add", Operand(0), Iota(names[0]))]
    if len(reads) == 2:
        scalars += [PRODUCT, apply("sub", Operand(1), apply("neg", Operand(0)))]
    used = set().union(write.axes, *(read.axes for read in reads))
    axes = tuple(axis for axis in axes if axis.name in used)
    scalar = draw(st.sampled_from([s for s in scalars if "@" not in str(s) or names[0] in used]))
    nest = Nest(axes, reads, write, scalar, reduction)
    assert check_nest(nest, shapes, target) is None
    return nest, shapes, target


@given(nests(), st.integers(0, 9), st.booleans())
def test_nests_equal_a_walk_over_their_points(case, seed, cut):
    """Strides, offsets, padding, collisions, every reduction; also when the box is cut."""
    nest, shapes, target = case
    random = np.random.default_rng(seed)
    reads = [random.integers(-3, 4, size=shape).astype(float) for shape in shapes]
    write = Tensor("y", target, "float64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "MAX_POINTS", 3 if cut else 2**20)
        got = run_nest(nest, reads, write)
    np.testing.assert_allclose(got, walk(nest, reads, write))


def one(nest: Nest, reads: dict[str, np.ndarray], shape: tuple[int, ...], dtype="float32"):
    """Run one nest in a graph of its own."""
    sources = tuple(Tensor(n, v.shape, str(v.dtype), "input") for n, v in reads.items())
    op = Op("y", "n", nest, "vector", tuple(reads), ("y",))
    graph = Graph("g", (*sources, Tensor("y", shape, dtype)), (op,), ("y",))
    return interpret(graph, reads)["y"]


def test_convolution_and_its_input_gradient():
    """Strided, padded, grouped: torch's own results, forward and the accumulating backward."""
    x, w = torch.randn(2, 4, 9, 8), torch.randn(6, 2, 3, 3)
    sizes = {"n": 2, "g": 2, "k": 3, "c": 2, "p": 5, "q": 4, "r": 3, "s": 3}
    axes = tuple(Axis(name, size) for name, size in sizes.items())
    image = parse_access("n", "2*g + c", "2*p + r - 1", "2*q + s - 1", fill=0.0)
    kernel, grid = parse_access("3*g + k", "c", "r", "s"), parse_access("n", "3*g + k", "p", "q")
    y = torch.nn.functional.conv2d(x, w, stride=2, padding=1, groups=2)
    forward = Nest(axes, (image, kernel), grid, PRODUCT, "sum")
    got = one(forward, {"x": x.numpy(), "w": w.numpy()}, tuple(y.shape))
    np.testing.assert_allclose(got, y, atol=1e-5)
    grad = torch.randn_like(y)
    backward = Nest(axes, (grid, kernel), image, PRODUCT, "sum")
    got = one(backward, {"grad": grad.numpy(), "w": w.numpy()}, tuple(x.shape))
    wanted = torch.nn.grad.conv2d_input(x.shape, w, grad, stride=2, padding=1, groups=2)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_types():
    """Integers stay exact, bools count, half precision rounds once on writing."""
    axes = (Axis("i", 3),)
    at = parse_access("i")
    big = np.array([2**53, 1, 1], dtype=np.int64)
    assert one(Nest(axes, (at,), parse_access(), Operand(0), "sum"), {"x": big}, (), "int64") == (
        2**53 + 2
    )
    flags = np.array([True, True, False])
    assert one(Nest(axes, (at,), parse_access(), Operand(0), "sum"), {"x": flags}, (), "int64") == 2
    half = np.array([1.0, 2.0**-12, 2.0**-12])
    got = one(Nest(axes, (at,), parse_access(), Operand(0), "sum"), {"x": half}, (), "float16")
    assert got == np.float16(1 + 2.0**-11)
    pool = Nest(axes, (parse_access("i - 1", fill=-math.inf),), parse_access(), Operand(0), "max")
    assert one(pool, {"x": np.array([-5, -4, 3])}, (), "int64") == -4


def test_errors():
    """Missing or misshapen values, and opaque operators, are refused by name."""
    x = Tensor("x", (2,), role="input")
    op = Op("y", "opaque", Opaque("aten.magic"), "memory", ("x",), ("y",))
    graph = Graph("g", (x, Tensor("y", (2,))), (op,), ("y",))
    with pytest.raises(UndefinedTensorError, match="x"):
        interpret(graph, {})
    with pytest.raises(ShapeError, match="another shape"):
        interpret(graph, {"x": np.zeros(3)})
    with pytest.raises(GraphError, match=r"aten\.magic"):
        interpret(graph, {"x": np.zeros(2)})


@given(graphs())
def test_every_tensor_has_its_shape_and_type(graph):
    """Values of all tensors, sources too."""
    values = interpret(graph, values_of(graph))
    assert set(values) == set(graph.tensor)
    for name, value in values.items():
        assert value.shape == graph.tensor[name].shape
        assert value.dtype == np.float32
