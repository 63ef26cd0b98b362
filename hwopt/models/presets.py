"""Configurations of the library's language models as data: no torch, no weights, no network."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from hwopt.errors import UnknownNameError
from hwopt.files import read_json


def model_config(name: str) -> dict[str, Any]:
    """The content of a config.json of a model by its library name, e.g. "opt-1.3b".

    Of the families that are configurations of the transformers library. Raises `UnknownNameError`
    for another name.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(__file__).parent.glob("*.json")):
        data = read_json(path)
        for key, own in data["models"].items():
            found[key] = {"architectures": [data["architecture"]], **data["shared"], **own}
    if name in found:
        return found[name]
    near = difflib.get_close_matches(name, found, n=3)
    raise UnknownNameError(
        "no model configuration of this name", value=name, allowed=", ".join(near or sorted(found)),
        fix="`hwopt list models` prints all",
    )  # fmt: skip
