"""Pipelines as text: `name{option=value,...},name,...`.

Values are integers, decimals, `true`, `false`, words, "quoted text" (JSON) and lists
`[a,b]` (tuples in Python).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from hwopt.errors import PassError

_TOKEN = re.compile(
    r"\s*(?:(?P<word>[A-Za-z_][\w.-]*)|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
    r'|(?P<text>"(?:[^"\\]|\\.)*")|(?P<mark>[{}\[\],=]))'
)


@dataclass(frozen=True)
class Invocation:
    """One pass with its options, as written."""

    name: str
    options: dict[str, Any]


def parse_invocations(text: str) -> list[Invocation]:
    """The passes of a pipeline. Raises `PassError` with the column of the first mistake."""
    return _Parser(text).pipeline()


def print_value(value: object) -> str:
    """The text that reads back as `value`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(print_value(item) for item in value)}]"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_][\w.-]*", value) and value not in ("true", "false")
        return value if plain else json.dumps(value)
    return repr(value)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def pipeline(self) -> list[Invocation]:
        if not self._text.strip():
            return []
        result = [self._invocation()]
        while self._accept(","):
            result.append(self._invocation())
        if self._text[self._at :].strip():
            raise self._error("',' or the end")
        return result

    def _invocation(self) -> Invocation:
        name = self._take("word", "the name of a pass")
        options: dict[str, Any] = {}
        if self._accept("{"):
            while True:
                option = self._take("word", "an option")
                if option in options:
                    raise self._error(f"option {option!r} once only")
                if not self._accept("="):
                    raise self._error("'='")
                options[option] = self._value()
                if not self._accept(","):
                    break
            if not self._accept("}"):
                raise self._error("'}'")
        return Invocation(name, options)

    def _value(self) -> Any:
        if self._accept("["):
            items: list[Any] = []
            while not self._accept("]"):
                items.append(self._value())
                if not self._accept(","):
                    if self._accept("]"):
                        break
                    raise self._error("',' or ']'")
            return tuple(items)
        match = _TOKEN.match(self._text, self._at)
        if match is None or match["mark"]:
            raise self._error("a value")
        self._at = match.end()
        if match["number"]:
            number = match["number"]
            return int(number) if re.fullmatch(r"-?\d+", number) else float(number)
        if match["text"]:
            return json.loads(match["text"])
        return {"true": True, "false": False}.get(match["word"], match["word"])

    def _take(self, kind: str, what: str) -> str:
        match = _TOKEN.match(self._text, self._at)
        if match is None or match[kind] is None:
            raise self._error(what)
        self._at = match.end()
        return match[kind]

    def _accept(self, mark: str) -> bool:
        match = _TOKEN.match(self._text, self._at)
        if match is None or match["mark"] != mark:
            return False
        self._at = match.end()
        return True

    def _error(self, expected: str) -> PassError:
        return PassError(
            "cannot read the pipeline", where=f"column {self._at + 1}", value=self._text,
            allowed=expected,
        )  # fmt: skip
