"""Rounding to element types and scalar functions, held against torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwopt.ir.numeric import evaluate, rounded
from hwopt.ir.scalar import FUNCTIONS, Apply, Iota, Literal, Operand, apply

FLOATS = (
    st.floats(width=32)
    | st.floats(-(2.0**-14), 2.0**-14, width=32)
    | st.floats(-500, 500, width=32)
)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
@given(value=FLOATS)
def test_rounding_is_torchs(dtype, value):
    """To nearest, ties to even, subnormals, overflow: the same grid as torch's types."""
    wanted = torch.tensor(value, dtype=torch.float32).to(getattr(torch, dtype)).to(torch.float32)
    got = rounded(np.array(value, np.float32), dtype).astype(np.float32)
    np.testing.assert_array_equal(got, wanted.numpy())


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8"])
@given(value=st.floats(0, 100))
def test_integers_truncate(dtype, value):
    """A cast from float drops the fraction."""
    assert rounded(np.array(value), dtype) == int(value)
    assert rounded(np.array([-value]), "int32") == -int(value)


def test_bool_is_not_zero():
    """Half is true."""
    assert rounded(np.array([0.0, 0.5, np.nan]), "bool").tolist() == [False, True, True]


TORCH = {
    "sub": torch.sub, "add": torch.add, "mul": torch.mul, "div": torch.true_divide,
    "pow": torch.pow, "mod": torch.remainder, "floordiv": torch.floor_divide,
    "maximum": torch.maximum, "minimum": torch.minimum, "atan2": torch.atan2,
    "neg": torch.neg, "abs": torch.abs, "sign": torch.sign, "reciprocal": torch.reciprocal,
    "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "square": torch.square, "exp": torch.exp,
    "exp2": torch.exp2, "expm1": torch.expm1, "log": torch.log, "log2": torch.log2,
    "log1p": torch.log1p, "sin": torch.sin, "cos": torch.cos, "tan": torch.tan,
    "tanh": torch.tanh, "sinh": torch.sinh, "cosh": torch.cosh, "asin": torch.asin,
    "acos": torch.acos, "atan": torch.atan, "asinh": torch.asinh, "acosh": torch.acosh,
    "atanh": torch.atanh, "erf": torch.erf, "erfc": torch.erfc, "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus, "floor": torch.floor, "ceil": torch.ceil,
    "round": torch.round, "trunc": torch.trunc, "eq": torch.eq, "ne": torch.ne, "lt": torch.lt,
    "le": torch.le, "gt": torch.gt, "ge": torch.ge, "not": torch.logical_not,
    "isnan": torch.isnan, "isinf": torch.isinf,
}  # fmt: skip
ON_INTEGERS = {
    "and": torch.bitwise_and, "or": torch.bitwise_or, "xor": torch.bitwise_xor,
    "shl": torch.bitwise_left_shift, "shr": torch.bitwise_right_shift,
}  # fmt: skip
SPECIAL = np.array([-np.inf, -2.5, -1.5, -1.0, -0.5, 0.0, 0.3, 0.5, 1.0, 1.5, 2.5, 9.0, np.inf,
                    np.nan])  # fmt: skip


@pytest.mark.parametrize("name", sorted(TORCH))
def test_functions_on_floats(name):
    """Every function gives torch's value at ordinary and special points."""
    pairs = np.stack(np.meshgrid(SPECIAL, SPECIAL)).reshape(2, -1)[: FUNCTIONS[name]]
    scalar = Apply(name, tuple(Operand(i) for i in range(len(pairs))))
    got = evaluate(scalar, list(pairs), {}, "float64")
    wanted = TORCH[name](*map(torch.tensor, pairs)).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(ON_INTEGERS))
def test_functions_on_integers(name):
    """Bit by bit, as torch does."""
    a, b = np.array([0, 1, 5, 12, 255]), np.array([3, 1, 4, 2, 7])
    got = evaluate(Apply(name, (Operand(0), Operand(1))), [a, b], {}, "int64")
    assert got.tolist() == ON_INTEGERS[name](torch.tensor(a), torch.tensor(b)).tolist()


def test_every_function_is_covered():
    """The table of functions is the IR's; `where` and `cast` have tests of their own."""
    assert set(TORCH) | set(ON_INTEGERS) | {"where", "cast"} == set(FUNCTIONS)


def test_where_cast_axes_and_literals():
    """A causal mask, and a cast to the type that is written."""
    axes = {"i": np.arange(3).reshape(3, 1), "j": np.arange(3).reshape(1, 3)}
    mask = apply("where", apply("le", Iota("j"), Iota("i")), Operand(0), Literal(-np.inf))
    got = evaluate(mask, [np.ones((3, 3))], axes, "float32")
    assert np.isinf(got).sum() == 3
    assert evaluate(apply("cast", Operand(0)), [np.array([1.7])], {}, "int32").tolist() == [1]


def test_integers_stay_integers():
    """Powers and remainders of integers are exact; a negative exponent makes a float."""
    a = np.array([3, -7])
    assert evaluate(apply("pow", Operand(0), 3), [a], {}, "int64").tolist() == [27, -343]
    assert evaluate(apply("mod", Operand(0), 4), [a], {}, "int64").tolist() == [3, 1]
    assert evaluate(apply("floordiv", Operand(0), 4), [a], {}, "int64").tolist() == [0, -2]
    assert evaluate(apply("pow", Operand(0), -1), [np.array([2])], {}, "float32").tolist() == [0.5]
