"""Pipelines as text: `eliminate,canonicalize,fuse{attention=False},tile{factors=perfect}`.

    pipeline = pass { ',' pass }          pass   = NAME [ '{' option { ',' option } '}' ]
    option   = NAME '=' value             value  = INT | FLOAT | WORD | STRING | '[' value, ... ']'

`True` and `False` are booleans, other words are text. `print_pipeline` prints the options that
differ from their defaults, so that `parse_pipeline(print_pipeline(p)) == p`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, TypeAlias, get_type_hints

from hwopt.errors import PassError

if TYPE_CHECKING:
    from hwopt.passes.manager import Pass

Value: TypeAlias = "bool | int | float | str | tuple[Value, ...]"

_TOKEN = re.compile(
    r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)'
    r"(?![\w.:])|(?P<word>[A-Za-z_][\w.:-]*)|(?P<sign>[,={}\[\]])|(?P<end>$)|(?P<bad>.))"
)
_WORD = re.compile(r"[A-Za-z_][\w.:-]*")


def parse_pipeline(text: str) -> list[Pass]:
    """The passes of a pipeline text.

    Raises `PassError` with the column, `UnknownNameError` for a pass that does not exist.
    """
    return _Parser(text).pipeline()


def print_pipeline(pipeline: Sequence[Pass]) -> str:
    """The text of a pipeline."""
    return ",".join(print_pass(each) for each in pipeline)


def print_pass(step: Pass) -> str:
    """`tile{factors=perfect}`: the name, and the options that are not at their defaults."""
    options = [
        f"{field.name}={_print_value(getattr(step, field.name))}"
        for field in dataclasses.fields(step)
        if getattr(step, field.name) != field.default
    ]
    return f"{step.name}{{{','.join(options)}}}" if options else step.name


def _print_value(value: Value) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(_print_value, value))}]"
    if isinstance(value, str):
        plain = _WORD.fullmatch(value) and value not in ("True", "False")
        return value if plain else json.dumps(value)
    return repr(value)


class _Parser:
    """Tokens of one text; errors point at a column."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        for match in _TOKEN.finditer(text):
            kind = match.lastgroup or "end"
            self._tokens.append((kind, match[kind], match.start(kind)))
            if kind == "end":
                break
        self._at = 0

    def pipeline(self) -> list[Pass]:
        steps: list[Pass] = []
        while True:
            steps.append(self._pass())
            if self._tokens[self._at][0] == "end":
                return steps
            self._expect(",")

    def _pass(self) -> Pass:
        from hwopt.passes.manager import passes

        column = self._tokens[self._at][2] + 1
        name = self._word("the name of a pass")
        kind = passes[name]
        options: dict[str, Value] = {}
        if self._accept("{"):
            while not self._accept("}"):
                if options:
                    self._expect(",")
                option = self._word("an option")
                if option in options:
                    self._fail(f"option {option!r} is given twice", "each option once")
                self._expect("=")
                options[option] = self._value(0)
        return build_pass(name, kind, options, f"pipeline, column {column}")

    def _value(self, depth: int) -> Value:
        kind, text, _ = self._tokens[self._at]
        if kind in ("string", "number", "word"):
            self._at += 1
        if kind == "string":
            try:
                return str(json.loads(text))
            except ValueError:
                self._fail("malformed text in quotes", "a JSON string")
        if kind == "number":
            return int(text) if text.lstrip("-").isdigit() and len(text) < 30 else float(text)
        if kind == "word":
            return {"True": True, "False": False}.get(text, text)
        if depth > 8:
            self._fail("lists nested too deeply", "at most 8 levels")
        self._expect("[")
        items: list[Value] = []
        while not self._accept("]"):
            if items:
                self._expect(",")
            items.append(self._value(depth + 1))
        return tuple(items)

    def _word(self, what: str) -> str:
        kind, text, _ = self._tokens[self._at]
        if kind != "word":
            self._fail(f"expected {what}", "letters, digits, _")
        self._at += 1
        return text

    def _accept(self, sign: str) -> bool:
        kind, text, _ = self._tokens[self._at]
        if kind != "sign" or text != sign:
            return False
        self._at += 1
        return True

    def _expect(self, sign: str) -> None:
        if not self._accept(sign):
            self._fail("unexpected text", repr(sign))

    def _fail(self, what: str, allowed: str) -> NoReturn:
        kind, text, column = self._tokens[min(self._at, len(self._tokens) - 1)]
        raise PassError(
            f"{what} in {self._text[:200]!r}", where=f"pipeline, column {column + 1}",
            value=text if kind != "end" else "the end", allowed=allowed,
        )  # fmt: skip


def build_pass(pass_name: str, kind: type[Pass], options: dict[str, Value], where: str) -> Pass:
    """A pass with these options; each must be a field, and of the field's type."""
    from pydantic import TypeAdapter, ValidationError

    hints = get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    checked: dict[str, object] = {}
    for name, value in options.items():
        if name not in fields:
            raise PassError(
                f"pass {pass_name!r} has no option {name!r}", where=where,
                allowed=", ".join(fields) or "no options",
            )  # fmt: skip
        try:
            checked[name] = TypeAdapter(hints[name]).validate_python(value, strict=True)
        except ValidationError as error:
            detail = error.errors()[0]["msg"]
            raise PassError(
                f"option {name!r} of pass {pass_name!r}: {detail}", where=where, value=value
            ) from error
    return kind(**checked)
