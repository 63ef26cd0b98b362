"""The text of an answer while its tokens are still coming."""

from __future__ import annotations

from typing import Any

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
