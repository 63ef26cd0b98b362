"""Data-dependent addressing: embedding, gather, index, scatter, histograms, search.

Traffic is declared: an embedding reads one row per index, not the table; a scatter copies the
tensor it changes (calls are functional) and adds what it writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hwopt.ir.scalar import Operand, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder
from hwopt.ops.lowering import Call, lowering


@lowering("aten.embedding.default")
def embedding(call: Call, build: Builder) -> None:
    """`out[i, :] = weight[indices[i], :]`: reads one row per index."""
    weight, indices = call.tensor("weight"), call.tensor("indices")
    build.gather(
        call, "embedding", [weight, indices],
        read_elements=[call.output.elements, indices.elements], kind="embedding",
    )  # fmt: skip


@lowering("aten.embedding_dense_backward.default")
def embedding_backward(call: Call, build: Builder) -> None:
    """Rows of the gradient added where their indices point; a dense gradient is written whole."""
    grad, indices = call.tensor("grad_output"), call.tensor("indices")
    build.gather(
        call, "embedding_backward", [grad, indices], padding=call.arguments["padding_idx"],
        by_frequency=call.arguments["scale_grad_by_freq"], work=grad.elements, kind="embedding",
    )  # fmt: skip


@lowering("aten._embedding_bag.default", "aten._embedding_bag_forward_only.default")
@lowering("aten.embedding_bag.padding_idx", "aten.embedding_bag.default")
def embedding_bag(call: Call, build: Builder) -> None:
    """Rows of each bag summed, averaged or their maximum; further results serve the backward."""
    weight, indices = call.tensor("weight"), call.tensor("indices")
    reads = [weight, indices, call.tensor("offsets")]
    if (scale := call.optional("per_sample_weights")) is not None:
        reads.append(scale)
    width, padding = weight.shape[1], call.get("padding_idx", -1)
    build.gather(
        call, "embedding_bag", reads, call.outputs[:1],
        mode=("sum", "mean", "max")[call.arguments["mode"]], padding=padding,
        last_offset=call.arguments["include_last_offset"],
        read_elements=[indices.elements * width, *(t.elements for t in reads[1:])],
        work=indices.elements * width * (1 + (scale is not None)), kind="embedding",
    )  # fmt: skip
    build.unspecified(call, call.outputs[1:])


def _line(call: Call, tensor: Tensor) -> int:
    """The argument `dim`, counted from 0."""
    return int(call.arguments["dim"]) % max(1, len(tensor.shape))


@lowering("aten.gather.default", "aten.take_along_dim.default")
def gather(call: Call, build: Builder) -> None:
    """`out[i, j] = self[index[i, j], j]` along `dim`."""
    x, index = call.tensor("self"), call.optional("index") or call.tensor("indices")
    count = index.elements
    build.gather(call, "gather", [x, index], dim=_line(call, x), read_elements=[count, count])


@lowering("aten.index_select.default")
def index_select(call: Call, build: Builder) -> None:
    """Whole slices of `self` at the given positions of `dim`."""
    x, index = call.tensor("self"), call.tensor("index")
    build.gather(
        call, "index_select", [x, index], dim=_line(call, x),
        read_elements=[call.output.elements, index.elements], kind="gather",
    )  # fmt: skip


def _positions(call: Call, rank: int) -> tuple[list[Tensor], tuple[int, ...]]:
    """Index tensors, and the dimensions they index."""
    indices = call.arguments["indices"]
    placed = [(i, t) for i, t in enumerate(indices) if isinstance(t, Tensor)]
    if any(t.dtype in ("bool", "uint8") for _, t in placed):
        raise call.unsupported("a mask as index gives a size that only the data knows")
    if not placed or len(indices) > rank:
        raise call.unsupported(f"{len(indices)} indices of {rank} dimensions")
    return [t for _, t in placed], tuple(i for i, _ in placed)


@lowering("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index_tensor(call: Call, build: Builder) -> None:
    """Numpy's advanced indexing by integer tensors."""
    x = call.tensor("self")
    indices, dims = _positions(call, len(x.shape))
    counts = [call.output.elements, *(t.elements for t in indices)]
    build.gather(call, "index", [x, *indices], dims=dims, read_elements=counts, kind="gather")


@lowering("aten.index_put.default", "aten._unsafe_index_put.default")
def index_put(call: Call, build: Builder) -> None:
    """`self` with `values` put (or added) at the indexed places."""
    x, values = call.tensor("self"), call.tensor("values")
    if _is_mask(call, x, values):
        mask = call.arguments["indices"][0]
        wide = build.temporary(call, (*mask.shape, *[1] * (len(x.shape) - len(mask.shape))), "bool")
        build.reshape(call, mask, wide)
        put = apply("add", Operand(0), Operand(2)) if call.arguments["accumulate"] else Operand(2)
        build.pointwise(call, apply("where", Operand(1), put, Operand(0)), [x, wide, values])
        return
    indices, dims = _positions(call, len(x.shape))
    add = bool(call.arguments["accumulate"])
    build.gather(
        call, "index_put", [x, *indices, values], dims=dims, accumulate=add,
        work=values.elements if add else 0, kind="scatter",
    )  # fmt: skip


def _is_mask(call: Call, x: Tensor, values: Tensor) -> bool:
    """Whether one mask over leading dimensions chooses where one value goes."""
    indices = call.arguments["indices"]
    if len(indices) != 1 or not isinstance(indices[0], Tensor) or indices[0].dtype != "bool":
        return False
    rank = len(indices[0].shape)
    return values.elements == 1 and indices[0].shape == x.shape[:rank]


def _scatter(
    call: Call, build: Builder, reads: Sequence[Tensor], reduce: str, *, include: bool = True
) -> None:
    """`out = self; out[index[i, j], j] = (or reduce) src[i, j]` along `dim`."""
    x, index = reads[0], reads[1]
    count = index.elements
    counts = [x.elements, count, *(min(count, t.elements) for t in reads[2:])]
    build.gather(
        call, "scatter", reads, dim=_line(call, x), reduce=reduce, include_self=include,
        read_elements=counts, work=0 if reduce == "none" else count,
    )  # fmt: skip


@lowering("aten.scatter.src", "aten.scatter_add.default", "aten.scatter.reduce")
def scatter(call: Call, build: Builder) -> None:
    """Put or add the elements of `src`."""
    reads = [call.tensor("self"), call.tensor("index"), call.tensor("src")]
    named = {"add": "sum", "multiply": "prod"}.get(call.get("reduce", ""), "none")
    _scatter(call, build, reads, "sum" if "scatter_add" in call.target else named)


@lowering("aten.scatter.value")
def scatter_value(call: Call, build: Builder) -> None:
    """Put one number."""
    index = call.tensor("index")
    source = build.temporary(call, (), call.output.dtype)
    build.fill(call, call.arguments["value"], source, resource="none")
    wide = build.temporary(call, index.shape, source.dtype)
    build.view(call, source, out=wide)
    _scatter(call, build, [call.tensor("self"), index, wide], "none")


@lowering("aten.scatter_reduce.two")
def scatter_reduce(call: Call, build: Builder) -> None:
    """Combine the elements of `src` by sum, prod, mean, amax or amin."""
    reads = [call.tensor("self"), call.tensor("index"), call.tensor("src")]
    include = call.arguments["include_self"]
    _scatter(call, build, reads, call.arguments["reduce"], include=include)


@lowering("aten.index_add.default", "aten.index_copy.default", "aten.index_reduce.default")
def index_add(call: Call, build: Builder) -> None:
    """Slices of `source` added to, or put in place of, slices of `self`."""
    x, index, source = call.tensor("self"), call.tensor("index"), call.tensor("source")
    name = call.target.split(".")[1]
    reduce = {"index_add": "sum", "index_copy": "none"}.get(name) or call.arguments["reduce"]
    alpha = call.get("alpha", 1)
    build.gather(
        call, "index_add", [x, index, source], dim=_line(call, x), alpha=alpha, reduce=reduce,
        include_self=call.get("include_self", default=True),
        work=0 if reduce == "none" else source.elements, kind="scatter",
    )  # fmt: skip


@lowering("aten.index_fill.int_Scalar")
def index_fill(call: Call, build: Builder) -> None:
    """One number put into slices of `self`."""
    x, index = call.tensor("self"), call.tensor("index")
    dim = _line(call, x)
    source = build.temporary(call, (), x.dtype)
    build.fill(call, call.arguments["value"], source, resource="none")
    wide = build.temporary(call, (*x.shape[:dim], index.elements, *x.shape[dim + 1 :]), x.dtype)
    build.view(call, source, out=wide)
    build.gather(
        call, "index_add", [x, index, wide], dim=dim, alpha=1, reduce="none", include_self=True,
        read_elements=[x.elements, index.elements, 1], kind="scatter",
    )  # fmt: skip


@lowering("aten.masked_scatter.default")
def masked_scatter(call: Call, build: Builder) -> None:
    """Elements of `source`, in order, where the mask is set: a count before each, then a gather."""
    x, mask, source = call.tensor("self"), call.tensor("mask"), call.tensor("source")
    count = call.output.elements
    build.gather(call, "masked_scatter", [x, mask, source], work=count, kind="scatter")


@lowering("aten.histc.default")
def histogram(call: Call, build: Builder) -> None:
    """Counts of equal bins between `min` and `max` (those of the data if they are equal)."""
    x = call.tensor("self")
    low, high = float(call.arguments["min"]), float(call.arguments["max"])
    build.gather(call, "histogram", [x], low=low, high=high, work=3 * x.elements, resource="vector")


@lowering("aten.bincount.default")
def bincount(call: Call, build: Builder) -> None:
    """How often, or with what total weight, each number occurs."""
    x, weights = call.tensor("self"), call.optional("weights")
    reads = [x] if weights is None else [x, weights]
    build.gather(call, "bincount", reads, work=x.elements, kind="histogram", resource="vector")


@lowering("aten.searchsorted.Tensor", "aten.bucketize.Tensor")
def search(call: Call, build: Builder) -> None:
    """Where each value belongs in a sorted row: a binary search."""
    values = call.tensor("self")
    row = call.optional("sorted_sequence") or call.tensor("boundaries")
    right = call.arguments["right"] or call.get("side", "left") == "right"
    if call.optional("sorter") is not None:
        raise call.unsupported("a sorter")
    steps = math.ceil(math.log2(row.shape[-1] + 1))
    build.gather(
        call, "search", [row, values], right=right, work=values.elements * steps,
        resource="vector",
    )  # fmt: skip
