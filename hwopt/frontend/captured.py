"""What a capture hands to the conversion: a torch.fx graph whose ends are named."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from hwopt.errors import HwoptError, TraceError
from hwopt.ir.tensor import DTYPE_BITS, Role, Tensor


@dataclass(frozen=True)
class Given:
    """A placeholder: the IR name and part of the tensor, or a known content.

    `value`: a constant tensor. `one`: the derivative of the loss by itself.
    """

    name: str
    role: Role
    value: torch.Tensor | None = None
    one: bool = False


@dataclass(frozen=True)
class Result:
    """An output: its node, the part it plays, and a name if it has a better one than its node."""

    node: fx.Node
    role: Role = "activation"
    name: str | None = None


@dataclass(frozen=True)
class Captured:
    """`given` by placeholder name; `parameters` are all of the model's, used or not."""

    module: fx.GraphModule
    given: dict[str, Given]
    results: tuple[Result, ...]
    parameters: tuple[Tensor, ...] = field(default=())


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` is "float32"."""
    return str(dtype).removeprefix("torch.")


def parse_dtype(name: str) -> torch.dtype:
    """The torch element type of a name; `HwoptError` when there is none."""
    dtype = getattr(torch, name, None) if name in DTYPE_BITS else None
    if not isinstance(dtype, torch.dtype):
        raise HwoptError("unknown element type", value=name, allowed=", ".join(DTYPE_BITS))
    return dtype


def as_tensor(name: str, value: torch.Tensor, role: Role) -> Tensor:
    """The IR tensor of a torch one; views of expanded memory count as what they show."""
    shape = tuple(int(size) for size in value.shape)
    return Tensor(name, shape, dtype_name(value.dtype), role)


def parameters_of(module: torch.nn.Module) -> tuple[Tensor, ...]:
    """Every trained tensor once, tied ones under their first name."""
    return tuple(as_tensor(n, p, "parameter") for n, p in module.named_parameters())


def first_names(module: torch.nn.Module) -> dict[str, str]:
    """For every name of a parameter, the first name of the same tensor (tied weights)."""
    first: dict[int, str] = {}
    named = module.named_parameters(remove_duplicate=False)
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def fake_module(module: torch.nn.Module, mode: FakeTensorMode) -> Any:
    """A copy of the module on fake CPU tensors; tied parameters stay tied."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        value = fake_tensor(parameter.detach(), mode)
        memo[id(parameter)] = torch.nn.Parameter(value, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = fake_tensor(buffer, mode)
    return copy.deepcopy(module, memo)


def fake_tensor(value: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """A fake CPU tensor of the same shape, layout and element type."""
    with mode:
        fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")
    return fake


@contextlib.contextmanager
def tracing(name: str) -> Iterator[None]:
    """Quiet tracers; whatever they raise becomes one `TraceError` naming the model."""
    loggers = [logging.getLogger(n) for n in ("transformers", "torch._dynamo", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about side effects, versions, deprecated arguments
            yield
    except HwoptError:
        raise
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise TraceError(
            f"cannot capture {name}",
            value=f"{type(error).__name__}: {' / '.join(lines[:3])[:400]}",
            fix="the model must run on tensors without looking at their values",
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
