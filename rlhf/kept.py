"""Results of long computations kept on disk, under a digest of all that determines them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import hwopt
from hwopt import HwoptError, cache_dir, read_json, write_json

SOURCES = ("forms.py", "lora.py", "networks.py", "traces.py", "activations.py")
"""Of this package, beside all of hwopt: code that decides what is kept."""
WAIT_SECONDS = 600


def kept(kind: str, key: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make()` gives (plain data), from disk if the same code has made it before.

    Of several processes that want the same, one makes it. A damaged entry counts as absent, and a
    folder that cannot be written is no reason to fail.
    """
    text = json.dumps([kind, code_digest(), key], sort_keys=True)
    path = cache_dir() / "profiles" / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.json"
    if (found := _read(path)) is not None:
        return found
    with _lock(path):
        found = _read(path)
        if found is None:
            found = make()
            with suppress(HwoptError):
                write_json(path, found)
        return found


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Inside, no other process makes the same; where locks cannot be had, without one."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=WAIT_SECONDS)
    except (OSError, Timeout):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = read_json(path) if path.is_file() else None
    except HwoptError:
        return None
    return data if isinstance(data, dict) else None


@cache
def code_digest() -> str:
    """A digest of the code that results depend on."""
    digest = hashlib.sha256()
    for name in ("torch", "transformers"):
        digest.update(importlib.metadata.version(name).encode())
    files = sorted(Path(hwopt.__file__).parent.rglob("*.py"))
    for file in [*files, *(Path(__file__).with_name(name) for name in SOURCES)]:
        digest.update(file.read_bytes())
    return digest.hexdigest()
