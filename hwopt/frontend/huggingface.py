"""Models of the transformers library: configurations from files, inputs, key/value caches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwopt.errors import FileFormatError, HwoptError, PathError, TraceError
from hwopt.files import read_text
from hwopt.frontend.captured import Captured
from hwopt.frontend.inference import capture_inference, exported
from hwopt.frontend.naming import WRAPPED
from hwopt.frontend.subject import accepts, device_of
from hwopt.ir.tensor import Role
from hwopt.models.library import Specification

LONGEST = 512
"""Tokens of a sequence when nobody says how many, where the model takes so many."""

_LABELLED = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")
_PROBE = 4
"""Tokens of the prefill that shows the shape of a cache."""

_TOKEN_STATES = ("keys", "values", "indexer_keys")
_TOKEN_AXIS = {"keys": -2, "values": -2, "indexer_keys": 1}
_FIXED_STATES = ("conv_states", "recurrent_states")


def read_config(path: Path) -> dict[str, Any]:
    """The content of a config.json, or of the one in a folder."""
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise PathError("no such file", where=str(file), fix="name a folder with a config.json")
    try:
        data = json.loads(read_text(file))  # these files may hold Infinity, which JSON lacks
    except (json.JSONDecodeError, RecursionError) as error:
        raise FileFormatError(f"invalid JSON: {error}", where=str(file)) from error
    if not isinstance(data, dict) or "model_type" not in data:
        raise FileFormatError(
            "not a transformers configuration: it has no model_type", where=str(file)
        )
    return data


def is_transformers(module: nn.Module) -> bool:
    """Whether the module comes with a configuration that says what it takes."""
    return hasattr(module, "config") and hasattr(module, "main_input_name")


def default_seq(module: nn.Module) -> int:
    """The length of a sequence when none is given."""
    limit = getattr(_text_config(module), "max_position_embeddings", None)
    return min(LONGEST, limit) if isinstance(limit, int) and limit > 0 else LONGEST


def input_shapes(module: nn.Module, batch: int, seq: int | None) -> dict[str, Specification]:
    """Shape and element type of each input of a forward pass.

    Raises `TraceError` for models that take what cannot be known from the configuration.
    """
    config: Any = module.config
    main = str(module.main_input_name)
    length = seq if seq is not None else default_seq(module)
    shapes: dict[str, Specification] = {}
    if main == "input_ids" or hasattr(module, "logit_scale"):
        limit = getattr(_text_config(module), "max_position_embeddings", None)
        if hasattr(module, "logit_scale") and isinstance(limit, int):
            length = min(length, limit)
        shapes["input_ids"] = ((batch, length), "int64")
    if main == "pixel_values" or hasattr(module, "logit_scale"):
        shapes["pixel_values"] = ((batch, *_image(config)), "float32")
    if main == "input_features":
        frames = 2 * int(getattr(config, "max_source_positions", length))
        shapes["input_features"] = ((batch, int(config.num_mel_bins), frames), "float32")
    if main == "input_values":
        shapes["input_values"] = ((batch, seq or 16_000), "float32")
    if not shapes:
        raise TraceError(
            f"{type(module).__name__} takes {main}, whose shape does not follow from its "
            "configuration", fix="give the model as a module or factory, with inputs",
        )  # fmt: skip
    if getattr(config, "is_encoder_decoder", False) and accepts(module, "decoder_input_ids"):
        shapes["decoder_input_ids"] = ((batch, length), "int64")
    return shapes


def is_labelled(module: nn.Module) -> bool:
    """Whether the module computes a language-modelling loss from `labels`."""
    name = type(module).__name__
    return accepts(module, "labels") and any(name.endswith(suffix) for suffix in _LABELLED)


def check_positions(module: nn.Module, length: int) -> None:
    """Refuse a sequence longer than a table of learned positions."""
    limit = getattr(_text_config(module), "max_position_embeddings", None)
    if not isinstance(limit, int) or length <= limit:
        return
    for name, part in module.named_modules():
        if isinstance(part, nn.Embedding) and limit <= part.num_embeddings <= limit + 2:
            raise HwoptError(
                f"the sequence is longer than the model's table of positions ({name})",
                value=length, allowed=f"at most {limit}",
            )  # fmt: skip


def call_options(module: nn.Module) -> dict[str, Any]:
    """Keyword arguments of a plain forward pass: no cache is built."""
    return {"use_cache": False} if accepts(module, "use_cache") else {}


class Recorded(Mapping[int, tuple[str | None, Role]]):
    """Names of the states that a call returned. As a mapping: names and roles of the outputs by
    position. (Its own object, because export puts the attributes of a module back.)
    """

    def __init__(self) -> None:
        self.labels: list[str] = []

    def __getitem__(self, position: int) -> tuple[str | None, Role]:
        if position == 0:
            raise KeyError(position)
        return f"{self.labels[position - 1]}.next", "cache"

    def __deepcopy__(self, memo: dict[int, Any]) -> Recorded:
        return self

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, len(self) + 1))

    def __len__(self) -> int:
        return len(self.labels)


class Cached(nn.Module):
    """A causal language model under flat tensors: tokens, then the states of its cache.

    Returns the logits of the last token, then the new states; `recorded.labels` names the states
    of the last call, in order.
    """

    def __init__(self, model: nn.Module, states: Mapping[str, torch.Tensor], cached: int) -> None:
        super().__init__()
        setattr(self, WRAPPED, model)
        self.recorded = Recorded()
        self._states = tuple(states)
        self._cached = cached
        last = accepts(model, "logits_to_keep")
        self._options = {"use_cache": True, **({"logits_to_keep": 1} if last else {})}

    def forward(self, tokens: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tokens (batch, new) and states to logits and new states."""
        model = getattr(self, WRAPPED)
        cache = _new_cache(model)
        fill(cache, dict(zip(self._states, states, strict=True)), self._cached)
        result = model(input_ids=tokens, past_key_values=cache, **self._options)
        after = read(result.past_key_values)
        self.recorded.labels = list(after)
        return (result.logits, *after.values())


def capture_cached(name: str, module: nn.Module, batch: int, seq: int, *, decode: bool) -> Captured:
    """A prefill of `seq` tokens, or one token against `seq` cached ones.

    Cached tensors are called `cache.LAYER.keys` and so on; what the pass makes of them is
    `cache.LAYER.keys.next`. Raises `TraceError` when the model keeps no such cache.
    """
    if not accepts(module, "past_key_values") or not is_transformers(module):
        raise TraceError(f"{name} has no key/value cache", fix="use --mode forward")
    states: dict[str, torch.Tensor] = {}
    if decode:
        states = cache_states(name, module, batch, seq)
    new = 1 if decode else seq
    wrapped = Cached(module, states, seq if decode else 0)
    tokens = torch.zeros((batch, new), dtype=torch.int64, device=device_of(module))
    inputs = {"input_ids": tokens, **states}
    roles: dict[str, Role] = dict.fromkeys(states, "cache")
    return capture_inference(name, wrapped, inputs, roles=roles, results=wrapped.recorded)


def cache_states(name: str, model: nn.Module, batch: int, seq: int) -> dict[str, torch.Tensor]:
    """Tensors of a cache that holds `seq` tokens, as a short prefill shows its form."""
    probe = Cached(model, {}, 0)
    tokens = torch.zeros((batch, _PROBE), dtype=torch.int64, device=device_of(model))
    program = exported(name, probe, (tokens,))
    output = next(node for node in program.graph.nodes if node.op == "output")
    windows = {
        index: getattr(layer, "sliding_window", None)
        for index, layer in enumerate(_new_cache(model).layers)
    }
    states = {}
    for label, node in zip(probe.recorded.labels, output.args[0][1:], strict=True):
        value = node.meta["val"]
        shape = list(value.shape)
        _, layer, kind = label.split(".", 2)
        if kind in _TOKEN_AXIS:
            window = windows.get(int(layer))
            shape[_TOKEN_AXIS[kind]] = min(seq, window - 1) if window else seq
        states[label] = torch.empty(shape, dtype=value.dtype, device=device_of(model))
    return states


def read(cache: Any) -> dict[str, torch.Tensor]:
    """The tensors of a cache by name: keys and values, or states of a recurrence."""
    found: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(cache.layers):
        for kind in _TOKEN_STATES:
            value = getattr(layer, kind, None)
            if isinstance(value, torch.Tensor) and value.numel():
                found[f"cache.{index}.{kind}"] = value
        for kind in _FIXED_STATES:
            for number, value in (getattr(layer, kind, None) or {}).items():
                if isinstance(value, torch.Tensor):
                    found[f"cache.{index}.{kind}.{number}"] = value
    return found


def fill(cache: Any, states: Mapping[str, torch.Tensor], seq: int) -> None:
    """Put tensors that `read` named into a fresh cache that has seen `seq` tokens."""
    for label, value in states.items():
        _, index, kind, *number = label.split(".")
        layer = cache.layers[int(index)]
        layer.dtype, layer.device = value.dtype, value.device
        if number:
            own = int(number[0])
            getattr(layer, kind)[own] = value.clone()
            getattr(layer, f"is_{kind}_initialized")[own] = True
            layer.has_previous_state[own] = True
            if kind == "conv_states":
                layer.conv_kernel_size[own] = value.shape[-1]
            continue
        setattr(layer, kind, value)
        if kind == "indexer_keys":
            layer.is_indexer_initialized = True
            continue
        layer.is_initialized = True
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = seq


def _new_cache(model: nn.Module) -> Any:
    import transformers

    return transformers.DynamicCache(config=model.config)


def _text_config(module: nn.Module) -> Any:
    config: Any = module.config
    reader = getattr(config, "get_text_config", None)
    return reader() if reader is not None else config


def _image(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of an image."""
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", None) or 224
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(getattr(vision, "num_channels", 3)), int(height), int(width)
