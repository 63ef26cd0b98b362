"""Numbers of the interpreter: element types in numpy, rounding, and the scalar functions.

Values are held in numpy's own type where there is one, and in float32 rounded to the grid of the
type where there is none (bfloat16, float8). Scalars are computed in double precision (int64,
complex128), so that an operator rounds once, when it writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from hwopt.ir.scalar import Apply, Iota, Literal, Operand, Scalar

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

_STORED: dict[str, str] = {
    "bfloat16": "float32", "float8_e4m3fn": "float32", "float8_e5m2": "float32",
}  # fmt: skip
"""numpy's type for types that it lacks; others bear numpy's names."""

_GRID: dict[str, tuple[int, int, float]] = {
    "bfloat16": (8, -126, 3.3895313892515355e38),
    "float8_e4m3fn": (4, -6, 448.0),
    "float8_e5m2": (3, -14, 57344.0),
}
"""Bits of the significand (the hidden one too), smallest exponent, largest finite value."""


def stored_type(dtype: str) -> np.dtype[Any]:
    """The numpy type that holds values of an element type."""
    return np.dtype(_STORED.get(dtype, dtype))


def rounded(values: Array, dtype: str) -> Array:
    """Values converted to an element type as a cast does: to nearest, ties to even; towards zero
    for integers; "is not 0" for bool. Beyond the largest value stands infinity; float8_e4m3fn,
    which has none, saturates (as torch 2.13 does).
    """
    if dtype == "bool":
        return np.asarray(values != 0)
    kind = stored_type(dtype)
    with np.errstate(all="ignore"):
        if dtype not in _GRID:
            if kind.kind in "iu" and values.dtype.kind == "f":
                values = np.trunc(values).astype(np.int64)
            return np.asarray(values).astype(kind)
        bits, smallest, largest = _GRID[dtype]
        wide = np.asarray(values, dtype=np.float64)
        _, exponent = np.frexp(wide)
        step = np.ldexp(1.0, np.maximum(exponent - 1, smallest) - (bits - 1))
        result = np.where(np.isfinite(wide), np.rint(wide / step) * step, wide)
        over = np.copysign(largest if dtype == "float8_e4m3fn" else np.inf, wide)
        return np.where(np.abs(result) > largest, over, result).astype(kind)


def widened(values: Array) -> Array:
    """Values in the type that scalars are computed in."""
    wide = {"f": np.float64, "i": np.int64, "u": np.int64, "c": np.complex128}
    return values.astype(wide.get(values.dtype.kind, values.dtype), copy=False)


def _unary(function: Callable[[float], float]) -> Callable[[Array], Array]:
    """A function of Python's math for each element."""
    each = np.vectorize(function, otypes=[np.float64])
    return lambda values: np.asarray(each(values))


def _logical(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Bit by bit on integers, logical on bools; a float operand counts as "is not 0"."""

    def run(a: Array, b: Array) -> Array:
        a, b = (x if x.dtype.kind in "iub" else x != 0 for x in (np.asarray(a), np.asarray(b)))
        return function(a, b)

    return run


def _power(a: Array, b: Array) -> Array:
    """Integers stay integers unless an exponent is negative."""
    if a.dtype.kind in "iub" and b.dtype.kind in "iub" and not np.any(b < 0):
        return np.asarray(np.power(a.astype(np.int64), b.astype(np.int64)))
    return np.asarray(np.power(a.astype(np.result_type(a, np.float64)), b))


def _plain(values: Array) -> Array:
    """Arithmetic on bools is arithmetic on 0 and 1."""
    return values.astype(np.int64) if values.dtype == bool else values


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.true_divide, "pow": _power,
    "mod": np.mod, "floordiv": np.floor_divide, "maximum": np.maximum, "minimum": np.minimum,
    "atan2": np.arctan2, "neg": np.negative, "abs": np.abs,
    "sign": lambda x: np.sign(np.where(np.isnan(x), 0, x)),
    "reciprocal": lambda x: np.true_divide(1.0, x), "sqrt": np.sqrt,
    "rsqrt": lambda x: 1.0 / np.sqrt(x), "square": np.square, "exp": np.exp, "exp2": np.exp2,
    "expm1": np.expm1, "log": np.log, "log2": np.log2, "log1p": np.log1p, "sin": np.sin,
    "cos": np.cos, "tan": np.tan, "tanh": np.tanh, "sinh": np.sinh, "cosh": np.cosh,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "erf": _unary(math.erf), "erfc": _unary(math.erfc),
    "sigmoid": _sigmoid, "softplus": lambda x: np.logaddexp(0.0, x), "floor": np.floor,
    "ceil": np.ceil, "round": np.rint, "trunc": np.trunc,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "and": _logical(np.bitwise_and), "or": _logical(np.bitwise_or),
    "xor": _logical(np.bitwise_xor), "not": np.logical_not,
    "where": lambda c, a, b: np.where(c != 0, a, b), "isnan": np.isnan, "isinf": np.isinf,
    "shl": np.left_shift, "shr": np.right_shift,
}  # fmt: skip
_ON_BOOLS = frozenset({"and", "or", "xor", "not", "where", "eq", "ne", "cast"})


def evaluate(
    scalar: Scalar, operands: Sequence[Array], axes: Mapping[str, Array], dtype: str
) -> Array:
    """The scalar at all points at once; operands and axis values broadcast against each other.

    `dtype` is the element type written, which `cast` converts to.
    """
    if isinstance(scalar, Operand):
        return operands[scalar.position]
    if isinstance(scalar, Iota):
        return axes[scalar.axis]
    if isinstance(scalar, Literal):
        return np.asarray(scalar.value)
    assert isinstance(scalar, Apply)
    arguments = [evaluate(a, operands, axes, dtype) for a in scalar.arguments]
    if scalar.function == "cast":
        return widened(rounded(arguments[0], dtype))
    if scalar.function not in _ON_BOOLS:
        arguments = [_plain(argument) for argument in arguments]
    with np.errstate(all="ignore"):
        return np.asarray(_FUNCTIONS[scalar.function](*arguments))
