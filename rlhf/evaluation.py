"""What trained models are worth on held-out rows: `rlhf evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.plan import Plan
from rlhf.sampling import Sampling

if TYPE_CHECKING:
    from rich.console import Console


def evaluate_run(
    run: Path | None,
    *,
    against: Sequence[str] = (),
    actor: str | None = None,
    reward: str | None = None,
    plan: Plan | None = None,
    rows: int = 64,
    samples: int = 4,
    sampling: Sampling | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Evaluate a run's newest policy, or plain Hugging Face folders, on held-out rows.

    `run`: a run folder (None: give `plan`, `actor`). `against`: other policies, each a stage's title
    ("sft"), "base" (the actor before training) or a folder; default: every stage that trained an
    actor before the newest. `actor`, `reward`: folders or stage titles instead of the newest.
    `rows`: held-out rows at most; `samples`: answers shown side by side. `sampling`: None: that of
    the newest stage that generates. Also writes `run/evaluation.json`.
    """
    raise NotImplementedError


def print_evaluation(result: dict[str, Any], console: Console) -> None:
    """Tables of what `evaluate_run` returned, for people."""
    raise NotImplementedError
