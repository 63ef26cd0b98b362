"""From one captured ATen call to IR operators: the call, the builder, the table of lowerings.

A lowering is a function `(call, build) -> None` that emits operators writing `call.outputs`. It
sees plain data (names, IR tensors, numbers), never torch, so operator files import nothing heavy.
Adding an operator is one file in this package:

    @lowering("aten.relu.default")
    def relu(call: Call, build: Builder) -> None:
        build.pointwise(call, apply("maximum", Operand(0), 0.0), [call.tensor("self")])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hwopt.errors import UnsupportedOperatorError
from hwopt.ir.op import Body, Op, Phase, Resource, Source
from hwopt.ir.tensor import Role, Tensor
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

    def unsupported(self, why: str) -> UnsupportedOperatorError:
        """The error for a case of this operator that has no lowering."""
        return UnsupportedOperatorError(
            f"operator {self.target}: {why}",
            where=f"{self.source.module or '<top level>'} ({self.source.line or 'no source line'})",
            fix="use --unsupported opaque to price it as memory traffic, or add a lowering",
        )


Lowering: TypeAlias = Callable[[Call, "Builder"], None]

lowerings: Registry[Lowering] = Registry("operator", "hwopt.ops")


def lowering(*targets: str) -> Callable[[Lowering], Lowering]:
    """Register one function for several ATen targets ("aten.addmm.default")."""

    def add(function: Lowering) -> Lowering:
        for target in targets:
            lowerings.register(target)(function)
        return function

    return add


class Builder:
    """Collects what lowerings emit. Names of temporaries and operators derive from the call's."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.ops: list[Op] = []
        self._used: set[str] = set()

    def temporary(
        self, call: Call, shape: tuple[int, ...], dtype: str, role: Role = "activation"
    ) -> Tensor:
        """A new tensor between operators of one lowering."""
        tensor = Tensor(self._unique(f"{call.name}.t"), shape, dtype, role)
        self.tensors.append(tensor)
        return tensor

    def emit(
        self,
        call: Call,
        kind: str,
        body: Body,
        resource: Resource,
        reads: list[Tensor],
        writes: list[Tensor],
        phase: Phase | None = None,
    ) -> None:
        """Append one operator of the call's phase and source (or of another `phase`)."""
        name = call.name if call.name not in self._used else self._unique(f"{call.name}.{kind}")
        self._used.add(name)
        names = tuple(t.name for t in reads), tuple(t.name for t in writes)
        self.ops.append(Op(name, kind, body, resource, *names, phase or call.phase, call.source))

    def _unique(self, stem: str) -> str:
        """`stem`, or `stem2`, `stem3`, ... if it is taken."""
        name, count = stem, 1
        while name in self._used:
            count += 1
            name = f"{stem}{count}"
        self._used.add(name)
        return name
