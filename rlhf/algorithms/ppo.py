"""PPO."""

from __future__ import annotations
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from rlhf.algorithm import Data
from rlhf.phases import Average, Forward, Generate, Phase, Prepare, Role, Sizes, Train


@dataclass(frozen=True)
class PPO:
    """Proximal policy optimisation."""

    name: Literal["ppo"] = "ppo"
    kl_coefficient: float = 0.1
    epochs: int = 1
    generation_batches: int = 1
    ema_decay: float | None = None
    mixture_coefficient: float = 0.0

    data: ClassVar[Data] = "prompts"
    group: ClassVar[int] = 1
    trains: ClassVar[tuple[Role, ...]] = ("actor", "critic")
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def roles(self) -> tuple[Role, ...]:
        return ("actor", "critic", "reference", "reward")

    def phases(self, sizes: Sizes) -> tuple[Phase, ...]:
        rows = sizes.batch * self.generation_batches
        return (
            Generate("actor", rows, sizes.prompt_tokens, sizes.response_tokens),
            Forward("reference", "reference_log_probs", rows, sizes.tokens),
            Forward("reward", "score", rows, sizes.tokens),
            Forward("critic", "values", rows, sizes.tokens),
            Prepare(rows),
            Train("actor", rows, sizes.tokens, sizes.batch, self.epochs),
            Train("critic", rows, sizes.tokens, sizes.batch, self.epochs),
        )
