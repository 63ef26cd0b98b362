"""Small nests as plain arrays, for oracles that walk tiles as sets of elements.

Every tensor of at most 64 positions (padding included) is a word of bits, one per position. A tile
is, for each composite axis of the tensor (axes that share one of its dimensions), the set of the
positions whose indices along those dimensions the tile reaches; the tile is their intersection.
Nothing here knows how traffic is counted.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hwopt.hardware.accelerator import ROLES
from hwopt.hardware.conventions import Conventions
from hwopt.mapping.problem import Operand, Problem

Ints = npt.NDArray[np.int64]


class Nest(NamedTuple):
    """One problem: axes `a`, operands `r` (a row of zeros where there is none), their parts `p`.

    `tile word of part p = masks[counted, offset[r, p] + sum of stride[r, a] * code(a)]` with
    `code(a) = start * (size + 1) + extent` of the range along each axis of that part.
    """

    sizes: Ints
    parts: Ints
    part: Ints
    stride: Ints
    offset: Ints
    masks: npt.NDArray[np.uint64]
    bits: Ints


def pack(problem: Problem, conventions: Conventions) -> Nest:
    """The nest's words; `masks[0]` as the conventions say, `masks[1]` with padding counted.

    Raises `ValueError` when a tensor has more than 64 positions.
    """
    names = list(problem.sizes)
    shape = len(ROLES), len(names)
    parts, bits = np.zeros(3, np.int64), np.zeros(3, np.int64)
    part, stride = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    offset = np.zeros(shape, np.int64)
    words: list[list[int]] = [[], []]
    for number, role in enumerate(ROLES):
        if role not in problem.operand:
            continue
        operand = problem.operand[role]
        places = _places(operand, problem)
        groups = _composites(operand)
        parts[number], bits[number] = len(groups), operand.bits
        for index, axes in enumerate(groups):
            offset[number, index] = len(words[0])
            step = 1
            for axis in reversed(axes):
                a, size = names.index(axis), problem.sizes[axis]
                part[number, a], stride[number, a] = index, step
                step *= (size + 1) ** 2
            for counted in (0, 1):
                words[counted] += _words(
                    operand, problem, axes, places, conventions,
                    padding=bool(counted) or conventions.padding == "counted",
                )  # fmt: skip
    sizes = np.array(list(problem.sizes.values()), np.int64)
    return Nest(sizes, parts, part, stride, offset, np.array(words, np.uint64), bits)


def _composites(operand: Operand) -> list[tuple[str, ...]]:
    """Classes of axes that share a tensor dimension."""
    groups: list[set[str]] = []
    for affine in operand.access.index:
        if affine.axes:
            joined = [group for group in groups if group & set(affine.axes)]
            groups = [group for group in groups if group not in joined]
            groups.append(set(affine.axes).union(*joined))
    return [tuple(sorted(group)) for group in groups]


def _places(operand: Operand, problem: Problem) -> dict[tuple[int, ...], int]:
    """A bit for every position that any index of the nest can reach, or lies between such."""
    ranges = []
    for affine in operand.access.index:
        low, high = affine.bounds(problem.sizes)
        ranges.append(range(low, high + 1))
    if math.prod(map(len, ranges)) > 64:
        raise ValueError("more than 64 positions in a tensor")
    return {position: bit for bit, position in enumerate(itertools.product(*ranges))}


def _words(
    operand: Operand, problem: Problem, axes: tuple[str, ...],
    places: dict[tuple[int, ...], int], conventions: Conventions, *, padding: bool,
) -> list[int]:  # fmt: skip
    """For every range along these axes: the positions whose indices it reaches (0: no range)."""
    index = operand.access.index
    dims = [dim for dim, affine in enumerate(index) if set(affine.axes) & set(axes)]
    codes = [
        [(s, e) for s in range(problem.sizes[a] + 1) for e in range(problem.sizes[a] + 1)]
        for a in axes
    ]
    words = []
    for ranges in itertools.product(*codes):
        if any(e == 0 or s + e > problem.sizes[a] for a, (s, e) in zip(axes, ranges, strict=True)):
            words.append(0)
            continue
        found = set()
        for point in itertools.product(*(range(s, s + e) for s, e in ranges)):
            at = dict(zip(axes, point, strict=True))
            found.add(
                tuple(index[d].offset + sum(c * at[x] for x, c in index[d].terms) for d in dims)
            )
        if conventions.strided == "bounding" and operand.role != "output":
            low, high = (tuple(map(f, zip(*found, strict=True))) for f in (min, max))
            found = set(itertools.product(*(map(range, low, (h + 1 for h in high)))))
        word = 0
        for position, bit in places.items():
            seen = tuple(position[d] for d in dims)
            inside = all(0 <= x < operand.shape[d] for x, d in zip(seen, dims, strict=True))
            if seen in found and (inside or padding):
                word |= 1 << bit
        words.append(word)
    return words
