"""Meaning of movement: reshape, strides, concatenation, padding, rolling, slices, random draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwopt.ir.routine.signature import Array, Attributes, Declared, Routine


def reshape(_: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """Row-major order under another shape."""
    return [reads[0].reshape(writes[0][0])]


def _strided(a: Attributes, shape: Sequence[int]) -> Array:
    """Row-major places in the source: `offset` and `stride` count elements."""
    flat = np.full(shape, a["offset"])
    for index, step in zip(np.indices(shape, sparse=True), a["stride"], strict=True):
        flat = flat + index * step
    return flat


def as_strided(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """The elements at strided places."""
    return [reads[0].reshape(-1)[_strided(a, writes[0][0])]]


def as_strided_scatter(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """A copy with the elements at strided places replaced."""
    out = reads[0].flatten()
    out[_strided(a, reads[1].shape)] = reads[1]
    return [out.reshape(reads[0].shape)]


def view_as_real(_: Attributes, reads: list[Array], __: Sequence[Declared]) -> list[Array]:
    """Real and imaginary part along a new last dimension."""
    return [np.stack([reads[0].real, reads[0].imag], -1)]


def view_as_complex(_: Attributes, reads: list[Array], __: Sequence[Declared]) -> list[Array]:
    """The inverse of `view_as_real`."""
    return [reads[0][..., 0] + 1j * reads[0][..., 1]]


def complex_of(_: Attributes, reads: list[Array], __: Sequence[Declared]) -> list[Array]:
    """Real and imaginary part as one complex number."""
    return [reads[0] + 1j * reads[1]]


def cat(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """One after another along `dim`."""
    return [np.concatenate(reads, a["dim"])]


def stack(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Along a new dimension `dim`."""
    return [np.stack(reads, a["dim"])]


def pad(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """`padding` lists (before, after) from the last dimension backwards; `mode` as in numpy."""
    x, flat = reads[0], a["padding"]
    widths = [(0, 0)] * (x.ndim - len(flat) // 2)
    pairs = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
    widths += reversed(pairs)
    return [np.pad(x, widths, mode=a["mode"])]


def roll(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Circular shifts; without `dims` of the flattened tensor."""
    return [np.roll(reads[0], a["shifts"], a["dims"] or None)]


def slice_scatter(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """`out[start + step * i] = source[i]` along `dim`, the rest as it was."""
    out, source, dim = reads[0].copy(), reads[1], a["dim"]
    place = [slice(None)] * out.ndim
    end = a["start"] + a["step"] * (source.shape[dim] - 1) + 1
    place[dim] = slice(a["start"], max(a["start"], end), a["step"])
    out[tuple(place)] = source
    return [out]


def triangle_indices(a: Attributes, _: list[Array], __: Sequence[Declared]) -> list[Array]:
    """Row and column numbers of a triangle, row by row."""
    full = np.ones((a["rows"], a["columns"]), bool)
    half = np.tril(full, a["offset"]) if a["lower"] else np.triu(full, a["offset"])
    return [np.stack(np.nonzero(half))]


def random(a: Attributes, _: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """Draws of `law` from a fixed seed: equal laws and shapes give equal numbers."""
    shape, source = writes[0][0], np.random.default_rng(0)
    law, low, high = a["law"], a["low"], a["high"]
    if law == "bernoulli":
        return [source.random(shape) < high]
    if law == "uniform":
        return [source.uniform(low, high, shape)]
    if law == "normal":
        return [source.normal(low, high, shape)]
    if law == "integers":
        return [source.integers(int(low), int(high), shape)]
    return [source.permutation(shape[0])]


def multinomial(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """Column numbers drawn with the given weights."""
    shape, source = writes[0][0], np.random.default_rng(0)
    rows = reads[0].reshape(-1, reads[0].shape[-1]).astype(np.float64)
    drawn = [
        source.choice(row.size, shape[-1], replace=a["replacement"], p=row / row.sum())
        for row in rows
    ]
    return [np.array(drawn).reshape(shape)]


def _transformed(x: Array, dims: Sequence[int], norm: int, *, forward: bool) -> Array:
    """A complex transform with torch's normalisation: 0 none, 1 by the root, 2 by the count."""
    count = np.prod([x.shape[d] for d in dims])
    whole = np.fft.fftn(x, axes=dims) if forward else np.fft.ifftn(x, axes=dims) * count
    scaled: Array = whole / {0: 1, 1: np.sqrt(count), 2: count}[norm]
    return scaled


def fft_c2c(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Complex to complex."""
    return [_transformed(reads[0], a["dims"], a["normalization"], forward=a["forward"])]


def fft_r2c(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Real to complex, of the last dimension the non-negative frequencies when one-sided."""
    x, last = reads[0], a["dims"][-1]
    full = _transformed(x, a["dims"], a["normalization"], forward=True)
    return [np.take(full, range(x.shape[last] // 2 + 1), last) if a["onesided"] else full]


def fft_c2r(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """Complex, one-sided, to real."""
    dims, shape = a["dims"], writes[0][0]
    sizes = [shape[d] for d in dims]
    real = np.fft.irfftn(reads[0], s=sizes, axes=dims) * np.prod(sizes)
    return [real / {0: 1, 1: np.sqrt(np.prod(sizes)), 2: np.prod(sizes)}[a["normalization"]]]


ROUTINES: dict[str, Routine] = {
    "reshape": reshape, "complex": complex_of,
    "view_as_real": view_as_real, "view_as_complex": view_as_complex,
    "as_strided": as_strided, "as_strided_scatter": as_strided_scatter,
    "cat": cat, "stack": stack, "pad": pad,
    "roll": roll, "slice_scatter": slice_scatter, "triangle_indices": triangle_indices,
    "random": random, "multinomial": multinomial,
    "fft_c2c": fft_c2c, "fft_r2c": fft_r2c, "fft_c2r": fft_c2r,
}  # fmt: skip
