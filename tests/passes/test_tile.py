"""Tile: constraints on tile sizes."""

import pytest

from hwopt.errors import PassError
from hwopt.hardware.accelerator import Accelerator, Memory
from hwopt.ir.program import Constraint
from hwopt.ir.text import parse
from hwopt.passes.manager import PassManager, parse_pipeline

GRAPH = parse("""
graph "g"
  %x : float32[4, 6] input
  %w : float32[5, 6] parameter
  $0 = nest (m=4, n=5, k=6) reads ([m, k], [n, k]) writes [m, n] sum mul(#0, #1)
  %h : float32[4, 5] = matmul on matrix $0(%x, %w)
  $1 = nest (i=4, j=5) reads ([i, j]) writes [i, j] none tanh(#0)
  %y : float32[4, 5] = tanh on vector $1(%h)
return %y
""")
CHIP = Accelerator(
    name="chip", clock_hz=1e9, levels=(Memory(name="DRAM", kind="dram"), Memory(name="GLB"))
)


def test_golden():
    """Only the matrix engine's operators are constrained; other constraints stay."""
    text = 'dataflow{stationary=searched},tile{factors=perfect,largest=["GLB.k:3",GLB.m:2]}'
    program, _ = PassManager(parse_pipeline(text)).run(GRAPH, CHIP)
    assert program.constraints == {"h": Constraint((), (("GLB", (("k", 3), ("m", 2))),), "perfect")}


@pytest.mark.parametrize(
    ("limit", "words"),
    [("GLB", "MEMORY.axis:N"), ("GLB.k", "MEMORY.axis:N"), ("GLB.k:0", "MEMORY.axis:N"),
     ("L9.k:3", "DRAM, GLB")],
)  # fmt: skip
def test_mistakes(limit, words):
    """A limit says which memory, which axis and how many."""
    with pytest.raises(PassError, match=words):
        PassManager(parse_pipeline(f"tile{{largest=[{limit}]}}")).run(GRAPH, CHIP)
