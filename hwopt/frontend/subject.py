"""What is traced: a module, its inputs by name, how it is called, and how it is trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hwopt.frontend.captured import parse_dtype
from hwopt.frontend.naming import WRAPPED
from hwopt.models.library import LossName, Specification


@dataclass(frozen=True)
class Subject:
    """`inputs` by dotted name ("pixels", "states.0"), in the order of the call.

    `arguments` rebuilds the call's positional and keyword arguments from the flat inputs. `options`
    are further keyword arguments. `loss` None means that it is chosen by looking at the outputs.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, torch.Tensor]
    arguments: Callable[[tuple[Any, ...]], tuple[tuple[Any, ...], dict[str, Any]]]
    options: Mapping[str, Any] = field(default_factory=dict)
    loss: LossName | None = None


class Wrapped(nn.Module):
    """The model under flat tensor arguments: what every tracer sees."""

    def __init__(self, subject: Subject, module: nn.Module) -> None:
        super().__init__()
        setattr(self, WRAPPED, module)
        self._arguments = subject.arguments
        self._options = dict(subject.options)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The floating and integer tensors of the model's output, in order."""
        positional, keywords = self._arguments(tensors)
        result = getattr(self, WRAPPED)(*positional, **keywords, **self._options)
        return tuple(leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor))


def from_inputs(
    name: str, module: nn.Module, inputs: Any, *, loss: LossName | None = None
) -> Subject:
    """A subject called with what a user gave: a tensor, a tuple (positional) or a dict (keywords).

    Inputs are named after the parameters of `forward`; nested containers by their keys.
    """
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    positional = tuple(inputs) if isinstance(inputs, list | tuple) else ()
    keywords = {} if positional else dict(inputs or {})
    names = list(inspect.signature(module.forward).parameters)
    paths, spec = pytree.tree_flatten_with_path((positional, keywords))
    flat: dict[str, torch.Tensor] = {}
    constants: list[Any] = []
    for path, leaf in paths:
        side, first, *rest = [_key(step) for step in path]
        head = names[int(first)] if side == "0" and int(first) < len(names) else f"input{first}"
        label = ".".join([head if side == "0" else first, *rest])
        constants.append(None if isinstance(leaf, torch.Tensor) else leaf)
        if isinstance(leaf, torch.Tensor):
            flat[label] = _beside(leaf, module)

    def arguments(tensors: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = iter(tensors)
        leaves = [
            next(given) if isinstance(leaf, torch.Tensor) else constant
            for (_, leaf), constant in zip(paths, constants, strict=True)
        ]
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return args, kwargs

    return Subject(name, module, flat, arguments, {}, loss)


def from_shapes(
    name: str,
    module: nn.Module,
    shapes: Mapping[str, Specification],
    *,
    options: Mapping[str, Any] | None = None,
    loss: LossName | None = None,
) -> Subject:
    """A subject called with keyword arguments of these shapes (on its device)."""
    dtype = next((p.dtype for p in module.parameters() if p.dtype.is_floating_point), None)
    inputs = {
        key: torch.empty(
            shape, device=device_of(module),
            dtype=dtype if kind == "float32" and dtype is not None else parse_dtype(kind),
        )
        for key, (shape, kind) in shapes.items()
    }  # fmt: skip
    names = tuple(inputs)

    def arguments(tensors: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), dict(zip(names, tensors, strict=True))

    return Subject(name, module, inputs, arguments, options or {}, loss)


def device_of(module: nn.Module) -> torch.device:
    """Where a module runs: the meta device if any parameter is there (some models put single ones
    elsewhere) or if it has none, else where its first parameter is.
    """
    devices = [parameter.device for parameter in module.parameters()]
    meta = torch.device("meta")
    return meta if not devices or meta in devices else devices[0]


def _beside(value: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """The tensor on the module's device; what a meta tensor holds does not matter to a trace."""
    device = device_of(module)
    if value.device == device or next(module.parameters(), None) is None:
        return value
    if value.device.type == "meta":
        return torch.zeros(value.shape, dtype=value.dtype, device=device)
    return value.to(device)


def accepts(module: nn.Module, argument: str) -> bool:
    """Whether `forward` has an argument of this name."""
    return argument in inspect.signature(module.forward).parameters


def _key(step: Any) -> str:
    """A step of a pytree path as text."""
    for attribute in ("idx", "key", "name"):
        if hasattr(step, attribute):
            return str(getattr(step, attribute))
    return str(step)
