"""The turns of a chat, and the part of them that fits the model's window."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlhf.data.columns import Message, RowError
from rlhf.data.template import encode_prompts
from rlhf.errors import ModelError

UNBOUNDED = 10**9
"""Tokenizers without a limit say some huge number."""


@dataclass
class Conversation:
    """What was said, oldest first: user and assistant in turn.

    window: tokens that the model can attend to; None: any number. first: the oldest message that
    the model still sees; the ones before it no longer fit.
    """

    tokenizer: Any
    window: int | None
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    first: int = 0

    def ask(self, text: str) -> None:
        """A message of the user."""
        self.messages.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """What the model said."""
        self.messages.append({"role": "assistant", "content": text})

    def undo(self) -> bool:
        """Take back the last message of the user and what followed; whether there was one."""
        for at in range(len(self.messages) - 1, -1, -1):
            if self.messages[at]["role"] == "user":
                del self.messages[at:]
                self.first = min(self.first, len(self.messages))
                return True
        return False

    def reset(self) -> None:
        """Forget every turn; the system message stays."""
        self.messages.clear()
        self.first = 0

    def prompt(self, response_tokens: int) -> tuple[list[int], int]:
        """Tokens to continue, and how many may follow.

        Drops the oldest turns until the answer has its tokens, or half the window if it wants more.
        Raises `ModelError` when the last message alone leaves no room.
        """
        room = min(response_tokens, self.window // 2) if self.window is not None else 0
        while True:
            tokens = self._tokens()
            if self.window is None:
                return tokens, response_tokens
            left = self.window - len(tokens)
            if left >= room:
                return tokens, min(response_tokens, left)
            if self.first + 2 < len(self.messages):
                self.first += 2
                continue
            if left > 0:
                return tokens, left
            raise ModelError(
                "the message does not fit the model's window", value=f"{len(tokens)} tokens",
                allowed=f"fewer than {self.window}, system message and template included",
                fix="write a shorter message",
            )  # fmt: skip

    def _tokens(self) -> list[int]:
        system = [Message("system", self.system)] if self.system else []
        turns = [Message(m["role"], m["content"]) for m in self.messages[self.first :]]
        tokens = encode_prompts(self.tokenizer, [(*system, *turns)])[0]
        if isinstance(tokens, RowError):
            raise ModelError(
                "the chat template refuses the conversation", value=str(tokens)[:300],
                fix="take the system message away with /system" if self.system else "",
            ) from tokens  # fmt: skip
        return tokens


def window_of(model: Any, tokenizer: Any) -> int | None:
    """Tokens that a model can attend to, by its configuration or its tokenizer."""
    config = model.config.get_text_config()
    known = [
        getattr(config, name, None)
        for name in ("max_position_embeddings", "n_positions", "max_seq_len")
    ]
    limits = [limit for limit in known if isinstance(limit, int) and limit > 0]
    told = getattr(tokenizer, "model_max_length", None)
    if isinstance(told, int) and 0 < told < UNBOUNDED:
        limits.append(told)
    return min(limits, default=None)
