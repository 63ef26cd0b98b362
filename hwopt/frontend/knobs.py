"""The sizes of a model that can be turned: its knobs, the batch and the sequence, as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hwopt.frontend import huggingface
from hwopt.frontend.capture import Request
from hwopt.frontend.resolve import resolve
from hwopt.models.library import find

CONFIGURATION_KEYS = (
    "hidden_size", "n_embd", "num_hidden_layers", "n_layer", "num_attention_heads", "n_head",
    "num_key_value_heads", "intermediate_size", "ffn_dim", "n_inner", "vocab_size", "num_labels",
)  # fmt: skip
"""Keys of a configuration file that are sizes of the model."""
FOLLOWERS = ("heads", "inner")
"""Knobs that follow the width unless they are given."""


def model_knobs(
    model: str, *, batch: int = 1, seq: int | None = None,
    overrides: Mapping[str, int] | None = None,
) -> dict[str, int]:  # fmt: skip
    """Each knob of `trace` that the model may have, with its present size.

    `batch`, `seq` where the model has tokens, then the overrides of a library model, or the sizes
    in a configuration. Of an ONNX file and a factory only what is given is known.
    """
    given = dict(overrides or {})
    knobs = {"batch": batch}
    if seq is not None:
        knobs["seq"] = seq
    path = Path(model)
    if path.suffix == ".onnx" or ":" in model:
        return {**knobs, **given}
    if path.exists() or path.suffix == ".json" or "/" in model:
        config = huggingface.read_config(path)
        sizes = {key: config[key] for key in CONFIGURATION_KEYS if isinstance(config.get(key), int)}
        if seq is None and "vocab_size" in config:
            module = resolve(model, Request(overrides=tuple(sorted(given.items())))).build()
            assert not isinstance(module, tuple), "a configuration gives a module alone"
            knobs["seq"] = huggingface.default_seq(module)
        return {**knobs, **sizes, **given}
    entry = find(model)
    if seq is None and entry.seq is not None:
        knobs["seq"] = entry.seq
    known = {
        name: size
        for name, size in entry.sizes.items()
        if not ("width" in given and name in FOLLOWERS)
    }
    return {**knobs, **known, **given}
