"""Copies: clone, cast, concatenate, pad, repeat, scatter of slices, windows to columns.

A copy is priced as traffic (resource "memory"): what it reads and what it writes. A change of
element type runs on the vector unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hwopt.ir.access import Affine
from hwopt.ir.scalar import Iota, Operand, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder, Index, at, broadcast, names
from hwopt.ops.lowering import Call, lowering
from hwopt.ops.views import bounds


def copy_into(call: Call, build: Builder, source: Tensor, out: Tensor) -> None:
    """A copy, or a cast where the element types differ."""
    if source.dtype == out.dtype:
        build.pointwise(call, Operand(0), [source], out, kind="copy", resource="memory")
    else:
        build.pointwise(call, apply("cast", Operand(0)), [source], out, kind="cast")


@lowering("aten.clone.default", "aten.contiguous.default", "aten.lift_fresh_copy.default")
@lowering("aten.alias_copy.default", "aten.detach_copy.default", "aten.expand_copy.default")
@lowering("aten._to_copy.default", "aten._conj_physical.default")
def copy(call: Call, build: Builder) -> None:
    """Every element once."""
    copy_into(call, build, call.tensor("self"), call.output)


@lowering("aten.to.dtype", "aten.to.device", "aten.to.dtype_layout", "aten.to.other")
@lowering("aten.type_as.default")
@lowering("prims.convert_element_type.default", "prims.device_put.default")
def cast(call: Call, build: Builder) -> None:
    """A change of element type; without one, another name (a move between devices is not ours)."""
    x = call.optional("self") or call.tensor("a")
    if x.dtype == call.output.dtype:
        build.pointwise(call, Operand(0), [x], kind="view", resource="none")
    else:
        copy_into(call, build, x, call.output)


@lowering("aten.copy.default", "aten.copy_.default")
def copy_over(call: Call, build: Builder) -> None:
    """`src`, broadcast, in place of `self`."""
    copy_into(call, build, call.tensor("src"), call.output)


@lowering("aten.cat.default", "aten.concat.default", "aten.concatenate.default")
def concatenate(call: Call, build: Builder) -> None:
    """Tensors one after another along `dim` (empty ones do not count)."""
    tensors = [t for t in call.arguments["tensors"] if t.elements]
    if len(tensors) == 1:
        copy_into(call, build, tensors[0], call.output)
        return
    dim = call.arguments["dim"] % len(call.output.shape)
    build.gather(call, "cat", tensors, dim=dim, kind="concatenate")


@lowering("aten.stack.default")
def stack(call: Call, build: Builder) -> None:
    """Tensors of one shape along a new dimension."""
    dim = call.arguments["dim"] % len(call.output.shape)
    build.gather(call, "stack", call.arguments["tensors"], dim=dim, kind="concatenate")


@lowering("aten.constant_pad_nd.default")
def constant_pad(call: Call, build: Builder) -> None:
    """`out[i] = self[i - left]`, the value outside; negative padding crops."""
    x, out, pad = call.tensor("self"), call.output, call.arguments["pad"]
    left = dict(zip(reversed(range(len(x.shape))), pad[::2], strict=False))
    index = [Affine.of([(axis, 1)], -left.get(i, 0)) for i, axis in enumerate(names(len(x.shape)))]
    axes = dict(zip(names(len(out.shape)), out.shape, strict=True))
    source = at(x, *index, fill=float(call.arguments["value"]))
    build.move(call, axes, source, broadcast(out, out.shape), kind="pad", resource="memory")


@lowering(*(f"aten.{m}_pad{n}d.default" for m in ("reflection", "replication") for n in (1, 2, 3)))
def edge_pad(call: Call, build: Builder) -> None:
    """The border mirrored (without its edge) or its edge repeated."""
    mode = "reflect" if "reflection" in call.target else "edge"
    pad = tuple(call.arguments["padding"])
    build.gather(call, "pad", [call.tensor("self")], mode=mode, padding=pad)


@lowering("aten.roll.default")
def roll(call: Call, build: Builder) -> None:
    """Elements pushed along dimensions, in again at the other end; flattened without dimensions."""
    dims = call.get("dims", [])
    shifts = tuple(call.arguments["shifts"])
    build.gather(call, "roll", [call.tensor("self")], shifts=shifts, dims=tuple(dims))


@lowering("aten.repeat.default", "aten.tile.default")
def repeat(call: Call, build: Builder) -> None:
    """`out[r * size + i] = self[i]` in every dimension."""
    x, out = call.tensor("self"), call.output
    lead = len(out.shape) - len(x.shape)
    axes: dict[str, int] = {}
    target: list[Index] = []
    for i, size in enumerate(out.shape):
        own = x.shape[i - lead] if i >= lead else 1
        axes |= {f"r{i}": size // own, f"d{i}": own}
        target.append(Affine.of([(f"r{i}", own), (f"d{i}", 1)]))
    source = at(x, *(f"d{i}" for i in range(lead, len(out.shape))))
    build.move(call, axes, source, at(out, *target), kind="repeat", resource="memory")


@lowering("aten.repeat_interleave.self_int")
def repeat_interleave(call: Call, build: Builder) -> None:
    """`out[i * repeats + r] = self[i]` along `dim`."""
    x, out, times = call.tensor("self"), call.output, call.arguments["repeats"]
    if call.arguments.get("dim") is None:
        flat = build.temporary(call, (x.elements,), x.dtype)
        x = build.reshape(call, x, flat)
    dim = call.get("dim", 0) % len(x.shape)
    axes = dict(zip(names(len(x.shape)), x.shape, strict=True)) | {"r": times}
    target = [
        Affine.of([(axis, times), ("r", 1)]) if i == dim else axis
        for i, axis in enumerate(names(len(x.shape)))
    ]
    source = at(x, *names(len(x.shape)))
    build.move(call, axes, source, at(out, *target), kind="repeat", resource="memory")


@lowering("aten.tril.default", "aten.triu.default")
def triangle(call: Call, build: Builder) -> None:
    """Zero above (below) a diagonal of the last two dimensions."""
    x = call.tensor("self")
    row, column = names(len(x.shape))[-2:]
    edge = apply("add", Iota(row), call.arguments["diagonal"])
    inside = apply("le" if ".tril" in call.target else "ge", Iota(column), edge)
    build.pointwise(call, apply("where", inside, Operand(0), 0), [x])


@lowering("aten.slice_scatter.default")
def slice_scatter(call: Call, build: Builder) -> None:
    """`self` with a slice replaced by `src`: one copy of each element."""
    x, source = call.tensor("self"), call.tensor("src")
    dim = call.arguments["dim"] % len(x.shape)
    start, _ = bounds(call.get("start"), None, x.shape[dim])
    build.gather(
        call, "slice_scatter", [x, source], dim=dim, start=start, step=call.arguments["step"],
        read_elements=[x.elements - source.elements, source.elements], kind="scatter",
    )  # fmt: skip


@lowering("aten.as_strided_scatter.default")
def as_strided_scatter(call: Call, build: Builder) -> None:
    """`self` with the elements that strides reach replaced by `src`."""
    x, source = call.tensor("self"), call.tensor("src")
    build.gather(
        call, "as_strided_scatter", [x, source], stride=tuple(call.arguments["stride"]),
        offset=call.get("storage_offset", 0),
        read_elements=[max(0, x.elements - source.elements), source.elements], kind="scatter",
    )  # fmt: skip


@lowering("aten.select_scatter.default")
def select_scatter(call: Call, build: Builder) -> None:
    """`self` with one position of a dimension replaced by `src`."""
    x, source = call.tensor("self"), call.tensor("src")
    dim = call.arguments["dim"] % len(x.shape)
    wide = build.temporary(call, (*x.shape[:dim], 1, *x.shape[dim + 1 :]), source.dtype)
    build.reshape(call, source, wide)
    build.gather(
        call, "slice_scatter", [x, wide], dim=dim, start=call.arguments["index"] % x.shape[dim],
        step=1, read_elements=[x.elements - wide.elements, wide.elements], kind="scatter",
    )  # fmt: skip


def _spread(call: Call, build: Builder, index: Sequence[Index], kind: str) -> None:
    """The gradient of a view: zeros, with the output's gradient where the view looked."""
    grad = call.optional("grad_output") or call.tensor("grad_in")
    axes = dict(zip(names(len(grad.shape)), grad.shape, strict=True))
    target = at(call.output, *index, fill=0.0)
    build.move(call, axes, broadcast(grad, grad.shape), target, kind=kind, resource="memory")


@lowering("aten.slice_backward.default")
def slice_backward(call: Call, build: Builder) -> None:
    """The slice's gradient among zeros."""
    rank, dim = len(call.output.shape), call.arguments["dim"] % len(call.output.shape)
    start, _ = bounds(call.arguments["start"], None, call.output.shape[dim])
    place = Affine.of([(f"d{dim}", call.arguments["step"])], start)
    _spread(call, build, [place if i == dim else f"d{i}" for i in range(rank)], "pad")


@lowering("aten.select_backward.default")
def select_backward(call: Call, build: Builder) -> None:
    """One position's gradient among zeros."""
    rank, dim = len(call.output.shape), call.arguments["dim"] % len(call.output.shape)
    place = call.arguments["index"] % call.output.shape[dim]
    after = [f"d{i}" for i in range(dim, rank - 1)]
    _spread(call, build, [*names(dim), place, *after], "pad")


@lowering("aten.diagonal_backward.default")
def diagonal_backward(call: Call, build: Builder) -> None:
    """A diagonal's gradient among zeros."""
    rank, offset = len(call.output.shape), call.arguments["offset"]
    first, second = call.arguments["dim1"] % rank, call.arguments["dim2"] % rank
    rest, last = iter(names(rank - 2)), f"d{rank - 2}"
    shifts = {first: max(-offset, 0), second: max(offset, 0)}
    index: list[Index] = [
        Affine.of([(last, 1)], shifts[d]) if d in shifts else next(rest) for d in range(rank)
    ]
    _spread(call, build, index, "pad")


@lowering("aten.unfold_backward.default")
def unfold_backward(call: Call, build: Builder) -> None:
    """Windows added back: `out[step * i + j] += grad[i, ..., j]`."""
    grad, out = call.tensor("grad_in"), call.output
    dim = call.arguments["dim"] % len(out.shape)
    axes = dict(zip(names(len(grad.shape)), grad.shape, strict=True))
    place = Affine.of([(f"d{dim}", call.arguments["step"]), (f"d{len(out.shape)}", 1)])
    index = [place if i == dim else f"d{i}" for i in range(len(out.shape))]
    build.nest(
        call, axes, [broadcast(grad, grad.shape)], at(out, *index, fill=0.0), reduction="sum",
        kind="reduction", resource="vector",
    )  # fmt: skip


def _columns(
    call: Call, image: Tensor, columns: Tensor, size: Sequence[int]
) -> tuple[dict[str, int], list[Index], list[Index]]:
    """Axes and both indices of im2col: `columns[n, (c, r, s), (p, q)]` and the image."""
    kernel, stride = call.arguments["kernel_size"], call.arguments["stride"]
    dilation, padding = call.arguments["dilation"], call.arguments["padding"]
    kernel, stride, dilation, padding = (
        list(v) * (2 // len(v)) for v in (kernel, stride, dilation, padding)
    )
    grid = [
        (size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
    batch = ["n"] if len(image.shape) == 4 else []
    axes = dict(zip(batch, image.shape, strict=False)) | {"c": image.shape[-3]}
    axes |= dict(zip("rspq", (*kernel, *grid), strict=True))
    window = [
        Affine.of([(p, stride[i]), (r, dilation[i])], -padding[i])
        for i, (p, r) in enumerate((("p", "r"), ("q", "s")))
    ]
    row = Affine.of([("c", math.prod(kernel)), ("r", kernel[1]), ("s", 1)])
    column = Affine.of([("p", grid[1]), ("q", 1)])
    assert columns.shape[-1] == math.prod(grid), "as many columns as windows"
    return axes, [*batch, "c", *window], [*batch, row, column]


@lowering("aten.im2col.default")
def image_to_columns(call: Call, build: Builder) -> None:
    """Each window of the image as a column."""
    image, columns = call.tensor("self"), call.output
    axes, index, target = _columns(call, image, columns, image.shape[-2:])
    source = at(image, *index, fill=0.0)
    build.move(call, axes, source, at(columns, *target), kind="columns", resource="memory")


@lowering("aten.col2im.default")
def columns_to_image(call: Call, build: Builder) -> None:
    """Columns added back where their windows were."""
    columns, image = call.tensor("self"), call.output
    axes, index, source = _columns(call, image, columns, call.arguments["output_size"])
    build.nest(
        call, axes, [at(columns, *source)], at(image, *index, fill=0.0), reduction="sum",
        kind="reduction", resource="vector",
    )  # fmt: skip
