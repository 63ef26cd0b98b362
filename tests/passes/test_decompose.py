"""Decompose: scans as nests, with torch's values."""

import numpy as np
import pytest
import torch

import hwopt
from hwopt.errors import PassError
from hwopt.ir.interpret import interpret
from hwopt.ir.text import parse, print_graph
from hwopt.passes.manager import PassManager, parse_pipeline

MODELS = {
    "softmax": torch.nn.Softmax(dim=1),
    "log_softmax": torch.nn.LogSoftmax(dim=-1),
    "layer_norm": torch.nn.LayerNorm((4, 5)),
    "layer_norm without weights": torch.nn.LayerNorm(5, elementwise_affine=False),
    "rms_norm": torch.nn.RMSNorm(5, eps=1e-5),
    "group_norm": torch.nn.GroupNorm(3, 6),
}


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("name", MODELS)
def test_values_are_torchs(name, scale):
    """Large inputs too: the maximum is subtracted before the exponential."""
    torch.manual_seed(0)
    model = MODELS[name]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 6, 4, 5) * scale
    graph = hwopt.trace(model, (x,), cache=False)
    program, _ = PassManager(parse_pipeline("decompose")).run(graph)
    assert "scan" not in print_graph(program.graph)
    known = dict(model.named_parameters())
    values = {t.name: known.get(t.name, x).detach().numpy() for t in graph.sources}
    got = interpret(program.graph, values)[program.graph.outputs[0]]
    np.testing.assert_allclose(got, model(x).detach(), rtol=1e-4, atol=1e-5)


SOFTMAX = """\
graph "g"
  %x : DTYPE[2, 3] input
  $0 = scan softmax {axis=1, log=False} touches (6) -> (6RESULT) work 30 depth 3
  %y : DTYPE[2, 3]LSE = softmax on vector $0(%x)
return %yOUT
"""


def text(dtype: str = "float32", *, lse: bool = False) -> str:
    """A softmax, with the log-sum-exp as a second result."""
    parts = {"RESULT": ", 2", "LSE": ", %z : float32[2]", "OUT": ", %z"} if lse else {}
    made = SOFTMAX.replace("DTYPE", dtype)
    for name in ("RESULT", "LSE", "OUT"):
        made = made.replace(name, parts.get(name, ""))
    return made


def test_golden():
    """Maximum, exponential, sum, quotient."""
    program, _ = PassManager(parse_pipeline("decompose")).run(parse(text()))
    assert (
        print_graph(program.graph, sources=False)
        == """\
graph "g"
  %x : float32[2, 3] input
  $0 = nest (d0=2, d1=3) reads ([d0, d1]) writes [d0, 0] max #0
  %y.t : float32[2, 1] = @y reduction on vector $0(%x)
  $1 = nest (d0=2, d1=3) reads ([d0, d1], [d0, 0]) writes [d0, d1] none exp(sub(#0, #1))
  %y.t3 : float32[2, 3] = @y.pointwise pointwise on vector $1(%x, %y.t)
  $2 = nest (d0=2, d1=3) reads ([d0, d1]) writes [d0, 0] sum #0
  %y.t2 : float32[2, 1] = @y.reduction reduction on vector $2(%y.t3)
  $3 = nest (d0=2, d1=3) reads ([d0, d1], [d0, 0]) writes [d0, d1] none div(#0, #1)
  %y : float32[2, 3] = @y.pointwise2 pointwise on vector $3(%y.t3, %y.t2)
return %y
"""
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_second_result_and_half_precision(dtype):
    """The log-sum-exp is written too; intermediate results of 16-bit rows have 32."""
    graph = parse(text(dtype, lse=True))
    x = np.random.default_rng(0).normal(size=(2, 3)) * 4
    program, _ = PassManager(parse_pipeline("decompose")).run(graph)
    wanted, got = interpret(graph, {"x": x}), interpret(program.graph, {"x": x})
    for name in ("y", "z"):
        np.testing.assert_allclose(got[name], wanted[name], rtol=2**-9, atol=1e-6)


def test_only_some():
    """`only` names functions; others stay, unknown ones are refused."""
    graph = parse(text())
    program, _ = PassManager(parse_pipeline("decompose{only=[layer_norm]}")).run(graph)
    assert program.graph is graph
    with pytest.raises(PassError, match="softmax"):
        PassManager(parse_pipeline("decompose{only=[sotfmax]}")).run(graph)


def test_a_fully_masked_row_stays_zeros():
    """The safe softmax of attention gives zeros, not NaN, for a row of minus infinity."""
    q, k, v = (torch.randn(1, 2, 4, 8) for _ in range(3))
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[2] = False

    class Masked(torch.nn.Module):
        def forward(self, q, k, v, mask):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    graph = hwopt.trace(Masked(), (q, k, v, mask))
    program, _ = PassManager(parse_pipeline("decompose")).run(graph)
    values = {"q": q.numpy(), "k": k.numpy(), "v": v.numpy(), "mask": mask.numpy()}
    result = interpret(program.graph, values)[program.graph.outputs[0]]
    assert np.allclose(result, Masked()(q, k, v, mask).numpy(), atol=1e-6)
    assert not result[0, :, 2].any()
