"""Dataflow: presets as axes per dimension of a fan-out."""

import pytest

from hwopt.errors import PassError
from hwopt.hardware.accelerator import Accelerator, Fanout, FanoutDim, Memory
from hwopt.ir.text import parse
from hwopt.passes.manager import PassManager, parse_pipeline

GRAPH = parse("""
graph "g"
  %x : float32[2, 8, 9, 9] input
  %w : float32[6, 4, 3, 3] parameter
  $0 = nest (n=2, g=2, k=3, c=4, p=7, q=7, r=3, s=3) reads ([n, 4*g + c, p + r, q + s], [3*g + k, c, r, s]) writes [n, 3*g + k, p, q] sum mul(#0, #1)
  %y : float32[2, 6, 7, 7] = convolution on matrix $0(%x, %w)
  $1 = nest (a=2, b=6, i=7, j=7) reads ([a, b, i, j]) writes [a, b, i, j] none tanh(#0)
  %z : float32[2, 6, 7, 7] = tanh on vector $1(%y)
return %z
""")  # noqa: E501 (the text form of one nest is one line)


def chip(*fanouts: Fanout) -> Accelerator:
    """A memory above each fan-out."""
    levels = [part for f in fanouts for part in (Memory(name=f"above{f.name}"), f)]
    return Accelerator(name="chip", clock_hz=1e9, levels=(*levels, Memory(name="spad")))


def dim(name: str, *axes: str) -> FanoutDim:
    """A dimension of 4."""
    return FanoutDim(name=name, size=4, axes=axes)


ARRAY = chip(Fanout(name="pe", dims=(dim("rows"), dim("columns"))))


def spatial(stationary: str, target: Accelerator = ARRAY) -> dict[str, str]:
    """Axes by dimension."""
    text = f"dataflow{{stationary={stationary}}}"
    program, _ = PassManager(parse_pipeline(text)).run(GRAPH, target)
    assert set(program.constraints) == {"y"}
    return {name: " ".join(axes) for name, axes in program.constraints["y"].spatial}


@pytest.mark.parametrize(
    ("stationary", "rows", "columns"),
    [
        ("weight", "g c r s", "g k"),
        ("output", "n g p q", "g k"),
        ("input", "g c r s", "n g p q"),
        ("row", "g k c r", "n g k p q"),
    ],
)
def test_presets_on_a_convolution(stationary, rows, columns):
    """What stays decides what is spread; groups are shared by all operands."""
    assert spatial(stationary) == {"pe.rows": rows, "pe.columns": columns}


def test_searched():
    """No constraint at all."""
    assert spatial("searched") == {}


def test_one_dimension_takes_both_sides():
    """And a second fan-out gets the same rule."""
    target = chip(Fanout(name="a", dims=(dim("x"),)), Fanout(name="b", dims=(dim("x"), dim("y"))))
    assert spatial("weight", target) == {"a.x": "g k c r s", "b.x": "g c r s", "b.y": "g k"}


def test_restrictions_of_the_machine_hold():
    """Axes that a dimension does not accept are left out; without any the choice stays open."""
    target = chip(Fanout(name="pe", dims=(dim("rows", "c", "k"), dim("columns", "q"))))
    assert spatial("weight", target) == {"pe.rows": "c"}


def test_rows_without_a_window():
    """A matrix product in the row preset spreads channels over rows, positions over columns."""
    graph = parse("""
graph "g"
  %x : float32[4, 6] input
  %w : float32[5, 6] parameter
  $0 = nest (m=4, n=5, k=6) reads ([m, k], [n, k]) writes [m, n] sum mul(#0, #1)
  %y : float32[4, 5] = matmul on matrix $0(%x, %w)
return %y
""")
    program, _ = PassManager(parse_pipeline("dataflow{stationary=row}")).run(graph, ARRAY)
    assert dict(program.constraints["y"].spatial) == {
        "pe.rows": ("n", "k"), "pe.columns": ("m", "n"),
    }  # fmt: skip


def test_it_needs_a_target():
    """Fan-outs have names that only the target knows."""
    with pytest.raises(PassError, match="needs a target"):
        PassManager(parse_pipeline("dataflow")).run(GRAPH)
