"""Matrix products: linear, mm, addmm, bmm, baddbmm, matmul, einsum and their kin.

    y[m, n] = sum over k of x[m, k] * w[n, k]

Biases and scale factors are pointwise operators after the product, to be fused later.
"""

from __future__ import annotations

from collections import Counter

from hwopt.ir.scalar import Operand, Scalar, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import At, Builder, Index, at
from hwopt.ops.lowering import Call, lowering


@lowering("aten.linear.default")
def linear(call: Call, build: Builder) -> None:
    """`y[..., n] = sum over k of x[..., k] * weight[n, k]`, then `+ bias[n]`."""
    x, weight, bias = call.tensor("input"), call.tensor("weight"), call.optional("bias")
    out = call.output
    product = out if bias is None else build.temporary(call, out.shape, out.dtype)
    rows = [f"m{i}" for i in range(len(x.shape) - 1)] if len(x.shape) != 2 else ["m"]
    axes = dict(zip(rows, x.shape[:-1], strict=True))
    columns = ["n"] if len(weight.shape) == 2 else []
    axes |= dict(zip(columns, weight.shape[:-1], strict=True)) | {"k": x.shape[-1]}
    build.contract(
        call, axes, at(x, *rows, "k"), at(weight, *columns, "k"), at(product, *rows, *columns)
    )
    if bias is not None:
        build.pointwise(call, apply("add", Operand(0), Operand(1)), [product, bias], kind="bias")


def product(call: Call, build: Builder, a: Tensor, b: Tensor, out: Tensor) -> None:
    """`torch.matmul`: batches broadcast, a vector on either side is a row or a column."""
    rows = ["m"] if len(a.shape) > 1 else []
    columns = ["n"] if len(b.shape) > 1 else []
    batch = out.shape[: len(out.shape) - len(rows) - len(columns)]
    axes = {f"b{i}" if len(batch) > 1 else "b": size for i, size in enumerate(batch)}
    stack = list(axes)
    axes |= dict(zip(rows, a.shape[-2:-1], strict=True))
    axes |= dict(zip(columns, b.shape[-1:] if columns else (), strict=True))
    axes["k"] = a.shape[-1]
    build.contract(
        call, axes,
        at(a, *_batch(a, len(rows) + 1, stack, batch), *rows, "k"),
        at(b, *_batch(b, len(columns) + 1, stack, batch), "k", *columns),
        at(out, *stack, *rows, *columns),
    )  # fmt: skip


def _batch(
    tensor: Tensor, matrix_rank: int, axes: list[str], sizes: tuple[int, ...]
) -> list[Index]:
    """The index of the leading dimensions, right-aligned and broadcast."""
    own = tensor.shape[: max(0, len(tensor.shape) - matrix_rank)]
    start = len(axes) - len(own)
    return [
        axis if size == full else 0
        for axis, size, full in zip(axes[start:], own, sizes[start:], strict=True)
    ]


@lowering("aten.mm.default", "aten.bmm.default", "aten.dot.default", "aten.mv.default")
@lowering("aten.matmul.default", "aten.mm.dtype", "aten.bmm.dtype")
def matmul(call: Call, build: Builder) -> None:
    """`y[b, m, n] = sum over k of a[b, m, k] * b[b, k, n]` with broadcast batches."""
    a, b = call.tensors if len(call.tensors) == 2 else call.tensors * 2
    product(call, build, a, b, call.output)


@lowering("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default")
def addmm(call: Call, build: Builder) -> None:
    """`beta * self + alpha * (a @ b)`."""
    second = "batch2" if "batch2" in call.arguments else "mat2"
    first = "batch1" if "batch1" in call.arguments else "mat1"
    if "vec" in call.arguments:
        first, second = "mat", "vec"
    _scaled_product(call, build, call.tensor(first), call.tensor(second))


def _scaled_product(call: Call, build: Builder, a: Tensor, b: Tensor) -> None:
    """`beta * self + alpha * (a @ b)`; factors of 1 cost nothing, a `beta` of 0 reads nothing."""
    out, alpha, beta = call.output, call.arguments["alpha"], call.arguments["beta"]
    inner = build.temporary(call, out.shape, out.dtype)
    product(call, build, a, b, inner)
    value: Scalar = Operand(0) if alpha == 1 else apply("mul", Operand(0), alpha)
    if beta == 0:
        build.pointwise(call, value, [inner], kind="bias")
        return
    other = Operand(1) if beta == 1 else apply("mul", Operand(1), beta)
    build.pointwise(call, apply("add", value, other), [inner, call.tensor("self")], kind="bias")


@lowering("aten.addbmm.default")
def addbmm(call: Call, build: Builder) -> None:
    """`beta * self + alpha * sum over b of (batch1[b] @ batch2[b])`."""
    a, b, out = call.tensor("batch1"), call.tensor("batch2"), call.output
    axes = {"b": a.shape[0], "m": a.shape[1], "n": b.shape[2], "k": a.shape[2]}
    inner = build.temporary(call, out.shape, out.dtype)
    build.contract(call, axes, at(a, "b", "m", "k"), at(b, "b", "k", "n"), at(inner, "m", "n"))
    alpha, beta = call.arguments["alpha"], call.arguments["beta"]
    scaled = apply("add", apply("mul", Operand(0), alpha), apply("mul", Operand(1), beta))
    build.pointwise(call, scaled, [inner, call.tensor("self")], kind="bias")


@lowering("aten.outer.default", "aten.ger.default")
def outer(call: Call, build: Builder) -> None:
    """`y[m, n] = self[m] * vec2[n]`: no sum, so the vector unit runs it."""
    a, b = call.tensor("self"), call.tensor("vec2")
    build.nest(
        call, {"m": a.shape[0], "n": b.shape[0]}, [at(a, "m"), at(b, "n")],
        at(call.output, "m", "n"), apply("mul", Operand(0), Operand(1)),
        kind="pointwise", resource="vector",
    )  # fmt: skip


@lowering("aten._trilinear.default")
def trilinear(call: Call, build: Builder) -> None:
    """The sum over `sumdim` of a product of three tensors, each given dimensions of size 1: on the
    vector unit, as no contraction of two operands says it in one nest.
    """
    tensors = [call.tensor(f"i{i}") for i in (1, 2, 3)]
    added = [call.arguments[f"expand{i}"] for i in (1, 2, 3)]
    rank = len(tensors[0].shape) + len(added[0])
    axes: dict[str, int] = {}
    reads = []
    for tensor, hidden in zip(tensors, added, strict=True):
        own = [f"d{i}" for i in range(rank) if i not in {d % rank for d in hidden}]
        for name, size in zip(own, tensor.shape, strict=True):
            axes[name] = max(size, axes.get(name, 1))
        reads.append((tensor, own))
    axes = {f"d{i}": axes[f"d{i}"] for i in range(rank)}
    summed = {d % rank for d in call.arguments["sumdim"]}
    value = apply("mul", apply("mul", Operand(0), Operand(1)), Operand(2))
    build.nest(
        call, axes, [_letters(t, tuple(own), axes) for t, own in reads],
        at(call.output, *(f"d{i}" for i in range(rank) if i not in summed)), value, "sum",
        kind="trilinear", resource="vector",
    )  # fmt: skip


@lowering("aten.einsum.default")
def einsum(call: Call, build: Builder) -> None:
    """Products of pairs from left to right; letters that one operand alone has are summed first."""
    tensors: list[Tensor] = list(call.arguments["tensors"])
    terms, result = _equation(call, tensors)
    operands = list(zip(tensors, terms, strict=True))
    sizes = {n: s for t, term in operands for n, s in zip(term, t.shape, strict=True) if s > 1}
    sizes = {letter: sizes.get(letter, 1) for term in terms for letter in term}
    while len(operands) > 1:
        (a, left), (b, right) = operands[0], operands[1]
        later = {letter for _, term in operands[2:] for letter in term} | set(result)
        a, left = _summed(call, build, a, left, set(right) | later, sizes)
        b, right = _summed(call, build, b, right, set(left) | later, sizes)
        union = tuple(dict.fromkeys(left + right))
        last = len(operands) == 2
        kept = result if last else tuple(letter for letter in union if letter in later)
        shape = tuple(sizes[letter] for letter in kept)
        out = call.output if last else build.temporary(call, shape, a.dtype)
        axes = {letter: sizes[letter] for letter in union}
        reads = _letters(a, left, sizes), _letters(b, right, sizes)
        if set(union) == set(kept):
            times = apply("mul", Operand(0), Operand(1))
            build.nest(
                call, axes, reads, at(out, *kept), times, kind="pointwise", resource="vector"
            )
        else:
            build.contract(call, axes, *reads, at(out, *kept))
        operands[:2] = [(out, kept)]
    if len(tensors) == 1:
        _single(call, build, *operands[0], result, sizes)


def _equation(call: Call, tensors: list[Tensor]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Letters of each operand and of the result; an ellipsis becomes letters e0, e1, ..."""
    text = str(call.arguments["equation"]).replace(" ", "")
    left, arrow, right = text.partition("->")
    if not arrow:
        counts = Counter(letter for letter in left if letter.isalpha())
        right = "..." * ("..." in left) + "".join(sorted(n for n in counts if counts[n] == 1))
    parts = left.split(",")
    if len(parts) != len(tensors):
        raise call.unsupported(f"equation {text!r} for {len(tensors)} operands")
    hidden = [len(t.shape) - len(p.replace("...", "")) for t, p in zip(tensors, parts, strict=True)]
    widest = max((h for h, p in zip(hidden, parts, strict=True) if "..." in p), default=0)

    def letters(part: str, rank: int) -> tuple[str, ...]:
        before, dots, after = part.partition("...")
        middle = [f"e{i}" for i in range(widest - rank, widest)] if dots else []
        return (*before, *middle, *after)

    terms = [letters(part, rank) for part, rank in zip(parts, hidden, strict=True)]
    return terms, letters(right, widest)


def _letters(tensor: Tensor, term: tuple[str, ...], sizes: dict[str, int]) -> At:
    """The operand indexed by its letters; a dimension of size 1 broadcasts."""
    index = (n if size == sizes[n] else 0 for n, size in zip(term, tensor.shape, strict=True))
    return at(tensor, *index)


def _summed(
    call: Call,
    build: Builder,
    tensor: Tensor,
    term: tuple[str, ...],
    needed: set[str],
    sizes: dict[str, int],
) -> tuple[Tensor, tuple[str, ...]]:
    """The operand with the letters that nobody else has summed away."""
    kept = tuple(letter for letter in dict.fromkeys(term) if letter in needed)
    if set(kept) == set(term):
        return tensor, term
    out = build.temporary(call, (sizes[letter] for letter in kept), tensor.dtype)
    _single(call, build, tensor, term, kept, sizes, out)
    return out, kept


def _single(
    call: Call,
    build: Builder,
    tensor: Tensor,
    term: tuple[str, ...],
    result: tuple[str, ...],
    sizes: dict[str, int],
    out: Tensor | None = None,
) -> None:
    """One operand: a transposition, a diagonal, or a sum."""
    axes = {letter: sizes[letter] for letter in dict.fromkeys(term)}
    read, write = _letters(tensor, term, sizes), at(out or call.output, *result)
    if set(term) == set(result):
        build.move(call, axes, read, write)
    else:
        build.nest(call, axes, [read], write, reduction="sum", kind="reduction", resource="vector")
