"""Reading through a view: the nest that reads the view's source instead, by affine substitution.

A view `y[w(i)] = x[r(i)]` is undone by finding the `i` of an index of y. Where a dimension of y is
one axis, that axis is the index. Where it merges several (a reshape: `64*h + d`), the index is
divided by the block size, `h = index // 64, d = index % 64`, which is affine exactly if every axis
of the reader moves in whole blocks or stays inside one; an axis that does neither is split in two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd

from hwopt.ir.access import Access, Affine, Axis
from hwopt.ir.nestrules import leaves
from hwopt.ir.op import Nest
from hwopt.ir.scalar import IDENTITY, Iota

Shape = tuple[int, ...]


def is_plain_view(nest: Nest) -> bool:
    """Whether it only renames elements: one read, nothing computed, nothing filled in."""
    return (
        len(nest.reads) == 1
        and nest.scalar == IDENTITY
        and nest.reduction == "none"
        and nest.reads[0].fill is None
        and nest.write.fill is None
        and not nest.sequential
    )


def compose(reader: Nest, position: int, view: Nest, source: Shape, result: Shape) -> Nest | None:
    """`reader` with its read number `position` going to the view's source, or None where that is
    not affine. `source` and `result` are the shapes of what the view reads and writes.
    """
    digits = _digits(view, result)
    if digits is None:
        return None
    for _ in range(64):  # each round splits one axis; nests have far fewer
        found = _substitute(reader, position, view, digits, source, result)
        if not isinstance(found, _Split):
            return found
        split = split_axis(reader, found.axis, found.inner)
        if split is None:
            return None
        reader = split
    return None


@dataclass(frozen=True, slots=True)
class _Split:
    """An axis that must become `inner * axis0 + axis1`."""

    axis: str
    inner: int


def split_axis(nest: Nest, name: str, inner: int) -> Nest | None:
    """The same points with one axis in two, `inner` the size of the second.

    None where the axis' value is itself computed with, or where its order is a dependence.
    """
    if name in nest.sequential or any(
        isinstance(leaf, Iota) and leaf.axis == name for leaf in leaves(nest.scalar)
    ):
        return None
    taken = set(nest.sizes)
    outer_name, inner_name = _fresh(f"{name}0", taken), _fresh(f"{name}1", taken)
    value = {name: Affine.of({outer_name: inner, inner_name: 1})}
    axes: list[Axis] = []
    for axis in nest.axes:
        if axis.name == name:
            axes += [Axis(outer_name, axis.size // inner), Axis(inner_name, inner)]
        else:
            axes.append(axis)
    reads = tuple(access.substitute(value) for access in nest.reads)
    return replace(nest, axes=tuple(axes), reads=reads, write=nest.write.substitute(value))


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "x"  # no underscore: the mapper joins names of merged axes by it
    taken.add(name)
    return name


def _digits(view: Nest, result: Shape) -> list[list[tuple[str, int]]] | None:
    """Per dimension of the result, the view's axes and sizes that make its index, smallest first.

    None where the write is not a mixed-radix number per dimension.
    """
    sizes = {name: size for name, size in view.sizes.items() if size > 1}
    seen: set[str] = set()
    dims: list[list[tuple[str, int]]] = []
    for index, extent in zip(view.write.index, result, strict=True):
        digits, block = [], 1
        for name, coefficient in sorted(index.terms, key=lambda term: term[1]):
            if name not in sizes:
                continue
            if coefficient != block or name in seen:
                return None
            seen.add(name)
            digits.append((name, sizes[name]))
            block *= sizes[name]
        if index.offset or block != extent:
            return None
        dims.append(digits)
    return dims


def _substitute(
    reader: Nest, position: int, view: Nest, digits: list[list[tuple[str, int]]],
    source: Shape, result: Shape,
) -> Nest | _Split | None:  # fmt: skip
    """The reader on the source, or an axis to split first, or None."""
    sizes, access = reader.sizes, reader.reads[position]
    values = {axis.name: Affine() for axis in view.axes}
    fill = None
    for dim, (index, extent) in enumerate(zip(access.index, result, strict=True)):
        low, high = index.bounds(sizes)
        if low < 0 or high >= extent:
            if not _is_renamed(view, digits[dim], source, extent):
                return None
            fill = access.fill
        rest = index
        for name, size in digits[dim][:-1]:
            divided = divide(rest, size, sizes)
            if not isinstance(divided, tuple):
                return divided
            rest, values[name] = divided
        if digits[dim]:
            values[digits[dim][-1][0]] = rest
    reads = list(reader.reads)
    reads[position] = Access(view.reads[0].substitute(values).index, fill)
    moved = replace(reader, reads=tuple(reads))
    return moved if _uses_all(moved) else None


def _is_renamed(view: Nest, digits: list[tuple[str, int]], source: Shape, extent: int) -> bool:
    """Whether a dimension of the result is just one of the source: outside of one is outside of
    the other.
    """
    if len(digits) != 1:
        return False
    ((name, _),) = digits
    holders = [dim for dim, index in enumerate(view.reads[0].index) if name in index.axes]
    if len(holders) != 1 or source[holders[0]] != extent:
        return False
    index = view.reads[0].index[holders[0]]
    moving = [term for term in index.terms if view.sizes[term[0]] > 1]
    return moving in ([(name, 1)], [(name, -1)]) and index.bounds(view.sizes) == (0, extent - 1)


def divide(
    index: Affine, block: int, sizes: Mapping[str, int]
) -> tuple[Affine, Affine] | _Split | None:
    """Quotient and remainder of an index by a block size, where both are affine."""
    whole = [(name, c // block) for name, c in index.terms if c % block == 0]
    part = [(name, c) for name, c in index.terms if c % block]
    offset = index.offset % block
    rest = Affine.of(part, offset)
    low, high = rest.bounds(sizes)
    if low // block == high // block:
        # All of the rest lies in one block: shift the quotient by it.
        shift = low // block
        quotient = Affine.of(whole, index.offset // block + shift)
        return quotient, rest + (-shift * block)
    for name, coefficient in part:
        inner = block // gcd(block, abs(coefficient))
        if 1 < inner < sizes[name] and sizes[name] % inner == 0:
            return _Split(name, inner)
    return None


def _uses_all(nest: Nest) -> bool:
    """Whether every axis still moves something (a sum over a repeated element would not)."""
    used = set(nest.write.axes) | set(nest.sequential)
    for access in nest.reads:
        used |= access.axes
    used |= {leaf.axis for leaf in leaves(nest.scalar) if isinstance(leaf, Iota)}
    return used >= set(nest.sizes)
