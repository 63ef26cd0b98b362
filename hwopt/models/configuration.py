"""Models of the transformers library from a configuration alone: no weights, no network.

A family is one JSON file beside this one: the class, what its configurations share, and the
configurations by name. `register(...)` makes an entry of each:

    register("opt.json", {"width": "hidden_size", "depth": "num_hidden_layers", ...})
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwopt.errors import HwoptError, TraceError
from hwopt.files import read_json
from hwopt.models.library import Entry, LossName, Specification, add, require

OVERRIDES = {
    "width": "hidden size (inner size and heads follow in proportion unless given)",
    "depth": "layers",
    "heads": "attention heads (key/value heads follow in proportion)",
    "inner": "inner size of the feed-forward part",
    "vocabulary": "words",
}
LANGUAGE_MODES = ("forward", "prefill", "decode", "train")


def register(
    file: str,
    knobs: Mapping[str, str],
    *,
    scaled: tuple[str, ...] = (),
    modes: tuple[str, ...] = LANGUAGE_MODES,
    loss: LossName = "labels",
    inputs: Mapping[str, Specification] | None = None,
) -> None:
    """Add an entry for each configuration of a family's file.

    `knobs` maps overrides (`OVERRIDES`, and "kv_heads", which only follows) to configuration keys;
    `scaled` names further keys that grow with the width. Inputs are token ids unless given.
    """
    data = read_json(Path(__file__).with_name(file))
    seq = data.get("seq")
    overrides = {name: text for name, text in OVERRIDES.items() if name in knobs}
    for name, own in data["models"].items():
        shared = {**data["shared"], **own}

        def make(shared: dict[str, Any] = shared, **values: int) -> nn.Module:
            config = scale(shared, dict(knobs), scaled, values)
            return from_config({**config, "architectures": [data["architecture"]]})

        values = {knob: shared[knobs[knob]] for knob in overrides if knobs[knob] in shared}
        add(
            Entry(
                name, f"{data['about']}, {data['architecture']}", data["family"], make,
                inputs or {"input_ids": ((-1,), "int64")}, overrides, modes, loss, seq, values,
            )
        )  # fmt: skip


def scale(
    config: dict[str, Any], knobs: dict[str, str], scaled: tuple[str, ...], values: dict[str, int]
) -> dict[str, Any]:
    """A configuration with overrides applied: ratios and the size of a head are kept.

    Raises `HwoptError` where the heads do not divide the width.
    """
    if not values:
        return config
    result = {**config, **{knobs[name]: value for name, value in values.items()}}
    width, heads = knobs["width"], knobs["heads"]
    old, new = config[width], result[width]
    inner = (knobs["inner"],) if "inner" in knobs and "inner" not in values else ()
    for key in (*inner, *scaled):
        result[key] = config[key] * new // old
    if "heads" not in values and new != old:
        size = old // config[heads]
        require(
            new % size == 0, f"width is not a multiple of the size of a head ({size})", new,
            f"a multiple of {size}, or give heads as well",
        )  # fmt: skip
        result[heads] = new // size
    require(
        new % result[heads] == 0, f"heads ({result[heads]}) do not divide the width", new,
        f"a multiple of {result[heads]}",
    )  # fmt: skip
    if (shared := knobs.get("kv_heads")) is not None:
        most = max(1, result[heads] * config[shared] // config[heads])
        result[shared] = next(n for n in range(most, 0, -1) if result[heads] % n == 0)
    return result


def from_config(config: dict[str, Any], *, dtype: torch.dtype | None = None) -> nn.Module:
    """The model of a transformers configuration (the content of a config.json), not initialised.

    The class is the first of `architectures`, else the causal language model of the model type,
    else its bare model. Built on the default device. Raises `TraceError` when transformers does not
    know the model type or refuses the configuration.
    """
    import transformers
    from transformers.initialization import no_init_weights

    model_type = config.get("model_type")
    if model_type is None:
        raise TraceError("the configuration has no model_type", fix="add it, e.g. llama")
    if config.get("auto_map"):
        raise TraceError(
            "the model's code is not part of transformers", value=model_type,
            fix="give a package.module:factory that builds it",
        )  # fmt: skip
    try:
        settings = transformers.AutoConfig.for_model(
            **{key: value for key, value in config.items() if key != "transformers_version"}
        )
        model_class = _model_class(transformers, settings)
        with no_init_weights():
            model: nn.Module = model_class._from_config(  # noqa: SLF001 - the public name is on Auto classes
                settings, dtype=dtype or torch.get_default_dtype()
            )
    except HwoptError:
        raise
    except Exception as error:
        raise TraceError(
            f"transformers cannot build a {model_type} of this configuration",
            value=f"{type(error).__name__}: {str(error)[:300]}",
        ) from error
    model.tie_weights()  # type: ignore[operator]
    return model


def _model_class(transformers: Any, settings: Any) -> Any:
    """The class named by the configuration, else the best head for its model type."""
    for name in settings.architectures or ():
        if (model_class := getattr(transformers, name, None)) is not None:
            return model_class
        raise TraceError(
            "transformers has no such class", value=name, fix="correct `architectures`"
        )
    for auto in ("AutoModelForCausalLM", "AutoModelForImageClassification", "AutoModel"):
        mapping = getattr(transformers, auto)._model_mapping  # noqa: SLF001 - the table of classes
        if type(settings) in mapping:
            found = mapping[type(settings)]
            return found[0] if isinstance(found, tuple) else found
    raise TraceError("transformers has no model for this configuration", value=settings.model_type)
