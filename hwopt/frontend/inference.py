"""Capture of a forward pass: torch.export, then decomposition to what `hwopt.ops` lowers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export.graph_signature import InputKind, OutputKind

from hwopt.frontend.captured import (
    Captured,
    Given,
    Result,
    fake_module,
    fake_tensor,
    first_names,
    parameters_of,
    tracing,
)
from hwopt.frontend.naming import without_wrapper
from hwopt.ir.tensor import Role
from hwopt.ops.lowering import lowerings

_ROLES: dict[InputKind, Role] = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
}


def capture_inference(
    name: str,
    wrapped: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    *,
    roles: Mapping[str, Role] | None = None,
    results: Mapping[int, tuple[str | None, Role]] | None = None,
) -> Captured:
    """The graph of `wrapped(*inputs)` with no gradient.

    `roles` of inputs that are not plain inputs; `results` gives names and roles of outputs by
    position. Raises `TraceError`.
    """
    program = exported(name, wrapped, tuple(inputs.values()))
    with tracing(name), torch.no_grad():
        program = program.run_decompositions(_decompositions())
    names, given = iter(inputs), {}
    parameters = first_names(wrapped)
    for spec in program.graph_signature.input_specs:
        placeholder = spec.arg.name
        if spec.kind is InputKind.USER_INPUT:
            label = next(names)
            given[placeholder] = Given(label, (roles or {}).get(label, "input"))
        else:
            target = parameters.get(str(spec.target), str(spec.target))
            role = _ROLES.get(spec.kind, "constant")
            value = program.constants.get(target) if role == "constant" else None
            constant = value if isinstance(value, torch.Tensor) else None
            given[placeholder] = Given(without_wrapper(target), role, constant)
    nodes = {node.name: node for node in program.graph.nodes}
    found: list[Result] = []
    position = 0
    for output in program.graph_signature.output_specs:
        node = nodes.get(getattr(output.arg, "name", ""))
        if output.kind is OutputKind.USER_OUTPUT:
            label_role = (results or {}).get(position, (None, "activation"))
            position += 1
            if node is not None:
                found.append(Result(node, label_role[1], label_role[0]))
        elif output.kind is OutputKind.BUFFER_MUTATION and node is not None:
            found.append(Result(node, "state", f"{without_wrapper(str(output.target))}.next"))
    stripped = tuple(
        type(p)(without_wrapper(p.name), p.shape, p.dtype, p.role) for p in parameters_of(wrapped)
    )
    return Captured(program.graph_module, given, tuple(found), stripped)


def exported(
    name: str, wrapped: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> torch.export.ExportedProgram:
    """The program of `wrapped(*inputs)`.

    A model on the meta device that makes tensors of its own on the CPU is exported again on fake
    CPU tensors (which takes a little longer).
    """
    with tracing(name), torch.no_grad():
        try:
            return torch.export.export(wrapped, inputs, strict=False)
        except Exception:
            if inputs[0].device.type != "meta":
                raise
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        copied = fake_module(wrapped, mode)
        fakes = tuple(fake_tensor(value, mode) for value in inputs)
        with mode:
            return torch.export.export(copied, fakes, strict=False)


def _decompositions() -> Any:
    """The table of torch to core operators, less all that has a lowering of its own."""
    table: Any = torch.export.default_decompositions()
    for target in list(table):
        if str(target) in lowerings:
            table.pop(target)
    return table
