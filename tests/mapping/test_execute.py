"""Tiled programs compute what untiled ones do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwopt.errors import MappingError
from hwopt.ir.interpret import interpret, run_nest
from hwopt.ir.op import Nest
from hwopt.ir.scalar import PRODUCT
from hwopt.ir.tensor import Tensor
from hwopt.ir.text import parse
from hwopt.mapping.execute import execute, interpret_mapped
from hwopt.mapping.mapping import parse_mapping
from hwopt.testing import machines, mappings, problems


@settings(max_examples=40)
@given(st.data())
def test_any_mapping_keeps_the_result(data):
    """Any-integer tiles, edge tiles, uneven keeps, bypass, spreads, strides, padding: exact."""
    problem = data.draw(problems(points=300))
    mapping = data.draw(mappings(problem, data.draw(machines())))
    random = np.random.default_rng(0)
    reads = [random.integers(-4, 5, size=o.shape).astype(float) for o in problem.operands[:2]]
    left, right, write = problem.operands
    nest = Nest(problem.axes, (left.access, right.access), write.access, PRODUCT, "sum")
    wanted = run_nest(nest, reads, Tensor("y", write.shape, "float64"))
    np.testing.assert_array_equal(execute(problem, mapping, *reads), wanted)


GRAPH = parse(
    """
graph "linear"
  %x : float32[2, 1, 3, 4] input
  %w : float32[5, 4] parameter
  $0 = nest (b=2, o=1, s=3, n=5, k=4) reads ([b, o, s, k], [n, k]) writes [b, s, o, n] sum PRODUCT
  %h : float32[2, 3, 1, 5] = matmul on matrix $0(%x, %w)
  $1 = nest (i=2, j=3, l=1, m=5) reads ([i, j, l, m]) writes [m, j, l, i] none neg(#0)
  %y : float32[5, 3, 1, 2] = neg on vector $1(%h)
return %y
""".replace("PRODUCT", "mul(#0, #1)")
)


def test_graph_with_merged_axes():
    """Batch and sequence are one axis for the mapper; dimensions of size 1 stay where they are."""
    mapping = parse_mapping("""
      keep input weight output in DRAM
      for b_s in tiles of 4
        for k in tiles of 3
          keep input output in GLB
          for n in tiles of 2
            for b_s in tiles of 1
              for k in tiles of 1
                for n in tiles of 1
    """)
    random = np.random.default_rng(0)
    values = {"x": random.normal(size=(2, 1, 3, 4)), "w": random.normal(size=(5, 4))}
    wanted, got = interpret(GRAPH, values), interpret_mapped(GRAPH, values, {"h": mapping})
    for name in ("h", "y"):
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-6)


def test_errors():
    """Operators that are not mapped, mappings that stop early, wrong shapes."""
    values = {"x": np.ones((2, 1, 3, 4)), "w": np.ones((5, 4))}
    early = parse_mapping("keep input weight output in DRAM\nfor k in tiles of 2")
    with pytest.raises(MappingError, match="only contractions"):
        interpret_mapped(GRAPH, values, {"y": early})
    with pytest.raises(MappingError, match="down to 1"):
        interpret_mapped(GRAPH, values, {"h": early})
