"""Scaled dot-product attention in all of torch's variants, grouped-query heads, and its backward.

    scores[b, h, i, j] = sum over e of query[b, h, i, e] * key[b, h / group, j, e]      matrix
    scores * scale, + mask or where(mask), where(j <= i) when causal                    vector
    weights = softmax over j                                                            scan
    output[b, h, i, e] = sum over j of weights[b, h, i, j] * value[b, h / group, j, e]  matrix

These four stay apart here; the fuse pass groups them, so that scores never leave the chip where
they fit. Scores are counted in full, causal or not, as torch.utils.flop_counter does. The flash
backward recomputes scores and weights from the log-sum-exp (phase "recompute"), then

    dV = weights' dO    dW = dO value'    delta = sum(dO * O)
    dS = weights * (dW - delta) * scale    dQ = dS key    dK = dS' query

(Dao et al., FlashAttention, arXiv 2205.14135, algorithm 4.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hwopt.ir.access import Affine
from hwopt.ir.op import Phase
from hwopt.ir.scalar import Iota, Operand, Scalar, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import At, Builder, Index, at, names
from hwopt.ops.lowering import Call, lowering
from hwopt.ops.normalization import SOFTMAX_DEPTH, SOFTMAX_WORK
from hwopt.ops.randomness import bernoulli


@dataclass(frozen=True)
class Heads:
    """How query heads share key and value heads, and the arguments of every variant."""

    call: Call
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    causal: bool
    scale: float
    dropout: float

    @staticmethod
    def of(call: Call) -> Heads:
        """Read the arguments; the variants name them differently."""
        query = call.tensor("query")
        scale = call.arguments.get("scale")
        return Heads(
            call, query, call.tensor("key"), call.tensor("value"),
            call.optional("attn_mask") or call.optional("attn_bias"),
            call.arguments["is_causal"],
            1 / math.sqrt(query.shape[-1]) if scale is None else scale,
            call.arguments["dropout_p"],
        )  # fmt: skip

    @property
    def group(self) -> int:
        """Query heads per key head (1 unless grouped-query)."""
        if len(self.query.shape) < 3 or self.key.shape[-3] == 1:
            return 1
        return self.query.shape[-3] // self.key.shape[-3]

    @property
    def scores_shape(self) -> tuple[int, ...]:
        """(batch..., heads, queries, keys)."""
        return (*self.query.shape[:-1], self.key.shape[-2])

    @property
    def lead(self) -> tuple[str, ...]:
        """Axes of the dimensions before the matrices; heads are `h`, and `g` within a group."""
        rank = len(self.query.shape) - 2
        return (*(("b",) if rank == 2 else names(max(0, rank - 1), "b")), *["h"] * (rank > 0))

    def axes(self, **sizes: int) -> dict[str, int]:
        """Loops over batch and heads, then `sizes`."""
        lead = dict(zip(self.lead, self.query.shape[:-2], strict=True))
        if self.group > 1:
            lead["h"] = self.query.shape[-3] // self.group
            lead["g"] = self.group
        return lead | sizes

    def per_query(self, tensor: Tensor, *matrix: str) -> At:
        """A tensor with one entry per query head."""
        index: list[Index] = list(self.lead)
        if self.group > 1:
            index[-1] = Affine.of([("h", self.group), ("g", 1)])
        return at(tensor, *index, *matrix)

    def per_key(self, tensor: Tensor, *matrix: str) -> At:
        """A tensor with one entry per key head; dimensions of size 1 broadcast."""
        own = tensor.shape[:-2]
        start = len(self.lead) - len(own)
        full = self.query.shape[start : len(self.lead)]
        index = (
            0 if size == 1 and whole > 1 else axis
            for axis, size, whole in zip(self.lead[start:], own, full, strict=True)
        )
        return at(tensor, *index, *matrix)


def emit_scores(build: Builder, heads: Heads, phase: Phase | None = None) -> Tensor:
    """Scores, scaled and masked."""
    call, query, key = heads.call, heads.query, heads.key
    raw = build.temporary(call, heads.scores_shape, query.dtype)
    axes = heads.axes(i=query.shape[-2], j=key.shape[-2], e=query.shape[-1])
    build.contract(
        call, axes, heads.per_query(query, "i", "e"), heads.per_key(key, "j", "e"),
        heads.per_query(raw, "i", "j"), kind="attention_scores", phase=phase,
    )  # fmt: skip
    reads = [raw]
    value: Scalar = apply("mul", Operand(0), heads.scale) if heads.scale != 1 else Operand(0)
    if heads.mask is not None:
        reads.append(heads.mask)
        if heads.mask.dtype == "bool":
            value = apply("where", Operand(1), value, -math.inf)
        else:
            value = apply("add", value, Operand(1))
    if heads.causal:
        row, column = names(len(raw.shape))[-2:]
        value = apply("where", apply("le", Iota(column), Iota(row)), value, -math.inf)
    if value == Operand(0):
        return raw
    out = build.temporary(call, raw.shape, raw.dtype)
    return build.pointwise(call, value, reads, out, kind="attention_mask", phase=phase)


def emit_values(build: Builder, heads: Heads, weights: Tensor, out: Tensor) -> Tensor:
    """`output[i, e] = sum over j of weights[i, j] * value[j, e]`."""
    value = heads.value
    axes = heads.axes(i=weights.shape[-2], e=value.shape[-1], j=value.shape[-2])
    return build.contract(
        heads.call, axes, heads.per_query(weights, "i", "j"), heads.per_key(value, "j", "e"),
        heads.per_query(out, "i", "e"), kind="attention_values",
    )  # fmt: skip


def _emit_dropout(build: Builder, heads: Heads, weights: Tensor) -> Tensor:
    """Weights with a share of them zeroed and the rest scaled up."""
    if heads.dropout == 0:
        return weights
    call, keep = heads.call, 1 - heads.dropout
    mask = call.optional("dropout_mask")
    if mask is None:
        mask = build.temporary(call, weights.shape, "bool")
        bernoulli(call, build, keep, mask)
    out = build.temporary(call, weights.shape, weights.dtype)
    scaled = apply("mul", apply("mul", Operand(0), Operand(1)), 1 / keep if keep else 0.0)
    return build.pointwise(call, scaled, [weights, mask], out, kind="dropout")


def _forward(
    call: Call, build: Builder, logsumexp: Tensor | None = None, weights: Tensor | None = None
) -> None:
    """The four operators; `logsumexp` and `weights` are further results where asked for."""
    heads = Heads.of(call)
    scores = emit_scores(build, heads)
    weights = weights or build.temporary(call, scores.shape, scores.dtype)
    writes = [weights] if logsumexp is None else [weights, logsumexp]
    build.scan(
        call, "softmax", [scores], writes, axis=len(scores.shape) - 1, log=False, safe=True,
        work=SOFTMAX_WORK * scores.elements, depth=SOFTMAX_DEPTH,
    )  # fmt: skip
    emit_values(build, heads, _emit_dropout(build, heads, weights), call.output)


@lowering("aten.scaled_dot_product_attention.default")
def attention(call: Call, build: Builder) -> None:
    """Attention whose only result is the output."""
    _forward(call, build)


@lowering("aten._scaled_dot_product_attention_math.default")
def attention_math(call: Call, build: Builder) -> None:
    """Attention that also returns its weights (before dropout)."""
    _forward(call, build, weights=call.outputs[1] if len(call.outputs) > 1 else None)


@lowering(
    "aten._scaled_dot_product_flash_attention_for_cpu.default",
    "aten._scaled_dot_product_flash_attention.default",
    "aten._scaled_dot_product_efficient_attention.default",
    "aten._scaled_dot_product_fused_attention_overrideable.default",
    "aten._scaled_dot_product_cudnn_attention.default",
)
def attention_saving(call: Call, build: Builder) -> None:
    """Attention that saves the log-sum-exp of each row for its backward; other results are seeds
    and bookkeeping of one kernel.
    """
    lse = call.outputs[1] if len(call.outputs) > 1 else None
    usual = lse is not None and lse.shape == call.tensor("query").shape[:-1]
    _forward(call, build, logsumexp=lse if usual else None)
    build.unspecified(call, call.outputs[2 if usual else 1 :])


@lowering(
    "aten._scaled_dot_product_flash_attention_for_cpu_backward.default",
    "aten._scaled_dot_product_flash_attention_backward.default",
    "aten._scaled_dot_product_efficient_attention_backward.default",
    "aten._scaled_dot_product_fused_attention_overrideable_backward.default",
    "aten._scaled_dot_product_cudnn_attention_backward.default",
)
def attention_backward(call: Call, build: Builder) -> None:
    """Gradients of query, key, value (and of a bias where asked), scores recomputed."""
    heads = Heads.of(call)
    grad = call.optional("grad_out") or call.tensor("grad_out_")
    wanted: Sequence[bool] = call.get("grad_input_mask", [True, True, True, False])
    weights = _recomputed_weights(call, build, heads)
    if wanted[2]:
        dropped = _emit_dropout(build, heads, weights)
        axes = heads.axes(j=heads.value.shape[-2], e=grad.shape[-1], i=grad.shape[-2])
        build.contract(
            call, axes, heads.per_query(dropped, "i", "j"), heads.per_query(grad, "i", "e"),
            heads.per_key(call.outputs[2], "j", "e"), kind="attention_values",
        )  # fmt: skip
    if wanted[0] or wanted[1] or wanted[3]:
        _score_gradients(call, build, heads, grad, weights, wanted)


def _recomputed_weights(call: Call, build: Builder, heads: Heads) -> Tensor:
    """`exp(scores - logsumexp)`, as the forward pass had them."""
    scores = emit_scores(build, heads, "recompute")
    lse, weights = call.tensor("logsumexp"), build.temporary(call, scores.shape, scores.dtype)
    column = build.temporary(call, (*lse.shape, 1), lse.dtype)
    build.reshape(call, lse, column)
    value = apply("exp", apply("sub", Operand(0), Operand(1)))
    return build.pointwise(
        call, value, [scores, column], weights, kind="attention_weights", phase="recompute"
    )


def _score_gradients(
    call: Call,
    build: Builder,
    heads: Heads,
    grad: Tensor,
    weights: Tensor,
    wanted: Sequence[bool],
) -> None:
    """dW, delta, dS, then dQ and dK."""
    query, key, value = heads.query, heads.key, heads.value
    along = build.temporary(call, weights.shape, weights.dtype)
    axes = heads.axes(i=grad.shape[-2], j=value.shape[-2], e=grad.shape[-1])
    build.contract(
        call, axes, heads.per_query(grad, "i", "e"), heads.per_key(value, "j", "e"),
        heads.per_query(along, "i", "j"), kind="attention_scores",
    )  # fmt: skip
    along = _emit_dropout(build, heads, along)
    delta = build.temporary(call, (*grad.shape[:-1], 1), grad.dtype)
    product = apply("mul", Operand(0), Operand(1))
    build.reduce(call, "sum", [grad, call.tensor("out")], [len(grad.shape) - 1], delta, product)
    unscaled = apply("mul", Operand(0), apply("sub", Operand(1), Operand(2)))
    scores = build.temporary(call, weights.shape, weights.dtype)
    build.pointwise(
        call, apply("mul", unscaled, heads.scale), [weights, along, delta], scores,
        kind="attention_gradient",
    )  # fmt: skip
    axes = heads.axes(i=query.shape[-2], e=query.shape[-1], j=key.shape[-2])
    score, row = heads.per_query(scores, "i", "j"), heads.per_query(call.outputs[0], "i", "e")
    if wanted[0]:
        build.contract(
            call, axes, score, heads.per_key(key, "j", "e"), row, kind="attention_values"
        )
    if wanted[1]:
        column = heads.per_key(call.outputs[1], "j", "e")
        build.contract(
            call, axes, score, heads.per_query(query, "i", "e"), column, kind="attention_values"
        )
    if wanted[3] and len(call.outputs) > 3:
        bias = call.outputs[3]
        lead = len(weights.shape) - len(bias.shape)
        dims = [
            i for i, size in enumerate(weights.shape)
            if i < lead or (bias.shape[i - lead] == 1 and size > 1)
        ]  # fmt: skip
        build.reduce(call, "sum", [weights, along, delta], dims, bias, unscaled)
