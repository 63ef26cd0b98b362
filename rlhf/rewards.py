"""A Python function as the source of rewards: a verifiable answer, a rule, a call to elsewhere.

def reward(prompts: list[str], responses: list[str], records: list[dict]) -> list[float]: ...
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.data import Prompt
from rlhf.errors import PlanError


@dataclass(frozen=True)
class RewardFunction:
    """`name` is `package.module:function`, imported with the current directory on the path."""

    name: str
    function: Callable[[list[str], list[str], list[dict[str, Any]]], Sequence[float]]

    def scores(self, prompts: Sequence[Prompt], responses: list[str]) -> Tensor:
        """(rows,) float32: a score for each response.

        Raises `PlanError` where the function fails, or gives other than one finite number each.
        """
        texts = [prompt.text for prompt in prompts]
        records = [dict(prompt.record) for prompt in prompts]
        try:
            found = [float(score) for score in self.function(texts, responses, records)]
        except Exception as error:
            raise PlanError(
                "the reward function fails", where=self.name,
                value=f"{type(error).__name__}: {error}",
            ) from error  # fmt: skip
        if len(found) != len(responses) or not all(map(math.isfinite, found)):
            raise PlanError(
                "the reward function did not give one finite score per response",
                where=self.name, value=found[:8], allowed=f"{len(responses)} numbers",
            )  # fmt: skip
        return torch.tensor(found, dtype=torch.float32)


def load_function(name: str) -> RewardFunction:
    """The function of a plan's `roles.reward.function`. Raises `PlanError` where there is none."""
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise PlanError(
            "cannot import the reward function", where="roles.reward.function", value=name,
            allowed="package.module:function", fix=f"{type(error).__name__}: {error}",
        ) from error  # fmt: skip
    return RewardFunction(name, function)
