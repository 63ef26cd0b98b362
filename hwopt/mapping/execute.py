"""Runs a mapping: the tiled program, tile by tile, on numbers.

    values = interpret_mapped(graph, {"x": x}, {"conv1": mapping})

Every `Keep` makes a buffer of the current tile and copies the operand into it (partial sums back
out of it when the tile ends); every `Loop` and `Spread` walks its tiles, edge tiles included; the
innermost statement multiplies and adds two buffered elements. The result equals that of
`hwopt.ir.interpret`: this is what proves that tiling keeps the meaning.
"""

from __future__ import annotations

from collections.abc import Mapping as Table
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.errors import MappingError
from hwopt.hardware.accelerator import OperandRole
from hwopt.ir.access import Access, Affine
from hwopt.ir.graph import Graph
from hwopt.ir.interpret import given_values, run_op
from hwopt.ir.numeric import rounded, widened
from hwopt.ir.op import Nest, Op
from hwopt.mapping.mapping import Keep, Mapping, Node
from hwopt.mapping.problem import Operand, Problem, problems_of

Array: TypeAlias = npt.NDArray[Any]
Box: TypeAlias = dict[str, tuple[int, int]]
"""Start and size of each axis in the current tile."""


def interpret_mapped(
    graph: Graph, values: Table[str, Array], mappings: Table[str, Mapping]
) -> dict[str, Array]:
    """Like `hwopt.ir.interpret.interpret`, with the operators named in `mappings` run as mapped.

    Raises `MappingError` for an operator that is no contraction.
    """
    known = given_values(graph, values)
    for op in graph.ops:
        if op.name in mappings:
            _run_mapped(graph, op, mappings[op.name], known)
        else:
            run_op(graph, op, known)
    return known


def _run_mapped(graph: Graph, op: Op, mapping: Mapping, known: dict[str, Array]) -> None:
    if not isinstance(op.body, Nest) or not op.body.is_contraction:
        raise MappingError("only contractions are mapped", where=f"operator {op.name!r}")
    (problem,) = problems_of(op, graph, {})
    nest, result = op.body, graph.tensor[op.writes[0]]
    arrays = []
    for access, operand, name in zip(nest.reads, problem.operands, op.reads, strict=False):
        order = _dims(nest, access, operand)
        arrays.append(widened(known[name]).transpose(order).reshape(operand.shape))
    out = execute(problem, mapping, arrays[0], arrays[1])
    order = _dims(nest, nest.write, problem.operands[2])
    moved = out.reshape([result.shape[dim] for dim in order]).transpose(np.argsort(order))
    known[result.name] = rounded(moved, result.dtype)


def _dims(nest: Nest, access: Access, operand: Operand) -> list[int]:
    """The order in which a tensor's dimensions make those of the problem's operand.

    The problem may have merged axes (`b_m`): their dimensions come next to each other.
    """
    sizes = nest.sizes
    ones = {name: Affine() for name, size in sizes.items() if size == 1}
    index = [affine.substitute(ones) for affine in access.index]
    home = {affine.axes[0]: dim for dim, affine in enumerate(index) if affine.is_axis}
    merged = {
        affine.axes[0]: parts
        for affine in operand.access.index
        if affine.is_axis and affine.axes[0] not in sizes
        and (parts := _parts(affine.axes[0], list(home))) is not None
    }  # fmt: skip
    taken = {home[part] for parts in merged.values() for part in parts}
    rest = [dim for dim in range(len(index)) if dim not in taken]
    order: list[int] = []
    for affine in operand.access.index:
        name = affine.axes[0] if affine.is_axis else ""
        order += [home[part] for part in merged[name]] if name in merged else [rest.pop(0)]
    return order


def _parts(name: str, axes: list[str]) -> list[str] | None:
    """Axis names that, joined by "_", make a merged name."""
    for axis in axes:
        if name == axis:
            return [axis]
        if name.startswith(f"{axis}_"):
            rest = _parts(name[len(axis) + 1 :], [other for other in axes if other != axis])
            if rest is not None:
                return [axis, *rest]
    return None


def execute(problem: Problem, mapping: Mapping, left: Array, right: Array) -> Array:
    """The sum of products of a problem under a mapping; operands in the problem's shapes.

    Raises `MappingError` if the nodes do not cut every axis down to 1, or keep nothing outermost.
    """
    write = problem.operands[-1]
    total = np.zeros(write.shape, dtype=np.result_type(left, right))
    top = {
        operand.role: _Buffer(operand, array, (0,) * array.ndim)
        for operand, array in zip(problem.operands, (left, right, total), strict=True)
    }
    for operand, array in zip(problem.operands, (left, right), strict=False):
        if array.shape != operand.shape:
            raise MappingError(
                "an array of another shape", where=operand.role, value=array.shape,
                allowed=str(operand.shape),
            )  # fmt: skip
    box = {axis.name: (0, axis.size) for axis in problem.axes}
    _walk(mapping.nodes, box, top)
    return total


@dataclass(frozen=True)
class _Buffer:
    """The part of an operand's tensor that a memory holds, and where it begins."""

    operand: Operand
    values: Array
    origin: tuple[int, ...]

    def tile(self, box: Box) -> _Buffer:
        """A buffer of its own for what a tile touches; outside of the tensor stands the fill."""
        sizes = {name: size for name, (_, size) in box.items()}
        origin, shape = [], []
        for affine in self.operand.access.index:
            low, high = affine.bounds(sizes)
            origin.append(low + sum(c * box[name][0] for name, c in affine.terms))
            shape.append(high - low + 1)
        values = np.full(shape, self.operand.access.fill or 0, dtype=self.values.dtype)
        inner = _Buffer(self.operand, values, tuple(origin))
        here, there = inner.overlap(self)
        values[here] = self.values[there]
        return inner

    def overlap(self, outer: _Buffer) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Slices of both buffers where they hold the same elements."""
        here, there = [], []
        for own, size, start, whole in zip(
            self.origin, self.values.shape, outer.origin, outer.values.shape, strict=True
        ):
            low = max(own, start)
            high = max(low, min(own + size, start + whole))
            here.append(slice(low - own, high - own))
            there.append(slice(low - start, high - start))
        return tuple(here), tuple(there)

    def place(self, box: Box) -> tuple[int, ...] | None:
        """Where the element of a single point is, or None outside of the buffer."""
        index = []
        for affine, start, size in zip(
            self.operand.access.index, self.origin, self.values.shape, strict=True
        ):
            at = affine.offset + sum(c * box[name][0] for name, c in affine.terms) - start
            if not 0 <= at < size:
                return None
            index.append(at)
        return tuple(index)


def _walk(nodes: tuple[Node, ...], box: Box, held: dict[OperandRole, _Buffer]) -> None:
    if not nodes:
        _multiply(box, held)
        return
    node, rest = nodes[0], nodes[1:]
    if isinstance(node, Keep):
        inner = {role: held[role].tile(box) for role in node.roles if role in held}
        _walk(rest, box, {**held, **inner})
        if "output" in inner:
            here, there = inner["output"].overlap(held["output"])
            held["output"].values[there] = inner["output"].values[here]
        return
    start, size = box[node.axis]
    for offset in range(0, size, node.tile):
        part = {**box, node.axis: (start + offset, min(node.tile, size - offset))}
        _walk(rest, part, held)


def _multiply(box: Box, held: dict[OperandRole, _Buffer]) -> None:
    """One multiply-accumulate."""
    if left := {name: size for name, (_, size) in box.items() if size > 1}:
        raise MappingError("the nodes do not cut every axis down to 1", value=left)
    *reads, write = held.values()
    place = write.place(box)
    if place is None:
        return
    product: Any = 1
    for read in reads:
        at = read.place(box)
        product = product * (read.values[at] if at is not None else read.operand.access.fill or 0)
    write.values[place] += product
