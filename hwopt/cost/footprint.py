"""How much of a tensor an operator touches, in elements and bytes.

A nest touches the elements that its access reaches, each counted once: a slice reads the slice, a
broadcast operand is read once however often it is used, padding is not there to be read. Gathers
and scans declare what they touch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from hwopt.hardware.accelerator import OperandRole
from hwopt.ir.access import Access, Affine
from hwopt.ir.graph import Graph
from hwopt.ir.op import Nest, Op, Opaque
from hwopt.ir.tensor import DTYPE_BITS, Tensor

LARGEST_ENUMERATION = 1 << 20
"""Index values of one dimension that are listed; beyond, the span between them is taken."""


def touched_elements(access: Access, sizes: Mapping[str, int], shape: tuple[int, ...]) -> int:
    """Distinct elements of a tensor of `shape` that an access reaches.

    Exact where no axis indexes two dimensions; else an upper bound (the points of its axes).
    """
    per_dimension = [
        _distinct(affine, tuple(sorted((name, sizes[name]) for name in affine.axes)), size)
        for affine, size in zip(access.index, shape, strict=True)
    ]
    points = math.prod(sizes[name] for name in access.axes)
    return min(math.prod(per_dimension), points, math.prod(shape))


@lru_cache(maxsize=65536)
def _distinct(affine: Affine, sizes: tuple[tuple[str, int], ...], size: int) -> int:
    """Distinct values of one index inside `[0, size)`."""
    extent = dict(sizes)
    terms = [(c, extent[name]) for name, c in affine.terms if extent[name] > 1]
    if len(terms) == 1:
        step, count = abs(terms[0][0]), terms[0][1]
        low, high = affine.bounds(extent)
        first = max(0, -(-(0 - low) // step))
        last = min(count - 1, (size - 1 - low) // step)
        return max(0, last - first + 1) if high >= 0 else 0
    values = np.zeros(1, dtype=np.int64) + affine.offset
    for coefficient, count in terms:
        if values.size * count > LARGEST_ENUMERATION:
            low, high = affine.bounds(extent)
            return max(0, min(high, size - 1) - max(low, 0) + 1)
        values = np.unique(values[:, None] + coefficient * np.arange(count))
    return int(((values >= 0) & (values < size)).sum())


def operand_bytes(
    op: Op, graph: Graph, bits: Mapping[OperandRole, int]
) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes read and bytes written by tensor; an operand named twice is moved once.

    `bits`: element widths that the machine imposes on real numbers, by role.
    """
    return (
        _sizes(op, graph, op.reads, bits, writes=False),
        _sizes(op, graph, op.writes, bits, writes=True),
    )


def _sizes(
    op: Op, graph: Graph, names: tuple[str, ...], bits: Mapping[OperandRole, int], *, writes: bool
) -> dict[str, float]:
    result: dict[str, float] = {}
    for position, name in enumerate(names):
        tensor = graph.tensor[name]
        elements = _elements(op, tensor, position, writes=writes)
        size = elements * element_bytes(tensor, bits, writes=writes)
        result[name] = max(result.get(name, 0.0), size)
    return result


def _elements(op: Op, tensor: Tensor, position: int, *, writes: bool) -> int:
    body = op.body
    if isinstance(body, Nest):
        access = body.write if writes else body.reads[position]
        return touched_elements(access, body.sizes, tensor.shape)
    if isinstance(body, Opaque):
        return tensor.elements
    return (body.write_elements if writes else body.read_elements)[position]


def element_bytes(tensor: Tensor, bits: Mapping[OperandRole, int], *, writes: bool) -> float:
    """Bytes of one element; real numbers take the machine's width for their role, if it has one.

    A parameter is a weight, what is written an output, everything else read an input.
    """
    own = DTYPE_BITS[tensor.dtype]
    if not tensor.dtype.startswith(("float", "bfloat")):
        return own / 8
    role: OperandRole = "output" if writes else "input"
    if tensor.role == "parameter" and not writes:
        role = "weight"
    return bits.get(role, own) / 8
