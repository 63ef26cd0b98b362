"""The textual form of a graph: `parse(print_graph(graph)) == graph`.

One line per operator; the grammar is in `hwopt.ir`. Bodies are printed once, as definitions `$0`,
`$1` ... before their first use, so the 96 equal layers of a model cost one definition. Tensors are
declared where they are first needed, in the graph's own order. Parsing never evaluates anything.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

from hwopt.ir.access import Access
from hwopt.ir.graph import Graph
from hwopt.ir.op import Attribute, Body, Gather, Nest, Op, Opaque, Scan, Source
from hwopt.ir.tensor import Tensor

_PLAIN = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)


def parse(text: str) -> Graph:
    """The graph that a text describes; `TextError` with line and column where it is malformed.

    Only the form is checked: `verify.verify` checks the meaning.
    """
    from hwopt.ir.parser import Parser

    return Parser(text).graph()


def print_graph(graph: Graph, sources: bool = True) -> str:
    """The graph as text; `sources` adds module path, source line and ATen target of operators."""
    return _Printer(graph, sources).text()


@lru_cache(maxsize=65536)
def quote(name: str) -> str:
    """A name as it is where it is plain, else as a JSON string."""
    return name if _PLAIN.fullmatch(name) else json.dumps(name)


def print_attribute(value: Attribute) -> str:
    """`True`, `3`, `0.5`, `-inf`, `"text"`, `None`, `(1, 2)`."""
    if isinstance(value, tuple):
        return f"({', '.join(map(print_attribute, value))})"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def print_access(access: Access) -> str:
    """`[n, 2*p + r - 1] else 0.0`."""
    index = f"[{', '.join(map(str, access.index))}]"
    return index if access.fill is None else f"{index} else {float(access.fill)!r}"


def print_nest(nest: Nest) -> str:
    """`nest (m=4, n=5, k=6) reads ([m, k], [k, n]) writes [m, n] sum mul(#0, #1)`."""
    axes = ", ".join(f"{axis.name}={axis.size}" for axis in nest.axes)
    reads = ", ".join(map(print_access, nest.reads))
    text = f"nest ({axes}) reads ({reads}) writes {print_access(nest.write)}"
    text += f" {nest.reduction} {nest.scalar}"
    if nest.sequential:
        text += f" sequential ({', '.join(nest.sequential)})"
    return text


class _Printer:
    """Collects lines; bodies are interned by what they print (1 and 1.0 are not the same)."""

    def __init__(self, graph: Graph, sources: bool) -> None:
        self._graph = graph
        self._sources = sources
        self._lines: list[str] = []
        self._number: dict[str, int] = {}
        self._reference: dict[int, str] = {}
        self._next = 0
        self._position = {tensor.name: place for place, tensor in enumerate(graph.tensors)}

    def text(self) -> str:
        graph = self._graph
        self._lines.append(f"graph {json.dumps(graph.name)}")
        for op in graph.ops:
            self._op(op)
        self._declare(len(graph.tensors))
        outputs = "".join(f" %{quote(name)}," for name in graph.outputs).rstrip(",")
        self._lines.append(f"return{outputs}")
        return "\n".join(self._lines) + "\n"

    def _declare(self, until: int) -> None:
        """Print the declarations of the tensors before position `until`."""
        for tensor in self._graph.tensors[self._next : until]:
            self._lines.append("  " + self._typed(tensor))
        self._next = max(self._next, until)

    def _typed(self, tensor: Tensor) -> str:
        sizes = ", ".join(map(str, tensor.shape))
        role = "" if tensor.role == "activation" else f" {quote(tensor.role)}"
        return f"%{quote(tensor.name)} : {quote(tensor.dtype)}[{sizes}]{role}"

    def _op(self, op: Op) -> None:
        self._declare(self._needed(op))
        body = self._body(op.body)
        results = []
        for name in op.writes:
            if self._position.get(name) == self._next:
                results.append(self._typed(self._graph.tensors[self._next]))
                self._next += 1
            else:
                results.append(f"%{quote(name)}")
        name = "" if op.writes and op.writes[0] == op.name else f"@{quote(op.name)} "
        reads = ", ".join(f"%{quote(read)}" for read in op.reads)
        line = f"  {', '.join(results) or '()'} = {name}{quote(op.kind)} on {quote(op.resource)}"
        line += f" {body}({reads})"
        if op.phase != "forward":
            line += f" {quote(op.phase)}"
        if self._sources and op.source != Source():
            where = (op.source.module, op.source.line, op.source.target)
            line += " // " + " ".join(map(json.dumps, where))
        self._lines.append(line)

    def _needed(self, op: Op) -> int:
        """How many tensors to declare before the op's line; its results come with the line."""
        place = self._position
        read = max((place[name] + 1 for name in op.reads if name in place), default=0)
        written = min((place[name] for name in op.writes if name in place), default=0)
        return max(read, written)

    def _body(self, body: Body) -> str:
        """The reference `$n` of a body, defined first where it is new."""
        if (known := self._reference.get(id(body))) is not None:
            return known
        if isinstance(body, Nest):
            text = print_nest(body)
        elif isinstance(body, Opaque):
            text = f"opaque {json.dumps(body.target)}"
        else:
            text = self._routine(body)
        if text not in self._number:
            self._number[text] = len(self._number)
            self._lines.append(f"  ${self._number[text]} = {text}")
        self._reference[id(body)] = f"${self._number[text]}"
        return self._reference[id(body)]

    def _routine(self, body: Gather | Scan) -> str:
        kind = "gather" if isinstance(body, Gather) else "scan"
        attributes = ", ".join(f"{quote(k)}={print_attribute(v)}" for k, v in body.attributes)
        reads = ", ".join(map(str, body.read_elements))
        writes = ", ".join(map(str, body.write_elements))
        text = f"{kind} {quote(body.function)} {{{attributes}}} touches ({reads}) -> ({writes})"
        text += f" work {body.work}"
        if isinstance(body, Scan):
            text += f" depth {body.depth}"
        if body.nests:
            text += f" nests ({', '.join(self._body(nest) for nest in body.nests)})"
        return text
