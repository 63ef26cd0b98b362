"""Tokenised rows of one stage: compact arrays, and views of their training and held-out part.

Of each entry a store holds one sequence for the prompt and one per answer, end to end in one array:

    answers   p0 a0  p1 a1 ...            pairs   p0 c0 r0  p1 c1 r1 ...        prompts   p0  p1 ...

and beside them, as JSON bytes that are read only when asked for, its texts, record and origin.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.algorithm import Data
from rlhf.data.report import DataReport
from rlhf.experience import Experience, from_lists

ANSWERS: dict[Data, int] = {"answers": 1, "pairs": 2, "prompts": 0}
"""Answers per entry."""


@dataclass(frozen=True)
class Prompt:
    """What is generated from.

    tokens: as the model gets them, generation prompt included. text: the user's own text (several
    turns: with their roles). record: the row's columns, with "reference" where it has one.
    """

    tokens: tuple[int, ...]
    text: str
    record: dict[str, Any]


@dataclass(frozen=True)
class TokenStore:
    """Entries as arrays.

    tokens: int32, all sequences; ends: (entries (1 + answers),) where each one ends. texts: uint8,
    JSON of all entries; text_ends: (entries,). train, held_out: entries of each part in the order
    of the file, those with a higher weight several times.
    """

    tokens: NDArray[np.int32]
    ends: NDArray[np.int64]
    texts: NDArray[np.uint8]
    text_ends: NDArray[np.int64]
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]

    def sequence(self, index: int) -> list[int]:
        """Tokens of one sequence."""
        start = int(self.ends[index - 1]) if index else 0
        return [int(token) for token in self.tokens[start : self.ends[index]]]

    def text(self, entry: int) -> dict[str, Any]:
        """{prompt, answers, record, where} of an entry."""
        start = int(self.text_ends[entry - 1]) if entry else 0
        found: dict[str, Any] = json.loads(self.texts[start : self.text_ends[entry]].tobytes())
        return found


@dataclass(frozen=True, eq=False)
class TokenizedSet:
    """Rows of one stage and one part (training or held out); a group is a row or a pair."""

    kind: Data
    report: DataReport
    store: TokenStore
    entries: NDArray[np.int64]
    """The store's entry of each group."""
    pad: int
    """What rows are filled up with; masks alone say what is real."""

    @property
    def group(self) -> int:
        """Rows per group of an `Experience`."""
        return max(1, ANSWERS[self.kind])

    def __len__(self) -> int:
        return len(self.entries)

    def experience(self, groups: Sequence[int]) -> Experience:
        """Padded rows [prompt | answer] with masks, trained on the answers' tokens.

        The end of text is one of them unless the answer was cut. Pairs: rows 2i are chosen, rows
        2i + 1 rejected. Prompts have no trained tokens.
        """
        rows, trained = [], []
        for group in groups:
            prompt, *answers = self._sequences(group)
            for answer in answers or [[]]:
                rows.append(prompt + answer)
                trained.append([False] * len(prompt) + [True] * len(answer))
        return from_lists(rows, trained, pad=self.pad, group=self.group)

    def prompts(self, groups: Sequence[int]) -> list[Prompt]:
        """The prompts of groups, whatever the kind."""
        found = []
        for group in groups:
            text = self.store.text(int(self.entries[group]))
            tokens = tuple(self._sequences(group)[0])
            found.append(Prompt(tokens, text["prompt"], text["record"]))
        return found

    def texts(self, group: int) -> dict[str, str]:
        """Texts by name: prompt, and answer or chosen and rejected, uncut."""
        text = self.store.text(int(self.entries[group]))
        names = ("chosen", "rejected") if self.kind == "pairs" else ("answer",)
        return {"prompt": text["prompt"], **dict(zip(names, text["answers"], strict=False))}

    def where(self, group: int) -> str:
        """The origin of a group's row, as file:line."""
        return str(self.store.text(int(self.entries[group]))["where"])

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of the longest row of each group, (groups,)."""
        sizes = np.diff(self.store.ends, prepend=0).reshape(-1, 1 + ANSWERS[self.kind])
        longest = sizes[:, 0] + sizes[:, 1:].max(axis=1, initial=0)
        found: NDArray[np.int64] = longest[self.entries]
        return found

    def _sequences(self, group: int) -> list[list[int]]:
        count = 1 + ANSWERS[self.kind]
        first = int(self.entries[group]) * count
        return [self.store.sequence(first + i) for i in range(count)]
