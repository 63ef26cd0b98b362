"""Order along a dimension: sort, top-k, cumulative sums and extremes."""

from __future__ import annotations

import math

from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder
from hwopt.ops.lowering import Call, lowering


def _line(call: Call, tensor: Tensor) -> tuple[int, int]:
    """The dimension and its length."""
    dim = call.get("dim", -1) % max(1, len(tensor.shape))
    return dim, tensor.shape[dim] if tensor.shape else 1


@lowering("aten.sort.default", "aten.sort.stable", "aten.argsort.default", "aten.argsort.stable")
def sort(call: Call, build: Builder) -> None:
    """Values in order and where they were: n log2 n comparisons per row."""
    x = call.tensor("self")
    dim, length = _line(call, x)
    writes = list(call.outputs)
    if len(writes) == 1:
        writes.insert(0, build.temporary(call, x.shape, x.dtype))
    build.gather(
        call, "sort", [x], writes, dim=dim, descending=bool(call.arguments["descending"]),
        work=x.elements * math.ceil(math.log2(max(2, length))), resource="vector",
    )  # fmt: skip


@lowering("aten.topk.default", "aten.kthvalue.default")
def topk(call: Call, build: Builder) -> None:
    """The k largest (smallest) of each row, in order: n comparisons, then k log2 k."""
    x, k = call.tensor("self"), call.arguments["k"]
    dim, length = _line(call, x)
    rows = x.elements // length
    largest = bool(call.get("largest", default="topk" in call.target))
    build.gather(
        call, "topk", [x], call.outputs, dim=dim, k=k, largest=largest,
        only_last="kthvalue" in call.target,
        work=rows * (length + k * math.ceil(math.log2(max(2, k)))), resource="vector",
    )  # fmt: skip


@lowering("aten.median.dim", "aten.median.default")
def median(call: Call, build: Builder) -> None:
    """The middle of each row in order, the lower one of two; of all elements without `dim`."""
    x, writes = call.tensor("self"), list(call.outputs)
    if "dim" not in call.arguments:
        x = build.reshape(call, x, build.temporary(call, (x.elements,), x.dtype))
        writes.append(build.temporary(call, (), "int64"))
    dim, length = _line(call, x)
    build.gather(
        call, "topk", [x], writes, dim=dim, k=(length + 1) // 2, largest=False, only_last=True,
        work=x.elements * 2, resource="vector",
    )  # fmt: skip


@lowering("aten.cumsum.default", "aten.cumprod.default", "aten.logcumsumexp.default")
@lowering("aten.cummax.default", "aten.cummin.default")
def cumulative(call: Call, build: Builder) -> None:
    """`out[i] = self[0] op ... op self[i]` along `dim`; extremes also say where they were."""
    x = call.tensor("self")
    dim, length = _line(call, x)
    function = call.target.split(".")[1]
    work = x.elements * (4 if function == "logcumsumexp" else 1)
    build.scan(call, function, [x], call.outputs, axis=dim, work=work, depth=length)
