"""Meaning of data-dependent addressing: embeddings, gathers, scatters, order, histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from hwopt.ir.routine.signature import Array, Attributes, Declared, Routine, line_index


def embedding(_: Attributes, reads: list[Array], __: Sequence[Declared]) -> list[Array]:
    """`weight[indices]`."""
    return [reads[0][reads[1]]]


def embedding_backward(a: Attributes, reads: list[Array], w: Sequence[Declared]) -> list[Array]:
    """Rows of the gradient added at their indices; the padding row stays zero."""
    grad, indices = reads[0].reshape(-1, reads[0].shape[-1]), reads[1].reshape(-1)
    out = np.zeros(w[0][0], grad.dtype)
    if a["by_frequency"]:
        grad = grad / np.bincount(indices, minlength=len(out))[indices][:, None]
    np.add.at(out, indices, grad)
    if a["padding"] >= 0:
        out[a["padding"]] = 0
    return [out]


def embedding_bag(a: Attributes, reads: list[Array], w: Sequence[Declared]) -> list[Array]:
    """Reduce the rows of each bag; bags start at the offsets, empty ones give zeros."""
    weight, indices, offsets = reads[:3]
    out = np.zeros(w[0][0], weight.dtype)
    if indices.ndim == 2:
        offsets = np.arange(len(indices)) * indices.shape[1]
        indices = indices.reshape(-1)
    scale = reads[3].reshape(-1) if len(reads) > 3 else np.ones(len(indices), weight.dtype)
    ends = offsets[1:] if a["last_offset"] else [*offsets[1:], len(indices)]
    for bag, (start, end) in enumerate(zip(offsets, ends, strict=False)):
        kept = np.arange(start, end)
        kept = kept[indices[kept] != a["padding"]]
        rows = weight[indices[kept]] * scale[kept, None]
        if len(rows):
            out[bag] = getattr(rows, a["mode"])(0)
    return [out]


def gather(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """`x[index[i, j], j]` along `dim`."""
    x, index = reads
    return [x[line_index(index, a["dim"])] if x.ndim else x.reshape(-1)[index]]


def index_select(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Slices at the given positions of `dim`."""
    return [np.take(reads[0], reads[1].reshape(-1), a["dim"])]


def _place(dims: Sequence[int], indices: list[Array]) -> tuple[Any, ...]:
    """Index arrays at their dimensions, everything before the last of them otherwise."""
    place: list[Any] = [slice(None)] * (dims[-1] + 1)
    for dim, index in zip(dims, indices, strict=True):
        place[dim] = index
    return tuple(place)


def index(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Advanced indexing."""
    return [reads[0][_place(a["dims"], reads[1:])]]


def index_put(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Advanced indexing on the left of an assignment, or of an addition."""
    out, place, values = reads[0].copy(), _place(a["dims"], reads[1:-1]), reads[-1]
    if a["accumulate"]:
        np.add.at(out, place, values.astype(out.dtype))
    else:
        out[place] = values
    return [out]


def _combine(
    out: Array, place: tuple[Any, ...], source: Array, reduce: str, *, include: bool
) -> Array:
    """`out[place] = out[place] reduce source`, repeated places counted each."""
    if reduce == "none":
        out[place] = source
        return out
    if not include:
        neutral: dict[str, Any] = {"sum": 0, "mean": 0, "prod": 1, "amax": None, "amin": None}
        worst = _extremes(out.dtype)
        out[place] = {"amax": worst[0], "amin": worst[1]}.get(reduce, neutral[reduce])
    function: Any = {
        "sum": np.add, "mean": np.add, "prod": np.multiply, "amax": np.maximum, "amin": np.minimum,
    }[reduce]  # fmt: skip
    function.at(out, place, source)
    if reduce == "mean":
        count = np.full(out.shape, int(include))
        np.add.at(count, place, 1)
        safe = np.maximum(count, 1)
        out = out // safe if np.issubdtype(out.dtype, np.integer) else out / safe
    return out


def _extremes(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Smallest and largest value of an element type."""
    if np.issubdtype(dtype, np.integer):
        return np.iinfo(dtype).min, np.iinfo(dtype).max
    return -np.inf, np.inf


def scatter(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """`out[index[i, j], j] = (or reduce) source[i, j]` along `dim`."""
    out, index, source = reads[0].copy(), reads[1], reads[2]
    if out.ndim == 0:
        wide = scatter(a, [out.reshape(1), index.reshape(1), source.reshape(1)], _)
        return [wide[0].reshape(())]
    used = source[tuple(slice(size) for size in index.shape)]
    place = line_index(index, a["dim"])
    return [_combine(out, place, used, a["reduce"], include=a["include_self"])]


def index_add(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Slices of `source`, times `alpha`, combined with those of `x`."""
    out, index, source = reads[0].copy(), reads[1].reshape(-1), reads[2]
    place: list[Any] = [slice(None)] * max(1, out.ndim)
    place[a["dim"]] = index
    shape, out = out.shape, np.atleast_1d(out)
    scaled = np.atleast_1d(source) * np.asarray(a["alpha"], source.dtype)
    combined = _combine(out, tuple(place), scaled, a["reduce"], include=a["include_self"])
    return [combined.reshape(shape)]


def masked_scatter(_: Attributes, reads: list[Array], __: Sequence[Declared]) -> list[Array]:
    """Elements of the source in order where the mask is set."""
    x, mask, source = reads
    shape = np.broadcast_shapes(x.shape, mask.shape)
    out, wide = np.broadcast_to(x, shape).copy(), np.broadcast_to(mask, shape)
    out[wide] = source.reshape(-1)[: int(wide.sum())]
    return [out]


def sort(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Values in stable order and where they were."""
    x = reads[0]
    if x.ndim == 0:
        return [x, np.zeros((), np.int64)]
    order = _order(x, a["dim"], descending=a["descending"])
    return [np.take_along_axis(x, order, a["dim"]), order]


def _order(x: Array, dim: int, *, descending: bool) -> Array:
    """Positions in stable order; descending without negating (unsigned and boolean types)."""
    if not descending:
        return np.argsort(x, dim, kind="stable")
    flipped = np.argsort(np.flip(x, dim), dim, kind="stable")
    return np.flip(x.shape[dim] - 1 - flipped, dim)


def topk(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """The first k of the order; with `only_last` the k-th alone."""
    x, dim = np.atleast_1d(reads[0]), a["dim"]
    chosen = [a["k"] - 1] if a["only_last"] else range(a["k"])
    order = np.take(_order(x, dim, descending=a["largest"]), chosen, dim)
    results = [np.take_along_axis(x, order, dim), order]
    return [r.reshape(declared[0]) for r, declared in zip(results, _, strict=True)]


def cumulative(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """Running sum, product, logarithm of the sum of exponentials; see `extremes` for the rest."""
    x = reads[0]
    if x.ndim == 0:
        return [x]
    wide = x.astype(writes[0][1]) if x.dtype == bool else x
    function: Any = {
        "cumsum": np.cumsum, "cumprod": np.cumprod, "logcumsumexp": np.logaddexp.accumulate,
    }[a["function"]]  # fmt: skip
    return [function(wide, axis=a["axis"])]


def _running(name: str) -> Routine:
    def routine(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
        return cumulative({**a, "function": name}, reads, writes)

    return routine


def _extreme(*, largest: bool) -> Routine:
    def routine(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
        x, axis = np.atleast_1d(reads[0]), a["axis"]
        best = (np.maximum if largest else np.minimum).accumulate(x, axis=axis)
        positions = np.expand_dims(
            np.arange(x.shape[axis]), [d for d in range(x.ndim) if d != axis]
        )
        place = np.maximum.accumulate(np.where(x == best, positions, 0), axis=axis)
        return [best.reshape(reads[0].shape), place.reshape(reads[0].shape)]

    return routine


def histogram(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """Counts in equal bins; values outside do not count."""
    x, (low, high) = reads[0].reshape(-1), (a["low"], a["high"])
    if low == high:
        low, high = float(x.min()), float(x.max())
        low, high = (low - 1, high + 1) if low == high else (low, high)
    return [np.histogram(x, writes[0][0][0], (low, high))[0]]


def bincount(_: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """How often each number occurs, or its total weight."""
    weights = reads[1] if len(reads) > 1 else None
    return [np.bincount(reads[0], weights, writes[0][0][0])]


def search(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Where values belong in sorted rows."""
    rows, values = reads
    side: Literal["left", "right"] = "right" if a["right"] else "left"
    if rows.ndim == 1:
        return [np.asarray(np.searchsorted(rows, values, side))]
    flat = rows.reshape(-1, rows.shape[-1])
    wanted = values.reshape(-1, values.shape[-1])
    found = [np.searchsorted(r, v, side) for r, v in zip(flat, wanted, strict=True)]
    return [np.array(found).reshape(values.shape)]


def nll_loss(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Minus the weighted log-probability of each target, and the total weight."""
    logs, target = reads[:2]
    logs = np.moveaxis(logs, 1, -1) if logs.ndim > 1 else logs
    weight = reads[2] if len(reads) > 2 else np.ones(logs.shape[-1], logs.dtype)
    kept = target != a["ignore"]
    safe = np.where(kept, target, 0)
    scale = np.where(kept, weight[safe], 0)
    loss = -np.take_along_axis(logs, safe[..., None], -1)[..., 0] * scale
    total = scale.sum()
    if a["reduction"] == "none":
        return [loss, total if target.ndim == 0 else np.zeros((), logs.dtype)]
    mean = a["reduction"] == "mean"
    with np.errstate(invalid="ignore"):
        return [loss.sum() / total if mean else loss.sum(), total]


def nll_loss_backward(a: Attributes, reads: list[Array], w: Sequence[Declared]) -> list[Array]:
    """`-weight * g` at each target, over the total weight for a mean."""
    grad, target, total = reads[:3]
    shape = w[0][0]
    channels = shape[1] if len(shape) > 1 else shape[0]
    weight = reads[3] if len(reads) > 3 else np.ones(channels, grad.dtype)
    kept = target != a["ignore"]
    safe = np.where(kept, target, 0)
    value = -np.where(kept, weight[safe], 0) * grad
    if a["reduction"] == "mean":
        value = value / total
    out = np.zeros((*target.shape, channels), grad.dtype)
    np.put_along_axis(out, safe[..., None], value[..., None], -1)
    return [np.moveaxis(out, -1, 1) if len(shape) > 1 else out]


def pair_distances(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Distances of rows i < j."""
    first, second = np.triu_indices(len(reads[0]), 1)
    return [np.linalg.norm(reads[0][first] - reads[0][second], a["order"], axis=1)]


ROUTINES: dict[str, Routine] = {
    "embedding": embedding, "embedding_backward": embedding_backward,
    "embedding_bag": embedding_bag, "gather": gather, "index_select": index_select,
    "index": index, "index_put": index_put, "scatter": scatter, "index_add": index_add,
    "masked_scatter": masked_scatter, "sort": sort, "topk": topk, "cumsum": _running("cumsum"),
    "cumprod": _running("cumprod"), "logcumsumexp": _running("logcumsumexp"),
    "cummax": _extreme(largest=True), "cummin": _extreme(largest=False), "histogram": histogram,
    "bincount": bincount, "search": search, "nll_loss": nll_loss,
    "nll_loss_backward": nll_loss_backward, "pair_distances": pair_distances,
}  # fmt: skip
