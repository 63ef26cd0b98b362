"""A reward model from preferences: the better answer gets the higher score.

The score of a response is the head's output after its last token, which has seen all of it. For a
chosen and a rejected answer to one prompt (Bradley-Terry; Ouyang et al., arXiv 2203.02155, eq. 1):

    last     loss = -log sigmoid(score(chosen) - score(rejected))
    window   loss = mean over p in window of -log sigmoid(head(chosen, p) - head(rejected, p))

DeepSpeed-Chat trains on the window: positions p of the two rows from the first at which they differ
to the end of the longer one, so that every prefix of an answer learns to be told apart.

    position    0  1  2  3  4  5          p: counted from each row's own first real token
    chosen      a  b  c  d  $
    rejected    a  b  e  f  g  $
    window            2  3  4  5          at 5 chosen still has the head it had at its end, 4

Where this differs from DeepSpeed-Chat (dschat/utils/model/reward_model.py): there a row ends at its
first padding *id*, so an end of text that is also the padding is no part of it, and OPT, whose rows
begin with that id, needs a count of them; and behind the end of the shorter row it compares with
heads of padding tokens, which depend on the padding's id and were never meant to say anything. Here
lengths come from masks, and a row that has ended keeps its last head, its score. Two equal answers
have no window; their loss is log 2, and teaches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf.algorithm import STRICT, Algorithm, Data, Loss, Outputs
from rlhf.experience import Experience
from rlhf.phases import Phase, Role, Sizes, Train
from rlhf.returns import score_from_heads, tally

BINS = 10
"""Of the calibration error."""


@dataclass(frozen=True)
class RewardModel(Algorithm):
    """Options of a reward model."""

    name: Literal["reward"] = "reward"
    loss_on: Literal["last", "window"] = "last"
    """The last token of each answer, or every position from the first difference on."""
    normalise: bool = True
    """After training, shift and scale scores so that those of the answers that it was trained on
    have mean 0 and standard deviation 1 (the loss alone leaves both open); the scale is kept beside
    the exported model (`rlhf.returns.score_scale`)."""

    data: ClassVar[Data] = "pairs"
    group: ClassVar[int] = 2
    trains: ClassVar[tuple[Role, ...]] = ("reward",)
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def phases(self, sizes: Sizes) -> tuple[Phase, ...]:
        """One optimizer step."""
        return (Train("reward", 2 * sizes.batch, sizes.tokens, 2 * sizes.batch),)

    def weight(self, role: Role, experience: Experience) -> Tensor:
        """The number of pairs."""
        del role
        return torch.tensor(experience.groups, device=experience.tokens.device)

    def loss(self, role: Role, outputs: Outputs, experience: Experience) -> Loss:
        """The sum over the pairs; rows 2i are chosen, rows 2i + 1 rejected."""
        del role
        assert outputs.heads is not None
        score = score_from_heads(outputs.heads, experience.trained)  # (rows,)
        margin = score[0::2] - score[1::2]  # (pairs,)
        if self.loss_on == "last":
            losses = -logsigmoid(margin)
        else:
            losses = window_losses(outputs.heads, experience)
        lengths = experience.response_lengths.double()
        exact = score.detach().double()  # squares of lengths and scores are subtracted below
        sums = {
            "loss": tally(losses),
            "accuracy": tally(right(margin)),
            "margin": tally(margin),
            "score/chosen": tally(score[0::2]),
            "score/rejected": tally(score[1::2]),
            "score/mean": tally(exact),
            "score/squares": tally(exact.square()),
            "length/mean": tally(lengths),
            "length/squares": tally(lengths.square()),
            "score/times_length": tally(exact * lengths),
            **calibration(margin),
        }
        return Loss(losses.sum(), sums)

    def summary(self, means: Mapping[str, float]) -> dict[str, float]:
        """Standard deviation of the scores, their correlation with the lengths of the responses
        (Pearson's; a reward model that only likes long answers shows here), calibration error.
        """
        named = ("loss", "accuracy", "margin", "score/chosen", "score/rejected", "score/mean")
        score = max(means["score/squares"] - means["score/mean"] ** 2, 0.0)
        length = max(means["length/squares"] - means["length/mean"] ** 2, 0.0)
        both = means["score/times_length"] - means["score/mean"] * means["length/mean"]
        spread = sqrt(score * length)
        return {
            **{name: means[name] for name in named},
            "score/std": sqrt(score),
            "length_correlation": both / spread if spread > 0 else 0.0,
            "calibration_error": sum(abs(means[_bin(i)]) for i in range(BINS)),
        }


def window_losses(heads: Tensor, experience: Experience) -> Tensor:
    """(pairs,): the mean of -log sigmoid(chosen - rejected) over each pair's window."""
    attended = experience.attended
    length = attended.sum(1)[:, None]  # (rows, 1)
    position = torch.arange(attended.shape[1], device=attended.device)[None]  # (1, time)
    # The column of each position: real tokens first, in order; behind the end the last one's.
    order = (~attended).to(torch.int8).argsort(dim=1, stable=True)
    column = order.gather(1, torch.minimum(position, (length - 1).clamp(min=0)))
    heads, tokens = heads.gather(1, column), experience.tokens.gather(1, column)
    real = position < length

    longer = real[0::2] | real[1::2]  # (pairs, time)
    different = (tokens[0::2] != tokens[1::2]) | (real[0::2] != real[1::2])
    apart = (different & longer).cumsum(1) > 0  # from the first difference on
    last = position == torch.maximum(length[0::2], length[1::2]) - 1
    window = longer & torch.where(apart.any(1, keepdim=True), apart, last)  # equal rows: the end

    losses = torch.where(window, -logsigmoid(heads[0::2] - heads[1::2]), 0.0)
    return losses.sum(1) / window.sum(1)


def right(margin: Tensor) -> Tensor:
    """(pairs,): 1 where chosen scores above rejected, 1/2 where a coin would have to decide."""
    return (margin.detach().sign() + 1) / 2


def calibration(margin: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What the expected calibration error is summed from (Guo et al., arXiv 1706.04599, eq. 3).

    The model prefers one answer with confidence sigmoid(|margin|), in [1/2, 1). In each of the
    equal bins of that range: the sum of confidence less the times it was right, over all pairs.
    The error is the sum of the sizes of these means: sum over bins of
    (share of the pairs in it) * |mean confidence - accuracy|.
    """
    confidence = margin.detach().double().abs().sigmoid()
    place = ((confidence - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    excess = confidence - right(margin)
    return {_bin(i): tally(torch.where(place == i, excess, 0.0)) for i in range(BINS)}


def _bin(index: int) -> str:
    return f"calibration/{index}"
