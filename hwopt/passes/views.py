"""Composing a view into the access of its reader.

A view `t[w(v)] = s[r(v)]` over view axes v, read by a nest as `t[e(a)]`, is composed by solving
`w(v) = e(a)` for v: `w` is a mixed-radix number per dimension (a merged reshape, for example
`8*v0 + v1`), so the digits of `e` are found by affine division. An axis that spans two digits is
split in two (`a = 8*hi + lo`); the reader's iteration space stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hwopt.ir.access import Access, Affine, Axis
from hwopt.ir.op import Nest
from hwopt.ir.scalar import IDENTITY, Iota, Scalar, apply, substitute


@dataclass(frozen=True)
class _Split:
    """An axis must be cut into `axis = low_size * high + low` before the digits can be read."""

    axis: str
    low_size: int


def compose(reader: Nest, position: int, view: Nest, source_shape: tuple[int, ...]) -> Nest | None:
    """The reader with its access number `position` moved from the view's result to its source.

    None when the composition is not affine, or would read where the view has padding.
    """
    if view.scalar != IDENTITY or view.reads[0].fill is not None:
        return None
    while True:
        access = reader.reads[position]
        solved = _solve(view, access, reader.sizes)
        if solved is None:
            return None
        if isinstance(solved, _Split):
            divided = _split_axis(reader, solved)
            if divided is None:
                return None
            reader = divided
            continue
        moved = view.reads[0].substitute(solved)
        if access.fill is not None:
            if not _keeps_outside(view, access, reader.sizes, source_shape):
                return None
            moved = replace(moved, fill=access.fill)
        reads = (*reader.reads[:position], moved, *reader.reads[position + 1 :])
        return replace(reader, reads=reads)


def _solve(
    view: Nest, access: Access, sizes: Mapping[str, int]
) -> dict[str, Affine] | _Split | None:
    """The view's axes as affine expressions of the reader's."""
    solved: dict[str, Affine] = {}
    for written, wanted in zip(view.write.index, access.index, strict=True):
        if written.offset:
            return None
        digits = sorted(((c, name) for name, c in written.terms), reverse=True)
        if len(digits) == 1 and digits[0][0] == 1:
            solved[digits[0][1]] = wanted
            continue
        found = _digits(wanted, digits, view.sizes, sizes)
        if found is None or isinstance(found, _Split):
            return found
        solved.update(found)
    for axis in view.axes:  # an axis of size 1 may be absent from the write
        solved.setdefault(axis.name, Affine())
    return solved


def _digits(
    value: Affine, digits: list[tuple[int, str]], view_sizes: Mapping[str, int],
    sizes: Mapping[str, int],
) -> dict[str, Affine] | _Split | None:  # fmt: skip
    """Split `value` into digits of the mixed radix given by (stride, axis), strides falling."""
    found = {name: Affine() for _, name in digits}
    if value.offset < 0:
        return None
    rest = value.offset
    for stride, name in digits:
        found[name], rest = Affine((), rest // stride), rest % stride
    if rest:
        return None
    for axis, coefficient in value.terms:
        if sizes[axis] == 1:
            continue
        if coefficient < 0:
            return None
        place = next(((s, n) for s, n in digits if coefficient % s == 0), None)
        if place is None:
            return None
        stride, name = place
        step = coefficient // stride
        if step * (sizes[axis] - 1) >= view_sizes[name] and digits[0][1] != name:
            if view_sizes[name] % step:
                return None
            return _Split(axis, view_sizes[name] // step)
        found[name] = found[name] + Affine(((axis, step),))
    for name, digit in found.items():
        low, high = digit.bounds(sizes)
        if low < 0 or high >= view_sizes[name]:
            return None
    return found


def _split_axis(nest: Nest, split: _Split) -> Nest | None:
    """The same nest with one axis as two: names `a_0` (slow) and `a_1` (fast)."""
    size = nest.sizes[split.axis]
    if split.low_size <= 1 or size % split.low_size or split.axis in nest.sequential:
        return None
    high, low = f"{split.axis}_0", f"{split.axis}_1"
    if high in nest.sizes or low in nest.sizes:
        return None
    axes: list[Axis] = []
    for axis in nest.axes:
        if axis.name == split.axis:
            axes += [Axis(high, size // split.low_size), Axis(low, split.low_size)]
        else:
            axes.append(axis)
    value = Affine.of({high: split.low_size, low: 1})
    iota: Scalar = apply("add", apply("mul", Iota(high), split.low_size), Iota(low))
    return replace(
        nest,
        axes=tuple(axes),
        reads=tuple(access.substitute({split.axis: value}) for access in nest.reads),
        write=nest.write.substitute({split.axis: value}),
        scalar=substitute(nest.scalar, {}, {split.axis: iota}),
    )


def _keeps_outside(
    view: Nest, access: Access, sizes: Mapping[str, int], source_shape: tuple[int, ...]
) -> bool:
    """Whether what lies outside the view's result also lies outside its source, and only that.

    Needed where the reader pads: each dimension that it may leave must be a whole dimension of
    the source, unscaled and unshifted.
    """
    for written, wanted in zip(view.write.index, access.index, strict=True):
        size = written.bounds(view.sizes)[1] + 1
        low, high = wanted.bounds(sizes)
        if low >= 0 and high < size:
            continue
        if not written.is_axis:
            return False
        name = written.axes[0]
        using = [i for i, part in enumerate(view.reads[0].index) if name in part.axes]
        if len(using) != 1 or not view.reads[0].index[using[0]].is_axis:
            return False
        if source_shape[using[0]] != size:
            return False
    return True
