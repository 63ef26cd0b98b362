"""LSTM language models of Penn Treebank size (Zaremba et al., arXiv 1409.2329).

`ptb-lstm` is the paper's medium model: 2 layers of 650 units, 35 steps, vocabulary 10,000;
`ptb-lstm-large` the large one: 2 layers of 1500 units.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from hwopt.models.library import Entry, add

_OVERRIDES = {"width": "units per layer", "depth": "layers", "vocabulary": "words"}


class LstmLanguageModel(nn.Module):
    """Embedding, stacked LSTM, one linear layer to the vocabulary (weights not tied)."""

    def __init__(self, width: int = 650, depth: int = 2, vocabulary: int = 10_000) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, depth, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, time) to logits (batch, time, vocabulary)."""
        states, _ = self.lstm(self.embedding(tokens))
        logits: torch.Tensor = self.head(states)
        return logits


for _name, _width, _size in (("ptb-lstm", 650, "medium"), ("ptb-lstm-large", 1500, "large")):
    add(
        Entry(
            _name, f"LSTM language model, Penn Treebank, {_size} (2 x {_width})", "language",
            partial(LstmLanguageModel, width=_width),
            {"tokens": ((-1,), "int64")}, _OVERRIDES, seq=35,
        )
    )  # fmt: skip
