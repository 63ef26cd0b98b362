"""The library of models: names, published sizes, overrides, errors."""

import csv

import pytest
import torch

from hwopt.errors import HwoptError, TraceError, UnknownNameError
from hwopt.models.configuration import from_config
from hwopt.models.library import Entry, add, find, library

PUBLISHED = {
    "alexnet": 61_100_840, "bert-base": 109_514_298, "bert-large": 335_174_458,
    "gpt2": 124_439_808, "llama-2-7b": 6_738_415_616, "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192, "llama-3-8b": 8_030_261_248, "llama-3-70b": 70_553_706_496,
    "llama-3-405b": 405_853_388_800, "mixtral-8x7b": 46_702_792_704, "mobilenet-v2": 3_504_872,
    "opt-125m": 125_239_296, "opt-350m": 331_196_416, "opt-1.3b": 1_315_758_080,
    "resnet18": 11_689_512, "resnet50": 25_557_032, "vgg16": 138_357_544, "vit-b-16": 86_567_656,
}  # fmt: skip
"""Parameters of the published models; BERT with its masked-language-model head."""


def build(name, **overrides):
    with torch.device("meta"):
        return find(name).build(**overrides)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name):
    """Each model has exactly the published number of parameters."""
    assert sum(p.numel() for p in build(name).parameters()) == PUBLISHED[name]


def test_lstm_sizes():
    """The Penn Treebank models: 4 gates of (inputs + states) and two biases per layer."""
    for name, width in (("ptb-lstm", 650), ("ptb-lstm-large", 1500)):
        lstm = 2 * (8 * width * width + 8 * width)
        want = 10_000 * width + lstm + (width + 1) * 10_000
        assert sum(p.numel() for p in build(name).parameters()) == want


@pytest.mark.parametrize("name", list(library))
def test_every_model_is_built_without_memory(name):
    """All of a model is on the meta device, and says what it is."""
    entry = library[name]
    assert all(p.is_meta for p in build(name).parameters())
    assert entry.about
    assert "forward" in entry.modes


def test_opt_sizes_follow_the_published_table(reference):
    """Layers, widths, heads and inner sizes of every OPT model."""
    rows = csv.DictReader((reference / "opt_model_configs.csv").read_text().splitlines())
    for row in rows:
        config = build(row["model"]).config
        assert config.num_hidden_layers == int(row["layers"])
        assert config.hidden_size == int(row["hidden"])
        assert config.num_attention_heads == int(row["heads"])
        assert config.ffn_dim == int(row["ffn"])
        assert config.word_embed_proj_dim == int(row["word_embed_proj_dim"])
        assert config.vocab_size == int(row["vocab"])


def test_names_forgive_case_and_separators():
    """ResNet50, Llama_2_7B and "OPT 1.3B" are found."""
    assert find("ResNet50").name == "resnet50"
    assert find("Llama_2_7B").name == "llama-2-7b"
    assert find("OPT 1.3B").name == "opt-1.3b"


def test_unknown_name_lists_the_nearest():
    """The error says what exists."""
    with pytest.raises(UnknownNameError, match="resnet50"):
        find("resnet51")


def test_width_keeps_the_proportions():
    """Inner size, head size and the sharing of key heads follow the width."""
    config = build("llama-3-8b", width=512, depth=3).config
    assert (config.hidden_size, config.num_hidden_layers) == (512, 3)
    assert (config.intermediate_size, config.num_attention_heads) == (1792, 4)
    assert config.num_key_value_heads == 1
    config = build("opt-350m", width=256, heads=8, inner=100).config
    assert (config.word_embed_proj_dim, config.ffn_dim) == (128, 100)
    assert config.num_attention_heads == 8


def test_overrides_that_do_not_fit():
    """Unknown overrides, sizes that are none, and heads that do not divide the width."""
    with pytest.raises(HwoptError, match="no override 'widht'"):
        build("llama-2-7b", widht=512)
    with pytest.raises(HwoptError, match="at least 1"):
        build("resnet50", classes=0)
    with pytest.raises(HwoptError, match="heads"):
        build("opt-125m", width=100)
    with pytest.raises(HwoptError, match="do not divide"):
        build("opt-125m", width=128, heads=3)


def test_adding_a_model_is_one_call():
    """An entry of one's own is found and built like any other."""
    entry = Entry(
        "tiny-net", "two layers", "vision",
        lambda width=8: torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 2)),
        {"input": ((4,), "float32")}, {"width": "units"},
    )  # fmt: skip
    add(entry)
    try:
        from hwopt import trace

        assert trace("Tiny_Net", batch=3, overrides={"width": 5}).macs == 3 * (4 * 5 + 5 * 2)
    finally:
        library.remove("tiny-net")


def test_configurations_that_cannot_be_built():
    """Unknown model types, classes and sizes are one clear error each."""
    with pytest.raises(TraceError, match="model_type"):
        from_config({})
    with pytest.raises(TraceError, match="cannot build"):
        from_config({"model_type": "no-such-model"})
    with pytest.raises(TraceError, match="no such class"):
        from_config({"model_type": "opt", "architectures": ["NoSuchModel"]})
    with pytest.raises(TraceError, match="not part of transformers"):
        from_config({"model_type": "opt", "auto_map": {"AutoModel": "code.Model"}})
    with torch.device("meta"), pytest.raises(TraceError, match="cannot build"):
        from_config({"model_type": "llama", "hidden_size": -4})
