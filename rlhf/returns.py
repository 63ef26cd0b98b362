"""From scores to returns: the arithmetic that reinforcement-learning algorithms share.

Pure functions of `(rows, time)` tensors, token-aligned as in `rlhf/experience.py`. A mask says
which entries count; what lies outside a mask is never used (it may be NaN) and is 0 in what comes
back. Padding on either side, and gaps inside a response, change nothing.

Statistics are over all processes: `reduce` is the sum of a tensor over them (`alone` for one
process). They are taken in float64: how rows fall onto processes changes at most the last digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from rlhf.algorithm import Reduce

KLEstimator: TypeAlias = Literal["k1", "k2", "k3"]


def alone(tensor: Tensor) -> Tensor:
    """The sum over the processes when there is one."""
    return tensor


# Positions.


def within(values: Tensor, mask: Tensor) -> Tensor:
    """The values within the mask and 0 elsewhere; unlike a product, NaN outside stays outside."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def last_of(mask: Tensor) -> Tensor:
    """(rows, time) bool: the last true entry of each row, if it has one."""
    remaining = mask.flip(1).cumsum(1).flip(1)  # true entries from here to the end
    return mask & (remaining == 1)


def predicted(attended: Tensor) -> Tensor:
    """(rows, time) bool: the attended tokens that have one before them, so that a model predicts
    them: all but the first of each row.
    """
    return attended & (attended.cumsum(1) > 1)


def values_from_heads(heads: Tensor) -> Tensor:
    """values[:, t] = heads[:, t - 1]: the value of the state in which token t is chosen is what the
    head says after the token before it. Column 0 has none before it: 0.
    """
    return torch.nn.functional.pad(heads[:, :-1], (1, 0))


def score_from_heads(heads: Tensor, trained: Tensor) -> Tensor:
    """(rows,): the head's output after the last trained token, which has seen the whole response;
    0 for a row without one.
    """
    return within(heads, last_of(trained)).sum(1)


# Sums and statistics.


def tally(values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum and count of the entries within the mask, float64 and without gradient: what `Loss.sums`
    holds, and `means` divides.
    """
    values = values.detach().double()
    if mask is None:
        mask = torch.ones_like(values, dtype=torch.bool)
    return within(values, mask).sum(), mask.sum().double()


def means(sums: Mapping[str, tuple[Tensor, Tensor]], reduce: Reduce) -> dict[str, Tensor]:
    """The quotient of each sum and count over all processes, in one reduction; 0 where nothing was
    counted. Every process must have the same names.
    """
    if not sums:
        return {}
    stacked = reduce(torch.stack([torch.stack(pair).double() for pair in sums.values()]))
    quotients = stacked[:, 0] / torch.where(stacked[:, 1] == 0, 1, stacked[:, 1])
    return dict(zip(sums, quotients, strict=True))


def masked_mean(values: Tensor, mask: Tensor, reduce: Reduce = alone) -> Tensor:
    """Mean of the entries within the mask over all processes, float64."""
    return means({"": tally(values, mask)}, reduce)[""]


@dataclass(frozen=True)
class Moments:
    """How many values there were, their mean, and the sum of squares of their distances from it."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def variance(self, *, unbiased: bool = True) -> float:
        """Of a larger population that these are drawn from: squares / (count - 1), 0 for one value;
        or (`unbiased=False`) of just these: squares / count.
        """
        return self.squares / max(self.count - unbiased, 1.0)

    @property
    def std(self) -> float:
        """Root of the unbiased variance."""
        return float(self.variance() ** 0.5)

    def __add__(self, other: Moments) -> Moments:
        """Of both sets of values together (Chan, Golub, LeVeque 1979)."""
        count = self.count + other.count
        if count == 0:
            return self
        gap = other.mean - self.mean
        mean = self.mean + gap * other.count / count
        squares = self.squares + other.squares + gap**2 * self.count * other.count / count
        return Moments(count, mean, squares)


def moments(values: Tensor, mask: Tensor | None = None, reduce: Reduce = alone) -> Moments:
    """Of the entries within the mask over all processes. Two passes (first the mean, then the
    distances from it), so that a large mean does not swallow a small variance.
    """
    if mask is None:
        mask = torch.ones_like(values, dtype=torch.bool)
    total, count = reduce(torch.stack(tally(values, mask)))
    mean = total / count.clamp(min=1)
    squares = reduce(within((values.detach().double() - mean).square(), mask).sum())
    return Moments(float(count), float(mean), float(squares))


def whiten(
    values: Tensor,
    mask: Tensor,
    reduce: Reduce = alone,
    *,
    shift_mean: bool = True,
    unbiased: bool = True,
) -> Tensor:
    """Mean 0 and variance 1 over the entries within the mask of all processes.

    (x - mean) / sqrt(variance + 1e-8), and with `shift_mean=False` plus the mean again. `unbiased`:
    divide by n - 1 rather than n, which implementations differ in (Huang, Liu, von Werra, The N
    Implementation Details of RLHF with PPO, 2023) and which no longer shows over many tokens.
    """
    found = moments(values, mask, reduce)
    scale = (found.variance(unbiased=unbiased) + 1e-8) ** -0.5
    whitened = (values - found.mean) * scale + (0.0 if shift_mean else found.mean)
    return within(whitened, mask)


# Divergence from the reference.


def kl_estimate(log_probs: Tensor, reference: Tensor, estimator: KLEstimator) -> Tensor:
    """KL(q || p) estimated at each sample x ~ q, from log q(x) and log p(x) (the reference).

    With r = p(x) / q(x) (Schulman, Approximating KL Divergence, joschu.net/blog/kl-approx.html):
    k1 = -log r: unbiased, of large variance, may be negative;
    k2 = (log r)^2 / 2: biased, of small variance, never negative;
    k3 = (r - 1) - log r: unbiased, of small variance, never negative.
    """
    log_ratio = reference - log_probs
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    return torch.expm1(log_ratio) - log_ratio


def adapted_coefficient(
    coefficient: float, kl: float, *, target: float, rows: float, horizon: float
) -> float:
    """The KL coefficient after an iteration, driven so that the KL comes to a target.

    coefficient * (1 + clip(kl / target - 1, -0.2, 0.2) * rows / horizon), with the KL of a whole
    response (nats), mean over the iteration's `rows` responses (Ziegler et al., arXiv 1909.08593,
    section 2).
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * rows / horizon)


# From rewards to advantages and returns.


def shaped_rewards(score: Tensor, kl: Tensor, trained: Tensor, coefficient: float) -> Tensor:
    """(rows, time): -coefficient * kl at each trained token, plus the score of the whole response
    (rows,) at the last of them: the token that ended it.
    """
    return within(-coefficient * kl, trained) + within(score[:, None], last_of(trained))


def gae(
    rewards: Tensor, values: Tensor, trained: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., arXiv 1506.02438, equation 16).

        delta[t] = rewards[t] + gamma * values[t'] - values[t]
        advantages[t] = delta[t] + gamma * lam * advantages[t']        t': the next trained token
        returns[t] = advantages[t] + values[t]

    After the last trained token the episode is over: there value and advantage are 0, whatever a
    critic says of the state behind the end of text, where it was never trained. Tokens that are not
    trained are no steps. Returns (advantages, returns), each (rows, time).
    """
    advantages = torch.zeros_like(rewards)
    next_value, next_advantage = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        step = trained[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = within(delta + gamma * lam * next_advantage, step)
        next_value = torch.where(step, values[:, t], next_value)
        next_advantage = torch.where(step, advantages[:, t], next_advantage)
    return advantages, within(advantages + values, trained)


# The scale of scores.


@dataclass(frozen=True)
class ScoreScale:
    """gain * score + bias: brings a reward model's scores to a known mean and standard deviation.

    Its two numbers are kept beside the exported model (`dataclasses.asdict`, `ScoreScale(**json)`).
    """

    gain: float = 1.0
    bias: float = 0.0

    def __call__(self, score: Tensor) -> Tensor:
        """The scaled scores."""
        return self.gain * score + self.bias


def score_scale(found: Moments, *, mean: float = 0.0, std: float = 1.0) -> ScoreScale:
    """The scale that gives scores with these moments another mean and standard deviation.

    gain = std / std of the scores, bias = mean - gain * mean of the scores (Ziegler et al., arXiv
    1909.08593, section 2). Scores that are all equal are only shifted.
    """
    gain = std / found.std if found.std > 0 else 1.0
    return ScoreScale(gain, mean - gain * found.mean)
