"""Traced graphs compute what the model computes: interpreted with its weights, they give torch's
own outputs, caches, losses, gradients and updated parameters.
"""

import numpy as np
import pytest
import torch
from torch import nn

from hwopt import interpret, trace
from hwopt.models.library import find

TINY = {
    "resnet18": {"width": 8, "classes": 10},
    "mobilenet-v2": {"classes": 10},
    "vit-b-16": {"width": 32, "heads": 4, "depth": 1, "inner": 48},
    "bert-base": {"width": 32, "heads": 4, "depth": 2, "vocabulary": 60, "inner": 48},
    "gpt2": {"width": 32, "heads": 4, "depth": 2, "vocabulary": 60},
    "opt-350m": {"width": 32, "heads": 4, "depth": 2, "vocabulary": 60, "inner": 48},
    "llama-3-8b": {"width": 64, "heads": 8, "depth": 2, "vocabulary": 60, "inner": 48},
    "mixtral-8x7b": {"width": 32, "heads": 4, "depth": 2, "vocabulary": 60, "inner": 24},
    "ptb-lstm": {"width": 12, "vocabulary": 60},
    "wide-deep": {"width": 16, "buckets": 60, "embedding": 4},
}
CACHED = ("gpt2", "opt-350m", "llama-3-8b", "mixtral-8x7b")


def tiny(name):
    """A small model with weights large enough to matter, and inputs."""
    torch.manual_seed(3)
    entry = find(name)
    model = entry.build(**TINY[name])
    for parameter in model.parameters():
        mean = 0.0 if parameter.dim() > 1 else 0.5
        nn.init.normal_(parameter, mean, 0.2 if parameter.dim() > 1 else 0.1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
        for key, value in vars(module).items():
            if isinstance(value, float) and "drop" in key:
                setattr(module, key, 0.0)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    inputs = {}
    for key, (shape, dtype) in entry.input_shapes(2, 7).items():
        if len(shape) == 4 and name != "vit-b-16":
            shape = (2, 3, 64, 64)
        inputs[key] = torch.randint(0, 50, shape) if dtype == "int64" else torch.randn(shape)
    if hasattr(model, "config"):
        model.config.use_cache = False
    return model, inputs


def run(graph, model, given):
    """Every tensor of the graph, parameters and buffers taken from the model by name."""
    stored = {**dict(model.named_parameters()), **dict(model.named_buffers()), **given}
    values = {t.name: stored[t.name].detach().numpy() for t in graph.sources}
    return interpret(graph, values)


def assert_close(got, want, tolerance=2e-5):
    """Equal up to float32 rounding, measured against the largest element."""
    want = want.detach().numpy()
    assert got.shape == want.shape
    scale = max(1e-6, float(np.abs(want).max()))
    assert float(np.abs(got - want).max()) <= tolerance * scale


@pytest.mark.parametrize("name", TINY)
def test_forward(name):
    """Outputs of an inference pass."""
    model, inputs = tiny(name)
    graph = trace(model.eval(), inputs)
    want = model(**inputs)
    values = run(graph, model, inputs)
    assert_close(values[graph.outputs[0]], getattr(want, "logits", want))


@pytest.mark.parametrize("name", CACHED)
def test_prefill_then_decode(name):
    """A prefill and a decoded token give what one pass over all tokens gives."""
    model, inputs = tiny(name)
    model.eval()
    tokens = inputs["input_ids"]
    whole = model(input_ids=tokens).logits
    first = trace(model, {"input_ids": tokens[:, :-1]}, mode="prefill")
    after = run(first, model, {"input_ids": tokens[:, :-1]})
    assert_close(after[first.outputs[0]][:, 0], whole[:, -2])
    second = trace(model, {"input_ids": tokens[:, :-1]}, mode="decode")
    cached = [t for t in second.inputs if t.role == "cache"]
    assert len(cached) == 4
    given = {t.name: torch.from_numpy(after[f"{t.name}.next"]) for t in cached}
    values = run(second, model, {"input_ids": tokens[:, -1:], **given})
    assert_close(values[second.outputs[0]][:, 0], whole[:, -1])
    assert values["cache.1.keys.next"].shape[2] == tokens.shape[1]


@pytest.mark.parametrize("name", TINY)
def test_train(name):
    """Loss, every gradient, and the parameters after a step of AdamW."""
    model, inputs = tiny(name)
    model.train()
    if "input_ids" in inputs:
        inputs["labels"] = torch.randint(0, 50, inputs["input_ids"].shape)
    graph = trace(model, inputs, mode="train")
    given = dict(inputs)
    for tensor in graph.sources:
        if tensor.role == "state":
            given[tensor.name] = torch.zeros(tensor.shape)
        elif tensor.name == "target":
            given[tensor.name] = torch.randint(0, 10, tensor.shape)
    given |= {"optimizer.bias1": torch.tensor(0.1), "optimizer.bias2": torch.tensor(0.001)}
    values = run(graph, model, given)
    output = model(**inputs)
    if "labels" in inputs:
        loss = output.loss
    elif "target" in given:
        loss = nn.functional.cross_entropy(getattr(output, "logits", output), given["target"])
    else:
        loss = output.mean()
    assert_close(values["loss"], loss)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    loss.backward()
    largest = max(float(p.grad.abs().max()) for p in model.parameters())
    optimizer.step()
    for key, parameter in model.named_parameters():
        grad = parameter.grad.numpy()
        assert float(np.abs(values[f"{key}.grad"] - grad).max()) <= 2e-5 * largest
        sure = np.abs(grad) > 1e-3 * largest  # the first step is the gradient's sign
        step = (values[f"{key}.next"] - before[key].numpy())[sure]
        np.testing.assert_allclose(step, (parameter.detach() - before[key]).numpy()[sure], 0.02)


def test_running_statistics():
    """Batch normalisation in training updates its statistics, as outputs of the graph."""
    model, inputs = tiny("resnet18")
    model.train()
    graph = trace(model, inputs, mode="train", optimizer="none")
    values = run(graph, model, {**inputs, "target": torch.zeros(2, dtype=torch.int64)})
    model(**inputs)
    assert_close(values["stem.1.running_var.next"], model.stem[1].running_var)
    assert "stem.1.running_mean.next" in graph.outputs


def test_bfloat16_trains_a_master_copy():
    """Half-precision parameters carry a float32 master copy and float32 moments."""
    graph = trace("llama-3-8b", mode="train", dtype="bfloat16", seq=8, overrides=TINY["llama-3-8b"])
    name = "model.layers.1.mlp.up_proj.weight"
    assert graph.tensor[name].dtype == graph.tensor[f"{name}.grad"].dtype == "bfloat16"
    states = {t.name: t.dtype for t in graph.sources if t.name.startswith(f"{name}.")}
    assert states == {f"{name}.{s}": "float32" for s in ("master", "exp_avg", "exp_avg_sq")}
    assert graph.tensor[f"{name}.next"].dtype == "bfloat16"
