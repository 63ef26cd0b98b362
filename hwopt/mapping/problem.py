"""The mapper's input: one nest on typed data, free of names, graph and machine.

Two operators with equal problems have equal mappings and costs, whatever model they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from hwopt.hardware.accelerator import ROLES, OperandRole
from hwopt.ir.access import Access, Affine, Axis
from hwopt.ir.graph import Graph
from hwopt.ir.op import Nest, Op
from hwopt.ir.tensor import DTYPE_BITS


@dataclass(frozen=True, slots=True)
class Operand:
    """One tensor of a nest: its role, how it is indexed, its full shape, bits per element."""

    role: OperandRole
    access: Access
    shape: tuple[int, ...]
    bits: int


@dataclass(frozen=True)
class Problem:
    """A nest to be mapped: axes, operands (the reads, then the write), sequential axes."""

    axes: tuple[Axis, ...]
    operands: tuple[Operand, ...]
    sequential: tuple[str, ...] = ()

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Trip count by axis name."""
        return {axis.name: axis.size for axis in self.axes}

    @cached_property
    def operand(self) -> dict[OperandRole, Operand]:
        """Operand by role."""
        return {operand.role: operand for operand in self.operands}

    @cached_property
    def points(self) -> int:
        """Multiply-accumulates."""
        total = 1
        for axis in self.axes:
            total *= axis.size
        return total


def problems_of(op: Op, graph: Graph, bits: Mapping[OperandRole, int]) -> tuple[Problem, ...]:
    """The contractions of an operator, each in normal form.

    `bits` gives element widths by role where the machine imposes them; else the tensor's own hold.
    Axes of size 1 are dropped. Two axes that index the same operands, each by a dimension of its
    own, become one (batch and sequence of a linear layer): `b` and `m` become `b_m`. Nests that are
    not sums of products of two operands are not for the mapper.
    """
    names = (*op.reads, *op.writes)
    return tuple(
        normalise(_problem(nest, [graph.tensor[name].dtype for name in names],
                           [graph.tensor[name].shape for name in names], bits,
                           own=isinstance(op.body, Nest)))
        for nest in op.nests
        if nest.is_contraction
    )  # fmt: skip


def _problem(
    nest: Nest, dtypes: list[str], shapes: list[tuple[int, ...]],
    bits: Mapping[OperandRole, int], *, own: bool,
) -> Problem:  # fmt: skip
    """The nest on typed operands; a nest inside a scan has just the elements it touches."""
    operands = []
    for position, access in enumerate((*nest.reads, nest.write)):
        role = ROLES[position]
        dtype = dtypes[position] if own else dtypes[0]
        shape = shapes[position] if own else _touched(access, nest.sizes)
        operands.append(Operand(role, access, shape, bits.get(role, DTYPE_BITS[dtype])))
    return Problem(nest.axes, tuple(operands), nest.sequential)


def _touched(access: Access, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(affine.bounds(sizes)[1] + 1 for affine in access.index)


def normalise(problem: Problem) -> Problem:
    """The same counts with as few axes as possible (see `problems_of`)."""
    ones = {axis.name: Affine() for axis in problem.axes if axis.size == 1}
    axes = [axis for axis in problem.axes if axis.name not in ones]
    operands = [
        Operand(o.role, o.access.substitute(ones), o.shape, o.bits) for o in problem.operands
    ]
    sequential = tuple(name for name in problem.sequential if name not in ones)
    free = [axis for axis in axes if axis.name not in sequential]
    merged: list[Axis] = []
    for axis in free:
        for position, other in enumerate(merged):
            if all(_alike(operand, other, axis) for operand in operands):
                both = Axis(f"{other.name}_{axis.name}", other.size * axis.size)
                operands = [_merge(operand, other, axis, both) for operand in operands]
                merged[position] = both
                break
        else:
            merged.append(axis)
    fixed = [axis for axis in axes if axis.name in sequential]
    return Problem((*fixed, *merged), tuple(operands), sequential)


def _alike(operand: Operand, one: Axis, two: Axis) -> bool:
    """Whether an operand has both axes as whole dimensions of their own, or neither."""
    places = [_place(operand, axis) for axis in (one, two)]
    if None not in places:
        return True
    return not {one.name, two.name} & operand.access.axes


def _place(operand: Operand, axis: Axis) -> int | None:
    """The dimension that is indexed by just this axis and has its size, if no other uses it."""
    found = [d for d, affine in enumerate(operand.access.index) if axis.name in affine.axes]
    if len(found) == 1 and operand.access.index[found[0]].is_axis:
        return found[0] if operand.shape[found[0]] == axis.size else None
    return None


def _merge(operand: Operand, one: Axis, two: Axis, both: Axis) -> Operand:
    first, second = _place(operand, one), _place(operand, two)
    if first is None or second is None:
        return operand
    index, shape = list(operand.access.index), list(operand.shape)
    index[first], shape[first] = Affine.axis(both.name), both.size
    del index[second], shape[second]
    access = Access(tuple(index), operand.access.fill)
    return Operand(operand.role, access, tuple(shape), operand.bits)


def may_spread(axis: str, allowed: tuple[str, ...]) -> bool:
    """Whether an axis, or an axis merged into it, is one of `allowed` (empty: all are)."""
    return not allowed or not {axis, *axis.split("_")}.isdisjoint(allowed)
