"""What trained models are worth on held-out rows: `rlhf evaluate`.

Every policy answers the same prompts with the same random numbers, so that differences are the
policies'; one reward model judges all. One model is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwopt import write_json
from rlhf.algorithms.reward import RewardModel
from rlhf.batching import micro_batches
from rlhf.data import Prompt, load_data
from rlhf.data.gsm8k import extract_answer, number
from rlhf.decode import evaluating
from rlhf.errors import DataError, ModelError
from rlhf.evaluated import print_evaluation, wilson
from rlhf.experience import Experience
from rlhf.metrics import Aggregate
from rlhf.plan import Plan, Stage
from rlhf.returns import score_from_heads
from rlhf.rewards import load_function
from rlhf.rollout import PlainRollout, uniforms
from rlhf.runs import load_scale
from rlhf.sampling import Sampling
from rlhf.subject import Subject, find_subject

__all__ = ["evaluate_run", "matches", "print_evaluation"]

EVALUATION = "evaluation.json"
MICRO_ROWS = 16
"""Rows of one pass."""
ROUND = 2**31 - 2
"""The step that the random numbers are drawn for: no training step and no evaluation has it."""
LARGEST_EXPONENT = 700.0
"""e to more than this is no number; a model as bad as that needs no exact figure."""


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

    Args:
        run: A run folder; None: give `plan` and `actor`. Its `evaluation.json` is written.
        against: Other policies, each a stage's title ("sft"), "base" (the actor before training),
            or a folder; none: every earlier stage that trained an actor.
        actor: A stage or folder instead of the newest policy.
        reward: A stage or folder instead of the newest reward model.
        plan: What is evaluated on, where there is no run.
        rows: Held-out rows at most.
        samples: Answers kept side by side.
        sampling: None: that of the last stage that generates.
        seed: Of the sampling; None: the plan's.

    Returns:
        policies (mean_reward, reward_error, exact_match, perplexity, response_length, eos_rate),
        wins of each over each, reward_model (accuracy, calibration, ...), samples, notes. What has
        no data or no judge is missing, and a note says so.

    Raises `RunError`, `ModelError` or `DataError` where there is nothing to evaluate.
    """
    subject = find_subject(run, plan, actor, reward)
    stage = subject.stage_of("prompts", "answers", "pairs")
    sampling = sampling or stage.sampling
    names = _policies(subject, actor, against)
    prompts = _prompts(subject, stage, rows)
    numbers = uniforms(
        subject.plan.seed if seed is None else seed, ROUND, slice(0, len(prompts)), len(prompts),
        sampling.response_tokens,
    )  # fmt: skip
    answers = subject.experience("answers", rows)
    found = {
        name: _answer(subject, name, prompts, sampling, numbers, answers) for name in names
    }  # fmt: skip
    judge, reward_model = _judge(subject, rows, found, prompts)
    result = {
        "rows": len(prompts), "sampling": asdict(sampling), "judge": judge,
        "policies": [_summary(name, one, prompts) for name, one in found.items()],
        "wins": _wins(found) if judge else [], "reward_model": reward_model,
        "samples": _samples(found, prompts[:samples]), "notes": subject.notes,
    }  # fmt: skip
    if subject.run is not None:
        write_json(subject.run.path / EVALUATION, result)
    return result


@dataclass
class Answers:
    """What one policy answered, (rows,) each; scores are filled in by the judge."""

    texts: list[str]
    rows: Experience
    perplexity: float | None
    scores: list[float] | None = None


def _policies(subject: Subject, actor: str | None, against: Sequence[str]) -> list[str]:
    """Names of the policies, the one in question first."""
    having = subject.run.stages_with("actor") if subject.run is not None else ()
    if actor is None:
        if not having:
            assert subject.run is not None
            subject.run.model("actor")  # raises: says what is there
        actor = having[-1]
    others = list(against) or [title for title in reversed(having) if title != actor]
    return list(dict.fromkeys([actor, *others]))


def _prompts(subject: Subject, stage: Stage, rows: int) -> list[Prompt]:
    _, held_out = load_data(subject.plan, stage, subject.tokenizer)
    if not len(held_out):
        raise DataError(
            "no held-out rows", where=f"stage {stage.title}",
            fix="data.held_out above 0 keeps some prompts apart",
        )  # fmt: skip
    return held_out.prompts(range(min(rows, len(held_out))))


def _answer(
    subject: Subject, name: str, prompts: list[Prompt], sampling: Sampling, numbers: Tensor,
    answers: Experience | None,
) -> Answers:  # fmt: skip
    """Answers of one policy to all prompts, and its perplexity on held-out answers."""
    policy, _ = subject.model(name, "actor")
    rollout = PlainRollout(
        lambda: nullcontext(policy.model), (int(subject.tokenizer.eos_token_id),),
        int(subject.tokenizer.pad_token_id),
    )  # fmt: skip
    made = rollout.generate([p.tokens for p in prompts], sampling, numbers, MICRO_ROWS)
    texts = [
        str(subject.tokenizer.decode(made.response(row), skip_special_tokens=True))
        for row in range(len(prompts))
    ]
    perplexity = _perplexity(policy, answers) if answers is not None else None
    return Answers(texts, made.experience(), perplexity)


def _perplexity(policy: Any, answers: Experience) -> float:
    """Perplexity: e to the mean surprise per token of the answers, end of text included."""
    total, count = 0.0, 0
    with evaluating(policy):
        for groups in micro_batches(answers, MICRO_ROWS):
            part = answers.select(groups).trimmed()
            log_probs = policy(part.tokens, part.attended).log_probs
            total -= float(log_probs[part.trained].double().sum())
            count += int(part.trained.sum())
    mean = total / max(count, 1)
    return math.exp(min(mean, LARGEST_EXPONENT))


def _judge(
    subject: Subject, rows: int, found: Mapping[str, Answers], prompts: list[Prompt]
) -> tuple[str, dict[str, Any] | None]:
    """Score all answers as training does: model, function, or the sum of both."""
    names: list[str] = []
    reward_model = None
    source = _reward_source(subject)
    if source is not None:
        model, where = subject.model(source, "reward")
        scale = load_scale(where)
        reward_model = _reward_accuracy(subject, model, rows)
        for one in found.values():
            scores = scale(_scores(model, one.rows))
            if not bool(torch.isfinite(scores).all()):
                raise ModelError("the reward model's scores are not finite", where=str(where))
            one.scores = scores.tolist()
        names.append(f"the reward model ({source})")
    if subject.plan.roles.reward.function is not None:
        function = load_function(subject.plan.roles.reward.function)
        for one in found.values():
            extra = function.scores(prompts, one.texts).tolist()
            one.scores = [
                a + b for a, b in zip(one.scores or [0.0] * len(extra), extra, strict=True)
            ]
        names.append(f"the function {function.name}")
    if not names:
        subject.notes.append("no reward model and no reward function: no win rates")
    return " and ".join(names), reward_model


def _reward_source(subject: Subject) -> str | None:
    if subject.reward is not None:
        return subject.reward
    having = subject.run.stages_with("reward") if subject.run is not None else ()
    named = subject.plan.roles.reward.model
    return having[-1] if having else named if isinstance(named, str) else None


def _scores(model: Any, rows: Experience) -> Tensor:
    """(rows,) float32 of a reward model."""
    found = torch.zeros(rows.rows)
    with evaluating(model):
        for groups in micro_batches(rows, MICRO_ROWS):
            part = rows.select(groups).trimmed()
            heads = model(part.tokens, part.attended).heads
            found[groups] = score_from_heads(heads, part.trained).float().cpu()
    return found


def _reward_accuracy(subject: Subject, model: Any, rows: int) -> dict[str, Any] | None:
    """The reward stage's own metrics on held-out pairs."""
    pairs = subject.experience("pairs", rows)
    if pairs is None:
        return None
    stage = subject.stage_of("pairs")
    algorithm = stage.algorithm if stage.algorithm.data == "pairs" else RewardModel()
    total = Aggregate()
    with evaluating(model):
        for groups in micro_batches(pairs, MICRO_ROWS // 2):
            part = pairs.select(groups).trimmed()
            total.add(algorithm.loss("reward", model(part.tokens, part.attended), part))
    found: dict[str, Any] = algorithm.summary(total.result())
    interval = wilson(found["accuracy"] * pairs.groups, pairs.groups)
    return {**found, "pairs": pairs.groups, "accuracy_interval": list(interval)}


def _summary(name: str, answers: Answers, prompts: list[Prompt]) -> dict[str, Any]:
    rows = answers.rows
    found: dict[str, Any] = {
        "name": name, "perplexity": answers.perplexity,
        "response_length": float(rows.response_lengths.double().mean()),
        "eos_rate": float(rows.known("finished").double().mean()),
    }  # fmt: skip
    if answers.scores is not None:
        scores = torch.tensor(answers.scores, dtype=torch.float64)
        found["mean_reward"] = float(scores.mean())
        found["reward_error"] = (
            float(scores.std()) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
        )
    known = [p.record.get("reference") is not None for p in prompts]
    if any(known):
        hits = [
            matches(text, str(prompt.record["reference"]))
            for text, prompt, there in zip(answers.texts, prompts, known, strict=True) if there
        ]  # fmt: skip
        found["exact_match"] = sum(hits) / len(hits)
        found["exact_match_interval"] = list(wilson(sum(hits), len(hits)))
    return found


def matches(answer: str, reference: str) -> bool:
    """Whether an answer states the known right one.

    Numbers: the stated final number equals it. Other references: the whole answer is it, but for
    spaces at its ends and letter case.
    """
    known = extract_answer(reference) or number(reference)
    if known is not None:
        return (extract_answer(answer) or number(answer)) == known
    return answer.strip().casefold() == reference.strip().casefold()


def _wins(found: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """Each policy over each that comes after it, prompt by prompt; a tie is half a win."""
    made = []
    for (name, one), (other, two) in combinations(found.items(), 2):
        assert one.scores is not None
        assert two.scores is not None
        pairs = list(zip(one.scores, two.scores, strict=True))
        wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
        ties = len(pairs) - wins - losses
        points = wins + ties / 2
        made.append(
            {
                "policy": name, "over": other, "rate": points / len(pairs), "wins": wins,
                "ties": ties, "losses": losses, "interval": list(wilson(points, len(pairs))),
            }
        )  # fmt: skip
    return made


def _samples(found: Mapping[str, Answers], prompts: list[Prompt]) -> list[dict[str, Any]]:
    made = []
    for row, prompt in enumerate(prompts):
        answers = {
            name: {"answer": one.texts[row]}
            | ({"score": one.scores[row]} if one.scores is not None else {})
            for name, one in found.items()
        }
        made.append(
            {"prompt": prompt.text, "reference": prompt.record.get("reference"), "answers": answers}
        )
    return made
