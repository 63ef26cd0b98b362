"""Every pointwise operator against torch: one table of examples per argument pattern."""

from __future__ import annotations

import pytest
import torch

from hwopt.ops.elementwise import COMPARISONS, POINTWISE, UNARY

A = torch.ops.aten
R = torch.randn
U = torch.rand
X, Y = R(3, 4, generator=torch.Generator().manual_seed(1)), R(4)
UNIT = U(3, 4, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.05
INT = torch.arange(-6, 6).reshape(3, 4)
COUNT = torch.tensor([1, 2, 3, 5])
MASK = X > 0


def overload(target):
    """The torch operator of a target."""
    _, name, which = target.split(".")
    return getattr(getattr(A, name), which)


POSITIVE = {"sqrt", "rsqrt", "log", "log2", "log1p", "acosh"}
INSIDE = {"asin", "acos", "atanh"}


@pytest.mark.parametrize("name", UNARY)
def test_unary(run_aten, name):
    """Functions of one tensor, on their domain."""
    x = UNIT if name in INSIDE else UNIT * 3 + (1 if name == "acosh" else 0)
    x = x if name in INSIDE | POSITIVE else X * 2
    run_aten(overload(f"aten.{name}.default"), x)


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(run_aten, name):
    """With tensors that broadcast, and with numbers."""
    run_aten(overload(f"aten.{name}.Tensor"), INT, torch.zeros(4, dtype=torch.int64))
    run_aten(overload(f"aten.{name}.Scalar"), INT, 2)
    run_aten(overload(f"aten.{name}.Scalar"), X, 0.5)


EXAMPLES = {
    "add.Tensor": [(X, Y), (X, X), (INT, 3), (X, INT), (MASK, INT)],
    "add.Scalar": [(X, 2), (INT, 2)],
    "sub.Tensor": [(X, Y), (Y, X)], "sub.Scalar": [(X, 2)],
    "rsub.Tensor": [(X, Y)], "rsub.Scalar": [(X, 2.5), (X, 2.5, 3)],
    "mul.Tensor": [(X, Y), (X, MASK), (MASK, MASK), (INT, INT)], "mul.Scalar": [(X, 3), (INT, 3)],
    "div.Tensor": [(X, Y), (INT, COUNT)], "div.Scalar": [(X, 3), (INT, 4)],
    "remainder.Tensor": [(X, Y), (INT, COUNT)],
    "remainder.Scalar": [(INT, 4), (INT, -4), (X, 0.3)], "remainder.Scalar_Tensor": [(7, COUNT)],
    "fmod.Tensor": [(X, Y), (INT, COUNT)], "fmod.Scalar": [(INT, 4), (X, 0.3)],
    "clamp.default": [(X, -0.5, 0.5), (X, None, 0.5), (X, -0.5), (INT, -2, 3)],
    "clamp.Tensor": [(X, Y, Y + 1), (X, None, Y)],
    "clamp_min.default": [(X, 0)], "clamp_min.Tensor": [(X, Y)],
    "clamp_max.default": [(X, 0.5)], "clamp_max.Tensor": [(X, Y)],
    "bitwise_left_shift.Tensor": [(COUNT, COUNT)],
    "bitwise_left_shift.Tensor_Scalar": [(COUNT, 2)],
    "bitwise_left_shift.Scalar_Tensor": [(3, COUNT)],
    "bitwise_right_shift.Scalar_Tensor": [(300, COUNT)],
    "bitwise_right_shift.Tensor": [(INT, COUNT)],
    "bitwise_right_shift.Tensor_Scalar": [(COUNT, 1)],
    "__lshift__.Tensor": [(COUNT, COUNT)], "__lshift__.Scalar": [(COUNT, 2)],
    "__rshift__.Tensor": [(COUNT, COUNT)], "__rshift__.Scalar": [(COUNT, 1)],
    "floor_divide.default": [(X, Y), (INT, COUNT)], "floor_divide.Scalar": [(INT, 4)],
    "atan2.default": [(X, Y)], "maximum.default": [(X, Y), (INT, COUNT)],
    "minimum.default": [(X, Y)], "max.other": [(X, Y)], "min.other": [(X, Y)],
    "pow.Tensor_Scalar": [
        (X, 2), (X, 3), (UNIT, 0.5), (UNIT, -0.5), (X, -1), (UNIT, 1.7), (X, 1), (INT, 2), (X, 0),
    ],
    "pow.Tensor_Tensor": [(UNIT, Y), (INT, COUNT)], "pow.Scalar": [(2, X), (10000.0, UNIT)],
    "neg.default": [(X,), (INT,)], "sgn.default": [(X,)], "log10.default": [(UNIT,)],
    "frac.default": [(X * 3,)], "isfinite.default": [(torch.tensor([1, torch.inf, torch.nan]),)],
    "signbit.default": [(X,)], "sinc.default": [(X,), (torch.zeros(2),)],
    "nan_to_num.default": [
        (torch.tensor([1.0, torch.nan]),),
        (torch.tensor([torch.inf, -torch.inf, 1]), 0.0, 9.0, -9.0)
    ],
    "logaddexp.default": [(X, Y)], "special_entr.default": [(UNIT,), (torch.zeros(2),)],
    "xlogy.Tensor": [(UNIT, UNIT), (torch.zeros(2), torch.zeros(2))], "hypot.default": [(X, Y)],
    "lerp.Scalar": [(X, X * 2, 0.3)], "lerp.Tensor": [(X, X * 2, UNIT)],
    "addcmul.default": [(X, X, Y)], "addcdiv.default": [(X, X, UNIT)],
    "where.self": [(MASK, X, Y), (MASK, INT, torch.tensor(0.5))],
    "where.ScalarOther": [(MASK, X, 2.0)], "where.ScalarSelf": [(MASK, 2.0, X)],
    "where.Scalar": [(MASK, 2.0, 3.0)],
    "masked_fill.Scalar": [(X, MASK, -torch.inf), (INT, MASK, 0)],
    "masked_fill.Tensor": [(X, MASK, torch.tensor(4.0))],
    "relu.default": [(X,), (INT,)], "relu6.default": [(X * 5,)],
    "hardtanh.default": [(X,), (X, -0.3, 0.2)], "gelu.default": [(X,)], "silu.default": [(X,)],
    "mish.default": [(X,)], "hardsigmoid.default": [(X * 3,)], "hardswish.default": [(X * 3,)],
    "leaky_relu.default": [(X,), (X, 0.2)], "prelu.default": [(X, torch.tensor([0.3]))],
    "threshold.default": [(X, 0.2, 7.0)], "elu.default": [(X,), (X, 0.5, 2.0, 0.3)],
    "celu.default": [(X, 0.7)], "selu.default": [(X,)], "softplus.default": [(X,), (X * 20, 2, 5)],
    "hardshrink.default": [(X, 0.5)], "softshrink.default": [(X, 0.5)],
    "log_sigmoid.default": [(X * 4,)], "logit.default": [(UNIT,), (UNIT, 0.2)],
}  # fmt: skip
KEYWORDS = {
    "div.Tensor_mode": [((X, Y), {"rounding_mode": m}) for m in (None, "floor", "trunc")]
    + [((INT, COUNT), {"rounding_mode": m}) for m in ("floor", "trunc")],
    "div.Scalar_mode": [((INT, 4), {"rounding_mode": m}) for m in ("floor", "trunc")],
    "gelu.default": [((X,), {"approximate": "tanh"})],
    "add.Tensor": [((X, Y), {"alpha": 2})],
    "sub.Tensor": [((X, Y), {"alpha": 0.5})],
    "addcmul.default": [((X, X, Y), {"value": 0.5})],
    "addcdiv.default": [((X, X, UNIT), {"value": 2})],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(run_aten, name):
    """Numbers, broadcasts, integers, truth values."""
    for args in EXAMPLES[name]:
        run_aten(overload(f"aten.{name}"), *args)


@pytest.mark.parametrize("name", KEYWORDS)
def test_keyword_arguments(run_aten, name):
    """Rounding modes, approximations, factors."""
    for args, keywords in KEYWORDS[name]:
        run_aten(overload(f"aten.{name}"), *args, **keywords)


NO_EXAMPLE = {"aten.atan2.out"}  # writes into an argument; the formula of atan2.default


def test_every_entry_has_an_example():
    """No formula goes untested."""
    tested = {f"aten.{name}" for name in (*EXAMPLES, *KEYWORDS)}
    tested |= {f"aten.{name}.default" for name in UNARY}
    tested |= {f"aten.{name}.{o}" for name in COMPARISONS for o in ("Tensor", "Scalar")}
    assert set(POINTWISE) - tested <= NO_EXAMPLE


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_logic(run_aten, name):
    """Logic on truth values and numbers; bit by bit on integers."""
    run_aten(overload(f"aten.logical_{name}.default"), MASK, INT)
    run_aten(overload(f"aten.bitwise_{name}.Tensor"), INT, COUNT)
    run_aten(overload(f"aten.bitwise_{name}.Tensor"), MASK, ~MASK)
    run_aten(overload(f"aten.bitwise_{name}.Scalar"), INT, 5)
    run_aten(overload(f"aten.__{name}__.Tensor"), INT, COUNT)
    run_aten(A.logical_not.default, INT)
    run_aten(A.bitwise_not.default, INT)
    run_aten(A.bitwise_not.default, MASK)


def test_others(run_aten):
    """Operators with a lowering of their own."""
    run_aten(A.copysign.Tensor, X, Y)
    run_aten(A.heaviside.default, torch.tensor([-1.0, 0, 2]), torch.tensor(0.5))
    run_aten(A.glu.default, R(3, 8), -1)
    run_aten(A.glu.default, R(4, 3), 0)
    run_aten(A.log_sigmoid_forward.default, X)


def test_a_tensor_used_twice_is_read_once(run_aten):
    """`x * x` reads x once."""
    result = run_aten(A.mul.Tensor, X, X)
    assert result.graph.ops[0].reads == ("self",)
