"""The draw of one token per row: which random numbers, and which token each of them means.

Every token has its own uniform number, fixed by (seed, step, row, token), and the token is the
inverse of the cumulative distribution at that number, in the order of the vocabulary:

    u = 0.62     p = 0.2  0.3  0.0  0.4  0.1
                 F = 0.2  0.5  0.5  0.9  1.0        first F > u: token 3

So which tokens are sampled does not depend on the order of the rows, on the micro-batch, on the
padding, on which rows have finished, or on the number of processes, but for a number that rounding
of the logits (about 1e-7 in fp32) moves over a boundary of F. A token of probability 0 is never
drawn: F does not rise there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlhf.errors import DivergedError
from rlhf.sampling import Sampling

WORD = 1 << 64


def uniforms(
    seed: int, step: int, rows: slice | Tensor | Sequence[int], total_rows: int, tokens: int
) -> Tensor:
    """Uniform numbers in [0, 1) of some rows of a step, (rows, tokens) float64.

    Philox 4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with the key
    (seed, step) and a counter that starts at (0, 0, row, 0): a row has the same numbers whoever
    asks for it, and fewer tokens are a prefix of more. numpy promises the raw stream of a bit
    generator across versions, so resumed runs see the same numbers; 53 bits make one number.

    Raises IndexError for a row outside `total_rows`.
    """
    if isinstance(rows, slice):
        wanted = list(range(*rows.indices(total_rows)))
    else:
        wanted = [int(row) for row in rows]
    strangers = [row for row in wanted if not 0 <= row < total_rows]
    if strangers:
        raise IndexError(f"rows {strangers} of {total_rows}")
    values = np.empty((len(wanted), tokens), dtype=np.float64)
    for i, row in enumerate(wanted):
        bits = np.random.Philox(key=[seed % WORD, step % WORD], counter=[0, 0, row, 0])
        values[i] = (bits.random_raw(tokens) >> np.uint64(11)) * 2.0**-53
    return torch.from_numpy(values)


def draw(
    logits: Tensor, numbers: Tensor, sampling: Sampling, ends: Tensor, position: int
) -> tuple[Tensor, Tensor]:
    """The next token of each row and its log-probability, (rows,) int64 and (rows,) float32.

    logits: (rows, vocabulary), any floating type. numbers: (rows,) in [0, 1), float64. ends: ids
    that end a response, (ends,) int64; `position` counts the response tokens before this one, and
    below `sampling.minimum_tokens` no end is drawn.

    The log-probability is of the tempered full distribution, log softmax(logits / temperature) in
    fp32: what training compares with, before an end is excluded, before top-k and top-p.

    Raises `DivergedError` where the logits are not finite.
    """
    log_probs = torch.log_softmax(logits.float() / sampling.temperature, -1)
    allowed = log_probs
    if position < sampling.minimum_tokens:
        allowed = log_probs.index_fill(-1, ends, -torch.inf)
    greedy = sampling.greedy
    tokens = allowed.argmax(-1) if greedy else _inverse(_kept(allowed, sampling), numbers)
    chosen = log_probs.gather(-1, tokens[:, None])[:, 0]
    if not bool(torch.isfinite(chosen).all()):
        raise DivergedError(
            "the logits of a generated token are not finite",
            where=f"generation, response token {position + 1}",
            fix="resume from the last checkpoint with a lower learning rate, or train in bf16 or "
            "fp32 instead of fp16",
        )
    return tokens, chosen


def _kept(log_probs: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities (not normalised) with 0 outside top-k, then outside top-p, float64.

    Equally likely tokens are kept in the order of the vocabulary, so exactly k remain. top-p is of
    what top-k left: the smallest set of likeliest tokens with at least that share.
    """
    probabilities = log_probs.double().exp()
    vocabulary = log_probs.shape[-1]
    count = min(sampling.top_k or vocabulary, vocabulary)
    if count == vocabulary and sampling.top_p >= 1:
        return probabilities
    order = log_probs.argsort(dim=-1, descending=True, stable=True)[:, :count]
    values = probabilities.gather(-1, order)
    if sampling.top_p < 1:
        before = values.cumsum(-1) - values
        values = values * (before < sampling.top_p * values.sum(-1, keepdim=True))
    return torch.zeros_like(probabilities).scatter_(-1, order, values)


def _inverse(probabilities: Tensor, numbers: Tensor) -> Tensor:
    """The first token whose cumulative share exceeds the number, (rows,) int64.

    The sums are in float64: in fp32 a vocabulary of 100 000 would lose its unlikely tokens. A scan
    on a GPU adds in another order than one by one, so sums of neighbours may even fall by a
    rounding; the test for `probabilities > 0` keeps an impossible token out all the same. A number
    that rounding leaves above every sum means the last possible token.
    """
    sums = probabilities.cumsum(-1)
    target = numbers.to(sums)[:, None] * sums[:, -1:]
    possible = probabilities > 0
    hit = possible & (sums > target)
    first = hit.to(torch.uint8).argmax(-1)
    last = probabilities.shape[-1] - 1 - possible.flip(-1).to(torch.uint8).argmax(-1)
    return torch.where(hit.any(-1), first, last)
