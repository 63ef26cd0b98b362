"""The registry of models: what an entry is, and how a family adds one.

    library.register("tiny-net")(
        Entry("tiny-net", "two linear layers", "vision", make, {"pixels": ((3, 32, 32), "float32")})
    )

An entry builds a fresh `torch.nn.Module` on whatever device is the default (the frontend builds on
"meta", so no weight is ever allocated) and describes its inputs as plain shapes.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from hwopt.errors import HwoptError, UnknownNameError
from hwopt.registry import Registry

if TYPE_CHECKING:
    from torch import nn

Family: TypeAlias = Literal["vision", "language", "recommendation"]
Specification: TypeAlias = tuple[tuple[int, ...], str]
"""Shape and element type of an input. In an entry, without the batch; "seq" axes are -1."""

LossName: TypeAlias = Literal["labels", "cross_entropy", "binary_cross_entropy", "mean"]
"""labels: the model computes its loss from an input of that name. cross_entropy: of its logits
(..., classes) with integer targets. binary_cross_entropy: of its logits with targets of the same
shape. mean: the sum of the means of its floating outputs, where nothing is known."""


@dataclass(frozen=True)
class Entry:
    """A model that can be built by name.

    `make(**overrides)` returns the module; `inputs` gives each forward argument's shape without the
    batch, -1 standing for the sequence length (`seq` unless told otherwise). `overrides` says what
    each knob of `make` means; `values` its size where that is not a default of `make`.
    """

    name: str
    about: str
    family: Family
    make: Callable[..., nn.Module]
    inputs: Mapping[str, Specification]
    overrides: Mapping[str, str] = field(default_factory=dict)
    modes: tuple[str, ...] = ("forward", "train")
    loss: LossName = "cross_entropy"
    seq: int | None = None
    values: Mapping[str, int] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each knob when it is not overridden, where that is known."""
        given = {
            name: parameter.default
            for name, parameter in inspect.signature(self.make).parameters.items()
            if isinstance(parameter.default, int)
        }
        known = {**given, **self.values}
        return {name: known[name] for name in self.overrides if name in known}

    def build(self, **overrides: int) -> nn.Module:
        """The module, in the current default device and element type.

        Raises `HwoptError` for an override that the entry does not have or that does not fit.
        """
        for name, value in overrides.items():
            if name not in self.overrides:
                raise HwoptError(
                    f"model {self.name} has no override {name!r}", value=value,
                    allowed=", ".join(f"{k} ({v})" for k, v in self.overrides.items()) or "none",
                )  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise HwoptError(
                    f"override {name!r} of model {self.name}", value=value,
                    allowed="an integer of at least 1",
                )  # fmt: skip
        return self.make(**overrides)

    def input_shapes(self, batch: int, seq: int | None) -> dict[str, Specification]:
        """Shape and element type of each input, by argument name."""
        length = seq if seq is not None else self.seq
        return {
            name: ((batch, *(length or 1 if size == -1 else size for size in shape)), dtype)
            for name, (shape, dtype) in self.inputs.items()
        }


library: Registry[Entry] = Registry("models", "hwopt.models")


def add(entry: Entry) -> Entry:
    """Register an entry under its own name."""
    return library.register(entry.name)(entry)


def find(name: str) -> Entry:
    """The entry of a name, forgiving case, underscores and dots ("ResNet50", "Llama_2_7B").

    Raises `UnknownNameError` with the nearest names.
    """
    plain = {_plain(known): known for known in library}
    if (key := _plain(name)) in plain:
        return library[plain[key]]
    near = difflib.get_close_matches(key, plain, n=4, cutoff=0.5)
    raise UnknownNameError(
        "unknown model", value=name,
        allowed=", ".join(plain[k] for k in near) + ", ..." if near else ", ".join(library),
        fix="`hwopt list models` prints all; a folder, a config.json, an .onnx file or "
        "package.module:factory also names a model",
    )  # fmt: skip


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum() or c == ".").replace(".0b", "b")


def require(condition: bool, what: str, value: Any, allowed: str) -> None:
    """Refuse an override that does not fit, in one clear message."""
    if not condition:
        raise HwoptError(what, value=value, allowed=allowed)
