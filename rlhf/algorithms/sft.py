"""Supervised fine-tuning."""

from __future__ import annotations
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from rlhf.algorithm import Data
from rlhf.phases import Phase, Role, Sizes, Train


@dataclass(frozen=True)
class SFT:
    """loss_on: answers or all."""

    name: Literal["sft"] = "sft"
    loss_on: Literal["answers", "all"] = "answers"

    data: ClassVar[Data] = "answers"
    group: ClassVar[int] = 1
    trains: ClassVar[tuple[Role, ...]] = ("actor",)
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def roles(self) -> tuple[Role, ...]:
        return ("actor",)

    def phases(self, sizes: Sizes) -> tuple[Phase, ...]:
        return (Train("actor", sizes.batch, sizes.tokens, sizes.batch),)
