"""Stacks of equal blocks in a module tree, and the same module with only four blocks of each.

A stack is a `ModuleList` or `Sequential` whose blocks, but for the first, are equal in class, plain
attributes (the layer's number apart), parameters and buffers, all the way down. Whether the traced
blocks are equal as well is checked when the graph is expanded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

TRACED = 4
"""Blocks that are traced: the first, two equal ones to compare, and the last."""

_NUMBERS = ("idx", "index", "layer")
"""Attributes with such a part in their name may hold the block's own number."""

Signature: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Stack:
    """A stack of `count` equal blocks at a module path."""

    path: str
    blocks: nn.Module
    count: int


def find_stacks(module: nn.Module) -> tuple[Stack, ...]:
    """The outermost stacks with more blocks than a trace needs."""
    found: list[Stack] = []
    _search("", module, found, {id(module)})
    if any(_varies(config, stack.count) for config in _configs(module) for stack in found):
        return ()
    return tuple(found)


@contextlib.contextmanager
def shortened(stacks: tuple[Stack, ...]) -> Iterator[None]:
    """Within: each stack holds its first four blocks only; afterwards all again."""
    whole = [dict(stack.blocks._modules) for stack in stacks]  # noqa: SLF001 - where blocks live
    try:
        for stack in stacks:
            modules = stack.blocks._modules  # noqa: SLF001
            for name in list(modules)[TRACED:]:
                del modules[name]
        yield
    finally:
        for stack, modules in zip(stacks, whole, strict=True):
            stack.blocks._modules.clear()  # noqa: SLF001
            stack.blocks._modules.update(modules)  # noqa: SLF001


def _search(path: str, module: nn.Module, found: list[Stack], seen: set[int]) -> None:
    for name, child in module.named_children():
        if id(child) in seen:
            continue
        seen.add(id(child))
        at = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList | nn.Sequential) and _is_stack(child):
            found.append(Stack(at, child, len(child)))
        else:
            _search(at, child, found, seen)


def _is_stack(blocks: nn.ModuleList | nn.Sequential) -> bool:
    """Whether there are more blocks than are traced, all distinct, and equal from the second on."""
    if len(blocks) <= TRACED + 1 or len({id(block) for block in blocks}) != len(blocks):
        return False
    if list(blocks._modules) != [str(i) for i in range(len(blocks))]:  # noqa: SLF001
        return False
    parameters = [id(p) for block in blocks for p in block.parameters()]
    if not parameters or len(set(parameters)) != len(parameters):
        return False
    signatures = (_signature(block, index) for index, block in enumerate(blocks) if index)
    first = next(signatures)
    return all(signature == first for signature in signatures)


def _signature(module: nn.Module, index: int) -> Signature:
    """All that a block's behaviour may depend on, its own number replaced by a mark."""
    plain = tuple(
        (name, _plain(value, index if any(n in name for n in _NUMBERS) else None))
        for name, value in sorted(vars(module).items())
        if not name.startswith("_") and name not in ("config", "training")
    )  # fmt: skip
    tensors = tuple(
        (name, tuple(t.shape), t.dtype, t.requires_grad, type(t))
        for part in (module._parameters, module._buffers)  # noqa: SLF001
        for name, t in part.items()
        if t is not None
    )
    children = tuple(
        (name, _signature(child, index))
        for name, child in module._modules.items()  # noqa: SLF001
        if child is not None
    )
    return type(module), plain, tensors, children


def _plain(value: Any, index: int | None) -> Any:
    """A value by which two attributes can be compared."""
    if isinstance(value, bool | float | str | bytes | type(None) | torch.dtype):
        return value
    if isinstance(value, int):
        return "#index" if value == index else value
    if isinstance(value, list | tuple):
        return tuple(_plain(part, None) for part in value)
    if isinstance(value, dict):
        return tuple((str(key), _plain(part, None)) for key, part in value.items())
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    return getattr(value, "__qualname__", None) or type(value)


def _configs(module: nn.Module) -> list[Any]:
    """The configuration of a transformers model and those inside it."""
    config = getattr(module, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        return []
    inner = [value for value in vars(config).values() if hasattr(value, "to_dict")]
    return [config, *inner]


def _varies(config: Any, count: int) -> bool:
    """Whether a configuration treats some layers otherwise than others."""
    for name, value in vars(config).items():
        if not isinstance(value, list | tuple) or not value:
            continue
        if len(value) == count:
            if any(part != value[0] for part in value):
                return True
        elif "layer" in name and all(isinstance(part, int) for part in value):
            return True
    return False
