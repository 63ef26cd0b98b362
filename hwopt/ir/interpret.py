"""Runs graphs in numpy: the meaning of the IR, for tests and small models.

    values = interpret(graph, {"x": x, "weight": w})        # every tensor by name

A nest is evaluated over its whole box at once: as an access is affine, the elements it reads form
a strided view of the (padded) tensor, one stride per axis, without copies. Large boxes are cut.
Gathers and scans run the routine of their name (`hwopt.ir.routines`). `interpret_mapped` walks the
tiles of mappings instead, which must give the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hwopt.errors import GraphError, ShapeError, UndefinedTensorError
from hwopt.ir.access import Access
from hwopt.ir.graph import Graph
from hwopt.ir.numeric import Array, evaluate, rounded, stored_type, widened
from hwopt.ir.op import Nest, Op, Opaque, Reduction
from hwopt.ir.scalar import PRODUCT
from hwopt.ir.tensor import Tensor

MAX_POINTS = 2**22
"""Points of a nest that are evaluated at once."""

Box = Mapping[str, tuple[int, int]]
"""Part of an iteration space: start and size of each axis."""

_START: dict[str, float] = {"none": 0, "sum": 0, "prod": 1, "any": 0, "all": 1}
_COMBINE: dict[str, np.ufunc] = {
    "sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum,
    "any": np.logical_or, "all": np.logical_and,
}  # fmt: skip


def interpret(graph: Graph, values: Mapping[str, Array]) -> dict[str, Array]:
    """The value of every tensor, given those of the sources (by name, in the tensor's shape).

    Raises `UndefinedTensorError` for a source without a value, `ShapeError` for a wrong shape,
    `GraphError` for an opaque operator.
    """
    known = given_values(graph, values)
    for op in graph.ops:
        run_op(graph, op, known)
    return known


def given_values(graph: Graph, values: Mapping[str, Array]) -> dict[str, Array]:
    """The sources' values, checked and rounded to their element types."""
    known: dict[str, Array] = {}
    for tensor in graph.sources:
        if tensor.name not in values:
            raise UndefinedTensorError(
                "a source without a value", where=f"graph {graph.name!r}", value=tensor.name
            )
        value = np.asarray(values[tensor.name])
        if value.shape != tensor.shape:
            raise ShapeError(
                "a value of another shape", where=f"tensor {tensor.name!r}", value=value.shape,
                allowed=str(tensor.shape),
            )  # fmt: skip
        known[tensor.name] = rounded(value, tensor.dtype)
    return known


def run_op(graph: Graph, op: Op, known: dict[str, Array]) -> None:
    """Compute what one operator writes, and put it into `known`."""
    reads = [known[name] for name in op.reads]
    writes = [graph.tensor[name] for name in op.writes]
    if isinstance(op.body, Nest):
        results = [run_nest(op.body, reads, writes[0])]
    elif isinstance(op.body, Opaque):
        raise GraphError("an opaque operator has no meaning", where=op.name, value=op.body.target)
    else:
        from hwopt.ir.routines import ROUTINES

        types = [(tensor.shape, tensor.dtype) for tensor in writes]
        results = ROUTINES[op.body.function](dict(op.body.attributes), reads, types)
    for tensor, result in zip(writes, results, strict=True):
        if np.shape(result) != tensor.shape:
            raise ShapeError(
                "a routine gave another shape", where=f"operator {op.name!r}",
                value=np.shape(result), allowed=str(tensor.shape),
            )  # fmt: skip
        known[tensor.name] = rounded(np.asarray(result), tensor.dtype)


def run_nest(nest: Nest, reads: list[Array], write: Tensor) -> Array:
    """What a nest writes, in its element type."""
    accumulator = Accumulator(nest, write)
    whole = {axis.name: (0, axis.size) for axis in nest.axes}
    operands = [widened(read) for read in reads]
    for box in _cut(nest, whole):
        accumulator.add(box, box_values(nest, operands, box, write.dtype))
    return accumulator.result()


class Accumulator:
    """The tensor that a nest writes, under construction: boxes are added in any order."""

    def __init__(self, nest: Nest, write: Tensor) -> None:
        self._nest = nest
        self._write = write
        kind = stored_type(write.dtype)
        wide = widened(np.empty(0, dtype=kind)).dtype
        if nest.reduction in ("argmax", "argmin", "none"):
            start: float | int = 0
        else:
            start = identity(nest.reduction, wide.kind)
        self.values = np.full(write.shape, start, dtype=wide)
        self._hit = None if nest.write.fill is None else np.zeros(write.shape, dtype=bool)

    def add(self, box: Box, values: Array) -> None:
        """Combine the values of a box (axes in the nest's order, broadcast) into the tensor."""
        nest = self._nest
        kept = [axis.name for axis in nest.axes if axis.name in nest.write.axes]
        values = _reduced(nest, box, values, kept)
        index, inside = _positions(nest.write, box, kept, self._write.shape)
        if inside is not None:
            inside, values, *index = np.broadcast_arrays(inside, values, *index)
            values, index = values[inside], [part[inside] for part in index]
        place = tuple(index)
        if nest.reduction in _COMBINE:
            _COMBINE[nest.reduction].at(self.values, place, values)
        else:
            self.values[place] = values
        if self._hit is not None:
            self._hit[place] = True

    def result(self) -> Array:
        """The tensor, fill put where no point has hit, rounded to its type."""
        fill = self._nest.write.fill
        if self._hit is not None and fill is not None:
            self.values = np.where(self._hit, self.values, fill)
        return rounded(self.values, self._write.dtype)


def identity(reduction: Reduction, kind: str) -> float | int:
    """What a reduction starts from; `kind` is numpy's letter of the element type."""
    if reduction in ("max", "min"):
        if kind == "b":
            return int(reduction == "min")
        bounds = np.iinfo(np.int64) if kind in "iu" else np.finfo(np.float64)
        low = bounds.min if kind in "iu" else -np.inf
        high = bounds.max if kind in "iu" else np.inf
        return low if reduction == "max" else high
    return _START[reduction]


def box_values(nest: Nest, reads: list[Array], box: Box, dtype: str) -> Array:
    """The scalar over a box: one dimension per axis of the nest, size 1 where it does not vary.

    Contractions are summed over the box's reduction axes right away (those dimensions are 1).
    """
    operands = [window(nest, access, read, box)
                for access, read in zip(nest.reads, reads, strict=True)]  # fmt: skip
    if nest.reduction == "sum" and nest.scalar == PRODUCT and len(operands) == 2:
        return _contract(nest, operands[0], operands[1], box)
    axes = {}
    for position, axis in enumerate(nest.axes):
        start, size = box[axis.name]
        shape = [1] * len(nest.axes)
        shape[position] = size
        axes[axis.name] = np.arange(start, start + size).reshape(shape)
    values = evaluate(nest.scalar, operands, axes, dtype)
    return values.reshape((1,) * (len(nest.axes) - values.ndim) + values.shape)


def window(nest: Nest, access: Access, tensor: Array, box: Box) -> Array:
    """What an access reads over a box, one dimension per axis (1 where it does not move).

    A strided view of the part of the tensor that the box touches, padded with the fill.
    """
    part, origin = _padded(access, tensor, box)
    strides = dict.fromkeys(box, 0)
    offset = 0
    for dim, index in enumerate(access.index):
        first = index.offset - origin[dim]
        for name, coefficient in index.terms:
            first += coefficient * box[name][0]
            strides[name] += coefficient * part.strides[dim]
        offset += first * part.strides[dim]
    moving = access.axes
    shape = [box[a.name][1] if a.name in moving else 1 for a in nest.axes]
    steps = [strides[a.name] if a.name in moving else 0 for a in nest.axes]
    flat = np.ndarray((), part.dtype, part.data, offset)
    return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)


def _padded(access: Access, tensor: Array, box: Box) -> tuple[Array, list[int]]:
    """The part of a tensor that an access touches over a box, fill outside, and its origin."""
    sizes = {name: size for name, (_, size) in box.items()}
    lows, highs = [], []
    for index in access.index:
        low, high = index.bounds(sizes)
        shift = sum(c * box[name][0] for name, c in index.terms)
        lows.append(low + shift)
        highs.append(high + shift + 1)
    inside = all(low >= 0 and high <= size
                 for low, high, size in zip(lows, highs, tensor.shape, strict=True))  # fmt: skip
    if inside:
        return np.ascontiguousarray(tensor), [0] * tensor.ndim
    fill = 0.0 if access.fill is None else access.fill
    exact = tensor.dtype.kind in "fc" or (math.isfinite(fill) and fill == int(fill))
    shape = [high - low for low, high in zip(lows, highs, strict=True)]
    padded = np.full(shape, fill, dtype=tensor.dtype if exact else np.float64)
    source, target = [], []
    for low, high, size in zip(lows, highs, tensor.shape, strict=True):
        start, stop = min(max(low, 0), size), min(max(high, 0), size)
        stop = max(start, stop)
        source.append(slice(start, stop))
        target.append(slice(start - low, stop - low) if stop > start else slice(0, 0))
    padded[tuple(target)] = tensor[tuple(source)]
    return padded, lows


def _contract(nest: Nest, left: Array, right: Array, box: Box) -> Array:
    """Sum of products over the axes absent from the write; their dimensions become 1."""
    kept = [i for i, axis in enumerate(nest.axes) if axis.name in nest.write.axes]
    labels = list(range(len(nest.axes)))

    def squeezed(values: Array) -> tuple[Array, list[int]]:
        """Dimensions of size 1 are left out: they move nothing."""
        moving = [i for i in labels if values.shape[i] > 1]
        return values.reshape([values.shape[i] for i in moving]), moving

    (a, a_labels), (b, b_labels) = squeezed(left), squeezed(right)
    if a.dtype.kind == "b":
        a = a.astype(np.int64)
    present = [i for i in kept if i in a_labels or i in b_labels]
    result = np.einsum(a, a_labels, b, b_labels, present, optimize=True)
    absent = [i for i in labels if i not in kept and i not in a_labels and i not in b_labels]
    repeated = int(np.prod([box[nest.axes[i].name][1] for i in absent], dtype=np.int64))
    shape = [1] * len(labels)
    for position, size in zip(present, np.shape(result), strict=True):
        shape[position] = size
    return np.asarray(result * repeated).reshape(shape)


def _reduced(nest: Nest, box: Box, values: Array, kept: list[str]) -> Array:
    """Values combined over the axes absent from the write, broadcast over the others."""
    gone = tuple(i for i, axis in enumerate(nest.axes) if axis.name not in kept)
    full = [box[axis.name][1] for axis in nest.axes]
    contracted = nest.is_contraction
    wanted = [1 if contracted and i in gone else size for i, size in enumerate(full)]
    values = np.broadcast_to(values, wanted)
    if nest.reduction in ("argmax", "argmin"):
        order = [i for i in range(len(full)) if i not in gone] + list(gone)
        moved = values.transpose(order).reshape([full[i] for i in order[: len(kept)]] + [-1])
        pick = np.argmax if nest.reduction == "argmax" else np.argmin
        return np.asarray(pick(moved, axis=-1))
    if nest.reduction == "none":
        return values.reshape([s for i, s in enumerate(full) if i not in gone])
    if values.dtype == bool and nest.reduction in ("sum", "prod"):
        values = values.astype(np.int64)
    with np.errstate(all="ignore"):
        return np.asarray(_COMBINE[nest.reduction].reduce(values, axis=gone))


def _positions(
    access: Access, box: Box, kept: list[str], shape: tuple[int, ...]
) -> tuple[list[Array], Array | None]:
    """Index arrays of a write over the axes `kept`, and which are inside (None: all)."""
    index: list[Array] = []
    inside: Array | None = None
    for affine, size in zip(access.index, shape, strict=True):
        value: Array = np.full([1] * len(kept), affine.offset, dtype=np.int64)
        for name, coefficient in affine.terms:
            start, count = box[name]
            along = [1] * len(kept)
            along[kept.index(name)] = count
            value = value + coefficient * np.arange(start, start + count).reshape(along)
        if access.fill is not None:
            good = (value >= 0) & (value < size)
            inside = good if inside is None else inside & good
        index.append(value)
    return index, inside


def _cut(nest: Nest, box: Box) -> list[Box]:
    """Boxes of at most `MAX_POINTS` points; argmax and argmin are cut along kept axes only.

    A contraction is summed without its points being laid out: only its operands count.
    """
    parts = [access.axes for access in (*nest.reads, nest.write)]
    parts = parts if nest.is_contraction else [frozenset(box)]
    points = max(math.prod(box[name][1] for name in part) for part in parts)
    whole = nest.reduction in ("argmax", "argmin")
    names = [n for n in box if not whole or n in nest.write.axes]
    name = max(names, key=lambda n: box[n][1], default="")
    if points <= MAX_POINTS or not name or box[name][1] == 1:
        return [box]
    start, size = box[name]
    half = size // 2
    first = {**box, name: (start, half)}
    second = {**box, name: (start + half, size - half)}
    return [*_cut(nest, first), *_cut(nest, second)]
