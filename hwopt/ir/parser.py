"""The parser of the textual form: a hand-written recursive descent, line by line.

It builds exactly what the text says; nothing is evaluated. Malformed text is one `TextError` with
line and column.
"""

from __future__ import annotations

import math
from typing import cast

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
from hwopt.ir.tokens import Tokens

MAX_DEPTH = 200
"""Deepest nesting of a scalar or attribute: a guard against hostile text."""

_FLOATS = {"inf": math.inf, "nan": math.nan}
_WORDS: dict[str, Attribute] = {"True": True, "False": False, "None": None, **_FLOATS}


class Parser(Tokens):
    """Parses one text. `graph()` may be called once."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
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
