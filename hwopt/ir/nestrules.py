"""What makes a nest legal: by itself, and against the shapes of the tensors it touches.

* Axes have distinct names and sizes of at least 1; each is used by an access, the scalar or
  `sequential`; accesses, scalar and `sequential` name declared axes only.
* The points of the iteration space, and every index, stay below 2**53.
* An access has one index per dimension; a read without a fill stays inside its tensor.
* A write without a fill hits every element of its tensor and nothing else; where the reduction is
  "none", no element is hit twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np

from hwopt.errors import GraphError, ShapeError, SizeError
from hwopt.ir.access import MAX_COUNT, Access, Affine
from hwopt.ir.op import Nest, Reduction
from hwopt.ir.scalar import FUNCTIONS, Apply, Iota, Literal, Operand, Scalar

_REDUCTIONS = frozenset(get_args(Reduction))
_ENUMERATED = 2**20
"""Most points that are enumerated to decide whether an unusual write is exact."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that is broken: the error to raise, what is wrong, the value, what is allowed."""

    kind: type[GraphError]
    what: str
    value: object = None
    allowed: str = ""


Shape = tuple[int, ...]


def check_nest(nest: Nest, reads: tuple[Shape, ...], write: Shape) -> Broken | None:
    """The first rule that a nest breaks on tensors of these shapes."""
    if (broken := check_alone(nest)) is not None:
        return broken
    sizes = nest.sizes
    for position, (access, shape) in enumerate(zip(nest.reads, reads, strict=True)):
        broken = _check_access(access, shape, sizes, f"read #{position}", access.fill is not None)
        if broken is not None:
            return broken
    filled = nest.write.fill is not None
    broken = _check_access(nest.write, write, sizes, "the write", filled)
    return broken or _check_write(nest, write)


def check_alone(nest: Nest) -> Broken | None:
    """The first rule that a nest breaks whatever it is applied to."""
    sizes = nest.sizes
    if len(sizes) != len(nest.axes):
        names = [axis.name for axis in nest.axes]
        return Broken(ShapeError, "two axes share a name", names)
    for axis in nest.axes:
        if not (axis.name.isidentifier() and axis.name.isascii()):
            return Broken(ShapeError, "not a name of an axis", axis.name, "letters, digits, _")
        if type(axis.size) is not int or not 1 <= axis.size <= MAX_COUNT:
            return Broken(
                SizeError, f"axis {axis.name} must be a whole number from 1 to 2**53", axis.size
            )
    if nest.points > MAX_COUNT:
        return Broken(SizeError, "more points than 2**53", nest.points, "at most 2**53")
    if nest.reduction not in _REDUCTIONS:
        allowed = ", ".join(sorted(_REDUCTIONS))
        return Broken(GraphError, "unknown reduction", nest.reduction, allowed)
    used = set(nest.write.axes) | set(nest.sequential)
    for access in nest.reads:
        used |= access.axes
    for leaf in leaves(nest.scalar):
        if isinstance(leaf, Iota):
            used.add(leaf.axis)
        if isinstance(leaf, Operand) and not 0 <= leaf.position < len(nest.reads):
            return Broken(ShapeError, "the scalar uses a read that is not there", str(leaf))
        if isinstance(leaf, Apply) and leaf.function not in FUNCTIONS:
            return Broken(GraphError, "unknown scalar function", leaf.function)
    if unknown := used - set(sizes):
        allowed = ", ".join(sizes) or "no axes"
        return Broken(ShapeError, "an axis that is not declared", sorted(unknown), allowed)
    if unused := set(sizes) - used:
        return Broken(ShapeError, "an axis that nothing uses", sorted(unused))
    return None


def leaves(scalar: Scalar) -> Iterator[Scalar]:
    """Every node of a scalar, without recursion (scalars may be deep)."""
    waiting = [scalar]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Apply):
            waiting.extend(node.arguments)
        elif isinstance(node, Literal) and not isinstance(node.value, bool | int | float):
            raise GraphError("a literal must be a bool, int or float", value=node.value)


def _check_access(
    access: Access, shape: Shape, sizes: Mapping[str, int], what: str, outside: bool
) -> Broken | None:
    """Rank, range, and that indices can be counted."""
    if len(access.index) != len(shape):
        return Broken(
            ShapeError, f"{what} has {len(access.index)} indices, its tensor {len(shape)} dims",
            str(access), f"one index for each of {list(shape)}",
        )  # fmt: skip
    for dim, (index, size) in enumerate(zip(access.index, shape, strict=True)):
        low, high = index.bounds(sizes)
        if max(-low, high) > MAX_COUNT:
            return Broken(SizeError, f"{what} has an index beyond 2**53", str(index))
        if not outside and (low < 0 or high >= size):
            return Broken(
                ShapeError, f"{what} leaves its tensor in dim {dim}: {index} is {low}..{high}",
                str(access), f"0..{size - 1}, or a fill",
            )  # fmt: skip
    return None


def _check_write(nest: Nest, shape: Shape) -> Broken | None:
    """Whether the write covers its tensor (no fill), and hits nothing twice (no reduction)."""
    sizes = {name: size for name, size in nest.sizes.items() if size > 1}
    if nest.reduction == "none":
        if missing := set(sizes) - nest.write.axes:
            return Broken(
                ShapeError, "points differ only in axes that the write lacks, without a reduction",
                sorted(missing), "a reduction, or a write that has these axes",
            )  # fmt: skip
        if (once := _hits_once(nest.write, sizes, shape)) is not True:
            return Broken(ShapeError, once or "the write hits an element twice", str(nest.write))
    if nest.write.fill is None and (whole := _covers(nest.write, sizes, shape)) is not True:
        return Broken(
            ShapeError, whole or "the write does not cover its tensor", str(nest.write),
            f"every element of {list(shape)}, or a fill",
        )  # fmt: skip
    return None


def _terms(index: Affine, sizes: Mapping[str, int]) -> list[tuple[int, int]]:
    """`(|coefficient|, size)` of the axes that move, smallest first."""
    return sorted((abs(c), sizes[name]) for name, c in index.terms if name in sizes)


def _covers(write: Access, sizes: Mapping[str, int], shape: Shape) -> bool | str:
    """Whether every element is hit. The range has been checked already."""
    names = [name for index in write.index for name, _ in index.terms if name in sizes]
    if len(set(names)) == len(names):
        for index, size in zip(write.index, shape, strict=True):
            reach = 0
            for coefficient, count in _terms(index, sizes):
                if coefficient > reach + 1:
                    return False
                reach += coefficient * (count - 1)
            if reach != size - 1:
                return False
        return True
    if math.prod(shape) > math.prod(sizes[name] for name in set(names)):
        return False
    hits = _enumerate(write, sizes, shape)
    return "the write is too large to be checked" if hits is None else bool((hits > 0).all())


def _hits_once(write: Access, sizes: Mapping[str, int], shape: Shape) -> bool | str:
    """Whether no element is hit twice: each dimension fixes the axes that none before has fixed."""
    waiting = list(write.index)
    fixed: set[str] = set()
    progress = True
    while waiting and progress:
        progress = False
        for index in list(waiting):
            free = {name: size for name, size in sizes.items() if name not in fixed}
            reach, once = 0, True
            for coefficient, count in _terms(index, free):
                once &= coefficient > reach
                reach += coefficient * (count - 1)
            if once:
                fixed.update(index.axes)
                waiting.remove(index)
                progress = True
    if not waiting:
        return True
    hits = _enumerate(write, sizes, shape)
    return "the write is too large to be checked" if hits is None else bool((hits <= 1).all())


def _enumerate(
    write: Access, sizes: Mapping[str, int], shape: Shape
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None:
    """How often each element is hit, or None where that is too much to enumerate."""
    names = sorted(write.axes & set(sizes))
    if max(math.prod(shape), math.prod(sizes[name] for name in names)) > _ENUMERATED:
        return None
    grid = np.indices([sizes[name] for name in names]).reshape(len(names), -1)
    inside = np.ones(grid.shape[1], dtype=bool)
    flat = np.zeros(grid.shape[1], dtype=np.int64)
    for index, size in zip(write.index, shape, strict=True):
        value = np.full(grid.shape[1], index.offset, dtype=np.int64)
        for name, coefficient in index.terms:
            if name in sizes:
                value += coefficient * grid[names.index(name)]
        inside &= (value >= 0) & (value < size)
        flat = flat * size + value
    return np.bincount(flat[inside], minlength=math.prod(shape))
