"""Classify: what shares a class, and what must not."""

import pytest

from hwopt.ir.text import parse
from hwopt.passes.manager import PassManager, parse_pipeline

LAYERS = """\
graph "g"
  %x : float32[4, 6] input
  %z : float32[6, 6] input
  %w1 : float32[6, 6] parameter
  %w2 : float32[6, 6] parameter
  $0 = nest (m=4, n=6, k=6) reads ([m, k], [n, k]) writes [m, n] sum mul(#0, #1)
  $1 = nest (i=4, j=6) reads ([i, j]) writes [i, j] none tanh(#0)
  $2 = nest (i=4, j=6) reads ([i, j], [i, j]) writes [i, j] none mul(#0, #1)
  %a : float32[4, 6] = matmul on matrix $0(%x, %w1)
  %b : float32[4, 6] = tanh on vector $1(%a)
  %c : float32[4, 6] = matmul on matrix $0(%b, %w2)
  %d : float32[4, 6] = tanh on vector $1(%c)
"""


def classes(text: str, pipeline: str = "fuse,classify") -> dict[str, str]:
    """Class of each operator."""
    return PassManager(parse_pipeline(pipeline)).run(parse(LAYERS + text))[0].class_of


def test_equal_layers_share_classes():
    """Two layers, one set of classes, with or without groups."""
    wanted = {"a": "a", "b": "b", "c": "a", "d": "b"}
    assert classes("return %d\n") == wanted
    assert classes("return %d\n", "classify") == wanted


@pytest.mark.parametrize(
    ("line", "apart"),
    [
        ("%e : float32[4, 6] = matmul on matrix $0(%d, %z)", "a"),  # an activation as weight
        ("%e : float16[4, 6] = matmul on matrix $0(%d, %w1)", "a"),  # another element type
        ("%e : float32[4, 6] = matmul on vector $0(%d, %w1)", "a"),  # another resource
        ("%e : float32[4, 6] = linear on matrix $0(%d, %w1)", "a"),  # another kind
        ("%e : float32[4, 6] = matmul on matrix $0(%d, %w1) backward", "a"),  # another phase
    ],
)
def test_differences(line, apart):
    """Each of these operators has a class of its own."""
    found = classes(f"  {line}\nreturn %e\n", "classify")
    assert found["e"] == "e"
    assert found["c"] == apart


def test_one_tensor_twice_is_not_two_tensors():
    """X * x reads half of what x * y does."""
    text = """\
  %e : float32[4, 6] = mul on vector $2(%b, %d)
  %f : float32[4, 6] = mul on vector $2(%b, %b)
  %g : float32[4, 6] = mul on vector $2(%d, %b)
return %e, %f, %g
"""
    found = classes(text, "classify")
    assert (found["e"], found["f"], found["g"]) == ("e", "f", "e")


def test_the_group_is_part_of_the_class():
    """A product without its activation, or whose result also leaves, is priced apart."""
    text = "  %e : float32[4, 6] = matmul on matrix $0(%d, %w1)\nreturn %e\n"
    assert classes(text)["e"] == "e"
    assert classes(text, "classify")["e"] == "a"
    leaving = classes("return %d, %c\n")
    assert leaving["c"] == "c"
    assert leaving["d"] == "d"


def test_the_constraint_is_part_of_the_class():
    """Classes found after `tile` see equal constraints; those of other programs differ."""
    assert classes("return %d\n", "fuse,tile{factors=perfect},classify")["c"] == "a"


def test_static_weights_count_as_weights():
    """A weight prepared from parameters alone is a weight; one computed from data is not."""
    text = """\
  $3 = nest (i=6, j=6) reads ([i, j]) writes [i, j] none tanh(#0)
  %v1 : float32[6, 6] = tanh on vector $3(%w1)
  %v2 : float32[6, 6] = tanh on vector $3(%z)
  %e : float32[4, 6] = matmul on matrix $0(%d, %v1)
  %f : float32[4, 6] = matmul on matrix $0(%e, %v2)
return %f
"""
    found = classes(text, "classify")
    assert found["e"] == "a"
    assert found["f"] == "f"
    assert found["v1"] != found["v2"]
