"""Generation by DeepSpeed's hybrid engine: its inference kernels on the weights that train.

The engine swaps the layers of the model for fused CUDA ones while it is in evaluation mode
(`deepspeed/runtime/hybrid_engine.py`, 0.19.8), for the classes it knows. On CPU, and for any other
class, it swaps none and its generation is that of transformers; plain generation then does less
work (rows leave when they finish), so `hybrid_rollout` refuses, and says why.

Shown by tests on CPU, over a real hybrid engine without kernels: the calls, the draws, log-probs,
counts and modes. Only a GPU can show what the kernels give: that is what the self-check of
`choose_rollout` is for.

Tokens are drawn as everywhere (`rlhf/draw.py`), by a logits processor inside `generate`; so for the
same logits the samples are those of plain generation, and log-probs need no second pass.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from rlhf import lora, processes
from rlhf.draw import draw
from rlhf.plan import Plan
from rlhf.rollout import Generated, assembled, check_prompts
from rlhf.sampling import Sampling

logger = logging.getLogger(__name__)


def hybrid_rollout(
    engine: Any, plan: Plan, *, ends: tuple[int, ...], pad: int
) -> tuple[HybridRollout | None, str]:
    """Hybrid generation with a role's engine (`RoleEngine`), or None and the reason why not."""
    wrapped = engine.deepspeed
    if not hasattr(wrapped, "_inference_containers"):
        return None, "the actor's engine is not a hybrid engine (a frozen role has none)"
    if not injects(wrapped):
        where = "on CPU" if not torch.cuda.is_available() else "for this model"
        return None, f"DeepSpeed's hybrid engine has no inference kernels {where}"
    if lora.adapted_layers(engine.module.model):
        return None, "the hybrid engine's kernels would leave out the LoRA adapters"
    settings = wrapped._config.hybrid_engine  # noqa: SLF001 - DeepSpeed's resolved configuration
    if settings.inference_tp_size > 1:
        return None, (
            "with inference_tp_size above 1 the hybrid engine exchanges prompts among processes "
            "but not their masks, so padding would be attended"
        )
    longest = plan.data.prompt_tokens + max(s.sampling.response_tokens for s in plan.stages)
    if longest > settings.max_out_tokens:
        return None, (
            f"rows can have {longest} tokens, and the hybrid engine's workspace is for "
            f"{settings.max_out_tokens}; set engine.deepspeed: "
            f"{{hybrid_engine: {{max_out_tokens: {longest}}}}}"
        )
    return HybridRollout(wrapped, ends, pad), ""


def injects(wrapped: Any) -> bool:
    """Whether a hybrid engine replaces any layer of its model by its kernels."""
    return len(wrapped._inference_containers) > 0  # noqa: SLF001 - DeepSpeed tells it no other way


@dataclass(frozen=True)
class HybridRollout:
    """Generation through `engine.module.generate` of a `DeepSpeedHybridEngine`.

    Finished rows stay in their micro-batch until its last row ends, and are counted. Under ZeRO-3
    all processes must bring as many micro-batches, and decode as many steps as the slowest.
    """

    engine: Any
    ends: tuple[int, ...]
    pad: int = 0
    reason: str = ""
    name: str = "hybrid"

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        uniforms: Tensor,
        micro_rows: int,
    ) -> Generated:
        """See `rlhf.rollout.Rollout`."""
        model = self.engine.module.model
        check_prompts(model, prompts, sampling)
        numbers = uniforms.to(model.device)
        order = sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), row))
        responses: list[list[int]] = [[] for _ in prompts]
        log_probs: list[list[float]] = [[] for _ in prompts]
        with self._generating(model), _counted(model) as computed:
            for start in range(0, len(order), micro_rows):
                rows = order[start : start + micro_rows]
                draws = Draws(numbers[rows], sampling, self.ends)
                self._batch([prompts[row] for row in rows], sampling, draws)
                for place, row in enumerate(rows):
                    responses[row], log_probs[row] = draws.row(place)
            return assembled(
                prompts, responses, log_probs,
                ends=self.ends, pad=self.pad, device=model.device,
                computed_tokens=sum(computed),
            )  # fmt: skip

    def _batch(self, prompts: Sequence[Sequence[int]], sampling: Sampling, draws: Draws) -> None:
        """One micro-batch, left-padded; `draws` keeps what is sampled."""
        device = self.engine.module.model.device
        time = max(len(prompt) for prompt in prompts)
        padded = [[self.pad] * (time - len(prompt)) + list(prompt) for prompt in prompts]
        masks = [[0] * (time - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self.engine.module.generate(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=torch.tensor(masks, device=device),
            max_new_tokens=sampling.response_tokens,
            logits_processor=LogitsProcessorList([draws]),
            synced_gpus=self.engine.zero_optimization_partition_weights() and processes.world() > 1,
        )

    @contextmanager
    def _generating(self, model: Any) -> Iterator[None]:
        """The engine in evaluation mode, where its kernels are in place, without a graph.

        The model's own generation settings (a folder's repetition penalty, say) are put aside, for
        the policy that is trained is the bare model. DeepSpeed prints its latencies on standard
        output, which belongs to the command: they go to the log.
        """
        training, kept = self.engine.module.training, model.generation_config
        printed = io.StringIO()
        model.generation_config = GenerationConfig(
            do_sample=False, use_cache=True, eos_token_id=list(self.ends), pad_token_id=self.pad
        )
        try:
            with contextlib.redirect_stdout(printed):
                self.engine.eval()
            with torch.no_grad():
                yield
        finally:
            model.generation_config = kept
            if training:
                self.engine.train()
            if printed.getvalue():
                logger.debug("%s", printed.getvalue().strip())


class Draws(LogitsProcessor):  # type: ignore[misc]
    """Draws each step's token itself and leaves it as the only choice of a greedy `generate`."""

    def __init__(self, numbers: Tensor, sampling: Sampling, ends: Sequence[int]) -> None:
        """numbers: (rows, response tokens), the uniform numbers of the rows."""
        self._numbers = numbers
        self._sampling = sampling
        self._ends = torch.tensor(list(ends), dtype=torch.int64, device=numbers.device)
        self._tokens: list[list[int]] = []
        self._log_probs: list[list[float]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - its form
        """Scores (rows, vocabulary) to minus infinity but for the token drawn."""
        position = len(self._tokens)
        tokens, log_probs = draw(
            scores, self._numbers[:, position], self._sampling, self._ends, position
        )
        self._tokens.append(tokens.tolist())
        self._log_probs.append(log_probs.tolist())
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)

    def row(self, place: int) -> tuple[list[int], list[float]]:
        """Tokens and log-probs of one row, up to the token that ended it."""
        tokens = [step[place] for step in self._tokens]
        ends = set(self._ends.tolist())
        length = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
        return tokens[:length], [step[place] for step in self._log_probs[:length]]


@contextmanager
def _counted(model: Any) -> Iterator[list[int]]:
    """The token positions of each forward of the model inside."""
    seen: list[int] = []

    def count(_: Any, __: Any, given: dict[str, Any]) -> None:
        seen.append(given["input_ids"].numel())

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()
