"""Exporting a role as a plain Hugging Face folder.

A policy's folder loads with `AutoModelForCausalLM.from_pretrained`; a value model's is its
backbone's, which `AutoModel` loads, with the head beside it in `value_head.safetensors`. Weights
are safetensors, written shard by shard as they arrive; the folder appears whole or not at all.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

import hwopt
from rlhf import lora
from rlhf.errors import ModelError
from rlhf.networks import Policy, RoleModule
from rlhf.sources import VALUE_HEAD

SHARD_BYTES = 4 * 2**30
"""A new shard begins above this."""


def export_model(
    module: RoleModule,
    folder: Path | str,
    tokenizer: Any = None,
    *,
    state: Iterable[tuple[str, Tensor]] | None = None,
) -> None:
    """Write a role as a Hugging Face folder; replaces one that is there.

    Args:
        module: Whose configuration is written.
        folder: The folder to make.
        tokenizer: Saved beside the weights, where given.
        state: Weights by name (`RoleEngine.state()`, an average's); None: the module's own.

    Raises `ModelError` where the folder cannot be written.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write_weights(state if state is not None else module_state(module), temporary)
        _write_config(module, temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        replaced = folder.with_name(f".{folder.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if folder.exists():
            folder.rename(replaced)
        temporary.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ModelError(
            "cannot write the model", where=str(folder), value=error.strerror,
            fix="free space or choose another folder",
        ) from error  # fmt: skip


def module_state(module: RoleModule) -> Iterator[tuple[str, Tensor]]:
    """Names and full weights of a module that is not partitioned: adapters merged.

    Names are those of the transformers model; a value model's head is "head.weight".
    """
    adapted = lora.adapted_layers(module.model)
    for name, parameter in module.model.named_parameters():
        if lora.is_adapter(name):
            continue
        owner, _, last = name.rpartition(".")
        layer = adapted.get(owner) if last == "weight" else None
        value = parameter.detach()
        if layer is not None and not layer.is_merged:
            value = layer.merged_weight(value, layer.lora_a.detach(), layer.lora_b.detach())
        yield name, value
    yield from stored_buffers(module)
    if not isinstance(module, Policy):
        yield "head.weight", module.head.weight.detach()


def stored_buffers(module: RoleModule) -> Iterator[tuple[str, Tensor]]:
    """The buffers that belong to a state dict."""
    for prefix, part in module.model.named_modules():
        for name, value in part.named_buffers(prefix=prefix, recurse=False):
            if name.rpartition(".")[2] not in part._non_persistent_buffers_set:  # noqa: SLF001 - torch names no other way
                yield name, value


def _write_weights(state: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Shards in the layout of transformers, and the value head in its own file."""
    shard: dict[str, Tensor] = {}
    shards: list[list[str]] = []
    size = total = 0

    def flush() -> None:
        if shard:
            save_file(shard, folder / f"part-{len(shards):05d}", metadata={"format": "pt"})
            shards.append(list(shard))
            shard.clear()

    for name, value in state:
        kept = value.detach().to("cpu", copy=True).contiguous()
        if name == "head.weight":
            save_file({"weight": kept}, folder / VALUE_HEAD, metadata={"format": "pt"})
            continue
        if size and size + kept.nbytes > SHARD_BYTES:
            flush()
            size = 0
        shard[name] = kept
        size, total = size + kept.nbytes, total + kept.nbytes
    flush()
    _name_shards(shards, total, folder)


def _name_shards(shards: list[list[str]], total: int, folder: Path) -> None:
    """One file is model.safetensors; several are numbered, with an index."""
    if len(shards) == 1:
        (folder / "part-00000").rename(folder / "model.safetensors")
        return
    where: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"part-{number:05d}").rename(folder / file)
        where.update(dict.fromkeys(names, file))
    hwopt.write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": where},
    )


def _write_config(module: RoleModule, folder: Path) -> None:
    """config.json with the dropouts it came with, and the generation settings."""
    config = copy.deepcopy(module.model.config)
    for name, value in getattr(module.model, "dropouts", {}).items():
        setattr(config, name, value)
    config.architectures = [type(module.model).__name__]
    config.dtype = str(next(module.model.parameters()).dtype).removeprefix("torch.")
    config.save_pretrained(folder)
    if isinstance(module, Policy) and module.model.can_generate():
        module.model.generation_config.save_pretrained(folder)
