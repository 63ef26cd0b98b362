"""Passes on real models: the rewritten graph, interpreted, gives torch's own output."""

from collections import Counter

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
)

import hwopt
from hwopt.ir.interpret import interpret
from hwopt.ir.text import parse, print_graph
from hwopt.passes.manager import PassManager, parse_pipeline
from hwopt.testing import values_of

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50,
        "num_attention_heads": 4}  # fmt: skip
PIPELINES = (
    "canonicalize", "decompose", "eliminate,canonicalize,fuse,classify,tile",
    "canonicalize,decompose,eliminate,canonicalize,fuse",
)  # fmt: skip


def resnet() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Two stages with a projection, and statistics that are not those of a fresh model."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
                          layer_type="basic")  # fmt: skip
    model = ResNetForImageClassification(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    return model, {"pixel_values": torch.randn(2, 3, 32, 32)}


def bert() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Two layers, a mask, a pooler."""
    model = BertModel(BertConfig(**TINY, max_position_embeddings=16))
    return model, {"input_ids": torch.randint(0, 50, (2, 7))}


def llama() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Two layers, two query heads per key head, rotary positions."""
    model = LlamaForCausalLM(LlamaConfig(**TINY, num_key_value_heads=2))
    return model, {"input_ids": torch.randint(0, 50, (2, 7))}


@pytest.fixture(scope="module", params=[resnet, bert, llama], ids=lambda f: f.__name__)
def traced(request):
    """Graph, values of its sources, torch's outputs."""
    torch.manual_seed(0)
    model, inputs = request.param()
    model.eval()
    with torch.no_grad():
        result = model(**inputs)
    graph = hwopt.trace(model, inputs, cache=False)
    known = {**dict(model.named_parameters()), **dict(model.named_buffers()), **inputs}
    values = {t.name: known[t.name].detach().numpy() for t in graph.sources}
    wanted = [part.numpy() for part in result.to_tuple() if isinstance(part, torch.Tensor)]
    return request.param.__name__, graph, values, wanted


@pytest.mark.parametrize("text", PIPELINES)
def test_outputs_are_torchs(traced, text):
    """Each pipeline keeps every output, and the MACs."""
    _, graph, values, wanted = traced
    program, _ = PassManager(parse_pipeline(text)).run(graph)
    got = interpret(program.graph, values)
    for name, tensor in zip(program.graph.outputs, wanted, strict=True):
        np.testing.assert_allclose(got[name], tensor, rtol=2e-4, atol=2e-5)
    assert program.graph.macs == graph.macs


def test_real_graphs_survive_text(traced):
    """parse(print(g)) == g, before and after passes."""
    _, graph, _, _ = traced
    program, _ = PassManager(parse_pipeline("eliminate,canonicalize")).run(graph)
    for each in (graph, program.graph):
        assert parse(print_graph(each)) == each


def test_what_the_passes_find(traced):
    """Batch norms folded, attention in one group per layer, views gone from between nests."""
    name, graph, _, _ = traced
    program, _ = PassManager(parse_pipeline("eliminate,canonicalize,fuse,classify")).run(graph)
    kinds = Counter(group.kind for group in program.groups)
    left = [op for op in program.graph.ops if op.is_view]
    if name == "resnet":
        assert not any(op.kind == "batch_norm" for op in program.graph.ops)
        assert kinds["epilogue"] == sum(op.macs > 0 for op in graph.ops)
        assert not left
    else:
        assert kinds["attention"] == 2
        layers = [{program.class_of[op.name].replace(".1.", ".0.") for op in program.graph.ops
                   if f".{number}." in op.name and op.macs} for number in (0, 1)]  # fmt: skip
        assert layers[0] == layers[1]
    if name == "llama":
        assert not any(program.graph.op[n].is_view for g in program.groups for n in g.ops)
        values = [op for op in program.graph.ops if op.kind == "attention_values"]
        for op in values:  # 2 sequences x 7 tokens x 2 heads x 8: not repeated per query head
            assert program.graph.tensor[op.reads[1]].elements == 2 * 7 * 2 * 8


@pytest.mark.parametrize("text", PIPELINES)
def test_training_graphs_keep_their_meaning(text):
    """Forward, backward and optimizer of two Llama layers: every output as before."""
    torch.manual_seed(0)
    model, inputs = llama()
    graph = hwopt.trace(model, inputs, mode="train", cache=False)
    values = {name: abs(value) / 8 if value.dtype.kind == "f" else value
              for name, value in values_of(graph).items()}  # fmt: skip
    program, _ = PassManager(parse_pipeline(text)).run(graph)
    wanted, got = interpret(graph, values), interpret(program.graph, values)
    for name in graph.outputs:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-3, atol=1e-5)
    assert program.graph.macs == graph.macs
    assert program.graph.recompute_flops == graph.recompute_flops


def test_a_traced_attention_with_repeated_heads_reads_each_key_once():
    """Keys repeated by expand and reshape (an eager grouped-query attention) are looked through."""

    class Eager(torch.nn.Module):
        def forward(self, q, k):
            repeated = k[:, :, None].expand(2, 2, 3, 5, 4).reshape(2, 6, 5, 4)
            return q @ repeated.transpose(2, 3)

    inputs = (torch.randn(2, 6, 5, 4), torch.randn(2, 2, 5, 4))
    graph = hwopt.trace(Eager(), inputs, cache=False)
    program, _ = PassManager(parse_pipeline("canonicalize,eliminate")).run(graph)
    (op,) = program.graph.ops
    assert program.graph.tensor[op.reads[1]].shape == (2, 2, 5, 4)
    values = {"q": inputs[0].numpy(), "k": inputs[1].numpy()}
    got = interpret(program.graph, values)[program.graph.outputs[0]]
    np.testing.assert_allclose(got, Eager()(*inputs), rtol=1e-5, atol=1e-6)
