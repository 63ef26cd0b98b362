"""ONNX operators as torch functions: one table, `HANDLERS`, from operator type to function.

A handler takes the node (for its attributes) and its input values, and returns the output value
or, for several outputs, a tuple. Source: the ONNX operator specification, opsets 9 to 23.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch.utils._python_dispatch import _disable_current_modes

from hwopt.errors import UnsupportedOperatorError

Value: TypeAlias = Any
"""A tensor, or None for an input that is left out."""

Handler: TypeAlias = Callable[["Node", Sequence[Value]], Value]


class Node:
    """One ONNX node: operator type, name, attributes as Python values."""

    def __init__(self, proto: Any, onnx: Any) -> None:
        self.type: str = proto.op_type
        self.domain: str = proto.domain
        self.name: str = proto.name or proto.output[0]
        self.inputs: list[str] = list(proto.input)
        self.outputs: list[str] = list(proto.output)
        self.attributes: dict[str, Any] = {
            a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute
        }

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute; bytes become text."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value


def _integers(value: Value) -> list[int]:
    """A constant tensor of integers as Python numbers, read out of any tracer's sight."""
    with _disable_current_modes():
        return [int(v) for v in value.reshape(-1).tolist()]


def _pads(node: Node, x: torch.Tensor, spatial: int, kernel: Sequence[int]) -> list[int]:
    """Padding as (begin..., end...), with `auto_pad` worked out."""
    stride = node.get("strides", [1] * spatial)
    dilation = node.get("dilations", [1] * spatial)
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        return (
            list(node.get("pads", [0] * (2 * spatial))) if auto == "NOTSET" else [0] * 2 * spatial
        )
    total = []
    for size, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True):
        total.append(max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size))
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return small + large if auto == "SAME_UPPER" else large + small


def _padded(x: torch.Tensor, pads: list[int], fill: float) -> tuple[torch.Tensor, list[int]]:
    """Symmetric padding stays an argument of the operator; the rest becomes an explicit pad."""
    spatial = len(pads) // 2
    begin, end = pads[:spatial], pads[spatial:]
    if begin == end:
        return x, begin
    flat = [p for pair in zip(reversed(begin), reversed(end), strict=True) for p in pair]
    return F.pad(x, flat, value=fill), [0] * spatial


def _conv(node: Node, v: Sequence[Value]) -> Value:
    x, weight = v[0], v[1]
    bias = v[2] if len(v) > 2 else None
    spatial = weight.dim() - 2
    x, padding = _padded(x, _pads(node, x, spatial, weight.shape[2:]), 0.0)
    convolution = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    return convolution(
        x, weight, bias, node.get("strides", [1] * spatial), padding,
        node.get("dilations", [1] * spatial), node.get("group", 1),
    )  # fmt: skip


def _conv_transpose(node: Node, v: Sequence[Value]) -> Value:
    x, weight = v[0], v[1]
    bias = v[2] if len(v) > 2 else None
    spatial = weight.dim() - 2
    pads = list(node.get("pads", [0] * (2 * spatial)))
    if pads[:spatial] != pads[spatial:] or node.get("auto_pad", "NOTSET") != "NOTSET":
        raise unsupported(node, "asymmetric or automatic padding")
    convolution = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
    return convolution(
        x, weight, bias, node.get("strides", [1] * spatial), pads[:spatial],
        node.get("output_padding", [0] * spatial), node.get("group", 1),
        node.get("dilations", [1] * spatial),
    )  # fmt: skip


def _pool(node: Node, v: Sequence[Value]) -> Value:
    x, kernel = v[0], node.get("kernel_shape")
    spatial = len(kernel)
    stride = node.get("strides", [1] * spatial)
    ceil = bool(node.get("ceil_mode", 0))
    pads = _pads(node, x, spatial, kernel)
    if node.type == "MaxPool":
        x, padding = _padded(x, pads, -math.inf)
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[spatial - 1]
        return pool(x, kernel, stride, padding, node.get("dilations", [1] * spatial), ceil)
    counted = bool(node.get("count_include_pad", 0))
    if pads[:spatial] != pads[spatial:] and not counted:
        raise unsupported(node, "asymmetric padding that is not counted")
    x, padding = _padded(x, pads, 0.0)
    average = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[spatial - 1]
    return average(x, kernel, stride, padding, ceil, counted)


def _gemm(node: Node, v: Sequence[Value]) -> Value:
    a = v[0].transpose(0, 1) if node.get("transA", 0) else v[0]
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = F.linear(a, v[1]) if node.get("transB", 0) else torch.matmul(a, v[1])
    product = product if alpha == 1.0 else product * alpha
    if len(v) < 3 or v[2] is None:
        return product
    return product + (v[2] if beta == 1.0 else v[2] * beta)


def _reshape(_: Node, v: Sequence[Value]) -> Value:
    sizes = [v[0].shape[i] if s == 0 else s for i, s in enumerate(_integers(v[1]))]
    return v[0].reshape(sizes)


def _slice(node: Node, v: Sequence[Value]) -> Value:
    x = v[0]
    if len(v) == 1:
        starts, ends = node.get("starts"), node.get("ends")
        axes, steps = node.get("axes", list(range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = _integers(v[1]), _integers(v[2])
        has_axes = len(v) > 3 and v[3] is not None
        axes = _integers(v[3]) if has_axes else list(range(len(starts)))
        steps = _integers(v[4]) if len(v) > 4 and v[4] is not None else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 0:
            x = x.flip(axis)
            size = x.shape[axis]
            start, end, step = _mirrored(start, size), _mirrored(end, size), -step
        x = x[(slice(None),) * (axis % x.dim()) + (slice(start, end, step),)]
    return x


def _mirrored(index: int, size: int) -> int:
    """Where position `index` of an axis stands after the axis is flipped."""
    low = max(index + size, -1) if index < 0 else min(index, size - 1)
    return size - 1 - low


def _axes(node: Node, v: Sequence[Value], position: int = 1) -> list[int] | None:
    """Axes given as an attribute (old operator sets) or as an input."""
    if len(v) > position and v[position] is not None:
        return _integers(v[position])
    axes = node.get("axes")
    return None if axes is None else list(axes)


def _squeeze(node: Node, v: Sequence[Value]) -> Value:
    axes = _axes(node, v)
    return v[0].squeeze() if axes is None else v[0].squeeze(tuple(axes))


def _unsqueeze(node: Node, v: Sequence[Value]) -> Value:
    x, axes = v[0], _axes(node, v) or []
    rank = x.dim() + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


def _reduce(function: Callable[..., Value]) -> Handler:
    def run(node: Node, v: Sequence[Value]) -> Value:
        axes = _axes(node, v)
        if axes is None and node.get("noop_with_empty_axes", 0):
            return v[0]
        return function(v[0], tuple(axes or range(v[0].dim())), bool(node.get("keepdims", 1)))

    return run


def _split(node: Node, v: Sequence[Value]) -> Value:
    axis = node.get("axis", 0)
    size = v[0].shape[axis]
    sizes = _integers(v[1]) if len(v) > 1 and v[1] is not None else node.get("split")
    if sizes is None:
        parts = len(node.outputs)
        each = math.ceil(size / parts)
        sizes = [min(each, size - i * each) for i in range(parts)]
    return torch.split(v[0], list(sizes), axis)


def _pad(node: Node, v: Sequence[Value]) -> Value:
    pads = _integers(v[1]) if len(v) > 1 else list(node.get("pads"))
    mode = node.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge") or (len(v) > 3 and v[3] is not None):
        raise unsupported(node, f"padding mode {mode!r} or chosen axes")
    half = len(pads) // 2
    flat = [p for i in reversed(range(half)) for p in (pads[i], pads[i + half])]
    if mode == "constant":
        return F.pad(v[0], flat, value=float(v[2]) if len(v) > 2 and v[2] is not None else 0.0)
    while flat[-2:] == [0, 0]:  # torch pads these modes in the last dimensions only
        flat = flat[:-2]
    return F.pad(v[0], flat, mode="replicate" if mode == "edge" else mode)


def _gather(node: Node, v: Sequence[Value]) -> Value:
    axis = node.get("axis", 0)
    x, index = v[0], v[1]
    if index.dim() == 0 and index.device.type == "cpu":
        return x.select(axis, int(index))
    if axis == 0 and x.dim() == 2 and x.is_floating_point():
        return F.embedding(index, x)
    shape = [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]]
    return x.index_select(axis, index.reshape(-1)).reshape(shape)


def _normalize(node: Node, v: Sequence[Value]) -> Value:
    shape = v[0].shape[node.get("axis", -1) :]
    bias = v[2].reshape(shape) if len(v) > 2 and v[2] is not None else None
    return F.layer_norm(v[0], shape, v[1].reshape(shape), bias, node.get("epsilon", 1e-5))


def _batch_norm(node: Node, v: Sequence[Value]) -> Value:
    if node.get("training_mode", 0):
        raise unsupported(node, "training_mode")
    return F.batch_norm(v[0], v[3], v[4], v[1], v[2], False, 0.0, node.get("epsilon", 1e-5))


def _cast(node: Node, v: Sequence[Value]) -> Value:
    return v[0].to(DTYPES[node.get("to")])


def _flatten(node: Node, v: Sequence[Value]) -> Value:
    axis = node.get("axis", 1)
    return v[0].reshape(math.prod(v[0].shape[:axis]), -1)


def _expand(_: Node, v: Sequence[Value]) -> Value:
    sizes = _integers(v[1])
    theirs = [1] * (v[0].dim() - len(sizes)) + sizes
    ours = [1] * (len(sizes) - v[0].dim()) + list(v[0].shape)
    return v[0].expand([max(a, b) for a, b in zip(ours, theirs, strict=True)])


def _clip(node: Node, v: Sequence[Value]) -> Value:
    low = v[1] if len(v) > 1 else node.get("min")
    high = v[2] if len(v) > 2 else node.get("max")
    return torch.clamp(
        v[0], None if low is None else float(low), None if high is None else float(high)
    )


def _softmax(node: Node, v: Sequence[Value]) -> Value:
    function = F.softmax if node.type == "Softmax" else F.log_softmax
    return function(v[0], node.get("axis", -1))


def _constant(node: Node, _: Sequence[Value]) -> Value:
    from onnx import numpy_helper

    if "value" in node.attributes:
        return torch.from_numpy(numpy_helper.to_array(node.attributes["value"]).copy())
    for name in ("value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            return torch.tensor(node.attributes[name])
    raise unsupported(node, "a constant that is not a number")


def _constant_of_shape(node: Node, v: Sequence[Value]) -> Value:
    from onnx import numpy_helper

    value = node.attributes.get("value")
    fill = (
        torch.zeros(1) if value is None else torch.from_numpy(numpy_helper.to_array(value).copy())
    )
    return torch.full(_integers(v[0]), fill.item(), dtype=fill.dtype)


def _divide(_: Node, v: Sequence[Value]) -> Value:
    integer = not (v[0].is_floating_point() or v[1].is_floating_point())
    return torch.div(v[0], v[1], rounding_mode="trunc" if integer else None)


def _plain(function: Callable[..., Value]) -> Handler:
    """A node that is exactly one torch function of its inputs."""
    return lambda _, v: function(*v)


DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32,
    7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip

_FUNCTIONS: dict[str, Callable[..., Value]] = {
            "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Pow": torch.pow,
            "MatMul": torch.matmul, "Sqrt": torch.sqrt, "Exp": torch.exp, "Log": torch.log,
            "Neg": torch.neg, "Abs": torch.abs, "Erf": torch.erf, "Sin": torch.sin,
            "Cos": torch.cos, "Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "Relu": F.relu,
            "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round, "Sign": torch.sign,
            "Reciprocal": torch.reciprocal, "Softplus": F.softplus, "HardSwish": F.hardswish,
            "Mish": F.mish, "Where": torch.where, "Equal": torch.eq, "Less": torch.lt,
            "LessOrEqual": torch.le, "Greater": torch.gt, "GreaterOrEqual": torch.ge,
            "And": torch.logical_and, "Or": torch.logical_or, "Not": torch.logical_not,
            "IsNaN": torch.isnan, "Identity": lambda x: x, "Min": torch.minimum,
            "Max": torch.maximum, "PRelu": lambda x, w: torch.where(x < 0, x * w, x),
        }  # fmt: skip

HANDLERS: dict[str, Handler] = {
    **{name: _plain(function) for name, function in _FUNCTIONS.items()},
    "Div": _divide,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": lambda _, v: v[0].mean(tuple(range(2, v[0].dim())), keepdim=True),
    "GlobalMaxPool": lambda _, v: v[0].amax(tuple(range(2, v[0].dim())), keepdim=True),
    "Gemm": _gemm,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": lambda n, v: v[0].permute(n.get("perm", list(reversed(range(v[0].dim()))))),
    "Concat": lambda n, v: torch.cat(list(v), n.get("axis")),
    "Split": _split,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Tile": lambda _, v: v[0].repeat(_integers(v[1])),
    "Pad": _pad,
    "Gather": _gather,
    "GatherElements": lambda n, v: torch.gather(v[0], n.get("axis", 0), v[1]),
    "Shape": lambda n, v: torch.tensor(list(v[0].shape)[n.get("start", 0) : n.get("end")]),
    "Size": lambda _, v: torch.tensor(v[0].numel()),
    "Range": lambda _, v: torch.arange(v[0].item(), v[1].item(), v[2].item()),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Cast": _cast,
    "CastLike": lambda _, v: v[0].to(v[1].dtype),
    "Dropout": lambda _, v: v[0],
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "LayerNormalization": _normalize,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": lambda n, v: F.instance_norm(
        v[0], weight=v[1], bias=v[2], eps=n.get("epsilon", 1e-5)
    ),
    "GroupNormalization": lambda n, v: F.group_norm(
        v[0], n.get("num_groups"), v[1], v[2], n.get("epsilon", 1e-5)
    ),
    "Gelu": lambda n, v: F.gelu(v[0], approximate=n.get("approximate", "none")),
    "Elu": lambda n, v: F.elu(v[0], n.get("alpha", 1.0)),
    "LeakyRelu": lambda n, v: F.leaky_relu(v[0], n.get("alpha", 0.01)),
    "HardSigmoid": lambda n, v: torch.clamp(
        v[0] * n.get("alpha", 0.2) + n.get("beta", 0.5), 0.0, 1.0
    ),
    "Clip": _clip,
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceMax": _reduce(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ArgMax": lambda n, v: v[0].argmax(n.get("axis", 0), keepdim=bool(n.get("keepdims", 1))),
    "Trilu": lambda n, v: (torch.triu if n.get("upper", 1) else torch.tril)(
        v[0], int(v[1]) if len(v) > 1 else 0
    ),
}  # fmt: skip


def unsupported(node: Node, why: str) -> UnsupportedOperatorError:
    """The error for a node, or a case of it, that has no translation."""
    return UnsupportedOperatorError(
        f"ONNX operator {node.type}: {why}", where=f"node {node.name}",
        fix="export the model with simpler operators, or trace the PyTorch model itself",
    )  # fmt: skip
