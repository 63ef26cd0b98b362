"""Building the model of a role: weights from a folder, or a seeded random start.

A random start is transformers' own initialisation, drawn in float32 from the seed alone: the same
numbers for every ZeRO stage, element type and number of processes. Under ZeRO-3 every layer is
partitioned as soon as it exists, so no process ever holds the whole model.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.initialization import no_init_weights

from rlhf import lora
from rlhf.errors import ModelError
from rlhf.export import export_model
from rlhf.networks import Policy, RoleModule, ValueModel
from rlhf.plan import Engine, RoleModel
from rlhf.sources import Source, dropouts, find_source

__all__ = [
    "DTYPES",
    "Policy",
    "RoleModule",
    "ValueModel",
    "build_model",
    "export_model",
]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_model(
    source: Path | str | dict[str, Any],
    kind: Literal["policy", "value"],
    *,
    engine: Engine,
    role: RoleModel,
    seed: int,
    device: torch.device | str = "cpu",
    tokenizer: Any = None,
) -> RoleModule:
    """The model of a role, ready for `rlhf.engine.start_engine`.

    Args:
        source: A Hugging Face folder, a config.json, a name of `hwopt list models`, or the content
            of a config.json. Weights are read from safetensors where the folder has them.
        kind: "policy" has the vocabulary head; "value" has none, and a head of one number instead:
            read where the folder is a value model's, else new, with standard deviation
            1 / sqrt(width + 1) (Stiennon et al., arXiv 2009.01325).
        engine: Its ZeRO stage and element type; stage 3 partitions while building.
        role: Adapters, gradient checkpointing and dropout.
        seed: Of everything random.
        device: Where the weights are put (at ZeRO-3: chosen by DeepSpeed).
        tokenizer: Fills the vocabulary's size and the special ids of a model without weights.

    Raises `ModelError` where the source or its weights cannot be used.
    """
    found = find_source(source, tokenizer)
    if kind == "policy" and found.value_head is not None:
        raise ModelError(
            "a value model has no vocabulary head, so it cannot be a policy", where=found.name
        )
    config, original = _configuration(found, role.dropout or 0.0)
    with _quiet(), torch.random.fork_rng(devices=[]), _partitioned(engine):
        torch.manual_seed(seed)
        model = _hugging_face(found, config, kind, engine)
    cast("Any", model).dropouts = original  # restored in an exported configuration
    module = _with_head(model, found, kind, seed)
    _prepare(module, role, seed)
    _cast(module, DTYPES[engine.dtype])
    return module.to(device) if engine.zero < 3 else module


def _configuration(source: Source, dropout: float) -> tuple[Any, dict[str, float]]:
    """The configuration with every dropout set, and what the dropouts were."""
    changed = {key: value for key, value in source.config.items() if key != "transformers_version"}
    try:
        config = transformers.AutoConfig.for_model(**changed)
    except Exception as error:  # whatever transformers' validation raises
        raise ModelError(
            "transformers refuses the configuration", where=source.name,
            value=f"{type(error).__name__}: {str(error)[:300]}",
        ) from error  # fmt: skip
    values = config.to_dict()
    names = dropouts(values)
    original = {name: values[name] for name in names}
    for name in names:
        setattr(config, name, 0.0 if name == "layerdrop" else dropout)
    return config, original


def _hugging_face(source: Source, config: Any, kind: str, engine: Engine) -> nn.Module:
    """The transformers model: causal LM or backbone.

    Without ZeRO-3 a random start is drawn after construction, as transformers does with it: so both
    draw the same numbers.
    """
    auto = transformers.AutoModelForCausalLM if kind == "policy" else transformers.AutoModel
    try:
        if source.folder is None:
            if engine.zero == 3:
                return cast("nn.Module", auto.from_config(config, dtype=torch.float32))
            with no_init_weights():
                built = auto.from_config(config, dtype=torch.float32)
            built.init_weights()
            return cast("nn.Module", built)
        model, report = auto.from_pretrained(
            source.folder, config=config, dtype=torch.float32, local_files_only=True,
            use_safetensors=True, trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"transformers cannot make a {'causal language' if kind == 'policy' else 'backbone'} "
            "model of this", where=source.name, value=f"{type(error).__name__}: {str(error)[:300]}",
            fix="check that config.json and the weights belong together",
        ) from error  # fmt: skip
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"the folder lacks {len(missing)} weights of the model", where=source.name,
            value=missing[0], fix="check that config.json and the weights belong together",
        )  # fmt: skip
    return cast("nn.Module", model)


def _with_head(model: nn.Module, source: Source, kind: str, seed: int) -> RoleModule:
    """A policy, or a value model with its head read or drawn."""
    if kind == "policy":
        return Policy(model)
    module = ValueModel(model, _output_width(model))
    weight = module.head.weight
    if source.value_head is not None:
        stored = load_file(source.value_head).get("weight")
        if stored is None or stored.shape != weight.shape:
            raise ModelError(
                "the value head does not fit the backbone", where=str(source.value_head),
                value=None if stored is None else tuple(stored.shape),
                allowed=f'a tensor "weight" of shape {tuple(weight.shape)}',
            )  # fmt: skip
        weight.data = stored.float()
    else:
        spread = 1 / math.sqrt(weight.shape[1] + 1)
        generator = torch.Generator().manual_seed(seed)
        weight.data = torch.empty(weight.shape).normal_(0, spread, generator=generator)
    return module


def _output_width(model: Any) -> int:
    """The width of a backbone's output (not always `hidden_size`: OPT-350m projects it): what the
    vocabulary head of the causal language model reads.
    """
    with torch.device("meta"), _quiet():
        twin = transformers.AutoModelForCausalLM.from_config(model.config)
    return int(twin.get_output_embeddings().weight.shape[1])


def _prepare(module: RoleModule, role: RoleModel, seed: int) -> None:
    """Adapters and gradient checkpointing."""
    model = module.model
    if role.lora is not None:
        head = model.get_output_embeddings()
        lora.add(model, role.lora, seed=seed, skip=[] if head is None else [head])
    if role.gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise ModelError(
                "the model cannot recompute activations", value=model.config.model_type,
                fix="leave gradient_checkpointing out",
            )  # fmt: skip
        model.activation_checkpointing_enable({"use_reentrant": False})


@contextmanager
def _partitioned(engine: Engine) -> Iterator[None]:
    """Inside, transformers partitions each layer as it is made (ZeRO-3 only).

    In float32 whatever the engine's type, so that a random start is the same for all.
    """
    if engine.zero < 3:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig

    from rlhf.engine import prepare  # which imports this file

    prepare()
    zero: dict[str, Any] = {"stage": 3}
    if engine.offload.parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    config = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero})
    linear = nn.functional.linear
    try:
        yield
    finally:
        nn.functional.linear = linear  # DeepSpeed's stays otherwise, for every model there is
        del config  # transformers holds it weakly: from here on it builds whole models again
        gc.collect()


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Weights in the type that is computed in, partitioned ones too, and in memory of their own: a
    file that they were read from may change, and at odd addresses sums round otherwise. Buffers
    (the frequencies of rotary positions) keep their type.
    """
    for parameter in module.parameters():
        if (partition := getattr(parameter, "ds_tensor", None)) is not None:
            partition.data = partition.data.to(dtype)
        parameter.data = parameter.data.to(dtype, copy=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or notes of transformers: what is wrong with weights we say ourselves."""
    log = logging.getLogger("transformers")
    level = log.level
    bars = transformers.utils.logging.is_progress_bar_enabled()
    with ExitStack() as after:
        after.callback(log.setLevel, level)
        if bars:
            after.callback(transformers.utils.logging.enable_progress_bar)
            transformers.utils.logging.disable_progress_bar()
        log.setLevel(logging.ERROR)
        yield
