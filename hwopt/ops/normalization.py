"""Softmax, layer, RMS, group and batch normalisation, and their backward.

Each is a `Scan`: a row (the elements normalised together) is read several times, one pass after
another, before its result is known; `depth` counts the passes. The gradients of weight and bias are
plain reductions. With x^ = (x - mean) * rstd and g = grad * weight over a row of N elements, every
input gradient has one form (RMS normalisation without its second term):

    rstd * (g - sum(g) / N - x^ * sum(g * x^) / N)

Batch normalisation in inference is pointwise, and says so by its kind, to be folded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from hwopt.ir.scalar import Operand, Scalar, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder, Index, at, names, normal_dims
from hwopt.ops.lowering import Call, lowering

SOFTMAX_WORK, SOFTMAX_DEPTH = 5, 3
"""Per element: max; subtract, exp, sum; divide. Three passes over a row."""
NORM_WORK, NORM_DEPTH = 6, 3
"""Per element: sum; subtract, square, sum; subtract, multiply. Weight and bias add one each."""
RMS_WORK, RMS_DEPTH = 3, 2
"""Per element: square, sum; multiply."""
GRADIENT_WORK, GRADIENT_DEPTH = 9, 2
"""Per element: x^ (2), its product with g (1), two sums (2); then the form above (4)."""


@lowering("aten._softmax.default", "aten.softmax.int", "aten._safe_softmax.default")
@lowering("aten._log_softmax.default", "aten.log_softmax.int")
def softmax(call: Call, build: Builder) -> None:
    """`exp(x - max) / sum(exp(x - max))` along `dim`, or its logarithm.

    A row of -inf alone gives NaN; the safe variant zeros.
    """
    x, rank = call.tensor("self"), len(call.output.shape)
    build.scan(
        call, "softmax", [x], axis=call.arguments["dim"] % max(rank, 1),
        log="log_softmax" in call.target, safe="_safe" in call.target,
        work=SOFTMAX_WORK * x.elements, depth=SOFTMAX_DEPTH,
    )  # fmt: skip


@lowering("aten._softmax_backward_data.default", "aten._log_softmax_backward_data.default")
def softmax_backward(call: Call, build: Builder) -> None:
    """`y * (g - sum(g * y))`, or `g - exp(y) * sum(g)` for the logarithm."""
    grad, y = call.tensor("grad_output"), call.tensor("output")
    build.scan(
        call, "softmax_backward", [grad, y], axis=call.arguments["dim"] % max(len(y.shape), 1),
        log="log_softmax" in call.target, work=4 * y.elements, depth=2,
    )  # fmt: skip


def _affine(call: Call, *names_: str) -> list[Tensor]:
    """Weight and bias, those that are there."""
    return [t for t in (call.optional(name) for name in names_) if t is not None]


def _norm(call: Call, build: Builder, function: str, per_element: int, depth: int) -> None:
    """Layer, RMS or group normalisation: reads [x, (weight), (bias)], writes all outputs."""
    x = call.optional("input") or call.tensor("self")
    scale = _affine(call, "weight", "bias")
    epsilon = call.arguments.get("eps")
    if epsilon is None:
        epsilon = _machine_epsilon(x.dtype)
    emit = functools.partial(
        build.scan, call, function, [x, *scale], call.outputs, epsilon=float(epsilon),
        weight=call.optional("weight") is not None, bias=call.optional("bias") is not None,
        work=(per_element + len(scale)) * x.elements, depth=depth,
    )  # fmt: skip
    if function == "group_norm":
        emit(groups=call.get("num_groups") or call.arguments["group"])
    else:
        normalized = len(call.arguments["normalized_shape"])
        emit(axes=tuple(range(len(x.shape) - normalized, len(x.shape))))


def _machine_epsilon(dtype: str) -> float:
    """The spacing of 1 (torch's default epsilon of RMS normalisation)."""
    return {"float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, 2.0**-23)


@lowering("aten.native_layer_norm.default", "aten.layer_norm.default")
def layer_norm(call: Call, build: Builder) -> None:
    """`(x - mean) * rstd * weight + bias` over the last dimensions."""
    _norm(call, build, "layer_norm", NORM_WORK, NORM_DEPTH)


@lowering("aten.rms_norm.default", "aten._fused_rms_norm.default")
def rms_norm(call: Call, build: Builder) -> None:
    """`x * rsqrt(mean(x * x) + eps) * weight` over the last dimensions."""
    _norm(call, build, "rms_norm", RMS_WORK, RMS_DEPTH)


@lowering("aten.native_group_norm.default", "aten.group_norm.default")
def group_norm(call: Call, build: Builder) -> None:
    """Normalisation over the channels of a group and all positions."""
    _norm(call, build, "group_norm", NORM_WORK, NORM_DEPTH)


def _centred(mean: int, rstd: int) -> Scalar:
    """x^ of operand 1."""
    return apply("mul", apply("sub", Operand(1), Operand(mean)), Operand(rstd))


@lowering("aten.native_layer_norm_backward.default")
def layer_norm_backward(call: Call, build: Builder) -> None:
    """Gradients of input, weight and bias."""
    mask = call.arguments["output_mask"]
    grad, x = call.tensor("grad_out"), call.tensor("input")
    statistics = [call.tensor("mean"), call.tensor("rstd")]
    normalized = len(call.arguments["normalized_shape"])
    rows = list(range(len(x.shape) - normalized))
    if mask[0]:
        weight = _affine(call, "weight")
        build.scan(
            call, "layer_norm_backward", [grad, x, *statistics, *weight], call.outputs[:1],
            axes=tuple(range(len(rows), len(x.shape))), weight=bool(weight),
            work=GRADIENT_WORK * x.elements, depth=GRADIENT_DEPTH,
        )  # fmt: skip
    if mask[1]:
        value = apply("mul", Operand(0), _centred(2, 3))
        build.reduce(call, "sum", [grad, x, *statistics], rows, call.outputs[1], value)
    if mask[2]:
        build.reduce(call, "sum", [grad], rows, call.outputs[2])


@lowering("aten._fused_rms_norm_backward.default")
def rms_norm_backward(call: Call, build: Builder) -> None:
    """Gradients of input and weight."""
    mask = call.arguments["output_mask"]
    grad, x, rstd = call.tensor("grad_out"), call.tensor("input"), call.tensor("rstd")
    rows = list(range(len(x.shape) - len(call.arguments["normalized_shape"])))
    if mask[0]:
        weight = _affine(call, "weight")
        build.scan(
            call, "rms_norm_backward", [grad, x, rstd, *weight], call.outputs[:1],
            axes=tuple(range(len(rows), len(x.shape))), weight=bool(weight),
            work=(GRADIENT_WORK - 3) * x.elements, depth=GRADIENT_DEPTH,
        )  # fmt: skip
    if mask[1]:
        value = apply("mul", Operand(0), apply("mul", Operand(1), Operand(2)))
        build.reduce(call, "sum", [grad, x, rstd], rows, call.outputs[1], value)


@lowering("aten.native_group_norm_backward.default")
def group_norm_backward(call: Call, build: Builder) -> None:
    """Gradients of input, weight and bias; mean and rstd are per image and group."""
    mask, groups = call.arguments["output_mask"], call.arguments["group"]
    grad, x = call.tensor("grad_out"), call.tensor("input")
    statistics = [call.tensor("mean"), call.tensor("rstd")]
    if mask[0]:
        weight = _affine(call, "weight")
        build.scan(
            call, "group_norm_backward", [grad, x, *statistics, *weight], call.outputs[:1],
            groups=groups, weight=bool(weight),
            work=GRADIENT_WORK * x.elements, depth=GRADIENT_DEPTH,
        )  # fmt: skip
    if mask[1]:
        channels = x.shape[1] // groups
        axes = {"n": x.shape[0], "g": groups, "c": channels}
        spatial = names(len(x.shape) - 2, "s")
        axes |= dict(zip(spatial, x.shape[2:], strict=True))
        index = ("n", f"{channels}*g + c", *spatial)
        reads = [at(grad, *index), at(x, *index), *(at(t, "n", "g") for t in statistics)]
        value = apply("mul", Operand(0), _centred(2, 3))
        build.nest(
            call, axes, reads, at(call.outputs[1], f"{channels}*g + c"), value, "sum",
            kind="reduction", resource="vector",
        )  # fmt: skip
    if mask[2]:
        build.reduce(call, "sum", [grad], [0, *range(2, len(x.shape))], call.outputs[2])


def _per_channel(
    call: Call,
    build: Builder,
    scalar: Scalar,
    reads: Sequence[Tensor],
    out: Tensor,
    *,
    kind: str = "pointwise",
    reduce: bool = False,
) -> None:
    """A nest over (n, c, positions...): tensors of rank 1 are indexed by channel."""
    shape = reads[0].shape
    axes = names(len(shape))
    channel: tuple[Index, ...] = (axes[1],)
    build.nest(
        call, dict(zip(axes, shape, strict=True)),
        [at(t, *(channel if len(t.shape) == 1 else axes)) for t in reads],
        at(out, *(channel if reduce else axes)), scalar, "sum" if reduce else "none",
        kind=kind, resource="vector",
    )  # fmt: skip


@lowering("aten._native_batch_norm_legit_no_training.default", "aten._batch_norm_no_update.default")
def batch_norm_inference(call: Call, build: Builder) -> None:
    """`(x - mean) * rsqrt(var + eps) * weight + bias` with running statistics: kind "batch_norm",
    reads (x, (weight, bias), mean, var).
    """
    x, scale = call.tensor("input"), _affine(call, "weight", "bias")
    reads = [x, *scale, call.tensor("running_mean"), call.tensor("running_var")]
    mean, variance = Operand(len(reads) - 2), Operand(len(reads) - 1)
    rstd = apply("rsqrt", apply("add", variance, float(call.arguments["eps"])))
    value = apply("mul", apply("sub", Operand(0), mean), rstd)
    if call.optional("weight") is not None:
        value = apply("mul", value, Operand(1))
    if call.optional("bias") is not None:
        value = apply("add", value, Operand(len(scale)))
    _per_channel(call, build, value, reads, call.output, kind="batch_norm")
    build.unspecified(call, call.outputs[1:])


@lowering("aten.batch_norm.default", "aten.native_batch_norm.default")
@lowering("aten._native_batch_norm_legit.default", "aten._native_batch_norm_legit.no_stats")
@lowering("aten._native_batch_norm_legit_functional.default")
@lowering("aten._batch_norm_with_update_functional.default")
def batch_norm(call: Call, build: Builder) -> None:
    """Statistics of the batch in training, running ones in inference.

    The functional variants also return the running statistics, moved towards those of the batch
    by `momentum` (the variance with n - 1 in its denominator).
    """
    if not call.get("training", default=True) and call.optional("running_mean") is not None:
        batch_norm_inference(call, build)
        return
    x, scale = call.tensor("input"), _affine(call, "weight", "bias")
    channels = x.shape[1:2]
    saved = list(call.outputs[1:3])
    while len(saved) < 2:
        saved.append(build.temporary(call, channels, x.dtype))
    updates = {
        name: out
        for name, out in zip(("running_mean", "running_var"), call.outputs[-2:], strict=False)
        if "functional" in call.target
    }
    writes = [call.output, *saved]
    if updates:
        writes.append(build.temporary(call, channels, saved[0].dtype))
    build.scan(
        call, "batch_norm", [x, *scale], writes, epsilon=float(call.arguments["eps"]),
        weight=call.optional("weight") is not None, bias=call.optional("bias") is not None,
        work=(NORM_WORK + len(scale)) * x.elements, depth=NORM_DEPTH,
    )  # fmt: skip
    momentum = call.arguments["momentum"]
    for (name, out), statistic in zip(updates.items(), (writes[1], writes[-1]), strict=False):
        moved = apply("mul", Operand(1), momentum)
        value = apply("add", apply("mul", Operand(0), 1 - momentum), moved)
        build.pointwise(call, value, [call.tensor(name), statistic], out)
    build.unspecified(call, call.outputs[3 : len(call.outputs) - len(updates)])


@lowering("aten.native_batch_norm_backward.default", "aten.batch_norm_backward.default")
def batch_norm_backward(call: Call, build: Builder) -> None:
    """Gradients of input, weight and bias, through batch statistics or running ones."""
    mask = call.arguments["output_mask"]
    grad, x = call.tensor("grad_out"), call.tensor("input")
    training = call.get("train", call.get("update", default=False))
    weight = _affine(call, "weight")
    if training:
        saved = call.optional("save_invstd") or call.tensor("save_var")
        statistics = [call.tensor("save_mean"), saved]
        rstd: Scalar = Operand(3)
    else:
        statistics = [call.tensor("running_mean"), call.tensor("running_var")]
        rstd = apply("rsqrt", apply("add", Operand(3), float(call.arguments["eps"])))
    if mask[0] and training:
        build.scan(
            call, "batch_norm_backward", [grad, x, *statistics, *weight], call.outputs[:1],
            weight=bool(weight), work=GRADIENT_WORK * x.elements, depth=GRADIENT_DEPTH,
        )  # fmt: skip
    elif mask[0]:
        scale = apply("rsqrt", apply("add", Operand(1), float(call.arguments["eps"])))
        value = apply("mul", Operand(0), apply("mul", scale, Operand(2)) if weight else scale)
        _per_channel(call, build, value, [grad, statistics[1], *weight], call.outputs[0])
    if mask[1]:
        centred = apply("mul", apply("sub", Operand(1), Operand(2)), rstd)
        value = apply("mul", Operand(0), centred)
        _per_channel(call, build, value, [grad, x, *statistics], call.outputs[1], reduce=True)
    if mask[2]:
        _per_channel(call, build, Operand(0), [grad], call.outputs[2], reduce=True)


@lowering("aten.logsumexp.default")
def logsumexp(call: Call, build: Builder) -> None:
    """`max + log(sum(exp(x - max)))` over `dim`."""
    x = call.tensor("self")
    dims = normal_dims(call.arguments["dim"], len(x.shape))
    kept = tuple(1 if i in dims else size for i, size in enumerate(x.shape))
    largest = build.temporary(call, kept, x.dtype)
    total = build.temporary(call, kept, x.dtype)
    build.reduce(call, "max", [x], dims, largest)
    finite = apply("where", apply("eq", apply("abs", Operand(1)), math.inf), 0.0, Operand(1))
    shifted = apply("exp", apply("sub", Operand(0), finite))
    build.reduce(call, "sum", [x, largest], dims, total, shifted)
    flat = build.temporary(call, kept, x.dtype)
    finite = apply("where", apply("eq", apply("abs", Operand(0)), math.inf), 0.0, Operand(0))
    value = apply("add", finite, apply("log", Operand(1)))
    build.pointwise(call, value, [largest, total], flat)
    build.reshape(call, flat)
