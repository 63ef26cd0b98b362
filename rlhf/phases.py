"""What an algorithm does in one iteration, as data.

`Algorithm.phases(sizes)` returns a tuple of these; the trainer executes exactly that tuple, and the
estimator prices exactly that tuple. There is no second list.

A role is a model by the part it plays: "actor", "critic", "reward", "reference", "ema".
`rows` are sequences over all processes; `tokens` is the longest a sequence can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["actor", "critic", "reward", "reference", "ema"]
Output: TypeAlias = Literal["log_probs", "reference_log_probs", "values", "score"]
"""The field of `Experience` that a `Forward` fills."""


@dataclass(frozen=True)
class Sizes:
    """What one iteration is made of, from the stage of a plan.

    `batch`: groups per optimizer step over all processes; a group has `Algorithm.group` rows.
    `prompt_tokens`, `response_tokens`: the longest prompt and response. `reward_model`,
    `reward_function`: what scores a response, where an algorithm generates (one of them, or both).
    """

    batch: int
    prompt_tokens: int
    response_tokens: int
    reward_model: bool = True
    reward_function: str | None = None

    @property
    def tokens(self) -> int:
        """The longest a row can be."""
        return self.prompt_tokens + self.response_tokens


@dataclass(frozen=True)
class Generate:
    """Sample a response to each of `rows` prompts."""

    role: Role
    rows: int
    prompt_tokens: int
    response_tokens: int

    @property
    def name(self) -> str:
        """The phase in metrics and reports."""
        return f"generate {self.role}"


@dataclass(frozen=True)
class Forward:
    """One pass without gradients over every row; fills `writes` of the experience."""

    role: Role
    writes: Output
    rows: int
    tokens: int

    @property
    def name(self) -> str:
        """The phase in metrics and reports."""
        return f"score {self.role}"


@dataclass(frozen=True)
class Reward:
    """Scores by a Python function of prompt and response texts, added to those of a model."""

    function: str
    rows: int

    @property
    def name(self) -> str:
        """The phase in metrics and reports."""
        return "score function"


@dataclass(frozen=True)
class Prepare:
    """What the algorithm computes from the scores, without a model: rewards, advantages."""

    rows: int

    @property
    def name(self) -> str:
        """The phase in metrics and reports."""
        return "prepare"


@dataclass(frozen=True)
class Train:
    """Forward, backward and optimizer steps over every row, `epochs` times.

    `batch_rows` rows make one optimizer step. `mixture_rows` rows of the supervised data are added
    to each step under the loss "mixture" (PPO-ptx); 0: none. `entropy`: the loss needs the policy's
    entropy at every token, not its log-probs alone.
    """

    role: Role
    rows: int
    tokens: int
    batch_rows: int
    epochs: int = 1
    mixture_rows: int = 0
    entropy: bool = False

    @property
    def name(self) -> str:
        """The phase in metrics and reports."""
        return f"train {self.role}"

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.epochs * (self.rows // self.batch_rows)


@dataclass(frozen=True)
class Average:
    """Exponential moving average of a role's weights: ema = decay ema + (1 - decay) role.

    `role` is the one that is followed ("actor"); the average itself is the role "ema".
    """

    role: Role
    decay: float

    @property
    def name(self) -> str:
        """The phase in metrics and reports."""
        return "average ema"


Phase: TypeAlias = Generate | Forward | Reward | Prepare | Train | Average
