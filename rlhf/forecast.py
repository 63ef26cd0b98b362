"""What a run knows beforehand: its estimate, and the FLOPs of its passes.

A model that `hwopt` cannot trace is trained all the same where the plan names every micro-batch:
then there is no prediction and no utilisation, and a notice says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hwopt import TraceError
from rlhf import processes
from rlhf.errors import ModelError
from rlhf.estimate import Estimate, choose, profile
from rlhf.flops import FlopCounter
from rlhf.meter import Pass
from rlhf.plan import Plan, Stage

logger = logging.getLogger(__name__)


@dataclass
class Forecast:
    """Of a complete plan. `estimate`: None where the models cannot be traced."""

    plan: Plan
    estimate: Estimate | None
    tokenizer_size: int
    _counters: dict[str, FlopCounter] = field(default_factory=dict)

    @property
    def peak_flops_per_s(self) -> float | None:
        """Of one process; None: unknown."""
        return None if self.estimate is None else self.estimate.peak_flops_per_s

    def metrics(self, stage: Stage) -> dict[str, float]:
        """predicted_seconds/PHASE and predicted_memory/PHASE."""
        return {} if self.estimate is None else self.estimate.metrics(stage)

    def advice(self, stage: Stage, phase: str) -> str:
        """For a phase that ran out of memory; empty where nothing is known."""
        return "" if self.estimate is None else self.estimate.advice(stage, phase)

    def flops(self, stage: Stage, passes: Iterable[Pass]) -> float:
        """Of passes that were made; 0 where nothing is known."""
        if self.estimate is None:
            return 0.0
        if stage.title not in self._counters:
            self._counters[stage.title] = FlopCounter(
                self.plan, stage, tokenizer_size=self.tokenizer_size
            )
        return float(self._counters[stage.title].of(passes))

    def to_json(self) -> dict[str, Any]:
        """Plain data; empty where nothing is known."""
        return {} if self.estimate is None else self.estimate.to_json()


def forecast(plan: Plan, tokenizer_size: int) -> Forecast:
    """Complete a plan and price it. All processes call it, the first one chooses for all.

    Raises `ModelError` where a micro-batch is to be chosen and a model cannot be traced, and
    `OutOfMemoryError` where none fits.
    """
    chosen: dict[str, Any] | None = None
    if processes.rank() == 0:
        try:
            chosen = choose(plan, tokenizer_size=tokenizer_size).model_dump(mode="json")
        except TraceError as error:
            if any(stage.micro_batch is None for stage in plan.stages):
                raise ModelError(
                    "a model cannot be traced, so no micro-batch can be chosen for it",
                    value=str(error), fix="set micro_batch in every stage of the plan",
                ) from error  # fmt: skip
            logger.warning("no prediction: %s", error)
    chosen = processes.broadcast(chosen)
    if chosen is None:
        return Forecast(plan, None, tokenizer_size)
    plan = Plan(**chosen)
    return Forecast(plan, profile(plan, tokenizer_size=tokenizer_size), tokenizer_size)
