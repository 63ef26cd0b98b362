"""Losses and their backward: negative log-likelihood, cross entropy, and pointwise distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hwopt.ir.scalar import Operand, Scalar, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder
from hwopt.ops.elementwise import Value, operands
from hwopt.ops.lowering import Call, lowering
from hwopt.ops.normalization import SOFTMAX_DEPTH, SOFTMAX_WORK

NONE, MEAN, SUM = 0, 1, 2
"""torch's numbers for what a loss does with its elements."""


def reduced(call: Call, build: Builder, value: Scalar, reads: Sequence[Tensor]) -> None:
    """A pointwise loss, then its sum or mean."""
    shape = max((t.shape for t in reads), key=lambda s: (len(s), math.prod(s)))
    if call.arguments["reduction"] == NONE:
        build.pointwise(call, value, reads)
        return
    ordered = sorted(range(len(reads)), key=lambda i: reads[i].shape != shape)
    if ordered[0] != 0:
        raise call.unsupported("an input smaller than the target")
    dims, count = range(len(shape)), math.prod(shape)
    if call.arguments["reduction"] == SUM:
        build.reduce(call, "sum", reads, list(dims), scalar=value)
        return
    total = build.temporary(call, (), call.output.dtype)
    build.reduce(call, "sum", reads, list(dims), total, value)
    build.pointwise(call, apply("div", Operand(0), float(count)), [total])


def _bce(x: Value, target: Value) -> Scalar:
    """`-(t log x + (1 - t) log(1 - x))`; logarithms are held above -100, as torch does."""
    yes = apply("maximum", apply("log", x), -100.0)
    no = apply("maximum", apply("log1p", apply("neg", x)), -100.0)
    return apply("sub", apply("mul", apply("sub", target, 1.0), no), apply("mul", target, yes))


def _smooth(x: Value, target: Value, beta: float, scale: float) -> Scalar:
    """`d^2 / 2 * scale` below beta, `(d - beta / 2) * beta * scale` above."""
    distance = apply("abs", apply("sub", x, target))
    near = apply("mul", apply("square", distance), 0.5 * scale)
    far = apply("mul", apply("sub", distance, 0.5 * beta), beta * scale)
    return apply("where", apply("lt", distance, beta), near, far)


LOSSES: dict[str, tuple[tuple[str, ...], Callable[..., Scalar]]] = {
    "aten.mse_loss.default": (
        ("self", "target"), lambda x, t: apply("square", apply("sub", x, t))
    ),
    "aten.l1_loss.default": (("self", "target"), lambda x, t: apply("abs", apply("sub", x, t))),
    "aten.smooth_l1_loss.default": (
        ("self", "target", "beta"),
        lambda x, t, beta: _smooth(x, t, beta, 1 / beta) if beta
        else apply("abs", apply("sub", x, t)),
    ),
    "aten.huber_loss.default": (
        ("self", "target", "delta"), lambda x, t, delta: _smooth(x, t, delta, 1.0)
    ),
    "aten.binary_cross_entropy.default": (
        ("self", "target", "weight"),
        lambda x, t, w: _bce(x, t) if w is None else apply("mul", _bce(x, t), w),
    ),
    "aten.soft_margin_loss.default": (
        ("self", "target"), lambda x, t: apply("softplus", apply("neg", apply("mul", x, t)))
    ),
}  # fmt: skip


@lowering(*LOSSES)
def pointwise_loss(call: Call, build: Builder) -> None:
    """A distance per element, reduced."""
    arguments, expression = LOSSES[call.target]
    reads, values = operands(call, arguments)
    reduced(call, build, expression(*values), reads)


@lowering("aten.binary_cross_entropy_with_logits.default")
def bce_with_logits(call: Call, build: Builder) -> None:
    """`(1 - t) x + w softplus(-x)`, with w = 1 + (p - 1) t for a positive weight p."""
    reads, (x, target, weight, positive) = operands(
        call, ("self", "target", "weight", "pos_weight")
    )
    soft = apply("softplus", apply("neg", x))
    if positive is not None:
        factor = apply("add", 1.0, apply("mul", apply("sub", positive, 1.0), target))
        soft = apply("mul", factor, soft)
    value = apply("add", apply("mul", apply("sub", 1.0, target), x), soft)
    reduced(call, build, value if weight is None else apply("mul", value, weight), reads)


def _mean_scale(call: Call) -> float:
    """The factor that a mean puts on each gradient."""
    count = max(call.tensor("self").elements, call.tensor("target").elements)
    return 1 / count if call.arguments["reduction"] == MEAN else 1.0


@lowering("aten.mse_loss_backward.default")
def mse_backward(call: Call, build: Builder) -> None:
    """`2 (x - t) g`, divided by the count for a mean."""
    reads, (grad, x, target) = operands(call, ("grad_output", "self", "target"))
    value = apply("mul", apply("mul", 2 * _mean_scale(call), apply("sub", x, target)), grad)
    build.pointwise(call, value, reads)


@lowering("aten.smooth_l1_loss_backward.default", "aten.huber_loss_backward.default")
def smooth_backward(call: Call, build: Builder) -> None:
    """The distance, held within the threshold, times g (over the threshold for smooth L1)."""
    reads, (grad, x, target) = operands(call, ("grad_output", "self", "target"))
    huber = "huber" in call.target
    limit = call.arguments["delta" if huber else "beta"]
    difference = apply("sub", x, target)
    held = apply("minimum", apply("maximum", difference, -limit), limit)
    if limit == 0:
        held = apply("sign", difference)
    factor = _mean_scale(call) * (1.0 if huber or limit == 0 else 1 / limit)
    build.pointwise(call, apply("mul", apply("mul", factor, held), grad), reads)


@lowering("aten.binary_cross_entropy_backward.default")
def bce_backward(call: Call, build: Builder) -> None:
    """`(x - t) / (x (1 - x)) g`; the denominator is held above 1e-12, as torch does."""
    reads, (grad, x, target, weight) = operands(call, ("grad_output", "self", "target", "weight"))
    below = apply("maximum", apply("mul", apply("sub", 1.0, x), x), 1e-12)
    value = apply("mul", grad, apply("div", apply("sub", x, target), below))
    value = value if weight is None else apply("mul", value, weight)
    build.pointwise(call, apply("mul", value, _mean_scale(call)), reads)


def _likelihood(
    call: Call, build: Builder, logs: Tensor, total: Tensor, reduction: int, ignore: int
) -> None:
    """Minus the log-probability of each target, weighted; ignored targets count nothing."""
    target, weight = call.tensor("target"), call.optional("weight")
    reads = [logs, target, *([weight] if weight is not None else [])]
    count = target.elements
    build.gather(
        call, "nll_loss", reads, [call.output, total],
        reduction=("none", "mean", "sum")[reduction], ignore=ignore,
        read_elements=[count] * len(reads), work=3 * count, kind="loss", resource="vector",
    )  # fmt: skip


@lowering("aten.nll_loss_forward.default", "aten.nll_loss2d_forward.default")
def nll_loss(call: Call, build: Builder) -> None:
    """The loss, and the total weight that a mean divides by."""
    reduction, ignore = call.arguments["reduction"], call.arguments["ignore_index"]
    _likelihood(call, build, call.tensor("self"), call.outputs[1], reduction, ignore)


@lowering("aten.nll_loss.default", "aten.nll_loss_nd.default", "aten.nll_loss2d.default")
def nll_loss_alone(call: Call, build: Builder) -> None:
    """The loss."""
    total = build.temporary(call, (), call.output.dtype)
    reduction, ignore = call.arguments["reduction"], call.arguments["ignore_index"]
    _likelihood(call, build, call.tensor("self"), total, reduction, ignore)


@lowering("aten.cross_entropy_loss.default")
def cross_entropy(call: Call, build: Builder) -> None:
    """Log-softmax over classes, then the negative log-likelihood of classes or of probabilities.

    With label smoothing s over C classes: `(1 - s) * likelihood + s / C * sum over classes`.
    """
    x, target = call.tensor("self"), call.tensor("target")
    classes = min(1, len(x.shape) - 1)
    logs = build.temporary(call, x.shape, x.dtype)
    build.scan(
        call, "softmax", [x], [logs], axis=classes, log=True, safe=False,
        work=SOFTMAX_WORK * x.elements, depth=SOFTMAX_DEPTH,
    )  # fmt: skip
    smoothing = float(call.arguments["label_smoothing"])
    if target.shape == x.shape and target.dtype == x.dtype:
        _soft_entropy(call, build, logs, classes, smoothing)
    elif smoothing:
        _smoothed_entropy(call, build, logs, classes, smoothing)
    else:
        total = build.temporary(call, (), x.dtype)
        reduction, ignore = call.arguments["reduction"], call.arguments["ignore_index"]
        _likelihood(call, build, logs, total, reduction, ignore)


def _per_class(call: Call, build: Builder, logs: Tensor, classes: int) -> list[Tensor]:
    """The class weights, if there are any, shaped to broadcast over the logarithms."""
    weight = call.optional("weight")
    if weight is None:
        return []
    shape = [size if i == classes else 1 for i, size in enumerate(logs.shape)]
    return [build.reshape(call, weight, build.temporary(call, shape, weight.dtype))]


def _reduce_rows(
    call: Call, build: Builder, value: Scalar, reads: Sequence[Tensor], classes: int, rows: int
) -> None:
    """A sum over classes, kept per row, summed, or averaged over `rows`."""
    shape, reduction = reads[0].shape, call.arguments["reduction"]
    if reduction == NONE:
        build.reduce(call, "sum", reads, [classes], scalar=value)
        return
    everything = list(range(len(shape)))
    if reduction == SUM:
        build.reduce(call, "sum", reads, everything, scalar=value)
        return
    total = build.temporary(call, (), call.output.dtype)
    build.reduce(call, "sum", reads, everything, total, value)
    build.pointwise(call, apply("div", Operand(0), float(rows)), [total])


def _soft_entropy(call: Call, build: Builder, logs: Tensor, classes: int, smoothing: float) -> None:
    """`-sum over classes of weight * ((1 - s) * target + s / C) * log p`."""
    reads = [logs, call.tensor("target"), *_per_class(call, build, logs, classes)]
    target: Scalar = Operand(1)
    if smoothing:
        uniform = smoothing / logs.shape[classes]
        target = apply("add", apply("mul", target, 1 - smoothing), uniform)
    value = apply("mul", apply("neg", Operand(0)), target)
    value = apply("mul", value, Operand(2)) if len(reads) > 2 else value
    _reduce_rows(call, build, value, reads, classes, logs.elements // logs.shape[classes])


def _smoothed_entropy(
    call: Call, build: Builder, logs: Tensor, classes: int, smoothing: float
) -> None:
    """Both parts per row, ignored rows left out; a mean divides by the total weight."""
    target, ignore = call.tensor("target"), call.arguments["ignore_index"]
    reduction, dtype = call.arguments["reduction"], logs.dtype
    sure = build.temporary(call, target.shape, dtype)
    total = build.temporary(call, (), dtype)
    weight = call.optional("weight")
    reads = [logs, target, *([weight] if weight is not None else [])]
    build.gather(
        call, "nll_loss", reads, [sure, total], reduction="none", ignore=ignore,
        read_elements=[target.elements] * len(reads), work=3 * target.elements, kind="loss",
        resource="vector",
    )  # fmt: skip
    spread = build.temporary(call, target.shape, dtype)
    scales = _per_class(call, build, logs, classes)
    value = apply("neg", Operand(0))
    value = apply("mul", value, Operand(1)) if scales else value
    build.reduce(call, "sum", [logs, *scales], [classes], spread, value)
    uniform = apply("mul", Operand(1), smoothing / logs.shape[classes])
    kept = apply("where", apply("eq", Operand(2), ignore), 0.0, uniform)
    both = apply("add", apply("mul", Operand(0), 1 - smoothing), kept)
    rows = [sure, spread, target]
    if reduction == NONE:
        build.pointwise(call, both, rows)
        return
    everything = list(range(len(target.shape)))
    if reduction == SUM:
        build.reduce(call, "sum", rows, everything, scalar=both)
        return
    added = build.temporary(call, (), dtype)
    build.reduce(call, "sum", rows, everything, added, both)
    _divide_by_weight(call, build, added, reads)


def _divide_by_weight(call: Call, build: Builder, total: Tensor, reads: Sequence[Tensor]) -> None:
    """The total over the weight of all targets that count."""
    counted, unused = (build.temporary(call, (), total.dtype) for _ in range(2))
    build.gather(
        call, "nll_loss", reads, [unused, counted], reduction="sum",
        ignore=call.arguments["ignore_index"],
        read_elements=[reads[1].elements] * len(reads), work=3 * reads[1].elements, kind="loss",
        resource="vector",
    )  # fmt: skip
    build.pointwise(call, apply("div", Operand(0), Operand(1)), [total, counted])


@lowering("aten.nll_loss_backward.default", "aten.nll_loss2d_backward.default")
def nll_loss_backward(call: Call, build: Builder) -> None:
    """Zeros, and `-weight * g` (over the total weight for a mean) at each target."""
    grad, target = call.tensor("grad_output"), call.tensor("target")
    weight = call.optional("weight")
    reads = [grad, target, call.tensor("total_weight"), *([weight] if weight is not None else [])]
    build.gather(
        call, "nll_loss_backward", reads,
        reduction=("none", "mean", "sum")[call.arguments["reduction"]],
        ignore=call.arguments["ignore_index"], work=3 * target.elements, kind="loss",
        resource="vector",
    )  # fmt: skip
