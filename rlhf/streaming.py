"""An answer as it is generated: tokens one by one, and the text that is certain so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.decode import Decoder, evaluating
from rlhf.draw import draw
from rlhf.sampling import Sampling

REPLACEMENT = "\ufffd"
"""What a tokenizer decodes bytes to that are no UTF-8, or not yet."""
MOST_PENDING = 3
"""Bytes of a UTF-8 character that can be there without its last."""


class TextStream:
    """The text of tokens that come one at a time.

    A character may be spread over several tokens; until its last byte is there the tokens decode to
    replacement characters, which are held back. `end` gives out what is held.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.tokens: list[int] = []
        self._given = 0

    @property
    def text(self) -> str:
        """Everything so far, without special tokens."""
        decoded: str = self._tokenizer.decode(
            self.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded

    def add(self, token: int) -> str:
        """Take in a token; the text that is certain now and was not before."""
        self.tokens.append(token)
        text = self.text
        held = len(text) - len(text.rstrip(REPLACEMENT))
        return self._give(text[: len(text) - min(held, MOST_PENDING)])

    def end(self) -> str:
        """No token follows: the rest."""
        return self._give(self.text)

    def _give(self, text: str) -> str:
        new = text[self._given :]
        self._given = max(self._given, len(text))
        return new


def generate(
    model: nn.Module,
    prompt: Sequence[int],
    sampling: Sampling,
    numbers: Tensor,
    *,
    ends: Sequence[int],
    show: Callable[[int], None],
) -> bool:
    """Sample one response, telling `show` each token as it is drawn; whether it ended by itself.

    model: a Hugging Face causal LM. numbers: (response_tokens,) uniform in [0, 1). The tokens are
    those that a rollout of training samples with the same numbers. KeyboardInterrupt passes through
    between tokens.
    """
    end_ids = torch.tensor(list(ends), dtype=torch.int64, device=next(model.parameters()).device)
    with evaluating(model):
        decoder = Decoder(model, [prompt])
        for position in range(sampling.response_tokens):
            token, _ = draw(
                decoder.logits, numbers[position : position + 1], sampling, end_ids, position
            )
            show(int(token))
            if int(token) in ends:
                return True
            if position + 1 < sampling.response_tokens:
                decoder.advance(token)
    return False
