"""Axes and affine accesses: which element of a tensor an iteration touches.

A nest iterates over named axes. Each dimension of a tensor it touches is indexed by an affine
expression of those axes, for example `2*p + r - 1` for a stride-2 convolution with padding 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

MAX_COUNT = 2**53
"""Counts of one operator stay below this, so that float64 holds them exactly."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One loop of a nest: a name that is unique in the nest, and its trip count (at least 1)."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Affine:
    """`offset + sum(coefficient * axis)`. Terms are sorted by axis, coefficients are not 0."""

    terms: tuple[tuple[str, int], ...] = ()
    offset: int = 0

    @staticmethod
    def of(terms: Mapping[str, int] | Iterable[tuple[str, int]], offset: int = 0) -> Affine:
        """The normal form: like terms added, zeros dropped, axes sorted."""
        total: dict[str, int] = {}
        for name, coefficient in terms.items() if isinstance(terms, Mapping) else terms:
            total[name] = total.get(name, 0) + coefficient
        kept = tuple(sorted((name, c) for name, c in total.items() if c))
        return Affine(kept, offset)

    @staticmethod
    def axis(name: str) -> Affine:
        """The index that is one axis."""
        return Affine(((name, 1),))

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes it depends on."""
        return tuple(name for name, _ in self.terms)

    @property
    def is_axis(self) -> bool:
        """Whether it is exactly one axis, unscaled and unshifted."""
        return len(self.terms) == 1 and self.terms[0][1] == 1 and self.offset == 0

    def coefficient(self, name: str) -> int:
        """The factor of one axis (0 when absent)."""
        return dict(self.terms).get(name, 0)

    def __add__(self, other: Affine | int) -> Affine:
        if isinstance(other, int):
            return Affine(self.terms, self.offset + other)
        return Affine.of((*self.terms, *other.terms), self.offset + other.offset)

    def __mul__(self, factor: int) -> Affine:
        return Affine.of(((n, c * factor) for n, c in self.terms), self.offset * factor)

    def substitute(self, values: Mapping[str, Affine]) -> Affine:
        """Replace axes by affine expressions; axes not in `values` stay."""
        result = Affine((), self.offset)
        for name, coefficient in self.terms:
            result = result + values.get(name, Affine.axis(name)) * coefficient
        return result

    def bounds(self, sizes: Mapping[str, int]) -> tuple[int, int]:
        """Smallest and largest value over the box `0 <= axis < size`."""
        low = high = self.offset
        for name, coefficient in self.terms:
            reach = coefficient * (sizes[name] - 1)
            low, high = low + min(reach, 0), high + max(reach, 0)
        return low, high

    def __str__(self) -> str:
        text = ""
        for name, coefficient in self.terms:
            sign = "-" if coefficient < 0 else "+"
            factor = "" if abs(coefficient) == 1 else f"{abs(coefficient)}*"
            text += f" {sign} {factor}{name}" if text else f"{'-' * (sign == '-')}{factor}{name}"
        if self.offset or not text:
            sign = "-" if self.offset < 0 else "+"
            text += f" {sign} {abs(self.offset)}" if text else str(self.offset)
        return text


@dataclass(frozen=True, slots=True)
class Access:
    """How a nest indexes one tensor: one `Affine` per dimension.

    `fill` is the value read where an index falls outside the tensor (padding: 0 for a convolution,
    -inf for max pooling). `None` promises that no index falls outside.
    """

    index: tuple[Affine, ...]
    fill: float | None = None

    @property
    def axes(self) -> frozenset[str]:
        """Names of all axes that move this access: the axes *relevant* to the tensor."""
        return frozenset(name for affine in self.index for name, _ in affine.terms)

    def substitute(self, values: Mapping[str, Affine]) -> Access:
        """Replace axes by affine expressions in every dimension."""
        return Access(tuple(affine.substitute(values) for affine in self.index), self.fill)

    def __str__(self) -> str:
        text = "[" + ", ".join(str(affine) for affine in self.index) + "]"
        return text if self.fill is None else f"{text} else {self.fill!r}"


def touched_elements(access: Access, shape: tuple[int, ...], sizes: Mapping[str, int]) -> int:
    """How many elements of a tensor of this shape an access touches over `0 <= axis < size`.

    Exact where no axis moves two dimensions (a diagonal: at most the points of its axes); what
    falls outside the tensor is not counted. A stride-2 1x1 convolution touches a quarter.
    """
    total = points = 1
    for affine, extent in zip(access.index, shape, strict=True):
        steps = tuple((c, sizes[name]) for name, c in affine.terms if sizes[name] > 1)
        total *= _positions(steps, affine.offset, extent)
    for name in access.axes:
        points *= sizes[name]
    return min(total, points)


@lru_cache(maxsize=65536)
def _positions(steps: tuple[tuple[int, int], ...], offset: int, extent: int) -> int:
    """Distinct values within `[0, extent)` of `offset + sum(coefficient * i)`, `0 <= i < count`."""
    low = offset + sum(min(0, c * (count - 1)) for c, count in steps)
    high = offset + sum(max(0, c * (count - 1)) for c, count in steps)
    reach, dense, points = 0, True, 1
    for coefficient, count in sorted((abs(c), count) for c, count in steps):
        dense &= coefficient <= reach + 1
        reach += coefficient * (count - 1)
        points *= count
    if dense or points > 2**16:  # beyond that the span is an upper bound, and close
        return max(0, min(high, extent - 1) - max(low, 0) + 1)
    values = {offset}
    for coefficient, count in steps:
        values = {value + coefficient * i for value in values for i in range(count)}
    return sum(0 <= value < extent for value in values)


def parse_access(*index: str | int, fill: float | None = None) -> Access:
    """Build an access from readable terms: `parse_access("n", "2*p + r - 1", 0)`."""
    return Access(tuple(parse_affine(str(part)) for part in index), fill)


def parse_affine(text: str) -> Affine:
    """Parse what `str(affine)` prints; ValueError when it is not an affine expression."""
    terms: list[tuple[str, int]] = []
    offset = 0
    for part in text.replace("-", "+-").split("+"):
        part = part.replace(" ", "")
        if not part:
            continue
        sign = -1 if part.startswith("-") else 1
        factor, _, name = part.lstrip("-").rpartition("*")
        if name.isidentifier():
            terms.append((name, sign * int(factor or 1)))
        elif not factor:
            offset += sign * int(name)
        else:
            raise ValueError(f"not an affine expression: {text!r}")
    return Affine.of(terms, offset)
