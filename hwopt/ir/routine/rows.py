"""Meaning of scans over rows and time, and of grouped products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwopt.ir.routine.signature import Array, Attributes, Declared, Routine


def _sigmoid(x: Array) -> Array:
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return result


def softmax(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """`[y]`, or `[y, logsumexp]` (without the axis). A row of -inf alone gives NaN, or zeros with
    the attribute `safe`. In single precision at least, as kernels do.
    """
    x = reads[0].astype(np.result_type(reads[0].dtype, np.float32))
    axis = a["axis"] if x.ndim else None
    top = x.max(axis, keepdims=True)
    empty = np.isneginf(top) & a.get("safe", False)
    top = np.where(empty, 0, top)
    with np.errstate(divide="ignore", invalid="ignore"):
        shifted = x - top
        total = np.exp(shifted).sum(axis, keepdims=True)
        logs = np.log(total)
        y = shifted - logs if a["log"] else np.exp(shifted) / np.where(empty, 1, total)
    return [y, (logs + top).reshape(writes[1][0])] if len(writes) > 1 else [y]


def softmax_backward(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """`y * (g - sum(g * y))`; of the logarithm `g - exp(y) * sum(g)`."""
    grad, y = reads
    axis = a["axis"] if y.ndim else None
    if a["log"]:
        return [grad - np.exp(y) * grad.sum(axis, keepdims=True)]
    return [y * (grad - (grad * y).sum(axis, keepdims=True))]


def _scaled(a: Attributes, y: Array, affine: list[Array], shape: Sequence[int]) -> Array:
    """`y * weight + bias`, those that are there."""
    rest = [t.reshape(shape) for t in affine]
    if a["weight"]:
        y = y * rest.pop(0)
    return y + rest.pop(0) if a.get("bias") else y


def _moments(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array]:
    """Mean and `1 / sqrt(variance + epsilon)`, kept as dimensions of size 1."""
    mean = x.mean(axes, keepdims=True)
    variance = np.square(x - mean).mean(axes, keepdims=True)
    return mean, 1 / np.sqrt(variance + epsilon)


def layer_norm(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """`[y]` or `[y, mean, rstd]` over `axes`."""
    x, axes = reads[0], a["axes"]
    mean, rstd = _moments(x, axes, a["epsilon"])
    y = _scaled(a, (x - mean) * rstd, reads[1:], [x.shape[d] for d in axes])
    return _declared([y, mean, rstd], writes)


def _declared(results: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """As many results as are written, in their shapes."""
    return [r.reshape(shape) for r, (shape, _) in zip(results, writes, strict=False)]


def rms_norm(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """`[y]` or `[y, rstd]` over `axes`."""
    x, axes = reads[0], a["axes"]
    rstd = 1 / np.sqrt(np.square(x).mean(axes, keepdims=True) + a["epsilon"])
    y = _scaled(a, x * rstd, reads[1:], [x.shape[d] for d in axes])
    return _declared([y, rstd], writes)


def group_norm(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """`[y]` or `[y, mean, rstd]`, per image and group of channels."""
    x, groups = reads[0], a["groups"]
    grouped = x.reshape(x.shape[0], groups, -1)
    mean, rstd = _moments(grouped, (2,), a["epsilon"])
    y = ((grouped - mean) * rstd).reshape(x.shape)
    y = _scaled(a, y, reads[1:], [-1] + [1] * (x.ndim - 2))
    return _declared([y, mean, rstd], writes)


def batch_norm(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """`[y, mean, rstd]`, then the unbiased variance where asked, per channel."""
    x = reads[0]
    axes = (0, *range(2, x.ndim))
    mean, rstd = _moments(x, axes, a["epsilon"])
    y = _scaled(a, (x - mean) * rstd, reads[1:], [-1] + [1] * (x.ndim - 2))
    count = x.size // x.shape[1]
    variance = np.square(x - mean).sum(axes) / max(1, count - 1)
    return _declared([y, mean, rstd, variance], writes)


def _normal_gradient(
    grad: Array, x: Array, mean: Array, rstd: Array, axes: tuple[int, ...]
) -> Array:
    """`rstd * (g - mean(g) - x^ * mean(g * x^))` over `axes`."""
    hat = (x - mean) * rstd
    along = (grad * hat).mean(axes, keepdims=True)
    result: Array = rstd * (grad - grad.mean(axes, keepdims=True) - hat * along)
    return result


def layer_norm_backward(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Reads [grad, x, mean, rstd, (weight)]."""
    grad, x, mean, rstd = reads[:4]
    axes = a["axes"]
    kept = [1 if d in axes else size for d, size in enumerate(x.shape)]
    scaled = _scaled(a, grad, reads[4:], [x.shape[d] for d in axes])
    return [_normal_gradient(scaled, x, mean.reshape(kept), rstd.reshape(kept), axes)]


def rms_norm_backward(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Reads [grad, x, rstd, (weight)]: `rstd * (g - x^ * mean(g * x^))`."""
    grad, x, rstd = reads[:3]
    axes = a["axes"]
    rstd = rstd.reshape([1 if d in axes else size for d, size in enumerate(x.shape)])
    scaled, hat = _scaled(a, grad, reads[3:], [x.shape[d] for d in axes]), x * rstd
    return [rstd * (scaled - hat * (scaled * hat).mean(axes, keepdims=True))]


def group_norm_backward(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Reads [grad, x, mean, rstd, (weight)]."""
    grad, x, mean, rstd = reads[:4]
    scaled = _scaled(a, grad, reads[4:], [-1] + [1] * (x.ndim - 2))
    shape = (x.shape[0], a["groups"], -1)
    mean, rstd = (t.reshape(x.shape[0], a["groups"], 1) for t in (mean, rstd))
    gradient = _normal_gradient(scaled.reshape(shape), x.reshape(shape), mean, rstd, (2,))
    return [gradient.reshape(x.shape)]


def batch_norm_backward(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Reads [grad, x, mean, rstd, (weight)], through the statistics of the batch."""
    grad, x, mean, rstd = reads[:4]
    shape = [-1] + [1] * (x.ndim - 2)
    scaled = _scaled(a, grad, reads[4:], shape)
    axes = (0, *range(2, x.ndim))
    return [_normal_gradient(scaled, x, mean.reshape(shape), rstd.reshape(shape), axes)]


def _steps(count: int, *, reverse: bool) -> range:
    return range(count - 1, -1, -1) if reverse else range(count)


def lstm(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """Reads [gates of the input, w_hh, h0, c0, (b_ih, b_hh)]; writes [y, h, c], then for the
    backward pass the activated gates and the cells of every step.
    """
    gates, weight, h, c = reads[:4]
    bias = sum(reads[4:6]) if a["biases"] else 0
    outputs = np.zeros((*gates.shape[:2], h.shape[1]), gates.dtype)
    cells, activated = np.zeros_like(outputs), np.zeros_like(gates)
    for t in _steps(len(gates), reverse=a["reverse"]):
        total = gates[t] + h @ weight.T + bias
        i, f, g, o = np.split(total, 4, axis=1)
        i, f, g, o = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        outputs[t], cells[t], activated[t] = h, c, np.concatenate([i, f, g, o], 1)
    return [outputs, h, c, activated, cells][: len(writes)]


def lstm_backward(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Reads [activated gates, w_hh, cells, c0, grad of y, of h, of c]; writes the gradients of the
    gates before activation and of both first states.
    """
    gates, weight, cells, first, grad, dh, dc = reads
    delta = np.zeros_like(gates)
    order = list(_steps(len(gates), reverse=a["reverse"]))
    for step in range(len(order) - 1, -1, -1):
        t = order[step]
        before = cells[order[step - 1]] if step else first
        i, f, g, o = np.split(gates[t], 4, axis=1)
        dh = dh + grad[t]
        shown = np.tanh(cells[t])
        dc = dc + dh * o * (1 - shown * shown)
        parts = (
            dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g),
            dh * shown * o * (1 - o),
        )  # fmt: skip
        delta[t] = np.concatenate(parts, 1)
        dc, dh = dc * f, delta[t] @ weight
    return [delta, dh, dc]


def gru(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
    """Reads [gates of the input, w_hh, h0, (b_ih, b_hh)]; writes [y, h]."""
    gates, weight, h = reads[:3]
    of_input, of_hidden = reads[3:5] if a["biases"] else (0, 0)
    outputs = np.zeros((*gates.shape[:2], h.shape[1]), gates.dtype)
    for t in _steps(len(gates), reverse=a["reverse"]):
        xr, xz, xn = np.split(gates[t] + of_input, 3, axis=1)
        hr, hz, hn = np.split(h @ weight.T + of_hidden, 3, axis=1)
        update = _sigmoid(xz + hz)
        new = np.tanh(xn + _sigmoid(xr + hr) * hn)
        h = (1 - update) * new + update * h
        outputs[t] = h
    return [outputs, h]


def _plain(*, relu: bool) -> Routine:
    def routine(a: Attributes, reads: list[Array], _: Sequence[Declared]) -> list[Array]:
        gates, weight, h = reads[:3]
        bias = sum(reads[3:5]) if a["biases"] else 0
        outputs = np.zeros_like(gates)
        for t in _steps(len(gates), reverse=a["reverse"]):
            total = gates[t] + h @ weight.T + bias
            h = np.maximum(total, 0) if relu else np.tanh(total)
            outputs[t] = h
        return [outputs, h]

    return routine


def grouped_mm(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """Rows up to each offset times the weights of that expert; rows after the last give zeros."""
    x, weight, ends = reads
    out, start = np.zeros(writes[0][0], x.dtype), 0
    for expert, end in enumerate(ends):
        own = weight[expert].T if a["transposed"] else weight[expert]
        out[start:end] = x[start:end] @ own
        start = end
    return [out]


def grouped_outer(a: Attributes, reads: list[Array], writes: Sequence[Declared]) -> list[Array]:
    """Per expert the product of its rows: `x' grad`."""
    x, grad, ends = reads
    rows = x.T if a["transposed"] else x
    out, start = np.zeros(writes[0][0], x.dtype), 0
    for expert, end in enumerate(ends):
        out[expert] = rows[start:end].T @ grad[start:end]
        start = end
    return [out]


ROUTINES: dict[str, Routine] = {
    "softmax": softmax, "softmax_backward": softmax_backward, "layer_norm": layer_norm,
    "layer_norm_backward": layer_norm_backward, "rms_norm": rms_norm,
    "rms_norm_backward": rms_norm_backward, "group_norm": group_norm,
    "group_norm_backward": group_norm_backward, "batch_norm": batch_norm,
    "batch_norm_backward": batch_norm_backward, "lstm": lstm, "lstm_backward": lstm_backward,
    "gru": gru, "rnn_tanh": _plain(relu=False), "rnn_relu": _plain(relu=True),
    "grouped_mm": grouped_mm, "grouped_outer": grouped_outer,
}  # fmt: skip
