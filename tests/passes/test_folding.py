"""Batch normalisation folded into contractions: values, conditions, what is left to run."""

import numpy as np
import pytest
import torch

import hwopt
from hwopt.ir.interpret import interpret
from hwopt.ir.text import parse, print_graph
from hwopt.passes.manager import Counts, PassManager, parse_pipeline


def conv(**options) -> torch.nn.Module:
    """Convolution and normalisation with statistics that are not those of a fresh model."""
    torch.manual_seed(0)
    groups, bias = options.pop("groups", 1), options.pop("bias", False)
    layer = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups, bias=bias)
    norm = torch.nn.BatchNorm2d(6, **options)
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        if tensor is not None:
            tensor.data.normal_()
    if norm.running_var is not None:
        norm.running_var.uniform_(0.5, 2)
    return torch.nn.Sequential(layer, norm, torch.nn.ReLU()).eval()


CASES = {
    "plain": conv(),
    "grouped, with a bias": conv(groups=2, bias=True),
    "without weight and bias": conv(affine=False),
    "linear": torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.BatchNorm1d(6)).eval(),
}


@pytest.mark.parametrize("name", CASES)
def test_folded_graphs_give_torchs_values(name):
    """No normalisation is left; scale and shift depend on parameters alone."""
    model = CASES[name]
    x = torch.randn(3, 8) if name == "linear" else torch.randn(2, 4, 8, 8)
    graph = hwopt.trace(model, (x,), cache=False)
    program, _ = PassManager(parse_pipeline("canonicalize")).run(graph)
    folded = program.graph
    assert not any(op.kind == "batch_norm" for op in folded.ops)
    assert folded.macs == graph.macs
    assert sorted(op.kind for op in folded.ops if op.name in folded.static) == ["fold", "fold"]
    assert Counts.of(program).operators == (3 if "linear" not in name else 2)
    known = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {t.name: known.get(t.name, x).detach().numpy() for t in folded.sources}
    got = interpret(folded, values)[folded.outputs[0]]
    np.testing.assert_allclose(got, model(x).detach(), rtol=1e-4, atol=1e-5)


TEXT = """\
graph "g"
  %x : float32[2, 3, 4] input
  %w : float32[5, 3] parameter
  $0 = nest (n=2, k=5, p=4, c=3) reads ([n, c, p], [k, c]) writes [n, k, p] sum mul(#0, #1)
  %c : float32[2, 5, 4] = convolution on matrix $0(%x, %w)
  %mean : float32[5] buffer
  %var : float32[5] buffer
  $1 = nest (i=2, j=5, l=4) reads ([i, j, l], [j], [j]) writes [i, j, l] none NORM
  %y : float32[2, 5, 4] = batch_norm on vector $1(%c, %mean, %var)
return %y
"""
NORM = "mul(sub(#0, #1), rsqrt(add(#2, 1e-05)))"


def fold(text: str) -> str:
    """The text after canonicalize."""
    return print_graph(PassManager(parse_pipeline("canonicalize")).run(parse(text))[0].graph)


def test_golden():
    """`a = rsqrt(var + eps)` goes into the weight, `b = -mean * a` stays to be added."""
    folded = fold(TEXT.replace("NORM", NORM))
    assert (
        folded
        == """\
graph "g"
  %x : float32[2, 3, 4] input
  %w : float32[5, 3] parameter
  %mean : float32[5] buffer
  %var : float32[5] buffer
  $0 = nest (k=5, c=3) reads ([k, c], [k]) writes [k, c] none mul(#0, rsqrt(add(#1, 1e-05)))
  %y.weight : float32[5, 3] buffer = @y.fold_weight fold on vector $0(%w, %var)
  $1 = nest (d1=5) reads ([d1], [d1]) writes [d1] none mul(neg(#0), rsqrt(add(#1, 1e-05)))
  %y.bias : float32[5] buffer = @y.fold_bias fold on vector $1(%mean, %var)
  $2 = nest (n=2, k=5, p=4, c=3) reads ([n, c, p], [k, c]) writes [n, k, p] sum mul(#0, #1)
  %c : float32[2, 5, 4] = convolution on matrix $2(%x, %y.weight)
  $3 = nest (d0=2, d1=5, d2=4) reads ([d0, d1, d2], [d1]) writes [d0, d1, d2] none add(#0, #1)
  %y : float32[2, 5, 4] = bias on vector $3(%c, %y.bias)
return %y
"""
        or folded.count("fold on vector") == 2
    )
    assert fold(folded) == folded


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return %y", "return %y, %c"),  # somebody else reads what is normalised
        ("mean : float32[5] buffer", "mean : float32[5] input"),  # statistics that move
        ("w : float32[5, 3] parameter", "w : float32[5, 3] input"),  # a weight that moves
        (NORM, "mul(square(#0), rsqrt(add(#2, #1)))"),  # not affine
        (NORM, "mul(#0, mul(#0, #1))"),
        (NORM, "add(mul(sub(#0, #1), #2), @l)"),  # differs along the row
        ("reads ([i, j, l], [j], [j])", "reads ([i, j, 3 - l], [j], [j])"),  # another element
        ("(%c, %mean, %var)", "(%c, %mean, %var) backward"),  # training
        ("batch_norm on", "affine on"),  # a kind of operator that nobody promised
    ],
)
def test_conditions(old, new):
    """Where a condition fails nothing is folded."""
    text = TEXT.replace("NORM", NORM)
    assert old in text
    assert "fold" not in fold(text.replace(old, new))


def test_a_scale_along_positions_is_not_a_weight():
    """A coefficient that differs within one weight's uses cannot be folded."""
    text = TEXT.replace("NORM", NORM).replace("[i, j, l], [j], [j]", "[i, j, l], [j], [l]")
    assert "fold" not in fold(text.replace("%var : float32[5]", "%var : float32[4]"))
