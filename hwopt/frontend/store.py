"""Traced graphs kept on disk, under a digest of all that determines them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import astuple
from pathlib import Path

from hwopt.errors import HwoptError
from hwopt.files import cache_dir, read_json, write_text
from hwopt.frontend.capture import Request
from hwopt.ir.graph import Graph

_PACKAGE = Path(__file__).parents[1]
_SOURCES = ("frontend", "ir", "models", "ops")
"""Folders whose code decides what a trace looks like."""


class Store:
    """One entry: a model and a request."""

    def __init__(self, key: str, request: Request) -> None:
        versions = [importlib.metadata.version(name) for name in ("torch", "transformers", "hwopt")]
        parts = [key, repr(astuple(request)), *versions, _code()]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        self._path = cache_dir() / "traces" / f"{digest[:40]}.json"

    def load(self) -> Graph | None:
        """The graph, if it was traced before; a damaged entry counts as absent."""
        from hwopt.ir.serialize import from_json

        if not self._path.is_file():
            return None
        try:
            return from_json(read_json(self._path))
        except HwoptError:
            return None

    def save(self, graph: Graph) -> None:
        """Keep a graph; a cache that cannot be written is no reason to fail."""
        from hwopt.ir.serialize import to_json

        try:
            write_text(self._path, json.dumps(to_json(graph), separators=(",", ":")))
        except HwoptError:
            return


def _code() -> str:
    """A digest of the package's code that traces depend on."""
    digest = hashlib.sha256()
    for folder in _SOURCES:
        for file in sorted((_PACKAGE / folder).glob("*.*")):
            if file.suffix in (".py", ".json"):
                digest.update(file.read_bytes())
    return digest.hexdigest()
