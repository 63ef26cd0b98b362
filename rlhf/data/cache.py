"""Tokenised sets on disk, by the content that they follow from.

The key is a hash of the bytes of every source file, the plan's data settings, seed, stage names and
kind, the tokenizer with its template, the text of adapters and of this package, and the version of
`tokenizers`. A change of any of them is another entry; nothing is ever invalidated.

An entry is one safetensors file, written whole or not at all, with the report and a checksum in its
header. Processes that start together build it once: the others wait for a lock. What cannot be read
back intact is built again, and where nothing can be written the set is built without a cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from hwopt import HwoptError, cache_dir, write_bytes
from rlhf.algorithm import Data
from rlhf.data.adapters import adapter_source, find_adapter
from rlhf.data.report import DataReport
from rlhf.data.sources import source_digest, source_name
from rlhf.data.tokenized import TokenStore
from rlhf.plan import DataSet, Plan, Stage

Built = tuple[TokenStore, DataReport]


def cached(key: str, build: Callable[[], Built]) -> Built:
    """The entry of a key, built where there is none."""
    path = cache_dir() / "rlhf" / "tokens" / f"{key}.safetensors"
    found = _read(path)
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = _read(path)
            if found is None:
                found = build()
                _write(path, found)
            return found
    except OSError:  # no place to write to: the cache only saves time
        return found or build()


def data_key(plan: Plan, stage: Stage, sets: Sequence[DataSet], tokenizer: Any, kind: Data) -> str:
    """The hash of everything that the tokenised sets of a stage follow from."""
    import tokenizers

    parts: dict[str, Any] = {
        "sets": [dataset.model_dump(mode="json") for dataset in sets],
        "sources": [source_digest(dataset) for dataset in sets],
        "adapters": [
            adapter_source(find_adapter(d.adapter, source_name(d))) if d.adapter else ""
            for d in sets
        ],
        "settings": plan.data.model_dump(mode="json", exclude={"sets", "tokenizer"}),
        "seed": plan.seed,
        "stage": stage.title,
        "stages": [other.title for other in plan.stages],
        "kind": kind,
        "tokenizer": tokenizer_digest(tokenizer),
        "code": code_digest(),
        "tokenizers": tokenizers.__version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's content: what it does to text, not where it lies."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("truncation", "padding"):  # of its last call
        content.pop(name, None)
    special = [str(tokenizer.bos_token), str(tokenizer.eos_token), tokenizer.pad_token_id]
    text = json.dumps([content, tokenizer.chat_template, special], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def code_digest() -> str:
    """SHA-256 of this package's source: an edit of it makes new entries."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _write(path: Path, built: Built) -> None:
    from safetensors.numpy import save

    store, report = built
    arrays = {f.name: np.ascontiguousarray(getattr(store, f.name)) for f in fields(TokenStore)}
    metadata = {"report": json.dumps(report.to_json()), "sha256": _checksum(arrays)}
    write_bytes(path, save(arrays, metadata=metadata))


def _read(path: Path) -> Built | None:
    """An entry that is there and intact."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {f.name: file.get_tensor(f.name) for f in fields(TokenStore)}
        if metadata["sha256"] != _checksum(arrays):
            return None
        return TokenStore(**arrays), DataReport.from_json(json.loads(metadata["report"]))
    except (OSError, SafetensorError, HwoptError, KeyError, ValueError, TypeError):
        return None


def _checksum(arrays: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        digest.update(arrays[name].data)
    return digest.hexdigest()
