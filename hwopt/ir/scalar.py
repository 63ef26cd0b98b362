"""The scalar body of a nest: what is computed at one point of its iteration space.

A scalar is a tree of `Operand` (the value read by the nest's i-th access), `Literal`, `Iota` (the
value of an axis, for example in a causal mask) and `Apply` (a named function). It prints as
`add(mul(#0, 0.5), #1)`. `FUNCTIONS` is the closed list of functions with their arity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

FUNCTIONS: dict[str, int] = {
    # arithmetic
    "add": 2, "sub": 2, "mul": 2, "div": 2, "pow": 2, "mod": 2, "floordiv": 2,
    "maximum": 2, "minimum": 2, "atan2": 2,
    "neg": 1, "abs": 1, "sign": 1, "reciprocal": 1, "sqrt": 1, "rsqrt": 1, "square": 1,
    # transcendental
    "exp": 1, "exp2": 1, "expm1": 1, "log": 1, "log2": 1, "log1p": 1, "sin": 1, "cos": 1, "tan": 1,
    "tanh": 1, "sinh": 1, "cosh": 1, "asin": 1, "acos": 1, "atan": 1,
    "asinh": 1, "acosh": 1, "atanh": 1, "erf": 1, "erfc": 1, "sigmoid": 1, "softplus": 1,
    # rounding and type
    "floor": 1, "ceil": 1, "round": 1, "trunc": 1, "cast": 1,
    # comparison and logic
    "eq": 2, "ne": 2, "lt": 2, "le": 2, "gt": 2, "ge": 2,
    "and": 2, "or": 2, "xor": 2, "not": 1, "where": 3, "isnan": 1, "isinf": 1,
    "shl": 2, "shr": 2,
}  # fmt: skip
"""Every function a scalar may use, with its number of arguments. `cast` converts to the dtype of
the tensor written; `mod` and `floordiv` round towards minus infinity; `and`, `or` and `xor` work
bit by bit on integers, `not` is logical; `round` takes halves to even."""


@dataclass(frozen=True, slots=True)
class Operand:
    """The value read through the nest's access number `position`."""

    position: int

    def __str__(self) -> str:
        return f"#{self.position}"


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant: bool, int or float (infinities and NaN allowed)."""

    value: bool | int | float

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, slots=True)
class Iota:
    """The current value of an axis."""

    axis: str

    def __str__(self) -> str:
        return f"@{self.axis}"


@dataclass(frozen=True, slots=True)
class Apply:
    """A function of `FUNCTIONS` applied to arguments."""

    function: str
    arguments: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if FUNCTIONS.get(self.function) != len(self.arguments):
            raise ValueError(f"no scalar function {self.function}/{len(self.arguments)}")

    def __str__(self) -> str:
        return f"{self.function}({', '.join(str(a) for a in self.arguments)})"


Scalar: TypeAlias = Operand | Literal | Iota | Apply

IDENTITY: Scalar = Operand(0)
PRODUCT: Scalar = Apply("mul", (Operand(0), Operand(1)))


def apply(function: str, *arguments: Scalar | bool | int | float) -> Apply:
    """`apply("add", Operand(0), 1.0)`: numbers become literals."""
    return Apply(
        function,
        tuple(Literal(a) if isinstance(a, bool | int | float) else a for a in arguments),
    )


def operations(scalar: Scalar) -> int:
    """Number of function applications: the work at one point, in vector operations."""
    if not isinstance(scalar, Apply):
        return 0
    return 1 + sum(operations(argument) for argument in scalar.arguments)


def substitute(scalar: Scalar, operands: dict[int, Scalar], axes: dict[str, Scalar]) -> Scalar:
    """Replace operands and axis values; those not named stay."""
    if isinstance(scalar, Operand):
        return operands.get(scalar.position, scalar)
    if isinstance(scalar, Iota):
        return axes.get(scalar.axis, scalar)
    if isinstance(scalar, Apply):
        arguments = tuple(substitute(a, operands, axes) for a in scalar.arguments)
        return Apply(scalar.function, arguments)
    return scalar
