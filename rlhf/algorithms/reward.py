"""Reward model."""

from __future__ import annotations
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from rlhf.algorithm import Data
from rlhf.phases import Phase, Role, Sizes, Train


@dataclass(frozen=True)
class RewardModel:
    """loss: pairwise at the last token, or over the divergence window."""

    name: Literal["reward"] = "reward"
    loss_on: Literal["last", "window"] = "last"

    data: ClassVar[Data] = "pairs"
    group: ClassVar[int] = 2
    trains: ClassVar[tuple[Role, ...]] = ("reward",)
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def roles(self) -> tuple[Role, ...]:
        return ("reward",)

    def phases(self, sizes: Sizes) -> tuple[Phase, ...]:
        return (Train("reward", 2 * sizes.batch, sizes.tokens, 2 * sizes.batch),)
