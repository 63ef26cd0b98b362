"""Convolutions: grouped, depthwise, dilated, strided, transposed, in 1 to 3 dimensions; backward.

A convolution ties three tensors: an *image* `(n, g*C + c, h...)`, a *grid* `(n, g*K + k, p...)` and
a *kernel* `(g*K + k, c, r...)`, where `h = stride*p + dilation*r - padding`. Each of the three is a
sum of products of the other two over the same points, so all have the same multiply-accumulates:

    grid   = image x kernel   convolution;            input gradient of a transposed one
    image  = grid x kernel    transposed convolution; input gradient of a convolution
    kernel = image x grid     weight gradient of both

The image accumulates where windows overlap and drops what falls into the padding; at stride 1 with
an image as large as the grid it is written as `grid[p = h - dilation*r + padding]`, read with zero
fill, which is the same count without colliding writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwopt.ir.access import Affine
from hwopt.ir.scalar import Operand, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import At, Builder, Index, at
from hwopt.ops.lowering import Call, lowering

GRID_AXES = {1: ("p",), 2: ("p", "q"), 3: ("o", "p", "q")}
KERNEL_AXES = {1: ("r",), 2: ("r", "s"), 3: ("t", "r", "s")}


@dataclass(frozen=True)
class Geometry:
    """Strides, paddings and dilations per spatial dimension, and the number of groups."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def rank(self) -> int:
        """Number of spatial dimensions."""
        return len(self.stride)

    @property
    def fill(self) -> float | None:
        """What a read of the image gives in the padding; None where there is none."""
        return 0.0 if any(self.padding) else None

    def window(self) -> list[Affine]:
        """`stride*p + dilation*r - padding` per dimension: the image's index."""
        axes = zip(GRID_AXES[self.rank], KERNEL_AXES[self.rank], strict=True)
        return [
            Affine.of([(p, s), (r, d)], -pad)
            for (p, r), s, d, pad in zip(
                axes, self.stride, self.dilation, self.padding, strict=True
            )
        ]

    def axes(self, batch: Sequence[int], grid: Tensor, kernel: Tensor) -> dict[str, int]:
        """The loops: batch, group, channels of grid and image, grid, kernel window."""
        axes = dict(zip("n", batch, strict=False))
        axes |= {"g": self.groups} if self.groups > 1 else {}
        axes |= {"k": kernel.shape[0] // self.groups, "c": kernel.shape[1]}
        axes |= dict(zip(GRID_AXES[self.rank], grid.shape[-self.rank :], strict=True))
        return axes | dict(zip(KERNEL_AXES[self.rank], kernel.shape[2:], strict=True))

    def channel(self, axis: str, size: int) -> Affine:
        """`size*g + axis`, or the axis alone without groups."""
        terms = [(axis, 1), ("g", size)] if self.groups > 1 else [(axis, 1)]
        return Affine.of(terms)


def _operands(
    geometry: Geometry, image: Tensor, grid: Tensor, kernel: Tensor, fill: float | None
) -> tuple[dict[str, int], At, At, At]:
    """Axes and accesses of image, grid and kernel; `fill` belongs to the image."""
    batch = image.shape[: len(image.shape) - geometry.rank - 1]
    axes = geometry.axes(batch, grid, kernel)
    lead = list("n"[: len(batch)])
    own = kernel.shape[0] // geometry.groups
    image_at = at(
        image, *lead, geometry.channel("c", kernel.shape[1]), *geometry.window(), fill=fill
    )
    grid_channel = geometry.channel("k", own)
    grid_at = at(grid, *lead, grid_channel, *GRID_AXES[geometry.rank])
    kernel_at = at(kernel, grid_channel, "c", *KERNEL_AXES[geometry.rank])
    return axes, image_at, grid_at, kernel_at


def write_grid(
    call: Call, build: Builder, geometry: Geometry, image: Tensor, kernel: Tensor, out: Tensor
) -> None:
    """`grid[n, k, p] = sum over c, r of image[n, c, stride*p + dilation*r - padding] * kernel`."""
    axes, image_at, grid_at, kernel_at = _operands(geometry, image, out, kernel, geometry.fill)
    build.contract(call, axes, image_at, kernel_at, grid_at, kind="convolution")


def write_image(
    call: Call, build: Builder, geometry: Geometry, grid: Tensor, kernel: Tensor, out: Tensor
) -> None:
    """`image[n, c, stride*p + dilation*r - padding] += grid[n, k, p] * kernel[k, c, r]`."""
    axes, image_at, grid_at, kernel_at = _operands(geometry, out, grid, kernel, 0.0)
    rank = geometry.rank
    if set(geometry.stride) == {1} and out.shape[-rank:] == grid.shape[-rank:]:
        image_at, grid_at = _gathered(geometry, image_at, grid_at)
    build.contract(call, axes, grid_at, kernel_at, image_at, kind="convolution")


def _gathered(geometry: Geometry, image: At, grid: At) -> tuple[At, At]:
    """The same points counted by image position: p becomes h, and the grid is read at
    `h - dilation*r + padding`.
    """
    rank = geometry.rank
    positions: Sequence[Index] = GRID_AXES[rank]
    shifted = [
        Affine.of([(p, 1), (r, -d)], pad)
        for p, r, d, pad in zip(
            GRID_AXES[rank], KERNEL_AXES[rank], geometry.dilation, geometry.padding, strict=True
        )
    ]
    return (
        at(image.tensor, *image.access.index[:-rank], *positions),
        at(grid.tensor, *grid.access.index[:-rank], *shifted, fill=0.0),
    )


def write_kernel(
    call: Call, build: Builder, geometry: Geometry, image: Tensor, grid: Tensor, out: Tensor
) -> None:
    """`kernel[k, c, r] = sum over n, p of image[n, c, stride*p + ...] * grid[n, k, p]`."""
    axes, image_at, grid_at, kernel_at = _operands(geometry, image, grid, out, geometry.fill)
    build.contract(call, axes, image_at, grid_at, kernel_at, kind="convolution")


def _geometry(call: Call, weight: Tensor) -> Geometry:
    """Arguments of any convolution, one value per dimension."""
    rank = len(weight.shape) - 2

    def per_dimension(name: str) -> tuple[int, ...]:
        value = call.arguments[name]
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * rank if len(values) == 1 else values

    padding, dilation = call.arguments["padding"], per_dimension("dilation")
    if padding == "same":
        windows = zip(dilation, weight.shape[2:], strict=True)
        sides = tuple(d * (size - 1) // 2 for d, size in windows)
    elif padding == "valid":
        sides = (0,) * rank
    else:
        sides = per_dimension("padding")
    return Geometry(per_dimension("stride"), sides, dilation, call.arguments["groups"])


@lowering("aten.convolution.default", "aten._convolution.default")
@lowering("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
@lowering("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")
def convolution(call: Call, build: Builder) -> None:
    """`y[n, k, p, q] = sum over c, r, s of x[n, c, stride*p + r - pad, ...] * w[k, c, r, s]`."""
    _forward(call, build, transposed=call.get("transposed", default=False))


@lowering("aten.conv_transpose1d.default", "aten.conv_transpose2d.input")
@lowering("aten.conv_transpose3d.input")
def conv_transpose(call: Call, build: Builder) -> None:
    """`y[n, k, stride*p + r - pad, ...] += x[n, c, p, q] * w[c, k, r, s]`."""
    _forward(call, build, transposed=True)


def _forward(call: Call, build: Builder, *, transposed: bool) -> None:
    x = call.optional("input") or call.tensor("self")
    weight, bias, out = call.tensor("weight"), call.optional("bias"), call.output
    inner = out if bias is None else build.temporary(call, out.shape, out.dtype)
    write = write_image if transposed else write_grid
    write(call, build, _geometry(call, weight), x, weight, inner)
    if bias is not None:
        rank = len(weight.shape) - 2
        column = build.temporary(call, (*bias.shape, *[1] * rank), bias.dtype)
        build.reshape(call, bias, column)
        build.pointwise(call, apply("add", Operand(0), Operand(1)), [inner, column], kind="bias")


@lowering("aten.convolution_backward.default")
def convolution_backward(call: Call, build: Builder) -> None:
    """Gradients of input, weight and bias, those that `output_mask` asks for."""
    grad, x = call.tensor("grad_output"), call.tensor("input")
    weight, mask = call.tensor("weight"), call.arguments["output_mask"]
    geometry, transposed = _geometry(call, weight), call.arguments["transposed"]
    if mask[0]:
        write = write_grid if transposed else write_image
        write(call, build, geometry, grad, weight, call.outputs[0])
    if mask[1]:
        image, grid = (grad, x) if transposed else (x, grad)
        write_kernel(call, build, geometry, image, grid, call.outputs[1])
    if mask[2]:
        channel = len(grad.shape) - geometry.rank - 1
        dims = [d for d in range(len(grad.shape)) if d != channel]
        build.reduce(call, "sum", [grad], dims, call.outputs[2])
