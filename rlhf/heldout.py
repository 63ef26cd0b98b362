"""Looking at a stage's models on rows that are never trained on, while it trains.

Answers and pairs: the algorithm's own loss and metrics. Prompts: answers are sampled with the
stage's sampling, always with the same random numbers, and scored as in training; so figures of two
steps differ by the model alone. Samples are answers to the first few prompts.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rlhf import processes
from rlhf.batching import micro_batches
from rlhf.data import TokenizedSet
from rlhf.executor import Executor, Iteration
from rlhf.experience import Experience
from rlhf.metrics import Aggregate
from rlhf.phases import Forward, Generate, Phase, Reward
from rlhf.plan import Plan
from rlhf.returns import kl_estimate, means, tally, within

HELD_OUT = "held_out/"
ROUND = 2**31 - 1
"""The step that held-out sampling draws its random numbers for: no training step has it."""


def evaluate(executor: Executor, plan: Plan, held_out: TokenizedSet) -> dict[str, float]:
    """Metrics on held-out rows, `held_out/NAME`; all processes call it, all get the same."""
    groups = _groups(held_out, plan.watch.evaluation_rows)
    if not groups:
        return {}
    mine = groups[processes.rank() :: processes.world()]
    if executor.algorithm.data == "prompts":
        found, _ = _generated(executor, plan, held_out, mine, len(groups))
    else:
        found = losses(executor, held_out.experience(mine).to(processes.device()))
    return {HELD_OUT + name: value for name, value in found.items()}


def samples(executor: Executor, plan: Plan, held_out: TokenizedSet) -> list[dict[str, Any]]:
    """Answers of the actor to the first held-out prompts: prompt, answer, and score if there is
    one. Empty where the stage has no actor.
    """
    groups = _groups(held_out, plan.watch.samples)
    if not groups or executor.rollout is None:
        return []
    mine = groups[processes.rank() :: processes.world()]
    _, iteration = _generated(executor, plan, held_out, mine, len(groups))
    rows, texts = iteration.rows, executor.responses(iteration.rows)
    scores: list[float | None] = [None] * len(mine) if rows.score is None else rows.score.tolist()
    own = [
        {"prompt": prompt.text, "answer": text, **({} if score is None else {"score": score})}
        for prompt, text, score in zip(iteration.prompts, texts, scores, strict=True)
    ]
    parts: list[list[dict[str, Any]]] = processes.gather(own)
    return [row for rank_rows in zip(*parts, strict=True) for row in rank_rows]


def _groups(held_out: TokenizedSet, wanted: int) -> list[int]:
    """The first so many groups, as many for each process."""
    count = min(wanted, len(held_out))
    return list(range(count - count % processes.world()))


def losses(executor: Executor, rows: Experience) -> dict[str, float]:
    """The metrics of the trained role's loss on these rows, over all processes."""
    algorithm = executor.algorithm
    role = algorithm.trains[0]
    total = Aggregate()
    for groups in micro_batches(rows, executor.micro_groups):
        part = rows.select(groups).trimmed()
        total.add(algorithm.loss(role, executor.infer(role, part), part))
    return algorithm.summary(total.result(processes.sum, processes.maximum))


def _generated(
    executor: Executor, plan: Plan, held_out: TokenizedSet, mine: list[int], rows: int
) -> tuple[dict[str, float], Iteration]:
    """Answers to this process's prompts with their scores; means over all processes."""
    stage = executor.stage
    prompts = held_out.prompts(mine)
    iteration = Iteration(ROUND, plan.seed, prompts)
    phases = stage.algorithm.phases(plan.sizes(stage))
    generate = next((p for p in phases if isinstance(p, Generate)), None)
    sizes = plan.sizes(stage)
    executor.generate(
        generate or Generate("actor", rows, sizes.prompt_tokens, sizes.response_tokens), iteration
    )
    for phase in phases:
        if _judges(phase):
            if isinstance(phase, Forward):
                iteration.experience = executor.forward(phase, iteration.rows)
            else:
                iteration.experience = executor.reward(iteration)
    return _means(iteration.rows), iteration


def _judges(phase: Phase) -> bool:
    return isinstance(phase, Reward) or (
        isinstance(phase, Forward) and phase.writes in ("score", "reference_log_probs")
    )


def _means(rows: Experience) -> dict[str, float]:
    sums: dict[str, tuple[Tensor, Tensor]] = {
        "response_length": tally(rows.response_lengths),
        "eos_rate": tally(rows.known("finished")),
    }
    if rows.score is not None:
        sums["reward"] = tally(rows.score)
        sums["reward_squared"] = tally(rows.score.double().square())
    if rows.reference_log_probs is not None:
        kl = kl_estimate(rows.known("log_probs"), rows.reference_log_probs, "k1")
        sums["kl"] = tally(within(kl, rows.trained).sum(1))
    found = {name: float(value) for name, value in means(sums, processes.sum).items()}
    if "reward_squared" in found:
        variance = found.pop("reward_squared") - found["reward"] ** 2
        count = float(processes.sum(torch.tensor(float(rows.rows))))
        found["reward_error"] = math.sqrt(max(variance, 0.0) / max(count - 1, 1.0))
    return found
