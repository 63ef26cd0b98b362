"""Adapters: a function from a row of a data set to rows of the usual columns.

    @adapters.register("mine")
    def mine(row: dict[str, Any]) -> Iterable[dict[str, Any]]: ...

An adapter of another package is named `package.module:function`. What it cannot make sense of it
refuses with ValueError, KeyError, TypeError or AttributeError: the row is then a bad row.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from hwopt import Registry
from rlhf.errors import DataError

Adapter: TypeAlias = Callable[[dict[str, Any]], Iterable[dict[str, Any]]]

adapters: Registry[Adapter] = Registry("adapter", "rlhf.data")
"""The named ones; files of `rlhf/data` register theirs."""


def find_adapter(name: str, where: str) -> Adapter:
    """The adapter of a name, or `package.module:function`. Raises `DataError`."""
    if ":" not in name:
        if name not in adapters:
            allowed = f"{', '.join(adapters)}, or package.module:function"
            raise DataError("unknown adapter", where=where, value=name, allowed=allowed)
        return adapters[name]
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"adapter cannot be imported: {error}", where=where, value=name) from error
    if not callable(found):
        raise DataError("adapter is not a function", where=where, value=name)
    return found  # type: ignore[no-any-return]


def adapter_source(adapter: Adapter) -> str:
    """The text of the file that defines it: part of the key of what is cached."""
    while isinstance(adapter, partial):
        adapter = adapter.func
    try:
        return Path(inspect.getfile(inspect.unwrap(adapter))).read_text(encoding="utf-8")
    except (OSError, TypeError):  # built in a running interpreter: its name must do
        return repr(getattr(adapter, "__qualname__", type(adapter).__qualname__))
