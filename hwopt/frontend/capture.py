"""`trace`: any model to an operator graph, without weights and without running it.

* forward: one inference pass. prefill: the same, with the key/value cache as an output, logits of
  the last token only. decode: one token against `seq` cached ones. train: forward and backward of
  the loss, then the optimizer step; dropout is off in all modes.
* Deep stacks of equal blocks are traced with four blocks and expanded exactly (`repeat.py`).
* Graphs of models given by name or file are kept on disk under a key of all that determines them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from hwopt.errors import HwoptError
from hwopt.ir.graph import Graph

if TYPE_CHECKING:
    from torch import nn

Mode: TypeAlias = Literal["forward", "prefill", "decode", "train"]


@dataclass(frozen=True)
class Request:
    """Everything that determines a trace besides the model."""

    mode: str = "forward"
    batch: int = 1
    seq: int | None = None
    dtype: str | None = None
    unsupported: str = "error"
    optimizer: str = "adamw"
    overrides: tuple[tuple[str, int], ...] = ()


def trace(
    model: str | nn.Module,
    inputs: Any = None,
    *,
    mode: str = "forward",
    batch: int = 1,
    seq: int | None = None,
    dtype: str | None = None,
    unsupported: str = "error",
    overrides: Mapping[str, int] | None = None,
    optimizer: str = "adamw",
    cache: bool = True,
    expand: bool = True,
) -> Graph:
    """The operator graph of a model.

    `model`: a library name, an `nn.Module`, a Hugging Face folder or config.json, an .onnx file, or
    "package.module:factory" (a function that returns a module, or a module and its inputs).
    `inputs`: for a module or factory, a tensor, a tuple or a dict; meta tensors do. Else they
    follow from the model, `batch` and `seq` (tokens; in decode mode: tokens cached). `overrides`
    are knobs of library models and keys of a configuration. `unsupported`: "error", or "opaque" to
    price unknown operators as memory traffic. `optimizer`: "adamw", "sgd" or "none". `cache=False`
    neither reads nor writes the graphs kept on disk; `expand=False` traces every block.

    Raises `UnknownNameError`, `TraceError`, `UnsupportedOperatorError` or `HwoptError`.
    """
    _check("mode", mode, get_args(Mode))
    _check("unsupported", unsupported, ("error", "opaque"))
    for name, value in (("batch", batch), ("seq", seq)):
        if value is not None and (isinstance(value, bool) or value < 1):
            raise HwoptError(f"{name} is not a size", value=value, allowed="1 or more")
    from hwopt.frontend.optimizer import optimizers
    from hwopt.frontend.pipeline import trace_model

    _check("optimizer", optimizer, tuple(optimizers))
    knobs = tuple(sorted((overrides or {}).items()))
    request = Request(mode, batch, seq, dtype, unsupported, optimizer, knobs)
    return trace_model(model, inputs, request, cache=cache, expand=expand)


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise HwoptError(f"unknown {name}", value=value, allowed=", ".join(allowed))
