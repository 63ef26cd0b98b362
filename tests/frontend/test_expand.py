"""Expansion of repeated blocks equals the trace of all of them, name by name."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import hwopt.frontend.pipeline as pipeline
from hwopt import trace
from hwopt.errors import TraceError
from hwopt.frontend.expand import MismatchError, expand_stack
from hwopt.frontend.repeat import Stack, find_stacks, shortened
from hwopt.ir.graph import Graph
from hwopt.models.library import find

SMALL = {
    "opt-125m": {"width": 128, "heads": 4, "depth": 6},
    "llama-3-8b": {"width": 128, "heads": 8, "depth": 6, "vocabulary": 100},
    "bert-base": {"width": 128, "heads": 4, "depth": 6},
    "gpt2": {"width": 128, "heads": 4, "depth": 6},
    "vit-b-16": {"width": 128, "heads": 4, "depth": 6},
    "mixtral-8x7b": {"width": 128, "heads": 8, "depth": 6, "vocabulary": 100},
}
CASES = [
    pytest.param(n, m, marks=() if (n, m) in QUICK else pytest.mark.slow)
    for QUICK in [(("opt-125m", "train"), ("llama-3-8b", "decode"), ("gpt2", "prefill"))]
    for n in SMALL
    for m in find(n).modes
]


@pytest.fixture
def expanded(monkeypatch):
    """Collects whether traces were expanded."""
    seen = []
    original = pipeline._expanded

    def spy(*arguments):
        graph = original(*arguments)
        seen.append(graph is not None)
        return graph

    monkeypatch.setattr(pipeline, "_expanded", spy)
    return seen


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_expanded_equals_full_trace(name, mode, expanded):
    """The same graph, tensor by tensor and name by name."""
    options = {"mode": mode, "overrides": SMALL[name], "seq": 12, "cache": False}
    short = trace(name, **options)
    assert expanded == [True]
    assert short == trace(name, expand=False, **options)


class Block(nn.Module):
    """A linear layer and a factor."""

    def __init__(self, *, bias=True):
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=bias)

    def forward(self, x, factor):
        return self.linear(x) * factor


class Blocks(nn.Module):
    """A stack of blocks. `special`: one is another; `gather`: all are read at the end; `scale`:
    each has another factor; `between`: there is work outside the blocks.
    """

    def __init__(self, count=7, *, special=None, gather=False, scale=False, between=False):
        super().__init__()
        self.blocks = nn.ModuleList(Block(bias=i != special) for i in range(count))
        self.gather, self.scale, self.between = gather, scale, between

    def forward(self, x):
        seen = []
        for number, block in enumerate(self.blocks):
            x = block(x + 1 if self.between else x, number + 2.0 if self.scale else 2.0)
            seen.append(x)
        return torch.cat(seen) if self.gather else x


@pytest.mark.parametrize(
    ("options", "short"),
    [({}, True), ({"special": 0}, True), ({"special": 5}, False), ({"gather": True}, False),
     ({"scale": True}, False), ({"between": True}, False)],
)  # fmt: skip
def test_what_is_expanded(options, short, expanded):
    """Equal blocks are expanded, the first may differ; anything else is traced in full."""
    inputs = (torch.zeros(2, 4),)
    model = Blocks(**options)
    graph = trace(model, inputs)
    assert (expanded == [True]) is short
    assert graph == trace(model, inputs, expand=False)
    assert sum(op.macs for op in graph.ops) == 7 * 2 * 16


def test_stacks_of_library_models():
    """Where the repeated blocks of each kind of model are."""
    with torch.device("meta"):
        found = {name: find_stacks(find(name).build()) for name in ("opt-30b", "gpt2", "vgg16")}
    assert [(s.path, s.count) for s in found["opt-30b"]] == [("model.decoder.layers", 48)]
    assert [(s.path, s.count) for s in found["gpt2"]] == [("transformer.h", 12)]
    assert found["vgg16"] == ()


def test_layers_that_a_configuration_sets_apart_are_not_a_stack():
    """Gemma 2 alternates attention windows: its layers are not equal."""
    import transformers

    settings = transformers.Gemma2Config(
        hidden_size=32, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, vocab_size=96, head_dim=8,
    )  # fmt: skip
    with torch.device("meta"):
        assert find_stacks(transformers.Gemma2ForCausalLM(settings)) == ()


def test_shortened_puts_everything_back():
    """Also when the trace inside fails."""
    model = Blocks()
    blocks = list(model.blocks)
    stacks = find_stacks(model)
    with pytest.raises(TraceError), shortened(stacks):
        trace(model, (torch.zeros(2, 5),))
    with shortened(stacks):
        assert list(model.blocks) == blocks[:4]
    assert all(a is b for a, b in zip(model.blocks, blocks, strict=True))


def test_mismatch_is_refused():
    """Blocks 1 and 2 that differ cannot stand for others."""
    model = Blocks(4, scale=True)
    graph = trace(model, (torch.zeros(2, 4),))
    with pytest.raises(MismatchError, match="blocks 1 and 2 differ"):
        expand_stack(graph, Stack("blocks", model.blocks, 9), ())
    assert isinstance(graph, Graph)


BUDGET = """
import resource, sys, time
import torch, transformers, torch._dynamo, torch.export
import hwopt.frontend.pipeline
from hwopt import trace
from hwopt.errors import TraceError
from hwopt.models.library import library
list(library)
begin = time.process_time()
graph = trace(sys.argv[1], mode=sys.argv[2], seq=2048, cache=False)
print(time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["opt-175b", "llama-3-405b"])
@pytest.mark.parametrize(("mode", "seconds"), [("forward", 10), ("train", 15)])
def test_huge_models_are_traced_within_budget(name, mode, seconds):
    """CPU seconds (imports apart, building the model included) and memory."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUDGET, name, mode],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    cpu, memory = map(float, done.stdout.split())
    assert cpu < seconds
    assert memory < 2 * 2**30
