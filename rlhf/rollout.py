"""Generation of responses: the interface, plain generation, and the check at the start of a run.

A rollout samples one response to each prompt and says, for every sampled token, its log-prob.
`PlainRollout` runs on any causal language model of Hugging Face and is what the others are held
against; `rlhf/hybrid.py` (DeepSpeed's hybrid engine) and `rlhf/vllm_rollout.py` (an extra) are
faster where they work. `choose_rollout` compares a generated continuation with a plain forward
before it trusts any of them.

Cost: every prompt token and every response token but the last goes through the model once. What is
computed beyond that (padding, rows that have finished) is counted: `computed_tokens` against
`needed_tokens`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from rlhf import processes
from rlhf.algorithm import Outputs
from rlhf.decode import Decoder, evaluating
from rlhf.draw import draw, uniforms
from rlhf.errors import DataError, ModelError, RolloutMismatchError
from rlhf.experience import Experience
from rlhf.plan import Plan
from rlhf.sampling import Sampling

__all__ = [
    "Actor", "Generated", "Parity", "PlainRollout", "Rollout",
    "assembled", "check_prompts", "choose_rollout", "measure_parity", "uniforms",
]  # fmt: skip

LARGEST_DIFFERENCE = 1e-4
"""fp32: of a log-prob between generation and a plain forward."""
LARGEST_RATIO = 1.05
"""bf16, fp16: of mean exp(|difference|); the bound of NVIDIA NeMo-RL (docs/guides/grpo.md)."""
CHECKED_LENGTHS = (1, 4, 9, 16)
"""Prompt tokens of the check at the start: uneven, so that padding is exercised."""
CHECKED_TOKENS = 16
"""Response tokens of that check."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generated:
    """Responses, in the order of their prompts.

    tokens: (rows, time) int64, right-padded [prompt | response | pad]. prompt_lengths,
    response_lengths: (rows,) int64; a response includes the token that ended it. finished: (rows,)
    bool, it ended by itself. log_probs: (rows, time) float32, token-aligned, of the tempered full
    distribution (before top-k and top-p), 0 outside responses. computed_tokens: positions pushed
    through the model; needed_tokens: those that any cached generation must compute (the last token
    of a response is never fed).
    """

    tokens: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor
    finished: Tensor
    log_probs: Tensor
    computed_tokens: int
    needed_tokens: int

    def experience(self) -> Experience:
        """The rows with their masks; `log_probs` and `finished` filled."""
        column = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        start = self.prompt_lengths[:, None]
        attended = column < start + self.response_lengths[:, None]
        return Experience(
            self.tokens, attended, attended & (column >= start),
            log_probs=self.log_probs, finished=self.finished,
        )  # fmt: skip

    def response(self, row: int) -> list[int]:
        """Token ids of one response."""
        start = int(self.prompt_lengths[row])
        found: list[int] = self.tokens[
            row, start : start + int(self.response_lengths[row])
        ].tolist()
        return found


class Rollout(Protocol):
    """Samples a response to each prompt."""

    @property
    def name(self) -> str:
        """Which one: plain, hybrid or vllm."""

    @property
    def reason(self) -> str:
        """Why it is not the one that was asked for; empty where it is."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        uniforms: Tensor,
        micro_rows: int,
    ) -> Generated:
        """uniforms: (rows, at least `sampling.response_tokens`), see `uniforms`; micro_rows: rows
        in one forward. All processes call it together; each has its own prompts.
        """


class Actor(Protocol):
    """What generation needs of a trained role; `rlhf.engine.RoleEngine` is one."""

    def infer(self, tokens: Tensor, attended: Tensor, **options: Any) -> Outputs:
        """A forward without gradients and dropout; option: temperature."""

    def generation_module(self) -> AbstractContextManager[Any]:
        """A causal language model of Hugging Face that is ready to generate, inside the context."""


@dataclass(frozen=True)
class PlainRollout:
    """Cached decoding that computes little more than it must.

    Prompts go in micro-batches of like length, longest first; inside one, rows are left-padded, and
    a row that has finished leaves the batch and the cache at once (see `rlhf/decode.py`).

    source: gives the model for the duration of one `generate`; under ZeRO-3 that gathers the
    weights once, and each process then decodes at its own pace. ends: token ids that end a
    response. pad: any id; masks come from lengths.
    """

    source: Callable[[], AbstractContextManager[Any]]
    ends: tuple[int, ...]
    pad: int = 0
    reason: str = ""
    name: str = "plain"

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        uniforms: Tensor,
        micro_rows: int,
    ) -> Generated:
        """See `Rollout`. Raises `DataError` for an empty prompt, `ModelError` where prompt and
        response exceed the model's positions.
        """
        responses: list[list[int]] = [[] for _ in prompts]
        log_probs: list[list[float]] = [[] for _ in prompts]
        computed = 0
        with self.source() as model, evaluating(model):
            check_prompts(model, prompts, sampling)
            numbers = uniforms.to(model.device)
            order = sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), row))
            for start in range(0, len(order), micro_rows):
                rows = order[start : start + micro_rows]
                decoder = Decoder(model, [prompts[row] for row in rows])
                batch = self._steps(decoder, numbers[rows, :], sampling)
                for places, tokens, chosen in batch:
                    for place, token, value in zip(places, tokens, chosen, strict=True):
                        responses[rows[place]].append(token)
                        log_probs[rows[place]].append(value)
                computed += decoder.computed_tokens
            return assembled(
                prompts, responses, log_probs,
                ends=self.ends, pad=self.pad, device=model.device, computed_tokens=computed,
            )  # fmt: skip

    def stream(self, prompt: Sequence[int], sampling: Sampling, uniforms: Tensor) -> Iterator[int]:
        """The response to one prompt, token by token as it is sampled; uniforms: (1, tokens).

        The same tokens that `generate` gives. A caller may stop early.
        """
        with self.source() as model, evaluating(model):
            check_prompts(model, [prompt], sampling)
            decoder = Decoder(model, [prompt])
            for _, tokens, _ in self._steps(decoder, uniforms.to(model.device), sampling):
                yield tokens[0]

    def _steps(
        self, decoder: Decoder, numbers: Tensor, sampling: Sampling
    ) -> Iterator[tuple[list[int], list[int], list[float]]]:
        """Each step of a batch: places of the rows still open, their tokens and log-probs."""
        device = numbers.device
        ends = torch.tensor(self.ends, dtype=torch.int64, device=device)
        places = list(range(numbers.shape[0]))
        for position in range(sampling.response_tokens):
            drawn, chosen = draw(
                decoder.logits, numbers[places, position], sampling, ends, position
            )
            tokens: list[int] = drawn.tolist()
            yield places, tokens, chosen.tolist()
            open_ = [i for i, token in enumerate(tokens) if token not in self.ends]
            if not open_ or position + 1 == sampling.response_tokens:
                return
            if len(open_) < len(places):
                index = torch.tensor(open_, device=device)
                decoder.keep(index)
                drawn = drawn[index]
                places = [places[i] for i in open_]
            decoder.advance(drawn)


def check_prompts(model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
    """Refuse an empty prompt, and rows that may outgrow the model's positions."""
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise DataError("a prompt has no tokens", where=f"prompt {row} of a rollout")
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max((len(prompt) for prompt in prompts), default=0)
    if limit is not None and longest + sampling.response_tokens > limit:
        raise ModelError(
            "prompt and response can exceed the positions that the model has",
            where=f"generation with {type(model).__name__}",
            value=f"{longest} prompt + {sampling.response_tokens} response tokens",
            allowed=f"at most {limit} together",
            fix="lower data.prompt_tokens or sampling.response_tokens, or take a longer model",
        )


def assembled(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    log_probs: Sequence[Sequence[float]],
    *,
    ends: Sequence[int],
    pad: int,
    device: torch.device,
    computed_tokens: int,
) -> Generated:
    """Right-padded rows from lists; a row is finished when its last token is one of `ends`."""
    rows = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    time = max((len(row) for row in rows), default=0)
    tokens = torch.full((len(rows), time), pad, dtype=torch.int64)
    values = torch.zeros((len(rows), time), dtype=torch.float32)
    for i, (row, found) in enumerate(zip(rows, log_probs, strict=True)):
        tokens[i, : len(row)] = torch.tensor(row)
        values[i, len(row) - len(found) : len(row)] = torch.tensor(found)
    return Generated(
        tokens.to(device),
        torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int64, device=device),
        torch.tensor([len(response) for response in responses], dtype=torch.int64, device=device),
        torch.tensor([r[-1] in ends for r in responses], dtype=torch.bool, device=device),
        values.to(device),
        computed_tokens=computed_tokens,
        needed_tokens=sum(len(row) - 1 for row in rows),
    )


@dataclass(frozen=True)
class Parity:
    """How log-probs of generation compare with those of a plain forward, over sampled tokens.

    largest: of |difference|. ratio: mean exp(|difference|), 1 where they are equal.
    """

    tokens: int
    largest: float
    ratio: float

    def agrees(self, dtype: str) -> bool:
        """Within the bound of a number format (NaN is not)."""
        if dtype == "fp32":
            return self.largest < LARGEST_DIFFERENCE
        return self.ratio < LARGEST_RATIO

    def __str__(self) -> str:
        return (
            f"log-probs differ by up to {self.largest:.2g}, mean exp|difference| {self.ratio:.4g}, "
            f"over {self.tokens} tokens"
        )


def measure_parity(engine: Actor, generated: Generated, temperature: float) -> Parity:
    """Compare with a forward that has no cache; the worst of all processes, on all of them."""
    experience = generated.experience()
    outputs = engine.infer(experience.tokens, experience.attended, temperature=temperature)
    assert outputs.log_probs is not None
    mask = experience.trained
    difference = (outputs.log_probs - generated.log_probs)[mask].double().abs()
    found = torch.stack([difference.max(), difference.exp().mean()]).nan_to_num(nan=torch.inf)
    largest, ratio = processes.maximum(found).tolist()
    return Parity(int(mask.sum()), largest, ratio)


def choose_rollout(
    engine: Actor,
    plan: Plan,
    tokenizer: Any,
    *,
    sampling: Sampling | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
) -> Rollout:
    """The rollout that the plan asks for if it works here, else plain generation, said aloud.

    A short continuation of a few prompts (`prompts`, else random tokens of uneven lengths) is
    generated with the stage's sampling, and its log-probs are compared with a plain forward. A
    faster rollout that cannot run or differs is replaced by `PlainRollout`, with a warning and
    `reason`. All processes call it together and get the same kind.

    Raises `RolloutMismatchError` where plain generation itself differs from a forward.
    """
    settings = plan.engine_of("actor")
    sampling = sampling or Sampling()
    sampling = replace(
        sampling, greedy=False,
        response_tokens=min(CHECKED_TOKENS, sampling.response_tokens), minimum_tokens=0,
    )  # fmt: skip
    prompts = prompts or _random_prompts(tokenizer, plan)
    plain = PlainRollout(
        engine.generation_module, (int(tokenizer.eos_token_id),), int(tokenizer.pad_token_id)
    )
    faster, reason = _faster(engine, plan, plain)
    if faster is not None:
        reason = _fault(engine, faster, prompts, sampling, settings.dtype, plan.seed)
        if not reason:
            return faster
    if reason:
        plain = replace(plain, reason=reason)
        logger.warning("plain generation instead of what the plan asks for: %s", reason)
    fault = _fault(engine, plain, prompts, sampling, settings.dtype, plan.seed)
    if fault:
        raise RolloutMismatchError(
            "generation and a plain forward give different log-probs, so training on its samples "
            "would be wrong",
            where="self-check of plain generation",
            value=fault,
            allowed=f"{LARGEST_DIFFERENCE:g} at most in fp32, mean exp|difference| below "
            f"{LARGEST_RATIO:g} in bf16 and fp16",
            fix="the model's cache or its positions do not behave as its forward does: update "
            "transformers, or use another model",
        )
    return plain


def _faster(engine: Actor, plan: Plan, plain: PlainRollout) -> tuple[Rollout | None, str]:
    """The rollout that the plan asks for beside plain generation, or why it cannot be had."""
    settings = plan.engine_of("actor")
    if settings.vllm is not None:
        from rlhf.vllm_rollout import VllmRollout

        return VllmRollout(engine, plan, ends=plain.ends, pad=plain.pad), ""
    if settings.hybrid is not None:
        from rlhf.hybrid import hybrid_rollout

        return hybrid_rollout(engine, plan, ends=plain.ends, pad=plain.pad)
    return None, ""


def _fault(
    engine: Actor,
    rollout: Rollout,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    dtype: str,
    seed: int,
) -> str:
    """What is wrong with a rollout, "" if nothing; the same on all processes."""
    numbers = uniforms(seed, 0, slice(None), len(prompts), sampling.response_tokens)
    try:
        generated = rollout.generate(prompts, sampling, numbers, micro_rows=len(prompts))
    except (RuntimeError, ValueError, TypeError, AttributeError, ImportError) as error:
        if rollout.name == "plain":
            raise
        return f"{rollout.name} generation failed: {error}"
    parity = measure_parity(engine, generated, sampling.temperature)
    return "" if parity.agrees(dtype) else f"{rollout.name} generation: {parity}"


def _random_prompts(tokenizer: Any, plan: Plan) -> list[list[int]]:
    """Prompts of uneven lengths from ordinary tokens, the same on all processes."""
    special = set(tokenizer.all_special_ids)
    ordinary = [token for token in range(len(tokenizer)) if token not in special]
    lengths = [min(length, plan.data.prompt_tokens) for length in CHECKED_LENGTHS]
    numbers = uniforms(plan.seed, 1, slice(None), len(lengths), max(lengths))
    return [
        [ordinary[int(u * len(ordinary))] for u in row[:length]]
        for row, length in zip(numbers.tolist(), lengths, strict=True)
    ]
