"""Tokens of the textual form, line by line, and the errors that point at them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NoReturn, TypeVar

from hwopt.errors import TextError

T = TypeVar("T")

_TOKEN = re.compile(
    r"""[ \t]*(?:
    (?P<comment>//) | (?P<arrow>->) | (?P<string>"(?:[^"\\]|\\.)*") |
    (?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?) |
    (?P<name>[A-Za-z_][A-Za-z0-9_.]*) | (?P<sign>[-+*=:,()\[\]{}%@$\#]) | (?P<end>$) | (?P<bad>.)
    )""",
    re.VERBOSE,
)


class Tokens:
    """Reads tokens of one line at a time; every method that fails raises `TextError`."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._row = 0
        self._tokens: list[tuple[str, str, int]] = []
        self._at = 0

    def _list(self, closing: str, item: Callable[[], T]) -> tuple[T, ...]:
        """Items up to `closing`, separated by commas; the opening bracket has been taken."""
        items: list[T] = []
        if self._accept(closing):
            return ()
        while True:
            items.append(item())
            if self._accept(closing):
                return tuple(items)
            self._expect(",")

    def _names(self) -> tuple[str, ...]:
        names: list[str] = []
        while self._kind != "end":
            if names:
                self._expect(",")
            names.append(self._tensor_name())
        return tuple(names)

    def _tensor_name(self) -> str:
        self._expect("%")
        return self._name("a tensor's name")

    def _name(self, what: str) -> str:
        if self._kind == "string":
            return self._string()
        if self._kind != "name":
            self._fail(f"expected {what}", "a name, or any text in quotes")
        return self._take()

    def _string(self) -> str:
        if self._kind != "string":
            self._fail("expected text in quotes", 'for example "name"')
        try:
            return str(json.loads(self._take()))
        except ValueError:
            self._fail("malformed text in quotes", "a JSON string", 1)

    def _number(self) -> str:
        if self._kind != "number":
            self._fail("expected a number", "digits")
        return self._take()

    def _integer_text(self) -> str:
        text = self._number()
        if not text.isdigit():
            self._fail("expected a whole number", "digits only", 1)
        return text

    def _integer(self) -> int:
        """A whole number; a sign is read too, so that `verify` can name a negative size."""
        negative = self._accept("-")
        value = self._int(self._integer_text())
        return -value if negative else value

    def _int(self, text: str) -> int:
        if len(text) > 30:
            self._fail("number too large", "at most 30 digits", 1)
        return int(text)

    def _first_line(self) -> None:
        while self._row < len(self._lines):
            self._scan(self._lines[self._row])
            if self._kind not in ("end", "comment"):
                return
            self._row += 1
        self._row = max(0, len(self._lines) - 1)
        self._fail("the text ends early", "a graph")

    def _next_line(self) -> None:
        self._row += 1
        if self._row >= len(self._lines):
            self._row = len(self._lines) - 1
            self._at = len(self._tokens) - 1
            self._fail("the text ends early", "a return line")
        self._first_line()

    def _scan(self, line: str) -> None:
        tokens: list[tuple[str, str, int]] = []
        for match in _TOKEN.finditer(line):
            kind = match.lastgroup or "end"
            tokens.append((kind, match[kind], match.start(kind)))
            if kind == "end":
                break
        self._tokens, self._at = tokens, 0

    @property
    def _kind(self) -> str:
        return self._tokens[self._at][0]

    @property
    def _value(self) -> str:
        return self._tokens[self._at][1]

    def _take(self) -> str:
        value = self._tokens[self._at][1]
        self._at += 1
        return value

    def _accept(self, value: str) -> bool:
        kind, found, _ = self._tokens[self._at]
        if found != value or kind == "string":
            return False
        self._at += 1
        return True

    def _expect(self, value: str) -> None:
        if not self._accept(value):
            self._fail("unexpected text", repr(value))

    def _end(self) -> None:
        if self._kind not in ("end", "comment"):
            self._fail("unexpected text", "the end of the line")

    def _fail(self, what: str, allowed: str, back: int = 0) -> NoReturn:
        row = min(self._row, max(0, len(self._lines) - 1))
        tokens = self._tokens or [("end", "", 0)]
        _, value, column = tokens[max(0, min(self._at, len(tokens) - 1) - back)]
        line = self._lines[row] if self._lines else ""
        shown = line if len(line) <= 160 else line[max(0, column - 80) : column + 80]
        raise TextError(
            f"{what}\n  | {shown.strip()}", where=f"line {row + 1}, column {column + 1}",
            value=value or "the end of the line", allowed=allowed,
        )  # fmt: skip
