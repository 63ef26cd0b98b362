"""From a captured torch.fx graph to the IR: one `Call` per node, lowered in the graph's order.

Tensors are listed in the order of their first use, so the result depends only on the operators.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import fx

from hwopt.errors import UnsupportedOperatorError
from hwopt.frontend.captured import Captured, as_tensor, dtype_name
from hwopt.frontend.naming import Names
from hwopt.ir.graph import Graph
from hwopt.ir.op import Body, Op, Phase, Source
from hwopt.ir.tensor import Role, Tensor
from hwopt.ops.builder import Builder
from hwopt.ops.lowering import Argument, Call, lower

Value: TypeAlias = Tensor | tuple[Tensor, ...]
"""What a node stands for: a tensor, or the outputs of an operator with several."""

_INLINED = ("wrap_with_set_grad_enabled", "wrap_with_autocast")
"""Higher-order operators that only run their body under another setting, and the position of the
body among their arguments."""

_LINEAR = (
    "aten.slice_backward.default", "aten.select_backward.default", "aten.sum.default",
    "aten.sum.dim_IntList", "aten.mm.default", "aten.bmm.default",
)  # fmt: skip
"""Operators whose result is 0 where an operand has no elements."""

_SMALL = 4096
"""A constant of at most so many equal elements is written by a fill instead of being given."""


def convert(captured: Captured, name: str, unsupported: str = "error") -> Graph:
    """The IR graph of a capture.

    Raises `UnsupportedOperatorError` for an operator without a lowering, unless `unsupported` is
    "opaque".
    """
    return _Converter(captured, unsupported).graph(name)


def assemble(
    name: str,
    tensors: dict[str, Tensor],
    ops: Sequence[Op],
    outputs: Iterable[str],
    parameters: Iterable[Tensor],
) -> Graph:
    """A graph with its tensors in canonical order: by first use, then unused outputs and
    parameters. Equal bodies become one object.
    """
    bodies: dict[Body, Body] = {}
    listed: dict[str, Tensor] = {}
    shared = []
    for op in ops:
        body = bodies.setdefault(op.body, op.body)
        shared.append(op if body is op.body else replace(op, body=body))
        for tensor in (*op.reads, *op.writes):
            listed.setdefault(tensor, tensors[tensor])
    kept = tuple(dict.fromkeys(outputs))
    for tensor in kept:
        listed.setdefault(tensor, tensors[tensor])
    for parameter in parameters:
        listed.setdefault(parameter.name, parameter)
    return Graph(name, tuple(listed.values()), tuple(shared), kept)


class _Converter:
    """Walks one capture."""

    def __init__(self, captured: Captured, unsupported: str) -> None:
        self._captured = captured
        self._unsupported = unsupported
        self._build = Builder()
        self._tensors: dict[str, Tensor] = {}
        self._values: dict[fx.Node, Value] = {}
        self._stored: dict[fx.Node, torch.Tensor] = {}
        taken = {given.name for given in captured.given.values()}
        taken |= {tensor.name for tensor in captured.parameters}
        taken |= {result.name for result in captured.results if result.name}
        self._names = Names(taken)
        self._results: dict[fx.Node, tuple[str | None, Role]] = {}
        for result in captured.results:
            self._results.setdefault(result.node, (result.name, result.role))

    def graph(self, name: str) -> Graph:
        """Convert every node, then collect."""
        self._walk(self._captured.module)
        outputs = [
            self._tensor(result.node).name
            for result in self._captured.results
            if result.node not in self._stored
        ]
        tensors = self._tensors | {t.name: t for t in self._build.tensors}
        return assemble(name, tensors, self._build.ops, outputs, self._captured.parameters)

    def _walk(self, module: fx.GraphModule) -> Any:
        """Convert the nodes of a graph; returns the arguments of its output node."""
        for node in module.graph.nodes:
            if node.op == "placeholder":
                if node not in self._values:
                    self._placeholder(node)
            elif node.op == "get_attr":
                value = _attribute(module, node.target)
                if isinstance(value, torch.Tensor):
                    self._stored[node] = value
            elif node.op == "output":
                return node.args[0]
            elif node.target is operator.getitem:
                whole, position = node.args
                value = self._values[whole]
                self._values[node] = value[position] if isinstance(value, tuple) else value
            elif str(node.target) in _INLINED:
                self._inline(module, node)
            else:
                self._call(node)
        return ()

    def _placeholder(self, node: fx.Node) -> None:
        given, value = self._captured.given[node.name], node.meta["val"]
        if not isinstance(value, torch.Tensor):
            return
        if given.one:
            tensor = as_tensor(given.name, value, "gradient")
            call = Call("hwopt.one", given.name, {}, (tensor,), "backward")
            self._build.fill(call, 1.0, resource="vector")
            self._define(node, tensor)
        elif given.value is not None:
            self._stored[node] = given.value
        else:
            self._define(node, as_tensor(given.name, value, given.role))

    def _constant(self, node: fx.Node, source: Source) -> None:
        """A stored tensor, at its first use and named after the module that uses it: written by a
        fill if it is small and all its elements are equal, else given.
        """
        value = self._stored.pop(node)
        stem = f"{source.module}.constant".lstrip(".")
        tensor = as_tensor(self._names.fresh(stem), value, "constant")
        content = _content(value)
        if content is not None and tensor.elements:
            tensor = replace(tensor, role="activation")
            call = Call("hwopt.constant", tensor.name, {}, (tensor,), "forward", source)
            self._build.fill(call, content, resource="vector")
        self._define(node, tensor)

    def _inline(self, module: fx.GraphModule, node: fx.Node) -> None:
        """Convert the body of a higher-order operator in place."""
        arguments = list(node.args)
        position = next(
            i for i, a in enumerate(arguments) if isinstance(a, fx.Node) and a.op == "get_attr"
        )
        body = _attribute(module, str(arguments[position].target))  # type: ignore[union-attr]
        inputs = [n for n in body.graph.nodes if n.op == "placeholder"]
        for inner, outer in zip(inputs, arguments[position + 1 :], strict=True):
            if isinstance(outer, fx.Node) and outer in self._stored:
                self._constant(outer, Source())
            if isinstance(outer, fx.Node) and outer in self._values:
                self._values[inner] = self._values[outer]
        result = self._walk(body)
        parts = result if isinstance(result, tuple | list) else (result,)
        self._values[node] = tuple(self._tensor(part) for part in parts)

    def _call(self, node: fx.Node) -> None:
        """Lower one operator."""
        value = node.meta.get("val")
        parts = value if isinstance(value, tuple | list) else (value,)
        if not any(isinstance(part, torch.Tensor) for part in parts):
            self._without_result(node, parts)
            return
        backward = node.meta.get("partitioner_tag") == "is_backward"
        name, source = self._names.place(node, backward=backward)
        phase: Phase = "backward" if backward else "forward"
        outputs = self._outputs(node, name, parts)
        self._values[node] = outputs if isinstance(value, tuple | list) else outputs[0]
        for tensor in outputs:
            self._tensors[tensor.name] = tensor
        if not any(tensor.elements for tensor in outputs):
            return
        call = Call(str(node.target), name, self._bind(node, source), outputs, phase, source)
        if not self._append(call) and not self._from_nothing(call):
            lower(call, self._build, "opaque" if self._unsupported == "opaque" else "error")

    def _without_result(self, node: fx.Node, parts: Sequence[object]) -> None:
        """Assertions and bookkeeping vanish; a number computed from data cannot be priced."""
        if any(part is not None for part in parts) and node.users:
            _, source = self._names.place(node, backward=False)
            call = Call(str(node.target), node.name, {}, (), "forward", source)
            raise call.unsupported("its result is a number that depends on data")

    def _outputs(self, node: fx.Node, name: str, parts: Sequence[object]) -> tuple[Tensor, ...]:
        """A tensor per result; results that are not computed are empty."""
        outputs = []
        chosen = self._chosen(node, len(parts))
        for position, part in enumerate(parts):
            own = name if len(parts) == 1 else f"{name}.{position}"
            better, role = chosen.get(position, (None, "activation"))
            if isinstance(part, torch.Tensor):
                outputs.append(as_tensor(better or own, part, role))
            else:
                outputs.append(Tensor(own, (0,)))
        return tuple(outputs)

    def _chosen(self, node: fx.Node, parts: int) -> dict[int, tuple[str | None, Role]]:
        """Names and roles of the parts of a node that are results of the graph."""
        if parts == 1 and node in self._results:
            return {0: self._results[node]}
        chosen = {}
        for user in node.users:
            if user.target is operator.getitem and user in self._results:
                chosen[int(user.args[1])] = self._results[user]  # type: ignore[arg-type]
        return chosen

    def _bind(self, node: fx.Node, source: Source) -> dict[str, Argument]:
        """Arguments by their names in the schema, defaults filled in."""
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            raise UnsupportedOperatorError(
                f"operator {node.target}", where=f"{source.module} ({source.line})",
                fix="only registered torch operators can be priced",
            )  # fmt: skip
        bound: dict[str, Argument] = {}
        for position, argument in enumerate(schema.arguments):
            if position < len(node.args) and not argument.kwarg_only:
                value = node.args[position]
            elif argument.name in node.kwargs:
                value = node.kwargs[argument.name]
            else:
                value = argument.default_value
            bound[argument.name] = self._argument(value, source)
        return bound

    def _argument(self, value: Any, source: Source) -> Argument:
        if isinstance(value, fx.Node):
            if value in self._stored:
                self._constant(value, source)
            if value in self._values:
                return self._tensor(value)
            return value.meta.get("val")
        if isinstance(value, list | tuple):
            return [self._argument(part, source) for part in value]
        if isinstance(value, torch.dtype):
            return dtype_name(value)
        if isinstance(value, torch.memory_format | torch.layout):
            return str(value).removeprefix("torch.")
        if isinstance(value, torch.device):
            return str(value)
        return value

    def _append(self, call: Call) -> bool:
        """Rows joined to a key/value cache are written behind it: the cached rows do not move."""
        parts = call.arguments.get("tensors")
        if call.target != "aten.cat.default" or not parts or parts[0].role != "cache":
            return False
        output = replace(call.output, role="cache")
        self._tensors[output.name] = output
        new = [part.elements for part in parts[1:]]
        self._build.gather(
            replace(call, outputs=(output,)), "cat", parts, read_elements=[0, *new],
            write_elements=[sum(new)], kind="append",
            dim=call.arguments["dim"] % len(output.shape),
        )  # fmt: skip
        return True

    def _from_nothing(self, call: Call) -> bool:
        """What is linear in an empty tensor (the part of a head that is not rotated, say) is 0."""
        if call.target not in _LINEAR or all(tensor.elements for tensor in call.tensors):
            return False
        self._build.fill(call, 0.0, resource="vector")
        return True

    def _define(self, node: fx.Node, tensor: Tensor) -> None:
        self._values[node] = tensor
        self._tensors[tensor.name] = tensor

    def _tensor(self, node: fx.Node) -> Tensor:
        value = self._values[node]
        assert isinstance(value, Tensor)
        return self._tensors.get(value.name, value)


def _attribute(module: torch.nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _content(value: torch.Tensor) -> bool | float | int | None:
    """The number that every element of a small constant has; None if they differ or are unknown."""
    known = getattr(value, "constant", None)  # what a fake tensor remembers of a small constant
    value = value if known is None else known
    if (
        value.device.type == "meta"
        or not 0 < value.numel() <= _SMALL
        or type(value) is not torch.Tensor
    ):
        return None
    first = value.flatten()[0]
    if value.is_complex() or not bool((value == first).all()):
        return None
    number: bool | float | int = first.item()
    return number
