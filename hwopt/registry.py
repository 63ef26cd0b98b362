"""Named things that one file can add: operators, passes, templates, objectives, models, qualities.

A registry imports its package's files on first use, so adding an entry is adding one file with one
`@registry.register("name")`; third parties call the same method.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from hwopt.errors import HwoptError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping of names to entries of one kind. `package` holds the built-in entries' files."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds an entry; a name can be taken only once."""

        def add(entry: T) -> T:
            if name in self._entries and self._entries[name] is not entry:
                raise HwoptError(f"{self.kind} {name!r} is registered twice", fix="rename one")
            self._entries[name] = entry
            return entry

        return add

    def remove(self, name: str) -> None:
        """Take an entry out again (tests and notebooks that redefine one)."""
        del self._entries[name]

    def __getitem__(self, name: str) -> T:
        self._load()
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(name, self._entries, n=3)
        raise UnknownNameError(
            f"unknown {self.kind}", value=name,
            allowed=", ".join(near) + ", ..." if near else ", ".join(sorted(self._entries)),
            fix=f"`hwopt list {self.kind}` prints all",
        )  # fmt: skip

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def _load(self) -> None:
        """Import every file of the package once; each registers what it defines."""
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
