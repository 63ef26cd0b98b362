"""Emits IR operators for one call after another: the vocabulary that lowerings are written in.

A nest is written as a dict of axes and operands given by `at(tensor, *index)`, for example the
matrix product `y[m, n] = sum over k of x[m, k] * w[n, k]`:

    sizes = {"m": 4, "n": 5, "k": 6}
    build.contract(call, sizes, at(x, "m", "k"), at(w, "n", "k"), at(y, "m", "n"))
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from hwopt.ir.access import Access, Affine, Axis, parse_affine
from hwopt.ir.op import (
    Attribute,
    Body,
    Gather,
    Nest,
    Op,
    Opaque,
    Phase,
    Reduction,
    Resource,
    Scan,
)
from hwopt.ir.scalar import IDENTITY, PRODUCT, Literal, Operand, Scalar, apply
from hwopt.ir.tensor import Role, Tensor

if TYPE_CHECKING:
    from hwopt.ops.lowering import Call

Index: TypeAlias = str | int | Affine
"""One dimension of an access: `"2*p + r - 1"`, a constant, or an `Affine`."""

_affine = functools.lru_cache(maxsize=4096)(parse_affine)


@dataclass(frozen=True)
class At:
    """A tensor and how a nest indexes it (`fill`: see `Access`)."""

    tensor: Tensor
    access: Access


def at(tensor: Tensor, *index: Index, fill: float | None = None) -> At:
    """`at(x, "n", "2*p + r - 1", fill=0.0)`."""
    affine = (i if isinstance(i, Affine) else _affine(str(i)) for i in index)
    return At(tensor, Access(tuple(affine), fill))


def names(rank: int, prefix: str = "d") -> tuple[str, ...]:
    """Axis names of the dimensions of a tensor: d0, d1, ..."""
    return tuple(f"{prefix}{i}" for i in range(rank))


def broadcast(tensor: Tensor, shape: Sequence[int], prefix: str = "d") -> At:
    """The tensor read under a nest over `shape` by the rules of broadcasting."""
    axes = names(len(shape), prefix)[len(shape) - len(tensor.shape) :]
    sizes = shape[len(shape) - len(tensor.shape) :]
    index = (
        axis if size == full else 0
        for axis, size, full in zip(axes, tensor.shape, sizes, strict=True)
    )  # fmt: skip
    return at(tensor, *index)


def normal_dims(dims: int | Iterable[int] | None, rank: int) -> tuple[int, ...]:
    """Dimensions counted from 0 and sorted; None or an empty list means all of them."""
    if dims is None:
        return tuple(range(rank))
    listed = (dims,) if isinstance(dims, int) else tuple(dims)
    if not listed:
        return tuple(range(rank))
    return tuple(sorted({d % rank for d in listed})) if rank else ()


class Builder:
    """Collects what lowerings emit. Names of temporaries and operators derive from the call's.

    Emitting methods return the tensor written: `out`, or the call's first output without one.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.ops: list[Op] = []
        self._used: set[str] = set()

    def temporary(
        self, call: Call, shape: Iterable[int], dtype: str, role: Role = "activation"
    ) -> Tensor:
        """A new tensor between operators of one lowering."""
        tensor = Tensor(self._unique(f"{call.name}.t"), tuple(shape), dtype, role)
        self.tensors.append(tensor)
        return tensor

    def emit(
        self,
        call: Call,
        kind: str,
        body: Body,
        resource: Resource,
        reads: Sequence[Tensor],
        writes: Sequence[Tensor],
        phase: Phase | None = None,
    ) -> None:
        """Append one operator of the call's phase and source (or of another `phase`)."""
        name = call.name if call.name not in self._used else self._unique(f"{call.name}.{kind}")
        self._used.add(name)
        operands = tuple(t.name for t in reads), tuple(t.name for t in writes)
        self.ops.append(Op(name, kind, body, resource, *operands, phase or call.phase, call.source))

    def nest(
        self,
        call: Call,
        axes: Mapping[str, int],
        reads: Sequence[At],
        write: At,
        scalar: Scalar = IDENTITY,
        reduction: Reduction = "none",
        *,
        kind: str,
        resource: Resource,
        phase: Phase | None = None,
    ) -> Tensor:
        """One `Nest`."""
        body = Nest(
            tuple(Axis(name, size) for name, size in axes.items()),
            tuple(read.access for read in reads), write.access, scalar, reduction,
        )  # fmt: skip
        self.emit(call, kind, body, resource, [r.tensor for r in reads], [write.tensor], phase)
        return write.tensor

    def contract(
        self,
        call: Call,
        axes: Mapping[str, int],
        left: At,
        right: At,
        write: At,
        *,
        kind: str = "matmul",
        phase: Phase | None = None,
    ) -> Tensor:
        """A sum of products on the matrix engine; `left` is input-like, `right` weight-like."""
        return self.nest(
            call, axes, [left, right], write, PRODUCT, "sum",
            kind=kind, resource="matrix", phase=phase,
        )  # fmt: skip

    def pointwise(
        self,
        call: Call,
        scalar: Scalar,
        reads: Sequence[Tensor],
        out: Tensor | None = None,
        *,
        kind: str = "pointwise",
        resource: Resource = "vector",
        phase: Phase | None = None,
    ) -> Tensor:
        """A scalar function at each element of `out`; the reads broadcast. Axes: d0, d1, ..."""
        out = out or call.output
        axes = dict(zip(names(len(out.shape)), out.shape, strict=True))
        operands = [broadcast(tensor, out.shape) for tensor in reads]
        return self.nest(
            call, axes, operands, broadcast(out, out.shape), scalar,
            kind=kind, resource=resource, phase=phase,
        )  # fmt: skip

    def reduce(
        self,
        call: Call,
        reduction: Reduction,
        reads: Sequence[Tensor],
        dims: Sequence[int],
        out: Tensor | None = None,
        scalar: Scalar = IDENTITY,
        *,
        kind: str = "reduction",
        phase: Phase | None = None,
    ) -> Tensor:
        """Reduce a scalar function of the reads over dimensions of the first (the others
        broadcast to it). The reduced dimensions are kept as size 1 if `out` has as many. Without
        dimensions nothing is reduced: the place of the extreme is then 0.
        """
        out, shape = out or call.output, reads[0].shape
        if not dims:
            scalar = Literal(0) if reduction in ("argmax", "argmin") else scalar
            return self.pointwise(call, scalar, reads, out, kind=kind, phase=phase)
        axes = names(len(shape))
        if len(out.shape) == len(shape):
            index: list[Index] = [0 if i in dims else axis for i, axis in enumerate(axes)]
        else:
            index = [axis for i, axis in enumerate(axes) if i not in dims]
        if scalar == IDENTITY and reads[0].dtype != out.dtype and reduction in ("sum", "prod"):
            scalar = apply("cast", Operand(0))
        return self.nest(
            call, dict(zip(axes, shape, strict=True)), [broadcast(t, shape) for t in reads],
            at(out, *index), scalar, reduction, kind=kind, resource="vector", phase=phase,
        )  # fmt: skip

    def move(
        self,
        call: Call,
        axes: Mapping[str, int],
        read: At,
        write: At,
        *,
        kind: str = "view",
        resource: Resource = "none",
    ) -> Tensor:
        """Each element of `write` is an element of `read`: a view, or a copy with "memory"."""
        return self.nest(call, axes, [read], write, kind=kind, resource=resource)

    def view(self, call: Call, source: Tensor, *index: Index, out: Tensor | None = None) -> Tensor:
        """`out[d0, d1, ...] = source[index]`, free of charge."""
        out = out or call.output
        axes = dict(zip(names(len(out.shape)), out.shape, strict=True))
        return self.move(call, axes, at(source, *index), broadcast(out, out.shape))

    def reshape(self, call: Call, source: Tensor, out: Tensor | None = None) -> Tensor:
        """The same elements in row-major order under another shape, free of charge.

        Affine by the common refinement of both shapes where there is one, else a `Gather`.
        """
        out = out or call.output
        factors = refinement(source.shape, out.shape)
        if factors is None:
            return self.gather(call, "reshape", [source], [out], kind="view", resource="none")
        axes = {f"d{i}": size for i, (size, _, _) in enumerate(factors)}
        index = _refined(factors, 1, len(source.shape)), _refined(factors, 2, len(out.shape))
        return self.move(call, axes, at(source, *index[0]), at(out, *index[1]))

    def fill(
        self, call: Call, value: float | bool, out: Tensor | None = None, *, resource: Resource
    ) -> Tensor:
        """A constant everywhere; resource "none" for memory whose content has no meaning."""
        return self.pointwise(call, Literal(value), [], out, kind="fill", resource=resource)

    def unspecified(self, call: Call, outputs: Iterable[Tensor]) -> None:
        """Outputs with no meaning outside a kernel (seeds, workspaces): zeros at no cost."""
        for out in outputs:
            if out.elements:
                self.fill(call, 0, out, resource="none")

    def gather(
        self,
        call: Call,
        function: str,
        reads: Sequence[Tensor],
        writes: Sequence[Tensor] | None = None,
        *,
        read_elements: Sequence[int] | None = None,
        write_elements: Sequence[int] | None = None,
        work: int = 0,
        nests: Sequence[Nest] = (),
        kind: str | None = None,
        resource: Resource = "memory",
        phase: Phase | None = None,
        **attributes: Attribute,
    ) -> Tensor:
        """One `Gather`; without counts each element of each operand is touched once."""
        writes = writes or call.outputs[:1]
        body = Gather(
            function, tuple(attributes.items()),
            _counts(read_elements, reads), _counts(write_elements, writes), work, tuple(nests),
        )  # fmt: skip
        self.emit(call, kind or function, body, resource, reads, writes, phase)
        return writes[0]

    def scan(
        self,
        call: Call,
        function: str,
        reads: Sequence[Tensor],
        writes: Sequence[Tensor] | None = None,
        *,
        work: int,
        depth: int,
        nests: Sequence[Nest] = (),
        kind: str | None = None,
        resource: Resource = "vector",
        phase: Phase | None = None,
        **attributes: Attribute,
    ) -> Tensor:
        """One `Scan`; each element of each operand is touched once."""
        writes = writes or call.outputs[:1]
        body = Scan(
            function, tuple(attributes.items()),
            _counts(None, reads), _counts(None, writes), work, depth, tuple(nests),
        )  # fmt: skip
        self.emit(call, kind or function, body, resource, reads, writes, phase)
        return writes[0]

    def opaque(self, call: Call) -> None:
        """An operator that nobody can read: a bound."""
        self.emit(call, "opaque", Opaque(call.target), "memory", call.tensors, call.outputs)

    def mark(self) -> tuple[int, int]:
        """A point to `rewind` to."""
        return len(self.tensors), len(self.ops)

    def rewind(self, mark: tuple[int, int]) -> None:
        """Forget what was emitted since `mark`."""
        self._used -= {tensor.name for tensor in self.tensors[mark[0] :]}
        self._used -= {op.name for op in self.ops[mark[1] :]}
        del self.tensors[mark[0] :], self.ops[mark[1] :]

    def _unique(self, stem: str) -> str:
        """`stem`, or `stem2`, `stem3`, ... if it is taken."""
        name, count = stem, 1
        while name in self._used:
            count += 1
            name = f"{stem}{count}"
        self._used.add(name)
        return name


def _counts(given: Sequence[int] | None, tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Elements touched per operand: as declared, else all."""
    return tuple(t.elements for t in tensors) if given is None else tuple(given)


Factors: TypeAlias = list[tuple[int, int, int]]
"""Factors of a common refinement: size, dimension of the first shape, of the second."""


def refinement(first: Sequence[int], second: Sequence[int]) -> Factors | None:
    """Sizes, row-major, that both shapes group by multiplication; None where there are none.

    (4, 6) and (2, 12) refine to 2, 2, 6; (2, 3) and (3, 2) have no common refinement.
    """
    if math.prod(first) != math.prod(second):
        raise ValueError(f"{first} and {second} have different numbers of elements")
    left = [(size, i) for i, size in enumerate(first) if size > 1]
    right = [(size, i) for i, size in enumerate(second) if size > 1]
    factors: Factors = []
    while left and right:
        (a, i), (b, j) = left.pop(0), right.pop(0)
        small, large = min(a, b), max(a, b)
        if large % small:
            return None
        factors.append((small, i, j))
        if a > small:
            left.insert(0, (a // small, i))
        if b > small:
            right.insert(0, (b // small, j))
    return factors


def _refined(factors: Factors, side: int, rank: int) -> list[Affine]:
    """The index of each dimension of one side (1 or 2) in the refined axes d0, d1, ..."""
    index = []
    for dim in range(rank):
        own = [(f"d{i}", f[0]) for i, f in enumerate(factors) if f[side] == dim]
        strides = [math.prod(size for _, size in own[i + 1 :]) for i in range(len(own))]
        index.append(Affine.of([(n, s) for (n, _), s in zip(own, strides, strict=True)]))
    return index
