"""Expansion of a graph traced with four blocks of a stack to the graph with all of them.

Operators of block `i` are those whose name starts with the block's module path. They must form runs
0 1 2 3 (forward) or 3 2 1 0 (backward), and blocks 1 and 2 must be the same but for their number:
same bodies, shapes and wiring, each touching its neighbours and what all blocks share. Then block 2
stands for every further one. Operators outside may touch the first and the last block only (a
concatenation over all blocks, for example, grows with their number). Anything else is a
`MismatchError`, and all blocks are traced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TypeAlias, TypeVar

from hwopt.frontend.convert import assemble
from hwopt.frontend.repeat import TRACED, Stack
from hwopt.ir.graph import Graph
from hwopt.ir.op import Op, Source
from hwopt.ir.tensor import Tensor

T = TypeVar("T")
Numbers: TypeAlias = dict[int, int]
"""New block number by old; a block that is missing may not be touched."""

_LAST = TRACED - 1
_SHIFT: Numbers = {0: 1, 1: 2, 2: 3}
_ASCENDING, _DESCENDING = list(range(TRACED)), list(reversed(range(TRACED)))


class MismatchError(Exception):
    """The traced blocks are not copies of one another."""


def expand_stack(graph: Graph, stack: Stack, parameters: Iterable[Tensor]) -> Graph:
    """The graph with all blocks of a stack, as a trace of all of them would give it.

    `parameters` are those of the whole model. Raises `MismatchError`.
    """
    return _Expansion(graph, stack).graph(tuple(parameters))


class _Expansion:
    def __init__(self, graph: Graph, stack: Stack) -> None:
        self._graph = graph
        self._count = stack.count
        self._pattern = re.compile(rf"(?:{re.escape(stack.path)}|cache)\.(\d+)(?=\.|$)")
        self._tensors: dict[str, Tensor] = {}

    def graph(self, parameters: tuple[Tensor, ...]) -> Graph:
        ops = self._sequence(self._graph.ops, lambda op: op.name, self._op)
        outputs = self._sequence(self._graph.outputs, lambda name: name, self._name)
        for name in outputs:
            if name not in self._tensors:
                self._tensors[name] = self._source(name)
        return assemble(self._graph.name, self._tensors, ops, outputs, parameters)

    def _sequence(
        self, items: Sequence[T], key: Callable[[T], str], rename: Callable[[T, Numbers], T]
    ) -> list[T]:
        """The items with those of further blocks inserted."""
        runs = [
            (number, list(run)) for number, run in groupby(items, lambda i: self._number(key(i)))
        ]
        result: list[T] = []
        position = 0
        while position < len(runs):
            number, run = runs[position]
            four = runs[position : position + TRACED]
            order = [n for n, _ in four]
            if order in (_ASCENDING, _DESCENDING):
                result += self._blocks(dict(four), rename, descending=order == _DESCENDING)
                position += TRACED
            elif number in (None, 0, _LAST):  # outside, or about the first or last block alone
                result += [rename(item, {0: 0, _LAST: self._count - 1}) for item in run]
                position += 1
            else:
                raise MismatchError(f"blocks come in the order {order}")
        return result

    def _blocks(
        self,
        runs: Mapping[int | None, list[T]],
        rename: Callable[[T, Numbers], T],
        *,
        descending: bool,
    ) -> list[T]:
        """All blocks from the four traced ones."""
        first, second, third, last = (runs[number] for number in _ASCENDING)
        if [rename(item, _SHIFT) for item in second] != third:
            raise MismatchError("blocks 1 and 2 differ")
        blocks = [[rename(item, {0: 0, 1: 1}) for item in first]]
        blocks += [
            [rename(item, {0: number - 1, 1: number, 2: number + 1}) for item in second]
            for number in range(1, self._count - 1)
        ]
        end = {_LAST - 1: self._count - 2, _LAST: self._count - 1}
        blocks.append([rename(item, end) for item in last])
        return [item for block in (reversed(blocks) if descending else blocks) for item in block]

    def _number(self, name: str) -> int | None:
        match = self._pattern.match(name)
        return int(match[1]) if match else None

    def _name(self, name: str, numbers: Numbers) -> str:
        match = self._pattern.match(name)
        if match is None:
            return name
        number = int(match[1])
        if number not in numbers:
            raise MismatchError(f"{name} is touched from outside its neighbours")
        return f"{name[: match.start(1)]}{numbers[number]}{name[match.end(1) :]}"

    def _op(self, op: Op, numbers: Numbers) -> Op:
        """A copy on other tensors, which are declared with it."""
        reads = tuple(self._tensor(name, numbers) for name in op.reads)
        writes = tuple(self._tensor(name, numbers) for name in op.writes)
        module = op.source.module
        path = module if self._number(module) is None else self._name(module, numbers)
        return replace(
            op, name=self._name(op.name, numbers), reads=reads, writes=writes,
            source=Source(path, op.source.line, op.source.target),
        )  # fmt: skip

    def _tensor(self, name: str, numbers: Numbers) -> str:
        new = self._name(name, numbers)
        old = self._graph.tensor[name]
        declared = self._tensors.setdefault(new, old if new == name else replace(old, name=new))
        traced = self._graph.tensor.get(new, declared) if numbers is _SHIFT else declared
        if not declared == traced == replace(old, name=new):
            raise MismatchError(f"{new} differs from {name}")
        return new

    def _source(self, name: str) -> Tensor:
        """An output that no operator touches."""
        if name not in self._graph.tensor:
            raise MismatchError(f"output {name} is not written")
        return self._graph.tensor[name]
