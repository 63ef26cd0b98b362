"""Input gradients of activation functions: pointwise in the output's gradient and what was saved.

The table has the form of `elementwise.POINTWISE`; each formula is the derivative of the forward
formula there, with torch's choice at the kinks.
"""

from __future__ import annotations

import math

from hwopt.ir.scalar import Scalar, apply
from hwopt.ops.elementwise import Value, register

GRAD_SELF = ("grad_output", "self")
GRAD_OUTPUT = ("grad_output", "output")


def _inside(low: Value, x: Value, high: Value) -> Scalar:
    """Strictly between two bounds."""
    return apply("and", apply("gt", x, low), apply("lt", x, high))


def _gelu(grad: Value, x: Value, approximate: str = "none") -> Scalar:
    """`Phi(x) + x * phi(x)`, or the derivative of the tanh form."""
    if approximate == "tanh":
        scale = math.sqrt(2 / math.pi)
        square = apply("square", x)
        cubic = apply("mul", x, apply("add", 1.0, apply("mul", 0.044715, square)))
        t = apply("tanh", apply("mul", scale, cubic))
        inner = apply("mul", scale, apply("add", 1.0, apply("mul", 3 * 0.044715, square)))
        slope = apply("mul", apply("sub", 1.0, apply("square", t)), inner)
        first = apply("mul", 0.5, apply("add", 1.0, t))
        second = apply("mul", apply("mul", 0.5, x), slope)
    else:
        erf = apply("erf", apply("mul", x, math.sqrt(0.5)))
        first = apply("mul", 0.5, apply("add", 1.0, erf))
        bell = apply("exp", apply("mul", -0.5, apply("square", x)))
        second = apply("mul", x, apply("mul", bell, 1 / math.sqrt(2 * math.pi)))
    return apply("mul", grad, apply("add", first, second))


def _silu(grad: Value, x: Value) -> Scalar:
    """`s * (1 + x * (1 - s))` with s = sigmoid(x)."""
    s = apply("sigmoid", x)
    slope = apply("add", 1.0, apply("mul", x, apply("sub", 1.0, s)))
    return apply("mul", grad, apply("mul", s, slope))


def _mish(grad: Value, x: Value) -> Scalar:
    """`t + x * s * (1 - t^2)` with t = tanh(softplus(x)), s = sigmoid(x)."""
    t, s = apply("tanh", apply("softplus", x)), apply("sigmoid", x)
    rest = apply("mul", apply("mul", x, s), apply("sub", 1.0, apply("square", t)))
    return apply("mul", grad, apply("add", t, rest))


def _hardswish(grad: Value, x: Value) -> Scalar:
    """0 up to -3, `x/3 + 1/2` between, 1 from 3 on."""
    middle = apply("mul", grad, apply("add", apply("div", x, 3.0), 0.5))
    upper = apply("where", apply("ge", x, 3.0), grad, middle)
    return apply("where", apply("le", x, -3.0), 0.0, upper)


def _elu(
    grad: Value, alpha: float, scale: float, input_scale: float, is_result: bool, x: Value
) -> Scalar:
    """Left of zero `scale * alpha * input_scale * exp(x)`, or the same by the result."""
    if is_result:
        left = apply("mul", apply("add", x, alpha * scale), input_scale)
    else:
        factor = scale * alpha * input_scale
        left = apply("mul", apply("exp", apply("mul", x, input_scale)), factor)
    return apply("mul", grad, apply("where", apply("le", x, 0.0), left, scale))


def _softplus(grad: Value, x: Value, beta: float, threshold: float) -> Scalar:
    scaled = apply("mul", x, beta)
    soft = apply("mul", grad, apply("sigmoid", scaled))
    return apply("where", apply("gt", scaled, threshold), grad, soft)


register({
    "aten.sigmoid_backward.default": (
        GRAD_OUTPUT, lambda g, y: apply("mul", g, apply("mul", y, apply("sub", 1.0, y)))
    ),
    "aten.tanh_backward.default": (
        GRAD_OUTPUT, lambda g, y: apply("mul", g, apply("sub", 1.0, apply("square", y)))
    ),
    "aten.threshold_backward.default": (
        (*GRAD_SELF, "threshold"), lambda g, x, t: apply("where", apply("le", x, t), 0.0, g)
    ),
    "aten.gelu_backward.default": ((*GRAD_SELF, "approximate"), _gelu),
    "aten.silu_backward.default": (GRAD_SELF, _silu),
    "aten.mish_backward.default": (GRAD_SELF, _mish),
    "aten.hardtanh_backward.default": (
        (*GRAD_SELF, "min_val", "max_val"),
        lambda g, x, low, high: apply("where", _inside(low, x, high), g, 0.0),
    ),
    "aten.hardsigmoid_backward.default": (
        GRAD_SELF,
        lambda g, x: apply("where", _inside(-3.0, x, 3.0), apply("mul", g, 1 / 6), 0.0),
    ),
    "aten.hardswish_backward.default": (GRAD_SELF, _hardswish),
    "aten.leaky_relu_backward.default": (
        (*GRAD_SELF, "negative_slope"),
        lambda g, x, slope: apply("where", apply("gt", x, 0.0), g, apply("mul", g, slope)),
    ),
    "aten.elu_backward.default": (
        ("grad_output", "alpha", "scale", "input_scale", "is_result", "self_or_result"), _elu
    ),
    "aten.softplus_backward.default": ((*GRAD_SELF, "beta", "threshold"), _softplus),
    "aten.log_sigmoid_backward.default": (
        GRAD_SELF, lambda g, x: apply("mul", g, apply("sigmoid", apply("neg", x)))
    ),
    "aten.hardshrink_backward.default": (
        ("grad_out", "self", "lambd"),
        lambda g, x, t: apply("where", apply("le", apply("abs", x), t), 0.0, g),
    ),
    "aten.softshrink_backward.default": (
        (*GRAD_SELF, "lambd"),
        lambda g, x, t: apply("where", apply("le", apply("abs", x), t), 0.0, g),
    ),
    "aten.logit_backward.default": (
        (*GRAD_SELF, "eps"),
        lambda g, x, eps: apply(
            "where", _inside(-1.0 if eps is None else eps, x, 2.0 if eps is None else 1 - eps),
            apply("div", g, apply("mul", x, apply("sub", 1.0, x))), 0.0,
        ),
    ),
})  # fmt: skip
