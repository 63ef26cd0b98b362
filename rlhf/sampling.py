"""How a response is sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Sampling:
    """Sampling controls of generation.

    temperature: logits are divided by it, in generation and in every log-prob that training
    compares (the policy *is* the tempered distribution). top_k: keep the k likeliest tokens (0:
    all). top_p: keep the smallest set of likeliest tokens with at least this mass. greedy: always
    the likeliest token; PPO learns nothing from it, so training refuses it. response_tokens: at
    most so many.
    minimum_tokens: the end of text is not sampled before so many.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    greedy: bool = False
    response_tokens: int = 256
    minimum_tokens: int = 0

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled from."""
        if not self.temperature > 0:
            raise ValueError("temperature must be above 0 (for the likeliest token: greedy: true)")
        if self.top_k < 0:
            raise ValueError("top_k must be 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError("top_p must be above 0 and at most 1")
        if self.response_tokens < 1:
            raise ValueError("response_tokens must be 1 or more")
        if not 0 <= self.minimum_tokens <= self.response_tokens:
            raise ValueError("minimum_tokens must be between 0 and response_tokens")
