"""Adding an operator, a pass, a template or an objective is one file: CONTRIBUTING's own blocks."""

import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = dict(
    re.findall(
        r"<!-- block: (\w+) -->\n```python\n(.*?)```",
        (ROOT / "CONTRIBUTING.md").read_text(),
        re.DOTALL,
    )
)


@pytest.fixture
def load(monkeypatch, request):
    """Import a block as a module of its own, and take what it registered out again."""
    taken = []

    def load_block(name, registry, entry):
        module = types.ModuleType(f"extending_{name}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        code = compile(BLOCKS[name], f"CONTRIBUTING.md:{name}", "exec")
        types.FunctionType(code, module.__dict__)()
        taken.append((registry, entry))
        return module

    yield load_block
    for registry, entry in taken:
        registry.remove(entry)


def test_there_is_one_block_for_each():
    """The blocks that the text promises."""
    assert set(BLOCKS) == {"operator", "pass", "template", "objective"}


def test_operator(load):
    """The lowering of CONTRIBUTING computes what it says."""
    import numpy as np

    from hwopt.ir.graph import Graph
    from hwopt.ir.interpret import interpret
    from hwopt.ir.tensor import Tensor
    from hwopt.ops.lowering import Builder, Call, lowerings

    load("operator", lowerings, "extending.softsign.default")
    x, y = Tensor("x", (3,), role="input"), Tensor("y", (3,))
    build = Builder()
    call = Call("extending.softsign.default", "y", {"self": x}, (y,))
    lowerings[call.target](call, build)
    graph = Graph("g", (x, y, *build.tensors), tuple(build.ops), ("y",))
    values = np.array([-2.0, 0.0, 3.0], np.float32)
    assert np.allclose(interpret(graph, {"x": values})["y"], values / (1 + np.abs(values)))


def test_pass(load):
    """The pass of CONTRIBUTING runs in a pipeline given as text."""
    from hwopt.ir.graph import Graph
    from hwopt.ir.tensor import Tensor
    from hwopt.passes.manager import PassManager, parse_pipeline, passes

    load("pass", passes, "rename")
    graph = Graph("a", (Tensor("x", (1,), role="input"),), (), ("x",))
    program, _ = PassManager(parse_pipeline("rename{to=b}")).run(graph)
    assert program.graph.name == "b"


def test_template(load):
    """The template of CONTRIBUTING builds accelerators, one by one and as a table, equal."""
    import numpy as np

    from hwopt.hardware.table import hardware_row
    from hwopt.hardware.template import templates

    load("template", templates, "vector_machine")
    template = templates["vector_machine"]
    codes = np.array([[i, j] for i in range(3) for j in range(2)])
    table = template.table(codes)
    for row, code in zip(table.rows, codes, strict=True):
        assert np.allclose(row, hardware_row(template.decoded(code)), rtol=1e-12)


def test_objective(load):
    """The objective of CONTRIBUTING is a column of what the kernel priced."""
    import numpy as np

    from hwopt.dse.objectives import Prices, objectives

    load("objective", objectives, "energy_per_area")
    two = np.array([[2.0]])
    prices = Prices(two, two * 3, two, np.array([4.0]), two)
    assert objectives["energy_per_area"].column(prices) == 1.5
