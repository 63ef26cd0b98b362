"""Where a role's model comes from: a folder with weights, a configuration file, a name, a dict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hwopt
from rlhf.errors import ModelError

VALUE_HEAD = "value_head.safetensors"
"""Beside a backbone's folder: the head of a value model, one tensor "weight" (1, width)."""


@dataclass(frozen=True)
class Source:
    """`config`: the content of a config.json. `folder`: where its weights are; None: nowhere.

    `name` is what a message calls it.
    """

    name: str
    config: dict[str, Any]
    folder: Path | None = None

    @property
    def value_head(self) -> Path | None:
        """The file of a value model's head, where the folder holds one."""
        path = self.folder / VALUE_HEAD if self.folder is not None else None
        return path if path is not None and path.is_file() else None


def find_source(source: Path | str | dict[str, Any], tokenizer: Any = None) -> Source:
    """What a plan's `model` means.

    A dict is the content of a config.json. A string or path is a folder, a config.json, or a name
    of `hwopt list models`. Without weights, the vocabulary and the ids of special tokens come from
    the tokenizer. Raises `ModelError` where there is no such model, where its weights are only
    pickled, or where the tokenizer has more words than a model with weights.
    """
    found = _located(source)
    if tokenizer is None:
        return found
    if found.folder is not None:
        words = found.config.get("vocab_size")
        if isinstance(words, int) and len(tokenizer) > words:
            raise ModelError(
                "the tokenizer has more words than the model", where=found.name,
                value=f"{len(tokenizer)} words, vocab_size {words}",
                fix="use the tokenizer that the model was trained with (data.tokenizer.path)",
            )  # fmt: skip
        return found
    special = {
        "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    known = {key: value for key, value in special.items() if value is not None}
    return Source(found.name, {**found.config, **known})


def _located(source: Path | str | dict[str, Any]) -> Source:
    if isinstance(source, dict):
        return _checked(Source("the plan's configuration", dict(source)))
    path = Path(source)
    if path.is_dir():
        config = path / "config.json"
        if not config.is_file():
            raise ModelError("not a model's folder: no config.json", where=str(path))
        name, weights = str(path), _has_weights(path)
        return _checked(Source(name, hwopt.read_json(config), path if weights else None))
    if path.is_file():
        return _checked(Source(str(path), hwopt.read_json(path)))
    try:
        return Source(str(source), hwopt.model_config(str(source)))
    except hwopt.HwoptError as error:
        raise ModelError(
            "no such model", value=str(source),
            allowed="a Hugging Face folder, a config.json, or a name such as " + error.allowed,
            fix="check the path, or see `hwopt list models`",
        ) from error  # fmt: skip


def _has_weights(folder: Path) -> bool:
    if any(folder.glob("model*.safetensors")):
        return True
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
    if pickled:
        raise ModelError(
            "the weights are pickled, and loading a pickle runs its code", where=str(folder),
            value=pickled[0], allowed="*.safetensors",
            fix="convert them once where you trust them: AutoModelForCausalLM.from_pretrained(F)"
            ".save_pretrained(F)",
        )  # fmt: skip
    return False


def _checked(source: Source) -> Source:
    """Refuse what only code from elsewhere could build."""
    if not isinstance(source.config, dict) or "model_type" not in source.config:
        raise ModelError("not a model's configuration: no model_type", where=source.name)
    if source.config.get("auto_map"):
        raise ModelError(
            "the model's code is not part of transformers and is never run", where=source.name,
            value=source.config["model_type"],
        )  # fmt: skip
    return source


DROPOUT_ENDINGS = ("dropout", "pdrop", "layerdrop", "dropout_rate", "dropout_prob")


def dropouts(config: dict[str, Any]) -> Iterable[str]:
    """The keys of a configuration that are probabilities of dropping something."""
    return tuple(
        key for key, value in config.items()
        if key.endswith(DROPOUT_ENDINGS) and isinstance(value, int | float)
        and not isinstance(value, bool)
    )  # fmt: skip
