"""The parser of the textual form: a hand-written recursive descent, line by line.

It builds exactly what the text says; nothing is evaluated. Malformed text is one `TextError` with
line and column.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import NoReturn, TypeVar, cast

from hwopt.errors import TextError
from hwopt.ir.access import Access, Affine, Axis
from hwopt.ir.graph import Graph
from hwopt.ir.op import (
    Attribute,
    Body,
    Gather,
    Nest,
    Op,
    Opaque,
    Phase,
    Reduction,
    Resource,
    Scan,
    Source,
)
from hwopt.ir.scalar import FUNCTIONS, Apply, Iota, Literal, Operand, Scalar
from hwopt.ir.tensor import Role, Tensor

T = TypeVar("T")

MAX_DEPTH = 200
"""Deepest nesting of a scalar or attribute: a guard against hostile text."""

_TOKEN = re.compile(
    r"""[ \t]*(?:
    (?P<comment>//) | (?P<arrow>->) | (?P<string>"(?:[^"\\]|\\.)*") |
    (?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?) |
    (?P<name>[A-Za-z_][A-Za-z0-9_.]*) | (?P<sign>[-+*=:,()\[\]{}%@$\#]) | (?P<end>$) | (?P<bad>.)
    )""",
    re.VERBOSE,
)
_FLOATS = {"inf": math.inf, "nan": math.nan}
_WORDS: dict[str, Attribute] = {"True": True, "False": False, "None": None, **_FLOATS}


class Parser:
    """Parses one text. `graph()` may be called once."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._row = 0
        self._tokens: list[tuple[str, str, int]] = []
        self._at = 0
        self._bodies: dict[str, Body] = {}
        self._tensors: list[Tensor] = []
        self._ops: list[Op] = []

    def graph(self) -> Graph:
        """`graph "NAME"`, lines, `return %a, %b`."""
        self._first_line()
        self._expect("graph")
        name = self._string()
        self._end()
        while True:
            self._next_line()
            if self._accept("return"):
                break
            self._line()
        outputs = self._names()
        self._end()
        self._row += 1
        while self._row < len(self._lines):
            if self._lines[self._row].strip():
                self._scan(self._lines[self._row])
                if self._kind != "end" and self._kind != "comment":
                    self._fail("text after the return line", "nothing")
            self._row += 1
        return Graph(name, tuple(self._tensors), tuple(self._ops), outputs)

    def scalar(self) -> Scalar:
        """A scalar by itself: `mul(#0, #1)`."""
        self._first_line()
        scalar = self._scalar(0)
        self._end()
        return scalar

    def affine(self) -> Affine:
        """An index by itself: `2*p + r - 1`."""
        self._first_line()
        affine = self._affine()
        self._end()
        return affine

    # --- lines ---------------------------------------------------------------------------------

    def _line(self) -> None:
        if self._accept("$"):
            number = self._integer_text()
            if number in self._bodies:
                self._fail(f"body ${number} is defined twice", "a new number")
            self._expect("=")
            self._bodies[number] = self._body()
            self._end()
            return
        writes: list[str] = []
        if self._accept("("):
            self._expect(")")
        else:
            while True:
                typed = self._result(writes)
                if not self._accept(","):
                    break
            if typed and self._kind in ("end", "comment") and len(writes) == 1:
                self._end()
                return
        self._operator(tuple(writes))

    def _result(self, writes: list[str]) -> bool:
        """`%name` or `%name : dtype[sizes] role`, which also declares the tensor."""
        self._expect("%")
        name = self._name("a tensor's name")
        writes.append(name)
        if not self._accept(":"):
            return False
        dtype = self._name("an element type")
        self._expect("[")
        shape = self._list("]", self._integer)
        role = "activation"
        if self._kind in ("name", "string"):
            role = self._name("a role")
        self._tensors.append(Tensor(name, shape, dtype, cast("Role", role)))
        return True

    def _operator(self, writes: tuple[str, ...]) -> None:
        self._expect("=")
        name = writes[0] if writes else ""
        if self._accept("@"):
            name = self._name("an operator's name")
        kind = self._name("a kind")
        self._expect("on")
        resource = self._name("a resource")
        self._expect("$")
        number = self._integer_text()
        if number not in self._bodies:
            self._fail(f"body ${number} is not defined before", "a body defined on a line above", 1)
        self._expect("(")
        reads = self._list(")", self._tensor_name)
        phase = "forward"
        if self._kind in ("name", "string"):
            phase = self._name("a phase")
        source = Source()
        if self._kind == "comment":
            self._take()
            source = Source(self._string(), self._string(), self._string())
        self._end()
        self._ops.append(
            Op(
                name, kind, self._bodies[number], cast("Resource", resource), reads, writes,
                cast("Phase", phase), source,
            )
        )  # fmt: skip

    # --- bodies --------------------------------------------------------------------------------

    def _body(self) -> Body:
        if self._value == "nest":
            return self._nest()
        if self._accept("opaque"):
            return Opaque(self._string())
        kind = self._value
        if not (self._accept("gather") or self._accept("scan")):
            self._fail("not a body", "nest, gather, scan or opaque")
        function = self._name("a function")
        self._expect("{")
        attributes = self._list("}", self._attribute_pair)
        self._expect("touches")
        self._expect("(")
        reads = self._list(")", self._integer)
        self._expect("->")
        self._expect("(")
        writes = self._list(")", self._integer)
        self._expect("work")
        work = self._integer()
        depth = 1
        if kind == "scan":
            self._expect("depth")
            depth = self._integer()
        nests: tuple[Nest, ...] = ()
        if self._accept("nests"):
            self._expect("(")
            nests = self._list(")", self._nest_reference)
        if kind == "scan":
            return Scan(function, attributes, reads, writes, work, depth, nests)
        return Gather(function, attributes, reads, writes, work, nests)

    def _nest_reference(self) -> Nest:
        self._expect("$")
        number = self._integer_text()
        body = self._bodies.get(number)
        if not isinstance(body, Nest):
            self._fail(f"${number} is not a nest defined before", "a nest on a line above", 1)
        return body

    def _nest(self) -> Nest:
        self._expect("nest")
        self._expect("(")
        axes = self._list(")", self._axis)
        self._expect("reads")
        self._expect("(")
        reads = self._list(")", self._access)
        self._expect("writes")
        write = self._access()
        reduction = cast("Reduction", self._name("a reduction"))
        scalar = self._scalar(0)
        sequential: tuple[str, ...] = ()
        if self._accept("sequential"):
            self._expect("(")
            sequential = self._list(")", lambda: self._name("an axis"))
        return Nest(axes, reads, write, scalar, reduction, sequential)

    def _axis(self) -> Axis:
        name = self._name("an axis")
        self._expect("=")
        return Axis(name, self._integer())

    def _access(self) -> Access:
        self._expect("[")
        index = self._list("]", self._affine)
        return Access(index, self._float() if self._accept("else") else None)

    def _affine(self) -> Affine:
        """`offset`, `axis`, `3*axis` joined by signs."""
        terms: list[tuple[str, int]] = []
        offset, first = 0, True
        while first or self._value in ("+", "-"):
            sign = -1 if self._accept("-") else 1
            if sign == 1 and not first:
                self._expect("+")
            first = False
            factor = self._integer() if self._kind == "number" else None
            if factor is None or self._accept("*"):
                terms.append((self._name("an axis or a number"), sign * (factor or 1)))
                if factor == 0:
                    terms.pop()
            else:
                offset += sign * factor
        return Affine.of(terms, offset)

    def _scalar(self, depth: int) -> Scalar:
        if depth > MAX_DEPTH:
            self._fail("nested too deeply", f"at most {MAX_DEPTH} levels")
        if self._accept("#"):
            return Operand(self._integer())
        if self._accept("@"):
            return Iota(self._name("an axis"))
        if self._kind == "name" and self._value not in _WORDS:
            function = self._name("a function")
            self._expect("(")
            arguments = self._list(")", lambda: self._scalar(depth + 1))
            if FUNCTIONS.get(function) != len(arguments):
                self._fail(
                    f"no scalar function {function}/{len(arguments)}", ", ".join(FUNCTIONS)
                )  # fmt: skip
            return Apply(function, arguments)
        value = self._attribute(depth)
        if not isinstance(value, bool | int | float):
            self._fail("not a number", "a number, #operand, @axis or a function")
        return Literal(value)

    def _attribute_pair(self) -> tuple[str, Attribute]:
        name = self._name("an attribute")
        self._expect("=")
        return name, self._attribute(0)

    def _attribute(self, depth: int) -> Attribute:
        if depth > MAX_DEPTH:
            self._fail("nested too deeply", f"at most {MAX_DEPTH} levels")
        if self._accept("("):
            return self._list(")", lambda: self._attribute(depth + 1))
        if self._kind == "string":
            return self._string()
        if self._kind == "name":
            if self._value not in _WORDS:
                self._fail("not a value", "a number, a string, True, False, None or (...)")
            return _WORDS[self._take()]
        negative = self._accept("-")
        if self._kind == "name" and self._value in _FLOATS:
            return -_FLOATS[self._take()] if negative else _FLOATS[self._take()]
        text = self._number()
        value: int | float = self._int(text) if text.isdigit() else float(text)
        return -value if negative else value

    def _float(self) -> float:
        value = self._attribute(0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail("not a number", "a number, inf or nan", 1)
        return float(value)

    # --- tokens --------------------------------------------------------------------------------

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
