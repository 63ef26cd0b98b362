"""What every pass keeps: the values of the outputs, the MACs, its own result when run again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwopt.ir.interpret import interpret
from hwopt.ir.program import Program
from hwopt.passes.manager import PassManager, parse_pipeline
from hwopt.testing import graphs, machines, values_of

PIPELINES = (
    "eliminate", "canonicalize", "canonicalize,eliminate", "decompose", "fuse", "classify",
    "fuse,classify", "dataflow{stationary=row}", "tile{factors=perfect}",
    "eliminate,canonicalize,decompose,eliminate,canonicalize,fuse,classify,tile",
)  # fmt: skip


@pytest.mark.parametrize("text", PIPELINES)
@given(graph=graphs(steps=8), target=machines())
def test_values_macs_and_idempotence(text, graph, target):
    """Outputs keep their names and values; MACs are conserved; a second run changes nothing."""
    manager = PassManager(parse_pipeline(text))
    program, log = manager.run(graph, target)
    assert program.graph.outputs == graph.outputs
    assert program.graph.macs <= graph.macs  # dead and repeated products may go
    if "eliminate" not in text:
        assert program.graph.macs == graph.macs
    values = values_of(graph)
    wanted, got = interpret(graph, values), interpret(program.graph, values)
    for name in graph.outputs:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-5, atol=1e-5)
    again, _ = manager.run(program, target)
    assert again == program
    assert len(log.rows) == len(manager.pipeline)


@given(graphs(steps=8))
def test_sources_are_the_signature(graph):
    """No pass adds or drops what a caller gives."""
    program, _ = PassManager(parse_pipeline("eliminate,canonicalize,fuse")).run(graph)
    assert [t.name for t in program.graph.sources] == [t.name for t in graph.sources]


@given(graphs(steps=8), st.booleans())
def test_groups_partition_and_follow_one_another(graph, canonical):
    """Each operator that is no view is in one group, and the groups have an order."""
    text = "canonicalize,fuse" if canonical else "fuse"
    program, _ = PassManager(parse_pipeline(text)).run(Program(graph))
    names = [name for group in program.groups for name in group.ops]
    costly = [op.name for op in program.graph.ops if not op.is_view]
    assert sorted(names) == sorted(costly)
    assert len(set(names)) == len(names)
