"""`trace`: what it takes, what it returns, and its errors."""

import json

import pytest
import torch
from torch import nn

from hwopt import trace
from hwopt.errors import (
    FileFormatError,
    HwoptError,
    PathError,
    TraceError,
    UnknownNameError,
    UnsupportedOperatorError,
)
from hwopt.models.library import find

KNOBS = {"width": 32, "heads": 4, "depth": 2, "vocabulary": 60}


class Branches(nn.Module):
    """Nested inputs and outputs, a shared layer, a constant, an in-place operator."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.register_buffer("offset", torch.arange(4.0))

    def forward(self, pair, *, scale):
        x = self.shared(pair["left"]) + self.offset
        x += torch.tensor([1.0, 2.0, 3.0, 5.0])
        return {"sum": x * scale + 2, "parts": [self.shared(pair["right"]), x]}


def test_module_with_nested_inputs():
    """Inputs are named by their path; every tensor of the output is an output of the graph."""
    inputs = {"pair": {"left": torch.zeros(3, 4), "right": torch.zeros(2, 4)},
              "scale": torch.zeros(())}  # fmt: skip
    graph = trace(Branches().eval(), inputs)
    assert [t.name for t in graph.inputs] == ["pair.left", "scale", "pair.right"]
    assert len(graph.outputs) == 3
    assert [t.role for t in graph.sources if t.name == "offset"] == ["buffer"]
    assert [t.shape for t in graph.sources if t.role == "constant"] == [(4,)]
    assert graph.macs == 5 * 16
    assert graph.parameter_count == 20


def test_sources_say_module_and_line():
    """Each operator knows its module path, the line of the model and the ATen target."""
    graph = trace("resnet18", overrides={"width": 8})
    op = next(op for op in graph.ops if op.macs)
    assert op.source.module == "stem.0"
    assert op.source.line.startswith("hwopt/models/resnet.py:")
    assert op.source.target.startswith("aten.conv")
    graph = trace("opt-125m", seq=8, overrides=KNOBS)
    modules = {op.source.module for op in graph.ops}
    assert "model.decoder.layers.1.self_attn.q_proj" in modules
    assert any("modeling_opt.py:" in op.source.line for op in graph.ops)


def test_tied_weights_are_one_tensor():
    """The head of OPT reads the embedding's table."""
    graph = trace("opt-125m", mode="train", seq=8, overrides=KNOBS)
    table = "model.decoder.embed_tokens.weight"
    assert "lm_head.weight" not in graph.tensor
    assert len(graph.consumers[table]) >= 2
    assert f"{table}.grad" in graph.outputs


def test_train_graph_has_its_phases():
    """Forward, backward, recomputation and optimizer; what is saved; state of the optimizer."""
    graph = trace("opt-125m", mode="train", seq=8, overrides=KNOBS)
    assert {op.phase for op in graph.ops} == {"forward", "backward", "recompute", "optimizer"}
    assert graph.saved_for_backward
    grads = {t.name for t in graph.tensors if t.role == "gradient"}
    assert {f"{t.name}.grad" for t in graph.parameters} <= grads
    states = [t for t in graph.sources if t.role == "state" and t.shape]
    assert sum(t.elements for t in states) == 2 * graph.parameter_count
    assert graph.outputs[0] == "loss"
    bare = trace("opt-125m", mode="train", seq=8, overrides=KNOBS, optimizer="none")
    assert bare.flops == graph.flops
    assert not any(op.phase == "optimizer" for op in bare.ops)


def test_backward_operators_know_their_layer():
    """Nearly all of the backward pass is attributed to the module whose gradient it computes."""
    graph = trace("llama-3-8b", mode="train", seq=8, overrides=KNOBS)
    backward = [op for op in graph.ops if op.phase == "backward" and op.macs]
    assert all(op.source.module for op in backward)
    assert {op.source.module for op in backward} >= {"lm_head", "model.layers.1.mlp.up_proj"}


def test_prefill_computes_the_last_logits():
    """A prefill writes the cache of every layer and the logits of one position."""
    graph = trace("llama-3-8b", mode="prefill", batch=2, seq=9, overrides=KNOBS)
    cache = [name for name in graph.outputs if graph.tensor[name].role == "cache"]
    assert cache == [f"cache.{i}.{kind}.next" for i in (0, 1) for kind in ("keys", "values")]
    assert graph.tensor[graph.outputs[0]].shape == (2, 1, 60)


def test_dtype():
    """A model is traced in another element type; indices stay integers."""
    graph = trace("opt-125m", dtype="bfloat16", seq=8, overrides=KNOBS)
    assert {t.dtype for t in graph.parameters} == {"bfloat16"}
    assert graph.tensor["input_ids"].dtype == "int64"
    with pytest.raises(HwoptError, match="unknown element type"):
        trace("opt-125m", dtype="float12")


def test_factory(tmp_path, monkeypatch):
    """A function in a module of the current directory, with and without inputs."""
    (tmp_path / "mymodels.py").write_text(
        "import torch\n"
        "def net(width=8):\n"
        "    return torch.nn.Linear(4, width), (torch.zeros(3, 4),)\n"
        "def bare():\n    return torch.nn.Linear(4, 8)\n"
        "def broken():\n    raise RuntimeError('no such checkpoint')\n"
        "def number():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert trace("mymodels:net").macs == 96
    assert trace("mymodels:net", overrides={"width": 5}).macs == 60
    with pytest.raises(TraceError, match="inputs of bare are not known"):
        trace("mymodels:bare")
    with pytest.raises(TraceError, match="no such checkpoint"):
        trace("mymodels:broken")
    with pytest.raises(TraceError, match="no torch module"):
        trace("mymodels:number")
    with pytest.raises(TraceError, match="cannot import"):
        trace("mymodels:absent")
    with pytest.raises(TraceError, match="cannot import"):
        trace("nosuchmodule:net")


def test_configuration_files(tmp_path):
    """A config.json by itself; its keys can be overridden; broken ones are clear errors."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({
        "model_type": "opt", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
        "ffn_dim": 48, "vocab_size": 60, "word_embed_proj_dim": 32, "torch_dtype": "bfloat16",
    }))  # fmt: skip
    graph = trace(str(file), seq=8)
    assert graph.parameters[0].dtype == "bfloat16"
    deeper = trace(str(tmp_path), seq=8, overrides={"num_hidden_layers": 3})
    assert deeper.parameter_count > graph.parameter_count
    with pytest.raises(HwoptError, match="table of positions"):
        trace(str(file), seq=4096)
    with pytest.raises(PathError, match="no such file"):
        trace(str(tmp_path / "absent" / "config.json"))
    file.write_text("{")
    with pytest.raises(FileFormatError, match="invalid JSON"):
        trace(str(file))
    file.write_text("{}")
    with pytest.raises(FileFormatError, match="model_type"):
        trace(str(file))


class Strange(nn.Module):
    """Uses an operator that nobody lowers."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(torch.linalg.svdvals(x))


def test_unknown_operator():
    """The error names operator, module and line; as opaque it marks the totals as a bound."""
    with pytest.raises(UnsupportedOperatorError) as caught:
        trace(Strange(), (torch.zeros(4, 4),))
    message = str(caught.value)
    assert "svd" in message
    assert "test_capture.py:" in message
    graph = trace(Strange(), (torch.zeros(4, 4),), unsupported="opaque")
    assert graph.is_bound
    assert graph.macs == 16


class Branching(nn.Module):
    """Looks at values."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_requests_that_make_no_sense():
    """Modes, sizes and names are checked; a model that looks at values cannot be traced."""
    with pytest.raises(HwoptError, match="unknown mode"):
        trace("resnet18", mode="backward")
    with pytest.raises(HwoptError, match="batch is not a size"):
        trace("resnet18", batch=0)
    with pytest.raises(HwoptError, match="unknown optimizer"):
        trace("resnet18", mode="train", optimizer="adam9000")
    with pytest.raises(HwoptError, match="no mode 'decode'"):
        trace("resnet18", mode="decode")
    with pytest.raises(UnknownNameError):
        trace("resnet1800")
    with pytest.raises(HwoptError, match="no override"):
        trace("resnet18", overrides={"depth": 3})
    with pytest.raises(TraceError, match="cannot capture Branching"):
        trace(Branching(), (torch.zeros(3),))
    with pytest.raises(HwoptError, match="no overrides"):
        trace(nn.Linear(2, 2), (torch.zeros(3, 2),), overrides={"width": 3})


def test_models_are_left_as_they_were():
    """Tracing neither moves nor changes a module that was given."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)) for _ in range(8)))
    weight = model[7][0].weight
    trace(model, (torch.zeros(2, 4),), mode="train")
    trace(model, (torch.zeros(2, 4),))
    assert len(model) == 8
    assert model[7][0].weight is weight
    assert model[0][1].p == 0.5
    assert model.training


def test_frozen_parameters_have_no_gradient():
    """They count as parameters, and neither gradient nor optimizer step is computed for them."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    model[0].requires_grad_(requires_grad=False)
    graph = trace(model, (torch.zeros(3, 4),), mode="train")
    assert graph.parameter_count == 58
    assert [n for n in graph.outputs if n.endswith(".grad")] == ["1.weight.grad", "1.bias.grad"]
    assert graph.macs == 3 * (32 + 16) + 3 * 16
    assert "0.weight.next" not in graph.tensor


def test_outputs_begin_with_the_loss():
    """Then gradients in the order of the parameters, then changed buffers, then the optimizer's."""
    graph = trace("resnet18", mode="train", overrides={"width": 8})
    names = [t.name for t in graph.parameters]
    outputs = list(graph.outputs)
    assert outputs[0] == "loss"
    assert outputs[1 : 1 + len(names)] == [
        f"{n}.grad" for n, _ in find("resnet18").build(width=8).named_parameters()
    ]
    assert outputs[1 + len(names)].endswith(".next")


def test_alternating_dimensions_are_captured_statically():
    """A dimension or factor that differs from an earlier trace does not become symbolic."""
    for width in (32, 48, 64, 80):
        knobs = {"width": width, "heads": 2, "depth": 1, "vocabulary": 60}
        graph = trace("opt-125m", mode="train", seq=8, cache=False, overrides=knobs)
        assert graph.tensor["input_ids"].shape == (1, 8)
