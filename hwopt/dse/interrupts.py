"""Ctrl-C at safe points only.

Raised anywhere, KeyboardInterrupt can surface inside compiled code as another error. While a search
runs, Ctrl-C is noted; `check` raises it where everything is saved. A second Ctrl-C is immediate.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_noted = threading.Event()


@contextmanager
def deferred() -> Iterator[None]:
    """Note Ctrl-C instead of raising it (in the main thread; elsewhere nothing changes)."""
    _noted.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _noted.clear()


def check() -> None:
    """Raise the KeyboardInterrupt that was noted, if any."""
    if _noted.is_set():
        raise KeyboardInterrupt


def _note(*_: object) -> None:
    check()
    _noted.set()
