"""Supervised fine-tuning: the likelihood of given answers.

    loss = -mean over the learned tokens of log p(token | the tokens before it)

The mean is over the tokens of the whole optimizer batch, so a token counts the same in a short
answer and in a long one, however rows are cut into micro-batches. The end of text is learned like
any other token: a policy that never saw it would never stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import Any, ClassVar, Literal

from torch import Tensor

from rlhf.algorithm import STRICT, Algorithm, Data, Loss, Outputs
from rlhf.experience import Experience
from rlhf.phases import Phase, Role, Sizes, Train
from rlhf.returns import predicted, tally, within


@dataclass(frozen=True)
class SFT(Algorithm):
    """Options of supervised fine-tuning."""

    name: Literal["sft"] = "sft"
    loss_on: Literal["answers", "all"] = "answers"
    """The tokens that are learned: the answers', or those of prompts as well."""

    data: ClassVar[Data] = "answers"
    group: ClassVar[int] = 1
    trains: ClassVar[tuple[Role, ...]] = ("actor",)
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def phases(self, sizes: Sizes) -> tuple[Phase, ...]:
        """One optimizer step."""
        return (Train("actor", sizes.batch, sizes.tokens, sizes.batch),)

    def learned(self, experience: Experience) -> Tensor:
        """(rows, time) bool: the tokens that the loss is on. Nothing predicts a row's first."""
        chosen = experience.trained if self.loss_on == "answers" else experience.attended
        return chosen & predicted(experience.attended)

    def weight(self, role: Role, experience: Experience) -> Tensor:
        """The number of learned tokens."""
        del role
        return self.learned(experience).sum()

    def loss(self, role: Role, outputs: Outputs, experience: Experience) -> Loss:
        """The sum of -log p over the learned tokens."""
        del role
        assert outputs.log_probs is not None
        learned = self.learned(experience)
        surprise = within(-outputs.log_probs, learned)  # (rows, time), nats
        return Loss(surprise.sum(), {"loss": tally(surprise, learned)})

    def summary(self, means: Mapping[str, float]) -> dict[str, float]:
        """Adds the perplexity, exp(loss) (infinity where that is beyond a float)."""
        loss = means["loss"]
        return {**means, "perplexity": exp(loss) if loss < 700 else float("inf")}
