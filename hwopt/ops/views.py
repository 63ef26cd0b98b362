"""Views: the same elements under other indices. They cost nothing.

    out[d0, d1, ...] = self[index of d0, d1, ...]

Every view whose index is affine is a nest; a reshape without a common refinement of both shapes is
a `Gather` that costs nothing either.
"""

from __future__ import annotations

from hwopt.ir.access import Affine
from hwopt.ir.scalar import Operand
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder, Index, broadcast, names
from hwopt.ops.lowering import Call, lowering


@lowering("aten.view.default", "aten._unsafe_view.default", "aten.reshape.default")
@lowering("aten._reshape_alias.default", "aten.view_copy.default", "aten.view_as.default")
@lowering("aten.flatten.using_ints", "aten.unflatten.int", "aten.ravel.default")
@lowering("aten.unsqueeze.default", "aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims")
def reshape(call: Call, build: Builder) -> None:
    """The same elements in row-major order under another shape."""
    build.reshape(call, call.tensor("self"))


@lowering("aten.alias.default", "aten.detach.default", "aten.lift_fresh.default")
@lowering("aten.view.dtype", "aten.lift.default", "aten.positive.default")
@lowering("aten.conj.default", "aten._conj.default", "aten.resolve_conj.default")
def alias(call: Call, build: Builder) -> None:
    """Another name."""
    x = call.tensor("self")
    if x.dtype != call.output.dtype or x.dtype.startswith("complex"):
        raise call.unsupported(f"{x.dtype} seen as {call.output.dtype}")
    build.pointwise(call, Operand(0), [x], kind="view", resource="none")


@lowering("aten.view_as_real.default", "aten.view_as_complex.default")
def complex_parts(call: Call, build: Builder) -> None:
    """Real and imaginary part as a last dimension of size 2, or back."""
    build.gather(
        call, call.target.split(".")[1], [call.tensor("self")], kind="view", resource="none"
    )


@lowering("aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default")
def expand(call: Call, build: Builder) -> None:
    """Dimensions of size 1 repeat."""
    x = call.tensor("self")
    build.view(call, x, *broadcast(x, call.output.shape).access.index)


def permute_index(order: list[int]) -> list[Index]:
    """The source's index when output dimension i is source dimension `order[i]`."""
    return [f"d{order.index(dim)}" for dim in range(len(order))]


@lowering("aten.permute.default")
def permute(call: Call, build: Builder) -> None:
    """Dimensions in another order."""
    x = call.tensor("self")
    order = [d % len(x.shape) for d in call.arguments["dims"]] if x.shape else []
    build.view(call, x, *permute_index(order))


@lowering("aten.transpose.int", "aten.swapaxes.default", "aten.t.default", "aten.numpy_T.default")
@lowering("aten.mT.default", "aten.adjoint.default")
def transpose(call: Call, build: Builder) -> None:
    """Two dimensions exchanged; without dimensions given, the last two (or all of a `numpy_T`)."""
    x = call.tensor("self")
    order = list(range(len(x.shape)))
    if "numpy_T" in call.target or len(order) < 2:
        order.reverse()
    else:
        first = call.get("dim0", call.get("axis0", -2))
        second = call.get("dim1", call.get("axis1", -1))
        order[first], order[second] = order[second], order[first]
    build.view(call, x, *permute_index(order))


@lowering("aten.movedim.int", "aten.movedim.intlist")
def movedim(call: Call, build: Builder) -> None:
    """Some dimensions put to other places, the others keep their order."""
    x = call.tensor("self")
    source, target = call.arguments["source"], call.arguments["destination"]
    pairs = zip([source], [target], strict=True) if isinstance(source, int) else zip(
        source, target, strict=True
    )  # fmt: skip
    rank = len(x.shape)
    placed = {to % rank: place % rank for place, to in pairs}
    rest = iter([d for d in range(rank) if d not in placed.values()])
    build.view(
        call, x, *permute_index([placed[d] if d in placed else next(rest) for d in range(rank)])
    )


def bounds(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    """A slice's limits within `size`, counted from 0."""
    first, last, _ = slice(start, end).indices(size)
    return first, max(first, last)


def _along(rank: int, dim: int, index: Affine) -> list[Index]:
    """The identity index but for one dimension."""
    return [index if i == dim else axis for i, axis in enumerate(names(rank))]


@lowering("aten.slice.Tensor", "aten.narrow.default")
def slice_tensor(call: Call, build: Builder) -> None:
    """`out[i] = self[start + step * i]` along `dim`."""
    x = call.tensor("self")
    dim = call.arguments["dim"] % len(x.shape)
    start, _ = bounds(call.get("start"), None, x.shape[dim])
    index = Affine.of([(f"d{dim}", call.get("step", 1))], start)
    build.view(call, x, *_along(len(x.shape), dim, index))


@lowering("aten.select.int")
def select(call: Call, build: Builder) -> None:
    """One position of a dimension, which goes away."""
    x = call.tensor("self")
    dim = call.arguments["dim"] % len(x.shape)
    place = call.arguments["index"] % x.shape[dim]
    build.view(call, x, *names(dim), place, *(f"d{i}" for i in range(dim, len(x.shape) - 1)))


@lowering("aten.split.Tensor", "aten.split.sizes", "aten.split_with_sizes.default")
@lowering("aten.chunk.default", "aten.split_with_sizes_copy.default", "aten.unsafe_split.Tensor")
@lowering("aten.tensor_split.sections", "aten.tensor_split.indices", "aten.unsafe_chunk.default")
def split(call: Call, build: Builder) -> None:
    """Consecutive pieces along `dim`; the sizes are those of the outputs."""
    x = call.tensor("self")
    dim, offset = call.arguments["dim"] % len(x.shape), 0
    for out in call.outputs:
        index = Affine.of([(f"d{dim}", 1)], offset)
        build.view(call, x, *_along(len(x.shape), dim, index), out=out)
        offset += out.shape[dim]


@lowering("aten.unbind.int")
def unbind(call: Call, build: Builder) -> None:
    """Every position of a dimension as a tensor of its own."""
    x = call.tensor("self")
    dim = call.arguments["dim"] % len(x.shape)
    after = [f"d{i}" for i in range(dim, len(x.shape) - 1)]
    for place, out in enumerate(call.outputs):
        build.view(call, x, *names(dim), place, *after, out=out)


@lowering("aten.flip.default")
def flip(call: Call, build: Builder) -> None:
    """Dimensions read backwards."""
    x = call.tensor("self")
    flipped = {d % len(x.shape) for d in call.arguments["dims"]}
    index = (
        Affine.of([(f"d{i}", -1)], size - 1) if i in flipped else f"d{i}"
        for i, size in enumerate(x.shape)
    )
    build.view(call, x, *index)


@lowering("aten.diagonal.default", "aten.diagonal_copy.default")
def diagonal(call: Call, build: Builder) -> None:
    """`out[..., i] = self[i - min(offset, 0), i + max(offset, 0)]` of two dimensions."""
    x, offset = call.tensor("self"), call.arguments["offset"]
    rank = len(x.shape)
    first, second = call.arguments["dim1"] % rank, call.arguments["dim2"] % rank
    rest = iter(names(rank - 2))
    last = f"d{rank - 2}"
    index: list[Index] = []
    for dim in range(rank):
        if dim == first:
            index.append(Affine.of([(last, 1)], max(-offset, 0)))
        elif dim == second:
            index.append(Affine.of([(last, 1)], max(offset, 0)))
        else:
            index.append(next(rest))
    build.view(call, x, *index)


@lowering("aten.unfold.default")
def unfold(call: Call, build: Builder) -> None:
    """Windows: `out[..., i, ..., j] = self[..., step * i + j, ...]`."""
    x = call.tensor("self")
    dim = call.arguments["dimension"] % max(1, len(x.shape))
    window = Affine.of([(f"d{dim}", call.arguments["step"]), (f"d{len(x.shape)}", 1)])
    build.view(call, x, *_along(len(x.shape), dim, window))


@lowering("aten.as_strided.default", "aten.as_strided_copy.default")
def as_strided(call: Call, build: Builder) -> None:
    """Any strides over the elements in row-major order; affine where no dimension overflows."""
    x, out = call.tensor("self"), call.output
    strides, offset = call.arguments["stride"], call.get("storage_offset", 0)
    index = _strided_index(x, out, strides, offset)
    if index is not None:
        build.view(call, x, *index)
        return
    build.gather(
        call, "as_strided", [x], stride=tuple(strides), offset=offset,
        read_elements=[min(x.elements, out.elements)], kind="view", resource="none",
    )  # fmt: skip


def _strided_index(x: Tensor, out: Tensor, strides: list[int], offset: int) -> list[Affine] | None:
    """Strides taken apart into those of the source, largest first; None when one would carry."""
    own: list[int] = []
    stride = 1
    for size in reversed(x.shape):
        own.insert(0, stride)
        stride *= size
    index = [Affine() for _ in x.shape]
    terms = [(Affine.axis(f"d{i}"), s) for i, s in enumerate(strides) if out.shape[i] > 1]
    for axis, step in [*terms, (Affine((), 1), offset)]:
        rest = step
        for dim, size in enumerate(own):
            if x.shape[dim] > 1:
                index[dim] += axis * (rest // size)
                rest %= size
        if rest:
            return None
    sizes = {f"d{i}": size for i, size in enumerate(out.shape)}
    fits = all(
        low >= 0 and high < size
        for (low, high), size in zip((i.bounds(sizes) for i in index), x.shape, strict=True)
    )
    return index if fits else None
