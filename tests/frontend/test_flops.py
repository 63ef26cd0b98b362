"""FLOPs and parameters of traced graphs equal torch's own counts, exactly."""

import pytest
import torch

from hwopt import trace
from hwopt.models.library import find, library

DEEP = [name for name in library if "heads" in library[name].overrides]
"""Models whose blocks repeat: counted with two blocks at full width."""

QUICK = (
    "alexnet", "bert-base", "gpt2", "llama-3-8b", "mixtral-8x7b", "mobilenet-v2", "opt-125m",
    "opt-350m", "ptb-lstm", "resnet18", "vgg16", "vit-b-16", "wide-deep",
)  # fmt: skip
"""One of each family; the others are slow tests."""

MODELS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in library
]  # fmt: skip


def overrides(name):
    """Two blocks where there are many."""
    return {"depth": 2} if name in DEEP else {}


def module_and_inputs(name, batch=2, seq=16):
    """A library model on the meta device with its inputs."""
    entry = find(name)
    with torch.device("meta"):
        module = entry.build(**overrides(name))
    shapes = entry.input_shapes(batch, seq)
    inputs = {k: torch.empty(s, dtype=getattr(torch, d)) for k, (s, d) in shapes.items()}
    return module, inputs


def loss(output):
    """Some scalar of the outputs: matrix products do not depend on which."""
    return getattr(output, "logits", output).mean()


@pytest.mark.parametrize("name", MODELS)
def test_forward(name, count_flops):
    """A forward pass has the FLOPs and parameters that torch counts."""
    module, inputs = module_and_inputs(name)
    graph = trace(name, batch=2, seq=16, overrides=overrides(name))
    assert graph.flops == count_flops(module, inputs)
    assert graph.parameter_count == sum(p.numel() for p in module.parameters())
    assert graph.recompute_flops == 0
    assert not graph.is_bound


@pytest.mark.parametrize("name", MODELS)
def test_train(name, count_flops):
    """Forward and backward have the FLOPs that torch counts; recomputation is apart."""
    module, inputs = module_and_inputs(name)
    graph = trace(name, mode="train", batch=2, seq=16, overrides=overrides(name))
    assert graph.flops == count_flops(module, inputs, loss)
    assert {t.name for t in graph.parameters} == {n for n, _ in module.named_parameters()}
    assert graph.parameter_count == sum(p.numel() for p in module.parameters())
    assert not graph.is_bound


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_depth_is_linear(name):
    """The whole model has the FLOPs of two blocks plus those of each further one."""
    with torch.device("meta"):
        count = find(name).build().config.num_hidden_layers
    whole, two, three = (
        trace(name, mode="train", seq=16, overrides=knobs).flops
        for knobs in ({}, {"depth": 2}, {"depth": 3})
    )
    assert whole == two + (count - 2) * (three - two)


def test_closed_forms():
    """Counts that can be worked out by hand."""
    assert trace("resnet50").macs == 4_089_184_256
    assert trace("vgg16").macs == 15_470_264_320
    assert trace("alexnet").macs == 714_188_480
    steps, width, vocabulary = 35, 650, 10_000
    lstm = trace("ptb-lstm", batch=20)
    assert lstm.macs == 20 * steps * (2 * 8 * width * width + width * vocabulary)


def test_decode_counts():
    """One token: two FLOPs per weight it meets, and per cached token two products per head."""
    knobs = {"depth": 2, "width": 256, "heads": 8, "vocabulary": 1000}
    graph = trace("llama-3-8b", mode="decode", batch=3, seq=40, overrides=knobs)
    weights = sum(t.elements for t in graph.parameters if len(t.shape) == 2)
    weights -= graph.tensor["model.embed_tokens.weight"].elements
    assert graph.macs == 3 * (weights + 2 * (2 * 256 * 41))


def test_experts_are_not_dense():
    """Two of eight experts run per token; decoding one token touches two experts' weights."""
    knobs = {"depth": 1, "width": 64, "heads": 4, "vocabulary": 100}
    graph = trace("mixtral-8x7b", seq=32, overrides=knobs)
    inner = graph.tensor["model.layers.0.mlp.experts.down_proj"].shape[2]
    experts = [op for op in graph.ops if op.kind == "experts"]
    assert sum(op.macs for op in experts) == 32 * 2 * 3 * 64 * inner
    alone = trace("mixtral-8x7b", mode="decode", seq=32, overrides=knobs)
    first = next(op for op in alone.ops if op.kind == "experts")
    assert first.body.read_elements[1] * 4 == alone.tensor[first.reads[1]].elements
