"""Operators: data that says what is computed, never code that computes it.

An `Op` binds tensors to a *body*. Bodies carry no tensor names, so identical layers share one:

* `Nest`: named axes, affine accesses, a scalar body, a reduction. All that is tiled and mapped.
* `Gather`: data-dependent addressing (embedding, routing, scatter, top-k): declared traffic/work.
* `Scan`: a dependence along an axis (softmax, normalisation, cumulative sum, recurrence).
* `Opaque`: an operator we cannot read; only a bound is known.

`Gather` and `Scan` may hold `nests`: the regular work inside them (an expert's matrix product, a
recurrent layer's step), which is priced like any other nest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hwopt.ir.access import Access, Axis
from hwopt.ir.scalar import IDENTITY, PRODUCT, Scalar, operations

Resource: TypeAlias = Literal["matrix", "vector", "memory", "link", "none"]
"""What runs an operator: the matrix engine, the vector unit, plain data movement, a link between
devices, or nothing (a view)."""

Reduction: TypeAlias = Literal[
    "none", "sum", "prod", "max", "min", "any", "all", "argmax", "argmin"
]
Phase: TypeAlias = Literal["forward", "backward", "recompute", "optimizer"]
Attribute: TypeAlias = bool | int | float | str | tuple["Attribute", ...] | None
"""A static argument of a `Gather` or `Scan`."""


@dataclass(frozen=True, slots=True)
class Nest:
    """`write[...] = reduce over the axes absent from write of scalar(reads...)`.

    Axes absent from the write are *reduction* axes. More generally, all points that hit one element
    are combined by `reduction`, also where the write index is not injective (`2*p + r - 1`: the
    input gradient of a convolution accumulates so); with reduction "none" it must be injective.
    `write.fill` is None where the points cover the written tensor exactly; otherwise points whose
    write falls outside are dropped, and elements that no point hits hold the fill.
    "argmax" and "argmin" give the row-major position among the reduction axes, the first on ties.
    `sequential` axes carry a dependence from one
    iteration to the next (the time axis of a recurrence): their loops stay outermost, in order.
    """

    axes: tuple[Axis, ...]
    reads: tuple[Access, ...]
    write: Access
    scalar: Scalar = IDENTITY
    reduction: Reduction = "none"
    sequential: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Trip count by axis name."""
        return {axis.name: axis.size for axis in self.axes}

    @property
    def points(self) -> int:
        """Points of the iteration space."""
        return math.prod(axis.size for axis in self.axes)

    @property
    def reduction_axes(self) -> tuple[str, ...]:
        """Axes that the write does not depend on."""
        kept = self.write.axes
        return tuple(axis.name for axis in self.axes if axis.name not in kept)

    @property
    def is_contraction(self) -> bool:
        """Whether it is a sum of products of two operands: what a matrix engine runs."""
        return self.reduction == "sum" and self.scalar == PRODUCT and len(self.reads) == 2

    @property
    def work(self) -> int:
        """Scalar operations: function applications per point, plus one for the reduction."""
        return self.points * (operations(self.scalar) + (self.reduction != "none"))


@dataclass(frozen=True, slots=True)
class Gather:
    """Data-dependent movement. `function` names its meaning (the interpreter's table).

    `read_elements`/`write_elements`: elements touched per operand, in operand order (an embedding
    touches one row per index, not the table). `work`: scalar operations.
    """

    function: str
    attributes: tuple[tuple[str, Attribute], ...]
    read_elements: tuple[int, ...]
    write_elements: tuple[int, ...]
    work: int = 0
    nests: tuple[Nest, ...] = ()


@dataclass(frozen=True, slots=True)
class Scan:
    """A computation with a dependence along an axis.

    Fields as in `Gather`; `depth` is the length of the dependence chain: steps that cannot run in
    parallel (passes over a row for softmax and norms, time steps for a recurrence).
    """

    function: str
    attributes: tuple[tuple[str, Attribute], ...]
    read_elements: tuple[int, ...]
    write_elements: tuple[int, ...]
    work: int = 0
    depth: int = 1
    nests: tuple[Nest, ...] = ()


@dataclass(frozen=True, slots=True)
class Opaque:
    """An operator with no lowering: every operand is touched once, its work is unknown.

    Totals that contain one are a lower bound, and are marked so.
    """

    target: str


Body: TypeAlias = Nest | Gather | Scan | Opaque


@dataclass(frozen=True, slots=True)
class Source:
    """Where an operator comes from: module path, `file:line` of the model, ATen target."""

    module: str = ""
    line: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Op:
    """One operator. `reads`/`writes` name tensors, in the order of the body's accesses.

    `kind` is the family's name for people and passes ("convolution", "matmul", "softmax", "view").
    Source is not part of equality: two graphs that compute the same are equal.
    """

    name: str
    kind: str
    body: Body
    resource: Resource
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    phase: Phase = "forward"
    source: Source = field(default=Source(), compare=False)

    @property
    def nests(self) -> tuple[Nest, ...]:
        """The regular loop nests inside: what the mapper maps."""
        if isinstance(self.body, Nest):
            return (self.body,)
        return () if isinstance(self.body, Opaque) else self.body.nests

    @property
    def macs(self) -> int:
        """Multiply-accumulates on the matrix engine (padding and masked positions included)."""
        if self.resource != "matrix":
            return 0
        return sum(nest.points for nest in self.nests if nest.is_contraction)

    @property
    def flops(self) -> int:
        """2 x `macs`: what torch.utils.flop_counter counts."""
        return 2 * self.macs

    @property
    def work(self) -> int:
        """Scalar operations outside the matrix engine (0 for views and opaque operators)."""
        if self.resource in ("matrix", "none") or isinstance(self.body, Opaque):
            extra = 0 if isinstance(self.body, Opaque | Nest) else self.body.work
            return extra if self.resource == "matrix" else 0
        return self.body.work

    @property
    def is_view(self) -> bool:
        """Whether it only renames elements: no traffic, no time."""
        return self.resource == "none"

    def renamed(self, names: Mapping[str, str], name: str) -> Op:
        """The same operator on other tensors; the body is shared."""
        return Op(
            name, self.kind, self.body, self.resource,
            tuple(names.get(t, t) for t in self.reads),
            tuple(names.get(t, t) for t in self.writes), self.phase, self.source,
        )  # fmt: skip
