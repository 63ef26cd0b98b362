"""Scalar bodies."""

import pytest

from hwopt.ir.scalar import Apply, Iota, Literal, Operand, apply, operations, substitute


def test_work_is_the_number_of_functions():
    """gelu-like x * sigmoid(1.702 x) is three operations."""
    x = Operand(0)
    assert operations(apply("mul", x, apply("sigmoid", apply("mul", x, 1.702)))) == 3
    assert operations(x) == operations(Literal(1.0)) == operations(Iota("i")) == 0


def test_arity_and_names_are_checked():
    """A function that does not exist, or with the wrong arguments, cannot be built."""
    with pytest.raises(ValueError, match="no scalar function"):
        Apply("nosuch", (Operand(0),))
    with pytest.raises(ValueError, match="no scalar function"):
        Apply("add", (Operand(0),))


def test_substitution():
    """Operands and axes are replaced, the rest stays."""
    body = apply("where", apply("le", Iota("j"), Iota("i")), Operand(0), -1.0)
    moved = substitute(body, {0: apply("neg", Operand(1))}, {"j": Literal(3)})
    assert str(moved) == "where(le(3, @i), neg(#1), -1.0)"
