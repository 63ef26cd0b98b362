"""What an algorithm is: options, phases as data, what it prepares, and its losses.

An algorithm is a frozen dataclass in one file of `rlhf/algorithms`; its fields are its options in a
plan. It sees models only through their outputs and rows only through `Experience`, and needs torch
alone. Sums over the processes come from outside as a function, so it knows nothing of them either.

Losses are *sums* over a micro-batch, beside the *weight* (how many tokens, rows or pairs) that the
whole optimizer batch has: the trainer divides the sum by the weight over all micro-batches and
processes. So 8 x 1, 1 x 8 and two processes are the same batch, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from torch import Tensor

from rlhf.experience import Experience
from rlhf.phases import Forward, Generate, Phase, Role, Sizes, Train

Data: TypeAlias = Literal["answers", "pairs", "prompts"]
"""What an algorithm eats: prompts with an answer, prompts with a chosen and a rejected answer, or
prompts alone."""

Reduce: TypeAlias = Callable[[Tensor], Tensor]
"""The sum of a tensor over all processes."""

State: TypeAlias = dict[str, float]
"""Numbers that an algorithm carries from one iteration to the next (an adaptive coefficient)."""

STRICT: dict[str, Any] = {
    "extra": "forbid",
    "allow_inf_nan": False,
    "use_attribute_docstrings": True,
}
"""How a plan reads the options of an algorithm: its `__pydantic_config__`."""


@dataclass(frozen=True)
class Outputs:
    """What one forward of a role's model gave for a micro-batch, token-aligned.

    A policy (actor, reference): log_probs (rows, time) and, where `Train.entropy` asks for it,
    entropy (rows, time).
    A value model (critic, reward): heads (rows, time), the head's output *after* seeing token t.
    """

    log_probs: Tensor | None = None
    entropy: Tensor | None = None
    heads: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """Of one micro-batch: the sum to differentiate, and what is watched.

    `sums` hold a sum and its count per metric (their quotient over the batch is the mean);
    `largest` hold maxima.
    """

    total: Tensor
    sums: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    largest: Mapping[str, Tensor] = field(default_factory=dict)


class Algorithm(Protocol):
    """The interface; see `rlhf/algorithms/ppo.py` for the fullest example.

    An algorithm derives from it, and writes only what is its own: what has a body here is what an
    algorithm without rollouts does.
    """

    name: str
    data: ClassVar[Data]
    trains: ClassVar[tuple[Role, ...]]
    """Roles with an optimizer."""

    @property
    def group(self) -> int:
        """Rows per group (2 for pairs)."""

    def phases(self, sizes: Sizes) -> tuple[Phase, ...]:
        """One iteration."""

    def roles(self, sizes: Sizes | None = None) -> tuple[Role, ...]:
        """Every role that a phase needs a model for, in the order of the phases ("ema" excluded).

        Without `sizes`: as if the reward were a model.
        """
        phases = self.phases(sizes or Sizes(1, 1, 1))
        users = (phase for phase in phases if isinstance(phase, Generate | Forward | Train))
        return tuple(dict.fromkeys(phase.role for phase in users))

    def start(self) -> State:
        """The state before the first iteration."""
        return {}

    def prepare(
        self, experience: Experience, state: State, reduce: Reduce
    ) -> tuple[Experience, State, dict[str, Tensor]]:
        """Runs at `Prepare`: what losses need (advantages, returns), the next state, and metrics
        that are already means over all processes.
        """
        del reduce
        return experience, state, {}

    def learned(self, experience: Experience) -> Tensor:
        """(rows, time) bool: the tokens whose log-probs the losses need."""
        return experience.trained

    def weight(self, role: Role, experience: Experience) -> Tensor:
        """What a loss sum of these rows is divided by: a count from masks alone."""

    def loss(self, role: Role, outputs: Outputs, experience: Experience) -> Loss:
        """Of one micro-batch."""

    def mixture(self, outputs: Outputs, experience: Experience) -> Loss:
        """Of a micro-batch of supervised rows, where `Train.mixture_rows` asks for it; already
        times its coefficient. Weight: that of `SFT`, the trained tokens.
        """
        del outputs, experience
        raise RuntimeError(f"no phase of {self.name} trains on a mixture")  # our bug

    def summary(self, means: Mapping[str, float]) -> dict[str, float]:
        """The metrics of an optimizer batch, or of held-out rows, from the means of `Loss.sums`.

        They are these means, and what is a function of means (a perplexity, a correlation).
        """
        return dict(means)
