"""Knobs with their present sizes, and what they are of other kinds of models."""

import json

import pytest

from hwopt.errors import UnknownNameError
from hwopt.frontend.knobs import model_knobs
from hwopt.models.library import library


@pytest.mark.parametrize("name", list(library))
def test_every_override_of_the_library_has_a_size(name):
    """An integer of at least 1, also of what is in a configuration."""
    entry = library[name]
    assert set(entry.sizes) == set(entry.overrides)
    assert all(isinstance(size, int) and size >= 1 for size in entry.sizes.values())


def test_library_models():
    """Batch, tokens where there are any, overrides; what is given replaces."""
    assert model_knobs("resnet18", batch=4) == {"batch": 4, "width": 64, "classes": 1000}
    assert model_knobs("gpt2") == {
        "batch": 1, "seq": 512, "width": 768, "depth": 12, "heads": 12, "vocabulary": 50257,
    }  # fmt: skip
    assert model_knobs("gpt2", seq=8, overrides={"depth": 2})["depth"] == 2
    assert model_knobs("gpt2", seq=8)["seq"] == 8


def test_what_follows_the_width_is_left_out_when_the_width_is_given():
    """Its size is no longer that of the entry."""
    knobs = model_knobs("bert-base", overrides={"width": 384})
    assert knobs["width"] == 384
    assert "heads" not in knobs
    assert "inner" not in knobs
    assert model_knobs("bert-base", overrides={"width": 384, "heads": 6})["heads"] == 6


def test_a_configuration_file(tmp_path):
    """The sizes it states, and the tokens that the model takes by itself."""
    config = {
        "model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64,
        "n_positions": 24, "architectures": ["GPT2LMHeadModel"],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    knobs = model_knobs(str(tmp_path / "config.json"))
    assert knobs == {
        "batch": 1, "seq": 24, "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64,
    }  # fmt: skip
    assert model_knobs(str(tmp_path), seq=4, overrides={"n_layer": 6})["n_layer"] == 6


def test_factories_and_onnx_files_know_what_is_given():
    """Nothing is imported or read."""
    assert model_knobs("package.module:make", overrides={"rows": 3}) == {"batch": 1, "rows": 3}
    assert model_knobs("net.onnx", batch=2) == {"batch": 2}


def test_unknown_names():
    """The usual error."""
    with pytest.raises(UnknownNameError):
        model_knobs("resnet51")
