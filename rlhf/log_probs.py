"""Log-probabilities of tokens from logits, in float32, a few rows of the vocabulary at a time.

For a vocabulary of 128k, one float32 copy of the logits of 8 x 1024 tokens is 4.2 GB; autograd
through log-softmax would keep two more. Here only the logits (in the model's own type) and two
numbers per token are kept, and the softmax is recomputed chunk by chunk in the backward pass.

With z = logits / temperature: log p(token) = z_token - logsumexp(z), entropy H = logsumexp(z) -
sum p z, so d log p(token) / dz = onehot - p, dH / dz = -p (z - logsumexp(z) + H).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**24
"""Logits of one chunk: 64 MiB in float32."""


def token_log_probs(
    logits: Tensor, targets: Tensor, *, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, ...]:
    """Of logits (rows, time, vocabulary) and targets (rows, time): log-probs (rows, time).

    With `entropy` also the entropies (rows, time). Both float32 (float64 for float64 logits).
    """
    flat = logits.reshape(-1, logits.shape[-1])
    log_probs, entropies = _TokenLogProbs.apply(flat, targets.reshape(-1), temperature, entropy)  # type: ignore[no-untyped-call]
    found = (log_probs, entropies) if entropy else (log_probs,)
    return tuple(value.view(targets.shape) for value in found)


def _chunks(logits: Tensor) -> list[slice]:
    rows = max(1, CHUNK_ELEMENTS // logits.shape[1])
    return [slice(start, start + rows) for start in range(0, logits.shape[0], rows)]


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """Logits of one chunk over the temperature, in the type that is computed in."""
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return exact if temperature == 1.0 else exact / temperature


class _TokenLogProbs(torch.autograd.Function):
    """Logits (tokens, vocabulary) to log-probs and entropies (tokens,)."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
        normaliser = logits.new_empty(logits.shape[0], dtype=kind)
        log_probs, entropies = torch.empty_like(normaliser), torch.zeros_like(normaliser)
        for part in _chunks(logits):
            z = _scaled(logits[part], temperature)
            normaliser[part] = z.logsumexp(1)
            chosen = z.gather(1, targets[part, None]).squeeze(1)
            log_probs[part] = chosen - normaliser[part]
            if entropy:
                entropies[part] = torch.special.entr(z.softmax(1)).sum(1)
        ctx.save_for_backward(logits, targets, normaliser, entropies)
        ctx.temperature, ctx.entropy = temperature, entropy
        return log_probs, entropies

    @staticmethod
    def backward(
        ctx: Any, log_probs_gradient: Tensor, entropies_gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        logits, targets, normaliser, entropies = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for part in _chunks(logits):
            shifted = _scaled(logits[part], ctx.temperature) - normaliser[part, None]
            p = shifted.exp()
            shifted = shifted.clamp(min=torch.finfo(shifted.dtype).min)  # 0 x -inf is not a number
            of_z = p * -log_probs_gradient[part, None]
            of_z.scatter_add_(1, targets[part, None], log_probs_gradient[part, None])
            if ctx.entropy:
                of_z -= p * (shifted + entropies[part, None]) * entropies_gradient[part, None]
            gradient[part] = of_z / ctx.temperature
        return gradient, None, None, None
