"""From one captured ATen call to IR operators: the call, the builder, the table of lowerings.

A lowering is a function `(call, build) -> None` that emits operators writing `call.outputs`. It
sees plain data (names, IR tensors, numbers), never torch, so operator files import nothing heavy.
Adding an operator is one file in this package:

    @lowering("aten.relu.default")
    def relu(call: Call, build: Builder) -> None:
        build.pointwise(call, apply("maximum", Operand(0), 0.0), [call.tensor("self")])

`Builder` (in `builder.py`) emits the operators; `lower` is the entry point of the frontend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from hwopt.errors import UnsupportedOperatorError
from hwopt.ir.op import Phase, Source
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder
from hwopt.registry import Registry

Argument: TypeAlias = Any
"""A bound argument: `Tensor`, None, bool, int, float, str (dtype, device), or a list of these."""


@dataclass(frozen=True)
class Call:
    """One captured call. `arguments` holds every argument of the schema by name, defaults too.

    `outputs` are the result tensors in order (already named and typed by the frontend).
    """

    target: str
    name: str
    arguments: dict[str, Argument]
    outputs: tuple[Tensor, ...]
    phase: Phase = "forward"
    source: Source = field(default=Source())

    def tensor(self, name: str) -> Tensor:
        """A tensor argument that must be present."""
        value = self.arguments[name]
        if not isinstance(value, Tensor):
            raise self.unsupported(f"argument {name!r} is {value!r}, not a tensor")
        return value

    def optional(self, name: str) -> Tensor | None:
        """A tensor argument that may be None or left out."""
        value = self.arguments.get(name)
        return value if isinstance(value, Tensor) else None

    @property
    def output(self) -> Tensor:
        """The first, often the only, result."""
        return self.outputs[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor argument once, in the order of the schema, those in lists too."""
        flat: list[Tensor] = []
        for value in self.arguments.values():
            entries = value if isinstance(value, list | tuple) else (value,)
            flat.extend(entry for entry in entries if isinstance(entry, Tensor))
        return tuple(dict.fromkeys(flat))

    def get(self, name: str, default: Argument = None) -> Argument:
        """An argument that another overload of the operator may not have."""
        value = self.arguments.get(name)
        return default if value is None else value

    def unsupported(self, why: str) -> UnsupportedOperatorError:
        """The error for a case of this operator that has no lowering."""
        return UnsupportedOperatorError(
            f"operator {self.target}: {why}",
            where=f"{self.source.module or '<top level>'} ({self.source.line or 'no source line'})",
            fix="use --unsupported opaque to price it as memory traffic, or add a lowering",
        )


Lowering: TypeAlias = Callable[[Call, Builder], None]

lowerings: Registry[Lowering] = Registry("operator", "hwopt.ops")


def lowering(*targets: str) -> Callable[[Lowering], Lowering]:
    """Register one function for several ATen targets ("aten.addmm.default")."""

    def add(function: Lowering) -> Lowering:
        for target in targets:
            lowerings.register(target)(function)
        return function

    return add


def lower(call: Call, build: Builder, unsupported: Literal["error", "opaque"] = "error") -> None:
    """Emit the operators of one call.

    Raises `UnsupportedOperatorError` (operator, module path, source line) when it has no lowering,
    or none for these arguments; with `unsupported="opaque"` an `Opaque` operator stands for it.
    """
    mark = build.mark()
    try:
        if call.target not in lowerings:
            raise call.unsupported("no lowering")
        lowerings[call.target](call, build)
    except UnsupportedOperatorError:
        if unsupported == "error":
            raise
        build.rewind(mark)
        build.opaque(call)


def supported() -> frozenset[str]:
    """The ATen targets that have a lowering."""
    return frozenset(lowerings)
