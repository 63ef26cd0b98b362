"""Resampling of images: nearest, bilinear, sampling on a grid, and backward of the first two.

By a whole factor, the nearest neighbour is affine: `out[s*i + r] = x[i]`, a copy; its gradient adds
the same windows. All else is a `Gather` that names its coordinates' rule.
"""

from __future__ import annotations

from collections.abc import Sequence

from hwopt.ir.access import Affine
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder, at, names
from hwopt.ops.lowering import Call, lowering

BILINEAR_WORK = 11
"""Per element: two coordinates (4), four products and three sums (7)."""


def _scales(call: Call, rank: int) -> tuple[float | None, ...]:
    """Scale factors given per dimension; None where the sizes decide."""
    if (factors := call.get("scale_factors")) is not None:
        return tuple(float(f) for f in factors)
    if rank == 1:
        return (call.get("scales"),)
    return tuple(call.get(name) for name in ("scales_d", "scales_h", "scales_w")[-rank:])


def _factors(call: Call, small: Tensor, large: Tensor) -> list[int] | None:
    """Whole factors between two images, where the given scales do not say otherwise."""
    rank = len(small.shape) - 2
    factors = []
    for a, b, scale in zip(small.shape[2:], large.shape[2:], _scales(call, rank), strict=True):
        if b % a or (scale is not None and scale != b / a):
            return None
        factors.append(b // a)
    return factors


def _nearest(
    small: Tensor, factors: Sequence[int]
) -> tuple[dict[str, int], list[str], list[Affine | str]]:
    """Axes, index of the small image, index of the large one."""
    spatial = names(len(factors), "p")
    axes = {"n": small.shape[0], "c": small.shape[1]}
    axes |= dict(zip(spatial, small.shape[2:], strict=True))
    window = names(len(factors), "r")
    axes |= dict(zip(window, factors, strict=True))
    wide = [Affine.of([(p, f), (r, 1)]) for p, r, f in zip(spatial, window, factors, strict=True)]
    return axes, ["n", "c", *spatial], ["n", "c", *wide]


@lowering(*(f"aten.upsample_nearest{n}d.{o}" for n in (1, 2, 3) for o in ("default", "vec")))
def upsample_nearest(call: Call, build: Builder) -> None:
    """`out[i] = x[floor(i / scale)]`."""
    x = call.optional("input") or call.tensor("self")
    factors = _factors(call, x, call.output)
    if factors is None:
        scales = _scales(call, len(x.shape) - 2)
        build.gather(call, "upsample_nearest", [x], scales=scales, kind="upsample")
        return
    axes, small, large = _nearest(x, factors)
    build.move(
        call, axes, at(x, *small), at(call.output, *large), kind="upsample", resource="memory"
    )


@lowering(*(f"aten.upsample_nearest{n}d_backward.default" for n in (1, 2, 3)))
def upsample_nearest_backward(call: Call, build: Builder) -> None:
    """The gradients of all copies of an element, added."""
    grad, out = call.tensor("grad_output"), call.output
    factors = _factors(call, out, grad)
    if factors is None:
        scales = _scales(call, len(out.shape) - 2)
        build.gather(
            call, "upsample_nearest_backward", [grad], scales=scales, work=grad.elements,
            kind="upsample", resource="vector",
        )  # fmt: skip
        return
    axes, small, large = _nearest(out, factors)
    build.nest(
        call, axes, [at(grad, *large)], at(out, *small), reduction="sum", kind="upsample",
        resource="vector",
    )  # fmt: skip


@lowering("aten.upsample_bilinear2d.default", "aten.upsample_bilinear2d.vec")
@lowering("aten._upsample_bilinear2d_aa.default")
def upsample_bilinear(call: Call, build: Builder) -> None:
    """A weighted mean of the four neighbours."""
    if "_aa" in call.target:
        raise call.unsupported("antialiased resampling")
    x = call.optional("input") or call.tensor("self")
    build.gather(
        call, "upsample_bilinear", [x], scales=_scales(call, 2),
        align_corners=call.arguments["align_corners"],
        work=BILINEAR_WORK * call.output.elements, kind="upsample", resource="vector",
    )  # fmt: skip


@lowering("aten.upsample_bilinear2d_backward.default")
def upsample_bilinear_backward(call: Call, build: Builder) -> None:
    """Each gradient added to the four neighbours by their weights."""
    grad = call.tensor("grad_output")
    build.gather(
        call, "upsample_bilinear_backward", [grad], scales=_scales(call, 2),
        align_corners=call.arguments["align_corners"], work=BILINEAR_WORK * grad.elements,
        kind="upsample", resource="vector",
    )  # fmt: skip


@lowering("aten.grid_sampler_2d.default", "aten.grid_sampler.default")
def grid_sampler(call: Call, build: Builder) -> None:
    """Values at coordinates that a tensor gives, in [-1, 1] over the image."""
    x, grid = call.tensor("input"), call.tensor("grid")
    mode, padding = call.arguments["interpolation_mode"], call.arguments["padding_mode"]
    if mode == 2 or len(x.shape) != 4:
        raise call.unsupported("bicubic or three-dimensional sampling")
    taps = 4 if mode == 0 else 1
    build.gather(
        call, "grid_sampler", [x, grid], nearest=mode == 1,
        padding=("zeros", "border", "reflection")[padding],
        align_corners=call.arguments["align_corners"],
        read_elements=[taps * call.output.elements, grid.elements],
        work=BILINEAR_WORK * call.output.elements, kind="upsample", resource="vector",
    )  # fmt: skip
