"""Generation by vLLM, an extra: `pip install 'hwopt[vllm]'`.

Not run by this project's tests beyond its refusal where vLLM is missing: it needs a GPU, and a vLLM
built for the torch release that is pinned here. It is written against the public interface of vLLM
(`LLM.generate` with token ids, `LLM.apply_model`, `LLM.sleep`; docs.vllm.ai, "Offline inference"),
and `choose_rollout` holds it against a plain forward before it is used at all.

Each process has a vLLM of its own on its GPU, inside the process ("external_launcher"). Before
each generation the weights of now are streamed from the training engine straight into it, one
tensor at a time; afterwards it sleeps and gives its memory back to training.

Two things differ from the other rollouts. The tokens are drawn by vLLM, from a seed per row that
comes from the row's uniform numbers: repeatable and independent of the batch, but other samples
than those of plain generation. And vLLM tells log-probs before the temperature; at any temperature
but 1 they are recomputed by one forward, and counted.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlhf.batching import micro_batches
from rlhf.errors import PlanError
from rlhf.plan import Plan
from rlhf.rollout import Generated, assembled, check_prompts
from rlhf.sampling import Sampling

SEEDS = 2**53
"""A uniform number times this is a whole number."""


class VllmRollout:
    """A vLLM of this process, fed with a role's weights before each generation.

    Raises `PlanError` where vLLM is not installed.
    """

    name = "vllm"
    reason = ""

    def __init__(self, engine: Any, plan: Plan, *, ends: tuple[int, ...], pad: int) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise PlanError(
                "generation by vLLM needs a package that is not installed",
                where="engine.vllm",
                fix="pip install 'hwopt[vllm]', or leave engine.vllm out for plain generation",
            )
        self._engine = engine
        self._ends = ends
        self._pad = pad
        self._model = engine.module.model
        longest = max(stage.sampling.response_tokens for stage in plan.stages)
        self._vllm = _start(
            self._model,
            tokens=plan.data.prompt_tokens + longest,
            memory=plan.engine_of("actor").vllm.memory,  # type: ignore[union-attr]
            seed=plan.seed,
        )
        self._vllm.sleep(level=1)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        uniforms: Tensor,
        micro_rows: int,
    ) -> Generated:
        """See `rlhf.rollout.Rollout`; vLLM forms its own batches, micro_rows is for log-probs."""
        check_prompts(self._model, prompts, sampling)
        options = [_options(sampling, self._ends, float(row[0])) for row in uniforms]
        with self._awake():
            answers = self._vllm.generate(
                [{"prompt_token_ids": list(prompt)} for prompt in prompts], options,
                use_tqdm=False,
            )  # fmt: skip
        outputs = [answer.outputs[0] for answer in answers]
        generated = assembled(
            prompts,
            [list(output.token_ids) for output in outputs],
            [_log_probs(output) for output in outputs],
            ends=self._ends, pad=self._pad, device=self._model.device, computed_tokens=0,
        )  # fmt: skip
        generated = replace(generated, computed_tokens=generated.needed_tokens)
        return (
            generated
            if sampling.temperature == 1
            else self._scored(generated, sampling, micro_rows)
        )

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """Inside, it has the weights of now; all processes enter it together."""
        self._vllm.wake_up()
        self._vllm.apply_model(lambda model: model.load_weights(self._engine.state()))
        self._vllm.reset_prefix_cache()
        try:
            yield
        finally:
            self._vllm.sleep(level=1)

    def _scored(self, generated: Generated, sampling: Sampling, micro_rows: int) -> Generated:
        """The same rows with the log-probs of a forward at the temperature."""
        experience = generated.experience()
        log_probs = torch.zeros_like(generated.log_probs)
        computed = generated.computed_tokens
        for rows in micro_batches(experience, micro_rows):
            part = experience.select(rows).trimmed()
            found = self._engine.infer(
                part.tokens, part.attended, temperature=sampling.temperature
            ).log_probs
            log_probs[rows, : found.shape[1]] = found * part.trained
            computed += part.tokens.numel()
        return replace(generated, log_probs=log_probs, computed_tokens=computed)


def _start(model: Any, *, tokens: int, memory: float, seed: int) -> Any:
    """A vLLM without weights; its model comes from the configuration."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process: weights are handed over
    vllm: Any = importlib.import_module("vllm")

    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return vllm.LLM(
            model=folder, skip_tokenizer_init=True, load_format="dummy",
            dtype=str(model.dtype).removeprefix("torch."), max_model_len=tokens, seed=seed,
            gpu_memory_utilization=memory, enable_sleep_mode=True,
            distributed_executor_backend="external_launcher", logprobs_mode="raw_logprobs",
        )  # fmt: skip


def _options(sampling: Sampling, ends: Sequence[int], number: float) -> Any:
    """The sampling controls of one row, in its words."""
    parameters: Any = importlib.import_module("vllm").SamplingParams
    return parameters(
        temperature=0.0 if sampling.greedy else sampling.temperature,
        top_k=sampling.top_k or -1, top_p=sampling.top_p,
        max_tokens=sampling.response_tokens, min_tokens=sampling.minimum_tokens,
        stop_token_ids=list(ends), ignore_eos=True,  # ours are the only ends
        logprobs=0, seed=int(number * SEEDS), detokenize=False,
    )  # fmt: skip


def _log_probs(output: Any) -> list[float]:
    """Of the sampled tokens of one response."""
    pairs = zip(output.token_ids, output.logprobs, strict=True)
    return [float(step[token].logprob) for token, step in pairs]
