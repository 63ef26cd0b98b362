"""Pointwise operators: one scalar function per element, inputs broadcast.

`POINTWISE` gives for each ATen target the names of its arguments and the scalar expression of them.
A tensor argument becomes an operand, a number stays a number, an absent one is None. Comments say
where the formula is not the obvious one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from hwopt.ir.scalar import Literal, Operand, Scalar, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder, at, names
from hwopt.ops.lowering import Argument, Call, lowering

Value: TypeAlias = Scalar | bool | int | float
Expression: TypeAlias = Callable[..., Scalar]
Family: TypeAlias = dict[str, tuple[tuple[str, ...], Expression]]

SELF = ("self",)
OTHER = ("self", "other")
LN10 = math.log(10)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
"""Klambauer et al., Self-Normalizing Neural Networks, arXiv 1706.02515, section 1."""


def _named(function: str) -> Expression:
    """The scalar function of that name applied to the arguments."""
    return lambda *arguments: apply(function, *arguments)


def _where(condition: Value, yes: Value, no: Value) -> Scalar:
    return apply("where", condition, yes, no)


def clamp(x: Value, low: Value | None, high: Value | None) -> Scalar:
    """`minimum(maximum(x, low), high)`, either bound may be absent."""
    value = x if low is None else apply("maximum", x, low)
    clamped = value if high is None else apply("minimum", value, high)
    return clamped if not isinstance(clamped, bool | int | float) else Literal(clamped)


def gelu(x: Value, approximate: str = "none") -> Scalar:
    """`x * Phi(x)`, or its tanh approximation (Hendrycks and Gimpel, arXiv 1606.08415)."""
    if approximate == "tanh":
        inner = apply("add", x, apply("mul", 0.044715, apply("mul", x, apply("square", x))))
        phi = apply("add", 1.0, apply("tanh", apply("mul", math.sqrt(2 / math.pi), inner)))
    else:
        phi = apply("add", 1.0, apply("erf", apply("mul", x, math.sqrt(0.5))))
    return apply("mul", apply("mul", 0.5, x), phi)


def _scaled(x: Value, factor: Value | None) -> Value:
    return x if factor is None or factor == 1 else apply("mul", x, factor)


def _add(x: Value, y: Value, alpha: Value | None = None) -> Scalar:
    return apply("add", x, _scaled(y, alpha))


def _sub(x: Value, y: Value, alpha: Value | None = None) -> Scalar:
    return apply("sub", x, _scaled(y, alpha))


def _divide(x: Value, y: Value, rounding: str | None = None) -> Scalar:
    if rounding == "floor":
        return apply("floordiv", x, y)
    quotient = apply("div", x, y)
    return apply("trunc", quotient) if rounding == "trunc" else quotient


def power(x: Value, exponent: Value) -> Scalar:
    """`x ** exponent`, by cheaper functions where the exponent is a small constant."""
    if isinstance(exponent, bool | int | float):
        if exponent == 1 and not isinstance(x, bool | int | float):
            return x
        shorter = {2: "square", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}.get(exponent)
        if shorter is not None:
            return apply(shorter, x)
        if exponent == 3:
            return apply("mul", x, apply("square", x))
    return apply("pow", x, exponent)


def _elu(x: Value, alpha: Value = 1, scale: Value = 1, input_scale: Value = 1) -> Scalar:
    negative = apply("mul", apply("expm1", _scaled(x, input_scale)), _product(alpha, scale))
    return _where(apply("gt", x, 0.0), _scaled(x, scale), negative)


def _product(a: Value, b: Value) -> Value:
    if isinstance(a, bool | int | float) and isinstance(b, bool | int | float):
        return a * b
    return apply("mul", a, b)


def _softplus(x: Value, beta: Value = 1, threshold: Value = 20) -> Scalar:
    scaled = _scaled(x, beta)
    soft = apply("softplus", scaled)
    value = soft if beta == 1 else apply("div", soft, beta)
    return _where(apply("gt", scaled, threshold), x, value)


def _hardsigmoid(x: Value) -> Scalar:
    return apply("div", clamp(apply("add", x, 3.0), 0.0, 6.0), 6.0)


def _remainder(x: Value, y: Value) -> Scalar:
    """With the sign of the dividend: `x - y * trunc(x / y)`."""
    return apply("sub", x, apply("mul", y, apply("trunc", apply("div", x, y))))


def _logaddexp(x: Value, y: Value) -> Scalar:
    distance = apply("neg", apply("abs", apply("sub", x, y)))
    return apply("add", apply("maximum", x, y), apply("log1p", apply("exp", distance)))


def _nan_to_num(x: Value, nan: Value | None, posinf: Value | None, neginf: Value | None) -> Scalar:
    value: Value = _where(apply("isnan", x), 0.0 if nan is None else nan, x)
    if posinf is not None:
        value = _where(apply("eq", x, math.inf), posinf, value)
    if neginf is not None:
        value = _where(apply("eq", x, -math.inf), neginf, value)
    return clamp(value, None, None)


def _finite(x: Value) -> Scalar:
    return apply("not", apply("or", apply("isnan", x), apply("isinf", x)))


def _entropy(x: Value) -> Scalar:
    return _where(apply("eq", x, 0.0), 0.0, apply("neg", apply("mul", x, apply("log", x))))


UNARY = (
    "abs", "sign", "reciprocal", "sqrt", "rsqrt", "square", "exp", "exp2", "expm1", "log", "log2",
    "log1p", "sin", "cos", "tan", "tanh", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh",
    "atanh", "erf", "erfc", "sigmoid", "floor", "ceil", "round", "trunc", "isnan", "isinf",
)  # fmt: skip
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")

POINTWISE: Family = {
    **{f"aten.{name}.default": (SELF, _named(name)) for name in UNARY},
    **{
        f"aten.{name}.{overload}": (OTHER, _named(name))
        for name in COMPARISONS
        for overload in ("Tensor", "Scalar")
    },
    **{
        f"aten.{name}.{overload}": ((*OTHER, "alpha"), expression)
        for name, expression in (("add", _add), ("sub", _sub))
        for overload in ("Tensor", "Scalar")
    },
    **{
        f"aten.rsub.{overload}": ((*OTHER, "alpha"), lambda x, y, a: apply("sub", y, _scaled(x, a)))
        for overload in ("Tensor", "Scalar")
    },
    **{f"aten.mul.{o}": (OTHER, _named("mul")) for o in ("Tensor", "Scalar")},
    **{f"aten.div.{o}": (OTHER, _divide) for o in ("Tensor", "Scalar")},
    **{
        f"aten.div.{o}": ((*OTHER, "rounding_mode"), _divide)
        for o in ("Tensor_mode", "Scalar_mode")
    },
    **{f"aten.remainder.{o}": (OTHER, _named("mod")) for o in ("Tensor", "Scalar")},
    **{f"aten.fmod.{o}": (OTHER, _remainder) for o in ("Tensor", "Scalar")},
    **{
        f"aten.clamp{which}.{o}": ((*names_,), expression)
        for o in ("default", "Tensor")
        for which, names_, expression in (
            ("", ("self", "min", "max"), clamp),
            ("_min", ("self", "min"), lambda x, low: apply("maximum", x, low)),
            ("_max", ("self", "max"), lambda x, high: apply("minimum", x, high)),
        )
    },
    **{
        f"aten.{prefix}{o}": (OTHER, _named(function))
        for function, side in (("shl", "left"), ("shr", "right"))
        for prefix, overloads in (
            (f"bitwise_{side}_shift.", ("Tensor", "Tensor_Scalar", "Scalar_Tensor")),
            (f"__{side[0]}shift__.", ("Tensor", "Scalar")),
        )
        for o in overloads
    },
    "aten.remainder.Scalar_Tensor": (OTHER, _named("mod")),
    "aten.floor_divide.default": (OTHER, _named("floordiv")),
    "aten.floor_divide.Scalar": (OTHER, _named("floordiv")),
    "aten.atan2.default": (OTHER, _named("atan2")),
    "aten.atan2.out": (OTHER, _named("atan2")),
    "aten.maximum.default": (OTHER, _named("maximum")),
    "aten.minimum.default": (OTHER, _named("minimum")),
    "aten.max.other": (OTHER, _named("maximum")),
    "aten.min.other": (OTHER, _named("minimum")),
    "aten.pow.Tensor_Scalar": (("self", "exponent"), power),
    "aten.pow.Tensor_Tensor": (("self", "exponent"), power),
    "aten.pow.Scalar": (("self", "exponent"), power),
    "aten.neg.default": (SELF, _named("neg")),
    "aten.sgn.default": (SELF, _named("sign")),
    "aten.log10.default": (SELF, lambda x: apply("div", apply("log", x), LN10)),
    "aten.frac.default": (SELF, lambda x: apply("sub", x, apply("trunc", x))),
    "aten.isfinite.default": (SELF, _finite),
    "aten.signbit.default": (SELF, lambda x: apply("lt", x, 0.0)),
    "aten.sinc.default": (
        SELF,
        lambda x: _where(
            apply("eq", x, 0.0), 1.0,
            apply("div", apply("sin", apply("mul", x, math.pi)), apply("mul", x, math.pi)),
        ),
    ),
    "aten.nan_to_num.default": (("self", "nan", "posinf", "neginf"), _nan_to_num),
    "aten.logaddexp.default": (OTHER, _logaddexp),
    "aten.special_entr.default": (SELF, _entropy),
    "aten.xlogy.Tensor": (
        OTHER, lambda x, y: _where(apply("eq", x, 0.0), 0.0, apply("mul", x, apply("log", y)))
    ),
    "aten.hypot.default": (
        OTHER, lambda x, y: apply("sqrt", apply("add", apply("square", x), apply("square", y)))
    ),
    "aten.lerp.Scalar": (
        ("self", "end", "weight"), lambda x, y, w: _add(x, apply("mul", w, apply("sub", y, x)))
    ),
    "aten.lerp.Tensor": (
        ("self", "end", "weight"), lambda x, y, w: _add(x, apply("mul", w, apply("sub", y, x)))
    ),
    "aten.addcmul.default": (
        ("self", "tensor1", "tensor2", "value"), lambda x, a, b, v: _add(x, apply("mul", a, b), v)
    ),
    "aten.addcdiv.default": (
        ("self", "tensor1", "tensor2", "value"), lambda x, a, b, v: _add(x, apply("div", a, b), v)
    ),
    "aten.where.self": (("condition", "self", "other"), _where),
    "aten.where.ScalarOther": (("condition", "self", "other"), _where),
    "aten.where.ScalarSelf": (("condition", "self", "other"), _where),
    "aten.where.Scalar": (("condition", "self", "other"), _where),
    "aten.masked_fill.Scalar": (("self", "mask", "value"), lambda x, m, v: _where(m, v, x)),
    "aten.masked_fill.Tensor": (("self", "mask", "value"), lambda x, m, v: _where(m, v, x)),
    "aten.relu.default": (SELF, lambda x: apply("maximum", x, 0)),
    "aten.relu6.default": (SELF, lambda x: clamp(x, 0.0, 6.0)),
    "aten.hardtanh.default": (("self", "min_val", "max_val"), clamp),
    "aten.gelu.default": (("self", "approximate"), gelu),
    "aten.silu.default": (SELF, lambda x: apply("mul", x, apply("sigmoid", x))),
    "aten.mish.default": (
        SELF, lambda x: apply("mul", x, apply("tanh", apply("softplus", x)))
    ),
    "aten.hardsigmoid.default": (SELF, _hardsigmoid),
    "aten.hardswish.default": (SELF, lambda x: apply("mul", x, _hardsigmoid(x))),
    "aten.leaky_relu.default": (
        ("self", "negative_slope"),
        lambda x, slope: _where(apply("gt", x, 0.0), x, apply("mul", x, slope)),
    ),
    "aten.prelu.default": (
        ("self", "weight"), lambda x, w: _where(apply("gt", x, 0.0), x, apply("mul", x, w))
    ),
    "aten.threshold.default": (
        ("self", "threshold", "value"), lambda x, t, v: _where(apply("le", x, t), v, x)
    ),
    "aten.elu.default": (("self", "alpha", "scale", "input_scale"), _elu),
    "aten.celu.default": (
        ("self", "alpha"),
        lambda x, a: _where(
            apply("gt", x, 0.0), x, apply("mul", apply("expm1", apply("div", x, a)), a)
        ),
    ),
    "aten.selu.default": (SELF, lambda x: _elu(x, SELU_ALPHA, SELU_SCALE)),
    "aten.softplus.default": (("self", "beta", "threshold"), _softplus),
    "aten.hardshrink.default": (
        ("self", "lambd"), lambda x, t: _where(apply("le", apply("abs", x), t), 0.0, x)
    ),
    "aten.softshrink.default": (
        ("self", "lambd"),
        lambda x, t: apply(
            "mul", apply("sign", x), apply("maximum", apply("sub", apply("abs", x), t), 0.0)
        ),
    ),
    "aten.log_sigmoid.default": (
        SELF, lambda x: apply("neg", apply("softplus", apply("neg", x)))
    ),
    "aten.logit.default": (
        ("self", "eps"),
        lambda x, eps: _logit(x if eps is None else clamp(x, eps, 1 - eps)),
    ),
}  # fmt: skip


def _logit(x: Value) -> Scalar:
    return apply("log", apply("div", x, apply("sub", 1.0, x)))


def operands(
    call: Call, arguments: tuple[str, ...]
) -> tuple[list[Tensor], list[Argument | Operand]]:
    """Tensors read, each once, and the values of the arguments with operands for tensors."""
    reads: list[Tensor] = []
    values: list[Argument | Operand] = []
    for name in arguments:
        value = call.arguments.get(name)
        if isinstance(value, Tensor):
            if value not in reads:
                reads.append(value)
            value = Operand(reads.index(value))
        values.append(value)
    return reads, values


def register(family: Family) -> None:
    """Add every entry of a table of pointwise operators."""

    def emit(call: Call, build: Builder) -> None:
        arguments, expression = family[call.target]
        reads, values = operands(call, arguments)
        build.pointwise(call, expression(*values), reads)

    for target in family:
        lowering(target)(emit)


register(POINTWISE)


@lowering("aten.logical_and.default", "aten.logical_or.default", "aten.logical_xor.default")
def logical(call: Call, build: Builder) -> None:
    """Logic on truth values: numbers are compared with zero first."""
    tensors = [call.tensor("self"), call.tensor("other")]
    truths = [
        Operand(i) if t.dtype == "bool" else apply("ne", Operand(i), 0)
        for i, t in enumerate(tensors)
    ]
    function = call.target.split(".")[1].removeprefix("logical_")
    build.pointwise(call, apply(function, *truths), tensors)


@lowering("aten.logical_not.default")
def logical_not(call: Call, build: Builder) -> None:
    """1 where the value is zero."""
    build.pointwise(call, apply("not", Operand(0)), [call.tensor("self")])


@lowering("aten.bitwise_not.default")
def bitwise_not(call: Call, build: Builder) -> None:
    """Negation of truth values; the complement of integers."""
    x = call.tensor("self")
    value = apply("not", Operand(0)) if x.dtype == "bool" else apply("xor", Operand(0), -1)
    build.pointwise(call, value, [x])


@lowering(*(f"aten.bitwise_{f}.{o}" for f in ("and", "or", "xor") for o in ("Tensor", "Scalar")))
@lowering(*(f"aten.__{f}__.{o}" for f in ("and", "or", "xor") for o in ("Tensor", "Scalar")))
def bitwise(call: Call, build: Builder) -> None:
    """Bit by bit on integers; logic on truth values."""
    reads, values = operands(call, OTHER)
    function = call.target.split(".")[1].strip("_").removeprefix("bitwise_")
    build.pointwise(call, apply(function, *values), reads)


@lowering("aten.copysign.Tensor", "aten.copysign.Scalar")
def copysign(call: Call, build: Builder) -> None:
    """The size of one value with the sign of another."""
    reads, (x, y) = operands(call, OTHER)
    size = apply("abs", x)
    build.pointwise(call, _where(apply("lt", y, 0.0), apply("neg", size), size), reads)


@lowering("aten.heaviside.default")
def heaviside(call: Call, build: Builder) -> None:
    """0 below zero, 1 above, `values` at zero."""
    reads, (x, at_zero) = operands(call, ("self", "values"))
    step = _where(apply("gt", x, 0), 1, 0)
    build.pointwise(call, _where(apply("eq", x, 0), at_zero, step), reads)


@lowering("aten.glu.default")
def glu(call: Call, build: Builder) -> None:
    """`a * sigmoid(b)` of the two halves along `dim`."""
    x, out = call.tensor("self"), call.output
    dim = call.arguments["dim"] % len(x.shape)
    axes = names(len(out.shape))
    upper = [f"{a} + {out.shape[dim]}" if i == dim else a for i, a in enumerate(axes)]
    build.nest(
        call, dict(zip(axes, out.shape, strict=True)), [at(x, *axes), at(x, *upper)],
        at(out, *axes), apply("mul", Operand(0), apply("sigmoid", Operand(1))),
        kind="pointwise", resource="vector",
    )  # fmt: skip


@lowering("aten.log_sigmoid_forward.default")
def log_sigmoid_forward(call: Call, build: Builder) -> None:
    """`-softplus(-x)`, and on the CPU `exp(-|x|)` for the backward."""
    x = call.tensor("self")
    build.pointwise(call, apply("neg", apply("softplus", apply("neg", Operand(0)))), [x])
    if len(call.outputs) > 1 and call.outputs[1].elements:
        kept = apply("exp", apply("neg", apply("abs", Operand(0))))
        build.pointwise(call, kept, [x], call.outputs[1])
