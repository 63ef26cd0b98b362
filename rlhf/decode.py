"""Cached decoding of one batch of rows on any causal language model of Hugging Face.

    prompts      . . a b      prefill: every prompt token once, left-padded so that all rows end
                 c d e f      in the same column; logits of the last column only
    then         x            advance: one new token per row against the cache
                 y
    keep [1]     z            row 0 has finished: it leaves the batch *and* the cache

Padding is never attended and does not move positions (position = real tokens before it). Rows that
leave cost nothing from then on, where the model's cache can drop rows; where it cannot (recurrent
states), they stay, are fed, and are counted.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.errors import ModelError


def accepted(model: nn.Module) -> frozenset[str]:
    """Names of the arguments of a model's forward."""
    return frozenset(inspect.signature(model.forward).parameters)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout and gradients off inside; each module's own mode restored after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class Decoder:
    """The state of one batch: its cache, its mask, and the logits of each row's next token.

    logits: (rows, vocabulary), of the rows still kept. computed_tokens: token positions pushed
    through the model so far, padding and rows that could not be dropped included.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        """Prefill. Prompts are not empty."""
        self._model = model
        self._accepted = accepted(model)
        self._cache: Any = None
        self._live: Tensor | None = None  # kept rows among those that the cache cannot drop
        self.computed_tokens = 0
        device = model.device
        time = max(len(prompt) for prompt in prompts)
        padded = [[0] * (time - len(prompt)) + list(prompt) for prompt in prompts]
        tokens = torch.tensor(padded, dtype=torch.int64, device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self._attended = (torch.arange(time, device=device) >= time - lengths[:, None]).long()
        self.logits = self._forward(tokens)

    def advance(self, tokens: Tensor) -> None:
        """Feed the next token of each kept row, (rows,) int64."""
        if self._live is not None:
            full = tokens.new_zeros(self._attended.shape[0])
            tokens = full.index_copy(0, self._live, tokens)
        ones = self._attended.new_ones((self._attended.shape[0], 1))
        self._attended = torch.cat([self._attended, ones], 1)
        self.logits = self._forward(tokens[:, None])

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the kept rows alone, (rows,) int64."""
        if can_drop_rows(self._cache):
            self._cache.batch_select_indices(rows)
            self._attended = self._attended[rows]
        else:
            self._live = rows if self._live is None else self._live[rows]
        self.logits = self.logits[rows]

    def _forward(self, tokens: Tensor) -> Tensor:
        given: dict[str, Any] = {"past_key_values": self._cache, "use_cache": True}
        if "position_ids" in self._accepted:
            positions = self._attended.cumsum(1) - self._attended
            given["position_ids"] = positions[:, -tokens.shape[1] :]
        if "logits_to_keep" in self._accepted:
            given["logits_to_keep"] = 1
        output = self._model(input_ids=tokens, attention_mask=self._attended, **given)
        self._cache = getattr(output, "past_key_values", None)
        if self._cache is None:
            raise ModelError(
                "the model returns no key/value cache, so each token would cost a whole forward",
                where=f"generation with {type(self._model).__name__}",
                allowed="causal language models whose forward takes and returns past_key_values",
            )
        self.computed_tokens += tokens.numel()
        logits: Tensor = output.logits[:, -1]
        return logits if self._live is None else logits[self._live]


def can_drop_rows(cache: Any) -> bool:
    """Whether a cache can lose rows: each of its layers must know how."""
    layers = getattr(cache, "layers", None)
    return (
        hasattr(cache, "batch_select_indices")
        and layers is not None
        and all(hasattr(layer, "batch_select_indices") for layer in layers)
    )
