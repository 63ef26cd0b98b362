"""Pooling: maximum and average over windows, adaptive pooling, and their backward.

    out[n, c, p, q] = max or sum over r, s of x[n, c, stride*p + dilation*r - padding, ...]

Padding reads as -inf (maximum) or 0 (average). The divisor of an average is a constant, or, where
windows are cut at the border, an expression of the position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hwopt.ir.access import Affine
from hwopt.ir.scalar import Iota, Literal, Operand, Scalar, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import At, Builder, at, names
from hwopt.ops.convolution import KERNEL_AXES
from hwopt.ops.lowering import Call, lowering


@dataclass(frozen=True)
class Window:
    """Kernel, stride, padding and dilation per spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of spatial dimensions."""
        return len(self.kernel)

    def axes(self, grid: Tensor) -> dict[str, int]:
        """d0, d1, ... over the grid, then the window."""
        axes = dict(zip(names(len(grid.shape)), grid.shape, strict=True))
        return axes | dict(zip(KERNEL_AXES[self.rank], self.kernel, strict=True))

    def at(self, image: Tensor, fill: float) -> At:
        """The image under the window."""
        lead = names(len(image.shape) - self.rank)
        positions = names(len(image.shape))[len(lead) :]
        index = [
            Affine.of([(p, s), (r, d)], -pad)
            for p, r, s, d, pad in zip(
                positions, KERNEL_AXES[self.rank], self.stride, self.dilation, self.padding,
                strict=True,
            )
        ]  # fmt: skip
        return at(image, *lead, *index, fill=fill)


def _window(call: Call) -> Window:
    """Arguments of any pooling, one value per dimension; the stride defaults to the kernel."""
    rank = int(next(c for c in call.target.partition("pool")[2] if c.isdigit()))

    def per_dimension(name: str, default: Sequence[int]) -> tuple[int, ...]:
        value = call.get(name, default)
        values = (value,) if isinstance(value, int) else tuple(value) or tuple(default)
        return values * rank if len(values) == 1 else values

    kernel = per_dimension("kernel_size", ())
    ones = (1,) * rank
    return Window(
        kernel, per_dimension("stride", kernel), per_dimension("padding", (0,) * rank),
        per_dimension("dilation", ones),
    )  # fmt: skip


@lowering(*(f"aten.max_pool{n}d.default" for n in (1, 2, 3)))
@lowering("aten.max_pool2d_with_indices.default", "aten.max_pool3d_with_indices.default")
@lowering("aten.max_pool1d_with_indices.default")
def max_pool(call: Call, build: Builder) -> None:
    """The largest value of each window, and its flat position in the image where asked."""
    x, window = call.tensor("self"), _window(call)
    build.nest(
        call, window.axes(call.output), [window.at(x, -math.inf)],
        at(call.output, *names(len(x.shape))), reduction="max", kind="max_pool",
        resource="vector",
    )  # fmt: skip
    if len(call.outputs) > 1:
        points = call.output.elements * math.prod(window.kernel)
        build.gather(
            call, "max_pool_indices", [x], call.outputs[1:], kernel=window.kernel,
            stride=window.stride, padding=window.padding, dilation=window.dilation,
            work=points, resource="vector",
        )  # fmt: skip


@lowering("aten.max_pool2d_with_indices_backward.default")
@lowering("aten.max_pool3d_with_indices_backward.default")
def max_pool_backward(call: Call, build: Builder) -> None:
    """Each gradient is added where the maximum was."""
    grad, indices = call.tensor("grad_output"), call.tensor("indices")
    spatial = _window(call).rank
    build.gather(
        call, "max_pool_backward", [grad, indices], spatial=spatial, work=grad.elements,
        kind="max_pool", resource="vector",
    )  # fmt: skip


def _covered(axis: str, window: Window, dim: int, size: int, *, padded: bool) -> Scalar:
    """Positions of one dimension that a window counts: those in the image, or in it with its
    padding.
    """
    kernel, stride, padding = window.kernel[dim], window.stride[dim], window.padding[dim]
    start = apply("sub", apply("mul", Iota(axis), stride), padding)
    end = apply("minimum", apply("add", start, kernel), size + padding)
    if padded:
        return apply("sub", end, start)
    return apply("sub", apply("minimum", end, size), apply("maximum", start, 0))


def _divisor(call: Call, window: Window, image: Tensor, grid: Tensor) -> Scalar:
    """What a window's sum is divided by, as an expression of d0, d1, ..."""
    if (override := call.get("divisor_override")) is not None:
        return Literal(float(override))
    rank, padded = window.rank, bool(call.arguments["count_include_pad"])
    factors: list[Scalar] = []
    constant = 1
    for dim, axis in enumerate(names(len(grid.shape))[-rank:]):
        size, steps = image.shape[dim - rank], grid.shape[dim - rank] - 1
        last = steps * window.stride[dim] - window.padding[dim] + window.kernel[dim]
        limit = size + window.padding[dim] if padded else size
        if last <= limit and (padded or window.padding[dim] == 0):
            constant *= window.kernel[dim]
        else:
            factors.append(_covered(axis, window, dim, size, padded=padded))
    value: Scalar = Literal(float(constant))
    for factor in factors:
        value = apply("mul", value, factor)
    return value


@lowering(*(f"aten.avg_pool{n}d.default" for n in (1, 2, 3)))
def avg_pool(call: Call, build: Builder) -> None:
    """The mean of each window: a sum, then a division."""
    x, window = call.tensor("self"), _window(call)
    average(call, build, x, window, _divisor(call, window, x, call.output))


def average(call: Call, build: Builder, x: Tensor, window: Window, divisor: Scalar) -> None:
    """Sum of the windows, divided."""
    total = build.temporary(call, call.output.shape, call.output.dtype)
    build.nest(
        call, window.axes(total), [window.at(x, 0.0)], at(total, *names(len(x.shape))),
        reduction="sum", kind="avg_pool", resource="vector",
    )  # fmt: skip
    build.pointwise(call, apply("div", Operand(0), divisor), [total])


def average_backward(
    call: Call, build: Builder, grad: Tensor, window: Window, divisor: Scalar
) -> None:
    """Each gradient, divided, added to every element of its window."""
    shared = build.temporary(call, grad.shape, grad.dtype)
    build.pointwise(call, apply("div", Operand(0), divisor), [grad], shared)
    build.nest(
        call, window.axes(grad), [at(shared, *names(len(grad.shape)))],
        window.at(call.output, 0.0), reduction="sum", kind="avg_pool", resource="vector",
    )  # fmt: skip


@lowering("aten.avg_pool2d_backward.default", "aten.avg_pool3d_backward.default")
def avg_pool_backward(call: Call, build: Builder) -> None:
    """The gradient of an average."""
    grad, window = call.tensor("grad_output"), _window(call)
    divisor = _divisor(call, window, call.tensor("self"), grad)
    average_backward(call, build, grad, window, divisor)


def _even(image: Tensor, grid: Tensor, rank: int) -> Window | None:
    """The window of an adaptive pooling whose sizes divide, else None."""
    sizes = list(zip(image.shape[-rank:], grid.shape[-rank:], strict=True))
    if any(size % cells for size, cells in sizes):
        return None
    kernel = tuple(size // cells for size, cells in sizes)
    return Window(kernel, kernel, (0,) * rank, (1,) * rank)


def _points(image: Tensor, grid: Tensor, rank: int) -> int:
    """Elements in all windows `floor(i * size / cells) <= h < ceil((i + 1) * size / cells)`."""
    total = math.prod(grid.shape[:-rank])
    for size, cells in zip(image.shape[-rank:], grid.shape[-rank:], strict=True):
        total *= sum(-(-(i + 1) * size // cells) - i * size // cells for i in range(cells))
    return total


@lowering(*(f"aten._adaptive_avg_pool{n}d.default" for n in (2, 3)))
@lowering(*(f"aten.adaptive_avg_pool{n}d.default" for n in (1, 2, 3)))
def adaptive_avg_pool(call: Call, build: Builder) -> None:
    """A mean over windows that share the image out evenly; regular where the sizes divide."""
    x, rank = call.tensor("self"), _rank(call)
    if (window := _even(x, call.output, rank)) is not None:
        average(call, build, x, window, Literal(float(math.prod(window.kernel))))
        return
    build.gather(
        call, "adaptive_avg_pool", [x], spatial=rank, work=_points(x, call.output, rank),
        kind="avg_pool", resource="vector",
    )  # fmt: skip


def _rank(call: Call) -> int:
    """The number in the operator's name."""
    return int(next(c for c in call.target.partition("pool")[2] if c.isdigit()))


@lowering(*(f"aten._adaptive_avg_pool{n}d_backward.default" for n in (2, 3)))
def adaptive_avg_pool_backward(call: Call, build: Builder) -> None:
    """The gradient of an adaptive mean."""
    grad, x, rank = call.tensor("grad_output"), call.tensor("self"), _rank(call)
    if (window := _even(x, grad, rank)) is not None:
        divisor = Literal(float(math.prod(window.kernel)))
        average_backward(call, build, grad, window, divisor)
        return
    build.gather(
        call, "adaptive_avg_pool_backward", [grad], spatial=rank,
        work=_points(x, grad, rank), kind="avg_pool", resource="vector",
    )  # fmt: skip


@lowering(*(f"aten.adaptive_max_pool{n}d.default" for n in (1, 2, 3)))
def adaptive_max_pool(call: Call, build: Builder) -> None:
    """The maximum over windows that share the image out evenly, and its flat position."""
    x, rank = call.tensor("self"), _rank(call)
    build.gather(
        call, "adaptive_max_pool", [x], call.outputs, spatial=rank,
        work=_points(x, call.output, rank), kind="max_pool", resource="vector",
    )  # fmt: skip
