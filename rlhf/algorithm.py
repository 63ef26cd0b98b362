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
from rlhf.phases import Phase, Role, Sizes

Data: TypeAlias = Literal["answers", "pairs", "prompts"]
"""What an algorithm eats: prompts with an answer, prompts with a chosen and a rejected answer, or
prompts alone."""

Reduce: TypeAlias = Callable[[Tensor], Tensor]
"""The sum of a tensor over all processes."""

State: TypeAlias = dict[str, float]
"""Numbers that an algorithm carries from one iteration to the next (an adaptive coefficient)."""


@dataclass(frozen=True)
class Outputs:
    """What one forward of a role's model gave for a micro-batch, token-aligned.

    A policy (actor, reference): log_probs (rows, time) and, where asked for, entropy (rows, time).
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
    """The interface; see `rlhf/algorithms/ppo.py` for the fullest example."""

    name: str
    data: ClassVar[Data]
    group: ClassVar[int] | int
    """Rows per group (2 for pairs)."""
    trains: ClassVar[tuple[Role, ...]]
    """Roles with an optimizer."""

    def roles(self) -> tuple[Role, ...]:
        """Every role that a phase needs a model for, trained ones included ("ema" excluded)."""

    def phases(self, sizes: Sizes) -> tuple[Phase, ...]:
        """One iteration."""

    def start(self) -> State:
        """The state before the first iteration."""

    def prepare(
        self, experience: Experience, state: State, reduce: Reduce
    ) -> tuple[Experience, State, dict[str, Tensor]]:
        """Runs at `Prepare`: what losses need (advantages, returns), the next state, and metrics
        that are already means over all processes."""

    def weight(self, role: Role, experience: Experience) -> Tensor:
        """What a loss sum of these rows is divided by: a count from masks alone."""

    def loss(self, role: Role, outputs: Outputs, experience: Experience) -> Loss:
        """Of one micro-batch."""

    def mixture(self, outputs: Outputs, experience: Experience) -> Loss:
        """Of a micro-batch of supervised rows, where `Train.mixture_rows` asks for it; already
        times its coefficient. Weight: trained tokens."""


AnyAlgorithm: TypeAlias = Any
