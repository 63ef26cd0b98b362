"""Rows of tokens and what is known of each token: all that engine, data and algorithms exchange.

Everything is *token-aligned*: column t of every `(rows, time)` tensor is about token t of the row.
`log_probs[:, t]` is the log-probability of token t given the tokens before it; `values[:, t]` is
the value of the state in which token t is chosen, that is, before it. So nothing is ever shifted by
an algorithm, and the terminal reward sits at the last trained token.

                prompt   response        a row of 7 tokens in 9 columns
    tokens      p  p  p  r  r  r  e  .  .
    attended    1  1  1  1  1  1  1  0  0    the token is real (from lengths, never from ids)
    trained     0  0  0  1  1  1  1  0  0    the loss is on it: here the response with its end

Rows may be padded on either side with any id; masks alone say what is real.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Experience:
    """Rows of tokens with their masks, and what phases found out about them.

    tokens: (rows, time) int64. attended, trained: (rows, time) bool; trained implies attended.
    log_probs, reference_log_probs, values, rewards, advantages, returns: (rows, time) float32, 0
    where not trained. score: (rows,) float32, of the whole response. finished: (rows,) bool,
    whether the response ended by itself (end of text) rather than at its limit. `group`
    neighbouring rows belong together (2: chosen and rejected) and are never split.
    """

    tokens: Tensor
    attended: Tensor
    trained: Tensor
    log_probs: Tensor | None = None
    reference_log_probs: Tensor | None = None
    values: Tensor | None = None
    score: Tensor | None = None
    finished: Tensor | None = None
    rewards: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None
    group: int = 1

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return self.tokens.shape[0]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.rows // self.group

    @property
    def lengths(self) -> Tensor:
        """Real tokens of each row, (rows,) int64."""
        return self.attended.sum(1)

    @property
    def response_lengths(self) -> Tensor:
        """Trained tokens of each row, (rows,) int64."""
        return self.trained.sum(1)

    def known(self, name: str) -> Tensor:
        """A field that an earlier phase must have filled."""
        value = getattr(self, name)
        if not isinstance(value, Tensor):
            raise RuntimeError(  # noqa: TRY004 - our bug: phases in a wrong order
                f"no phase has filled {name!r} of the experience"
            )
        return value

    def with_(self, **values: Any) -> Experience:
        """The same rows with fields filled."""
        return replace(self, **values)

    def select(self, groups: Sequence[int] | Tensor) -> Experience:
        """The rows of some groups, in that order."""
        index = torch.as_tensor(groups, dtype=torch.int64, device=self.tokens.device)
        rows = (index[:, None] * self.group + torch.arange(self.group, device=index.device)).ravel()
        return self._map(lambda value: value[rows])

    def trimmed(self) -> Experience:
        """Without the columns that no row attends at either end."""
        columns = self.attended.any(0).nonzero().ravel()
        if columns.numel() == 0:
            return self
        first, last = int(columns[0]), int(columns[-1]) + 1
        return self._map(lambda value: value[:, first:last] if value.dim() > 1 else value)

    def to(self, device: torch.device | str) -> Experience:
        """The same on a device."""
        return self._map(lambda value: value.to(device))

    def _map(self, change: Any) -> Experience:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Experience(
            **{n: change(v) if isinstance(v, Tensor) else v for n, v in values.items()}
        )


def from_lists(
    rows: Sequence[Sequence[int]],
    trained: Sequence[Sequence[bool]],
    *,
    pad: int = 0,
    group: int = 1,
) -> Experience:
    """Rows of unequal lengths, padded on the right with `pad` (any id: masks come from lengths)."""
    time = max((len(row) for row in rows), default=0)
    tokens = torch.full((len(rows), time), pad, dtype=torch.int64)
    attended = torch.zeros((len(rows), time), dtype=torch.bool)
    mask = torch.zeros((len(rows), time), dtype=torch.bool)
    for i, (row, on) in enumerate(zip(rows, trained, strict=True)):
        tokens[i, : len(row)] = torch.tensor(list(row), dtype=torch.int64)
        attended[i, : len(row)] = True
        mask[i, : len(row)] = torch.tensor(list(on), dtype=torch.bool)
    return Experience(tokens, attended, mask, group=group)


def concatenate(parts: Sequence[Experience]) -> Experience:
    """The rows of several, padded on the right to the longest; fields must agree."""
    time = max(part.tokens.shape[1] for part in parts)

    def padded(value: Tensor) -> Tensor:
        return (
            torch.nn.functional.pad(value, (0, time - value.shape[1])) if value.dim() > 1 else value
        )

    values: dict[str, Any] = {"group": parts[0].group}
    for name in (f.name for f in fields(Experience) if f.name != "group"):
        found = [getattr(part, name) for part in parts]
        if isinstance(found[0], Tensor):
            values[name] = torch.cat([padded(value) for value in found])
    return Experience(**values)
