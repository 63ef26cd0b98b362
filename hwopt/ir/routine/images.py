"""Meaning of pooling and resampling of images `(batch, channels, height, width)`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from hwopt.ir.routine.signature import (
    Array,
    Attributes,
    Declared,
    Routine,
    trailing,
    windows,
)


def max_pool_indices(a: Attributes, reads: list[Array], w: Sequence[Declared]) -> list[Array]:
    """The flat position in the image of each window's maximum, the first on ties."""
    x, kernel = reads[0], a["kernel"]
    rank = len(kernel)
    image, grid = x.shape[-rank:], w[0][0][-rank:]
    best = np.full(w[0][0], -np.inf)
    place = np.zeros(w[0][0], np.int64)
    for offsets in itertools.product(*(range(k) for k in kernel)):
        positions = [
            np.arange(cells) * s + r * d - p
            for cells, r, s, p, d in zip(
                grid, offsets, a["stride"], a["padding"], a["dilation"], strict=True
            )
        ]
        inside = [(p >= 0) & (p < size) for p, size in zip(positions, image, strict=True)]
        safe = [np.clip(p, 0, size - 1) for p, size in zip(positions, image, strict=True)]
        value = np.where(_outer(inside, np.logical_and), x[trailing(*np.ix_(*safe))], -np.inf)
        strides = [math.prod(image[i + 1 :]) for i in range(rank)]
        flat = _outer([p * s for p, s in zip(safe, strides, strict=True)], np.add)
        better = (value > best) | (np.isnan(value) & ~np.isnan(best))
        best, place = np.where(better, value, best), np.where(better, flat, place)
    return [place]


def _outer(vectors: list[Array], function: np.ufunc) -> Array:
    """A function of one entry of each vector, over their grid."""
    total = vectors[0]
    for vector in vectors[1:]:
        total = function(total[..., None], vector)
    return total


def max_pool_backward(a: Attributes, reads: list[Array], w: Sequence[Declared]) -> list[Array]:
    """Gradients added at flat positions of each image."""
    grad, index = (r.reshape(*r.shape[: -a["spatial"]], -1) for r in reads)
    shape = w[0][0]
    out = np.zeros((*shape[: -a["spatial"]], math.prod(shape[-a["spatial"] :])), grad.dtype)
    lead = np.indices(grad.shape, sparse=True)[:-1]
    np.add.at(out, (*lead, index), grad)
    return [out.reshape(shape)]


def adaptive_avg_pool(a: Attributes, reads: list[Array], w: Sequence[Declared]) -> list[Array]:
    """The mean of each window."""
    x, rank, out = reads[0], a["spatial"], np.zeros(w[0][0], reads[0].dtype)
    axes = tuple(range(-rank, 0))
    for cell, window in _cells(x.shape[-rank:], w[0][0][-rank:]):
        out[trailing(*cell)] = x[trailing(*window)].mean(axes)
    return [out]


def adaptive_avg_pool_backward(
    a: Attributes, reads: list[Array], w: Sequence[Declared]
) -> list[Array]:
    """Each gradient shared out over its window."""
    grad, rank, out = reads[0], a["spatial"], np.zeros(w[0][0], reads[0].dtype)
    for cell, window in _cells(w[0][0][-rank:], grad.shape[-rank:]):
        count = math.prod(s.stop - s.start for s in window)
        share = grad[trailing(*cell)] / count
        out[trailing(*window)] += share[trailing(*[None] * rank)]
    return [out]


def adaptive_max_pool(a: Attributes, reads: list[Array], w: Sequence[Declared]) -> list[Array]:
    """The maximum of each window and its flat position."""
    x, rank, shape = reads[0], a["spatial"], w[0][0]
    image = x.shape[-rank:]
    flat = np.broadcast_to(np.arange(math.prod(image)).reshape(image), x.shape)
    best, place = np.zeros(shape, x.dtype), np.zeros(shape, np.int64)
    for cell, window in _cells(image, shape[-rank:]):
        values = x[trailing(*window)].reshape(*x.shape[:-rank], -1)
        positions = flat[trailing(*window)].reshape(values.shape)
        chosen = values.argmax(-1)[..., None]
        best[trailing(*cell)] = np.take_along_axis(values, chosen, -1)[..., 0]
        place[trailing(*cell)] = np.take_along_axis(positions, chosen, -1)[..., 0]
    return [best, place][: len(w)]


def _cells(
    image: Sequence[int], grid: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Every cell of the grid with its window."""
    sides = windows(image, grid)
    return [
        (cell, tuple(side[i] for side, i in zip(sides, cell, strict=True)))
        for cell in itertools.product(*(range(n) for n in grid))
    ]


def _nearest_positions(
    image: Sequence[int], grid: Sequence[int], scales: Sequence[float | None]
) -> list[Array]:
    """`floor(i / scale)` per dimension, in single precision as torch computes it."""
    positions = []
    for size, cells, scale in zip(image, grid, scales, strict=True):
        ratio = np.float32(1 / scale if scale else size / cells)
        index = np.floor(np.arange(cells, dtype=np.float32) * ratio).astype(np.int64)
        positions.append(np.minimum(index, size - 1))
    return positions


def upsample_nearest(a: Attributes, reads: list[Array], w: Sequence[Declared]) -> list[Array]:
    """The nearest element to the left."""
    x, shape = reads[0], w[0][0]
    place = np.ix_(*_nearest_positions(x.shape[2:], shape[2:], a["scales"]))
    return [x[trailing(*place)]]


def upsample_nearest_backward(
    a: Attributes, reads: list[Array], w: Sequence[Declared]
) -> list[Array]:
    """Gradients added where they were read."""
    grad, out = reads[0], np.zeros(w[0][0], reads[0].dtype)
    place = np.ix_(*_nearest_positions(out.shape[2:], grad.shape[2:], a["scales"]))
    np.add.at(out, trailing(*place), grad)
    return [out]


def _mix(
    size: int, cells: int, scale: float | None, *, align_corners: bool
) -> tuple[Array, Array, Array]:
    """Left and right neighbour of each cell, and the weight of the right one."""
    i = np.arange(cells, dtype=np.float64)
    if align_corners:
        position = i * ((size - 1) / (cells - 1) if cells > 1 else 0.0)
    else:
        ratio = 1 / scale if scale else size / cells
        position = np.maximum((i + 0.5) * ratio - 0.5, 0)
    left = np.minimum(np.floor(position).astype(np.int64), size - 1)
    return left, np.minimum(left + 1, size - 1), position - left


def _corners(
    a: Attributes, image: Sequence[int], grid: Sequence[int]
) -> list[tuple[tuple[Array, ...], Array]]:
    """The four neighbours of every cell with their weights."""
    sides = [
        _mix(size, cells, scale, align_corners=a["align_corners"])
        for size, cells, scale in zip(image, grid, a["scales"], strict=True)
    ]
    corners = []
    for right in itertools.product((False, True), repeat=2):
        place = np.ix_(*(side[int(r)] for side, r in zip(sides, right, strict=True)))
        weights = [s[2] if r else 1 - s[2] for s, r in zip(sides, right, strict=True)]
        corners.append((place, np.outer(*weights)))
    return corners


def upsample_bilinear(a: Attributes, reads: list[Array], w: Sequence[Declared]) -> list[Array]:
    """The weighted mean of four neighbours."""
    x = reads[0]
    corners = _corners(a, x.shape[2:], w[0][0][2:])
    return [np.sum([x[trailing(*place)] * weight for place, weight in corners], axis=0)]


def upsample_bilinear_backward(
    a: Attributes, reads: list[Array], w: Sequence[Declared]
) -> list[Array]:
    """Gradients added to the four neighbours."""
    grad, out = reads[0], np.zeros(w[0][0], reads[0].dtype)
    for place, weight in _corners(a, out.shape[2:], grad.shape[2:]):
        shares = (grad * weight).astype(out.dtype)
        np.add.at(out, trailing(*place), shares)
    return [out]


def grid_sampler(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Values at coordinates (x, y) in [-1, 1], by the nearest or by four neighbours."""
    image, grid = reads
    size = (image.shape[3], image.shape[2])
    x, y = (_unnormalised(a, grid[..., i], size[i]) for i in range(2))
    if a["nearest"]:
        return [_taps(image, np.rint(x), np.rint(y))]
    left, top = np.floor(x), np.floor(y)
    total = np.zeros(())
    for dx, dy in itertools.product((0, 1), repeat=2):
        weight = (x - left if dx else 1 - (x - left)) * (y - top if dy else 1 - (y - top))
        total = total + _taps(image, left + dx, top + dy) * weight[:, None]
    return [total]


def _unnormalised(a: Attributes, position: Array, size: int) -> Array:
    """A coordinate in elements, moved inside as `padding` says."""
    if a["align_corners"]:
        place = (position + 1) / 2 * (size - 1)
    else:
        place = ((position + 1) * size - 1) / 2
    if a["padding"] == "reflection":
        low, high = (0.0, size - 1.0) if a["align_corners"] else (-0.5, size - 0.5)
        span = high - low
        away = np.abs(place - low) % (2 * span) if span else np.zeros_like(place)
        place = np.minimum(away, 2 * span - away) + low
    return place if a["padding"] == "zeros" else np.clip(place, 0, size - 1)


def _taps(image: Array, x: Array, y: Array) -> Array:
    """Elements at whole coordinates, zero outside: `(batch, channels, rows, columns)`."""
    height, width = image.shape[2:]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    column, row = (np.clip(v, 0, n - 1).astype(np.int64) for v, n in ((x, width), (y, height)))
    batch = np.arange(len(image))[:, None, None]
    values = np.moveaxis(image[batch, :, row, column], -1, 1)
    return np.where(inside[:, None], values, 0)


ROUTINES: dict[str, Routine] = {
    "max_pool_indices": max_pool_indices, "max_pool_backward": max_pool_backward,
    "adaptive_avg_pool": adaptive_avg_pool,
    "adaptive_avg_pool_backward": adaptive_avg_pool_backward,
    "adaptive_max_pool": adaptive_max_pool, "upsample_nearest": upsample_nearest,
    "upsample_nearest_backward": upsample_nearest_backward,
    "upsample_bilinear": upsample_bilinear,
    "upsample_bilinear_backward": upsample_bilinear_backward, "grid_sampler": grid_sampler,
}  # fmt: skip
