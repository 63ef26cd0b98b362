"""A graph traced at one number of rows and tokens, as it would be at any other.

Tracing takes seconds, and rows and sequence lengths vary a lot. A graph traced at *marked* sizes
tells which of its numbers come from them:

    rows    a prime
    tokens  a prime K for which (K - 1) / 2 is a prime too: K - 1 stands for the tokens in a cache
            that one more joins; K + 1 for a sequence padded by one

and neither prime divides a dimension of the model. Then a size of the graph that both divide, say
`61 * 107 * 64`, can only be rows x tokens x 64, because sizes, strides and declared counts are
products. So `resized` is exact for models whose operators do not change with the sizes, which is
what `tests/ir/test_resize.py` checks against traces at other sizes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from hwopt.errors import SizeError
from hwopt.ir.graph import Graph
from hwopt.ir.op import Body, Nest, Op, Opaque

T = TypeVar("T")

ROWS = (61, 67, 71, 73, 79, 89, 97, 101, 43, 41, 37, 31)
TOKENS = (107, 167, 179, 227, 263, 83, 59, 47, 23)
"""Primes K with (K - 1) / 2 prime, those that most models have positions for first."""


@dataclass(frozen=True)
class Marks:
    """The numbers of rows and tokens that a graph is traced at."""

    rows: int
    tokens: int

    @property
    def half(self) -> int:
        """The prime that marks tokens - 1."""
        return (self.tokens - 1) // 2


def marks(dimensions: Iterable[int], longest: int | None = None) -> Marks:
    """Marked sizes for a model with these dimensions that takes at most `longest` tokens.

    Raises `SizeError` when no candidate is left.
    """
    known = {abs(d) for d in dimensions if d}

    def is_free(prime: int) -> bool:
        return all(d % prime for d in known)

    for tokens in TOKENS:
        half = (tokens - 1) // 2
        fits = longest is None or tokens + 1 <= longest
        clear = not known & {tokens - 1, tokens + 1}
        if fits and clear and is_free(tokens) and is_free(half):
            for rows in ROWS:
                if rows not in (tokens, half) and is_free(rows):
                    return Marks(rows, tokens)
    raise SizeError(
        "no sizes tell rows and tokens apart from the model's dimensions", value=longest,
        allowed=f"at least {min(TOKENS) + 1} positions",
    )  # fmt: skip


def resized(graph: Graph, at: Marks, *, rows: int, tokens: int) -> Graph:
    """The graph, traced at the marks `at`, with other numbers of rows and tokens.

    `tokens` takes the place of `at.tokens`, and `tokens - 1` of `at.tokens - 1`: for a decoded
    token it is the length of the sequence, that token included. Raises `SizeError` for a size that
    is marked but no product of marks.
    """
    change = _Change(at, rows, tokens)
    tensors = tuple(replace(t, shape=tuple(change.size(n) for n in t.shape)) for t in graph.tensors)
    return Graph(graph.name, tensors, tuple(change.op(op) for op in graph.ops), graph.outputs)


class _Change:
    """Replaces marks in numbers, and in all that holds numbers."""

    def __init__(self, at: Marks, rows: int, tokens: int) -> None:
        if rows < 1 or tokens < 2:
            raise SizeError("not a size", value=(rows, tokens), allowed="1 row, 2 tokens or more")
        self._at, self._rows, self._tokens = at, rows, tokens
        self._sizes: dict[int, int] = {}
        self._bodies: dict[Body, Body] = {}

    def size(self, number: int) -> int:
        """A size, stride, offset or count."""
        if number not in self._sizes:
            self._sizes[number] = -self._changed(-number) if number < 0 else self._changed(number)
        return self._sizes[number]

    def _changed(self, number: int) -> int:
        if number == 0:
            return 0
        at, result = self._at, 1
        while number % at.rows == 0:
            number, result = number // at.rows, result * self._rows
        while number % at.tokens == 0:
            number, result = number // at.tokens, result * self._tokens
        while number % at.half == 0:
            if number % (2 * at.half):
                raise SizeError("a size that is no product of marks", value=number)
            number, result = number // (2 * at.half), result * (self._tokens - 1)
        if number == at.tokens + 1:
            number = self._tokens + 1
        return result * number

    def op(self, op: Op) -> Op:
        """An operator; equal bodies stay shared."""
        body = op.body
        if isinstance(body, Opaque):
            return op
        if body not in self._bodies:
            self._bodies[body] = self._body(body)
        return replace(op, body=self._bodies[body])

    def _body(self, body: Body) -> Body:
        if isinstance(body, Nest):
            return replace(
                body, axes=self._inside(body.axes), reads=self._inside(body.reads),
                write=self._inside(body.write),
            )  # fmt: skip
        changed: Body = self._inside(body)
        return changed

    def _inside(self, value: T) -> T:
        """Every whole number in a value (not those of scalar expressions in a nest)."""
        found: Any = value
        if isinstance(value, int) and not isinstance(value, bool):
            found = self.size(value)
        elif isinstance(value, tuple):
            found = tuple(self._inside(part) for part in value)
        elif isinstance(value, Nest):
            found = self._body(value)
        elif is_dataclass(value) and not isinstance(value, type):
            found = replace(value, **{f.name: self._inside(getattr(value, f.name))
                                      for f in fields(value)})  # fmt: skip
        return found  # type: ignore[no-any-return]
