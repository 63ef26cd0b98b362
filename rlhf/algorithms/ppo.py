"""Proximal policy optimisation of a language model against a score.

Schulman et al., arXiv 1707.06347, as RLHF uses it (Ziegler et al., arXiv 1909.08593; Ouyang et al.,
arXiv 2203.02155). A response is an episode, a token an action; the score of the whole response is
the reward of its last token, and every token costs what it moves the policy from the reference:

    rewards[t]    = -kl_coefficient * kl[t]  (+ score at the last token)
    advantages, returns = GAE of rewards and the critic's values, advantages whitened
    ratio[t]      = p(token t) / p_old(token t)
    actor loss    = mean of max(-advantages * ratio, -advantages * clip(ratio, 1 ± clip_ratio))
                    - entropy_coefficient * mean entropy  (+ mixture_coefficient * loss of answers)
    critic loss   = value_coefficient * mean of max((values - returns)^2, (clipped - returns)^2),
                    clipped = old values + clip(values - old values, ± clip_value)

Means are over the trained tokens of the optimizer batch. Defaults are the constants of
DeepSpeed-Chat (dschat/rlhf/ppo_trainer.py), but for what is wrong there: advantages are whitened,
the score is at the last token and not behind it, no value from behind the end of text is used, and
the end of text is trained, all of it by masks from lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from rlhf.algorithm import STRICT, Algorithm, Data, Loss, Outputs, Reduce, State
from rlhf.algorithms.sft import SFT
from rlhf.experience import Experience
from rlhf.phases import Average, Forward, Generate, Phase, Prepare, Reward, Role, Sizes, Train
from rlhf.returns import (
    KLEstimator,
    Moments,
    adapted_coefficient,
    gae,
    kl_estimate,
    means,
    moments,
    score_scale,
    shaped_rewards,
    tally,
    values_from_heads,
    whiten,
    within,
)


@dataclass(frozen=True)
class PPO(Algorithm):
    """Options of PPO."""

    name: Literal["ppo"] = "ppo"
    kl_coefficient: float = 0.1
    """Price of a nat of divergence from the reference; where it starts when `kl_target` is set."""
    kl_estimator: KLEstimator = "k1"
    """Of the divergence at each token (see `rlhf.returns.kl_estimate`)."""
    kl_target: float | None = None
    """Nats per response that the coefficient is adapted towards; None: it stays."""
    kl_horizon: float = 10_000
    """Responses over which an adapted coefficient changes by up to a fifth."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """GAE's trade of bias (0) for variance (1)."""
    whiten: bool = True
    """Advantages get mean 0 and variance 1 over the whole iteration on all processes."""
    clip_ratio: float = 0.2
    clip_value: float | None = 0.2
    """How far a value may move from the old one in one iteration; None: any way."""
    clip_reward: float | None = 5.0
    """Scores are cut to plus or minus this; None: they are not."""
    normalise_score: bool = False
    """Scores less their mean, over their standard deviation, of all iterations so far."""
    missing_eos_penalty: float = 0.0
    """Taken off the score of a response that did not end by itself."""
    entropy_coefficient: float = 0.0
    value_coefficient: float = 0.5
    """Factor of the critic's loss, which has its own optimizer."""
    epochs: int = 1
    """Passes over an iteration's responses."""
    generation_batches: int = 1
    """Optimizer steps per pass: an iteration generates as many batches."""
    ema_decay: float | None = None
    """Keep an average of the actor's weights with this decay (DeepSpeed-Chat: 0.992)."""
    mixture_coefficient: float = 0.0
    """Of the supervised loss on as many rows beside each batch (DeepSpeed-Chat: 27.8); 0: none."""
    old_log_probs: Literal["rollout", "forward"] = "rollout"
    """Those captured while sampling, or of one more pass over the finished responses. Sampling
    decodes token by token and rounds in another order than training does: in fp32 the two agree to
    1e-4 and the pass would be wasted; in bf16 and fp16 they do not, and no ratio would start at 1:
    use `forward` there."""

    data: ClassVar[Data] = "prompts"
    group: ClassVar[int] = 1
    trains: ClassVar[tuple[Role, ...]] = ("actor", "critic")
    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        """Refuse options that mean nothing."""
        _require("kl_coefficient", self.kl_coefficient, self.kl_coefficient >= 0, "0 or more")
        _require("kl_target", self.kl_target, self.kl_target is None or self.kl_target > 0, "> 0")
        _require("kl_horizon", self.kl_horizon, self.kl_horizon > 0, "> 0")
        _require("gamma", self.gamma, 0 <= self.gamma <= 1, "0 to 1")
        _require("lam", self.lam, 0 <= self.lam <= 1, "0 to 1")
        _require("clip_ratio", self.clip_ratio, 0 < self.clip_ratio < 1, "above 0, below 1")
        for name in ("clip_value", "clip_reward"):
            value = getattr(self, name)
            _require(name, value, value is None or value > 0, "> 0, or null for no clipping")
        for name in ("entropy_coefficient", "mixture_coefficient", "missing_eos_penalty"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        _require("value_coefficient", self.value_coefficient, self.value_coefficient > 0, "> 0")
        for name in ("epochs", "generation_batches"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        decay = self.ema_decay
        _require("ema_decay", decay, decay is None or 0 <= decay < 1, "0 up to, not including, 1")

    def phases(self, sizes: Sizes) -> tuple[Phase, ...]:
        """Generate, find out log-probs, scores and values, train; nothing is computed twice."""
        rows = sizes.batch * self.generation_batches
        mixture = sizes.batch if self.mixture_coefficient > 0 else 0
        entropy = self.entropy_coefficient > 0

        phases: list[Phase] = [
            Generate("actor", rows, sizes.prompt_tokens, sizes.response_tokens),
        ]
        if self.old_log_probs == "forward":
            phases += [Forward("actor", "log_probs", rows, sizes.tokens)]
        phases += [Forward("reference", "reference_log_probs", rows, sizes.tokens)]
        if sizes.reward_model:
            phases += [Forward("reward", "score", rows, sizes.tokens)]
        if sizes.reward_function is not None:
            phases += [Reward(sizes.reward_function, rows)]
        phases += [
            Forward("critic", "values", rows, sizes.tokens),
            Prepare(rows),
            Train("actor", rows, sizes.tokens, sizes.batch, self.epochs, mixture, entropy),
            Train("critic", rows, sizes.tokens, sizes.batch, self.epochs),
        ]
        if self.ema_decay is not None:
            phases += [Average("actor", self.ema_decay)]
        return tuple(phases)

    def start(self) -> State:
        """The KL coefficient, and no scores seen yet."""
        return {"kl_coefficient": self.kl_coefficient, **_dumped(Moments())}

    def prepare(
        self, experience: Experience, state: State, reduce: Reduce
    ) -> tuple[Experience, State, dict[str, Tensor]]:
        """Rewards, advantages and returns of the iteration's responses; the adapted coefficient."""
        trained = experience.trained
        log_probs = experience.known("log_probs")  # (rows, time), as are all but the scores
        values = within(experience.known("values"), trained)

        reference = experience.known("reference_log_probs")
        kl = within(kl_estimate(log_probs, reference, self.kl_estimator), trained)
        score, state = self._judged(experience, state, reduce)  # (rows,)
        rewards = shaped_rewards(score, kl, trained, state["kl_coefficient"])
        advantages, returns = gae(rewards, values, trained, gamma=self.gamma, lam=self.lam)

        metrics = means(
            {
                "reward": tally(experience.known("score")),
                "reward/shaped": tally(rewards.sum(1)),
                "kl": tally(kl.sum(1)),  # nats per response
                "kl_per_token": tally(kl, trained),
                "entropy": tally(-log_probs, trained),  # estimated at the sampled tokens
                "value": tally(values, trained),
                "return": tally(returns, trained),
                "response_length": tally(experience.response_lengths),
                "eos_rate": tally(experience.known("finished")),
            },
            reduce,
        )
        metrics["kl_coefficient"] = torch.tensor(state["kl_coefficient"])
        metrics["reward/std"] = torch.tensor(moments(experience.known("score"), None, reduce).std)
        unexplained = moments(advantages, trained, reduce).squares  # returns - values
        spread = moments(returns, trained, reduce).squares
        explained = 1 - unexplained / spread if spread > 0 else 0.0
        metrics["explained_variance"] = torch.tensor(explained)

        if self.whiten:
            advantages = whiten(advantages, trained, reduce)
        if self.kl_target is not None:
            rows = float(reduce(torch.tensor(float(experience.rows), device=trained.device)))
            adapted = adapted_coefficient(
                state["kl_coefficient"],
                float(metrics["kl"]),
                target=self.kl_target,
                rows=rows,
                horizon=self.kl_horizon,
            )
            state = {**state, "kl_coefficient": adapted}
        prepared = experience.with_(
            values=values, rewards=rewards, advantages=advantages, returns=returns
        )
        return prepared, state, metrics

    def _judged(self, experience: Experience, state: State, reduce: Reduce) -> tuple[Tensor, State]:
        """(rows,): the scores that are learned from: normalised, clipped, then penalised, so that
        clipping cannot hide the penalty.
        """
        score = experience.known("score")
        if self.normalise_score:
            seen = _loaded(state) + moments(score, None, reduce)
            score = score_scale(seen)(score)
            state = {**state, **_dumped(seen)}
        if self.clip_reward is not None:
            score = score.clamp(-self.clip_reward, self.clip_reward)
        unfinished = ~experience.known("finished")
        return score - self.missing_eos_penalty * unfinished, state

    def weight(self, role: Role, experience: Experience) -> Tensor:
        """The number of trained tokens."""
        del role
        return experience.trained.sum()

    def loss(self, role: Role, outputs: Outputs, experience: Experience) -> Loss:
        """The clipped surrogate of the actor, the clipped squared error of the critic."""
        if role == "actor":
            return self._actor_loss(outputs, experience)
        return self._critic_loss(outputs, experience)

    def _actor_loss(self, outputs: Outputs, experience: Experience) -> Loss:
        assert outputs.log_probs is not None
        trained = experience.trained
        advantages = experience.known("advantages")
        log_ratio = within(outputs.log_probs - experience.known("log_probs"), trained)
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip_ratio, 1 + self.clip_ratio)
        losses = torch.maximum(-advantages * ratio, -advantages * clipped)  # (rows, time)

        sums: dict[str, tuple[Tensor, Tensor]] = {}
        if outputs.entropy is not None:
            losses = losses - self.entropy_coefficient * within(outputs.entropy, trained)
            sums["entropy"] = tally(outputs.entropy, trained)
        elif self.entropy_coefficient > 0:
            raise RuntimeError("the policy's entropy is missing")  # Train.entropy asked for it

        losses = within(losses, trained)
        sums["actor/loss"] = tally(losses, trained)
        sums["clip_fraction"] = tally((ratio != clipped).double(), trained)
        # Samples are of the old policy: k3 of KL(old || new).
        sums["approx_kl"] = tally(torch.expm1(log_ratio) - log_ratio, trained)
        return Loss(losses.sum(), sums, {"ratio_max": within(ratio.detach(), trained).max()})

    def _critic_loss(self, outputs: Outputs, experience: Experience) -> Loss:
        assert outputs.heads is not None
        trained = experience.trained
        old, returns = experience.known("values"), experience.known("returns")
        values = within(values_from_heads(outputs.heads), trained)
        errors = (values - returns).square()
        cautious = errors
        if self.clip_value is not None:
            moved = (values - old).clamp(-self.clip_value, self.clip_value)
            cautious = (old + moved - returns).square()
        larger = torch.maximum(errors, cautious)  # (rows, time), 0 where not trained
        losses = self.value_coefficient * larger
        return Loss(
            losses.sum(),
            {
                "critic/loss": tally(losses, trained),
                "value_loss": tally(larger, trained),
                "value_clip_fraction": tally((cautious > errors).double(), trained),
            },
        )

    def mixture(self, outputs: Outputs, experience: Experience) -> Loss:
        """PPO-ptx: the supervised loss of answers, times its coefficient."""
        supervised = SFT().loss("actor", outputs, experience)
        return Loss(
            self.mixture_coefficient * supervised.total,
            {"mixture/loss": supervised.sums["loss"]},
        )


def _require(name: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {allowed}, not {value}")


def _dumped(seen: Moments) -> State:
    """The scores seen so far, as entries of the state."""
    return {"score/count": seen.count, "score/mean": seen.mean, "score/squares": seen.squares}


def _loaded(state: State) -> Moments:
    return Moments(state["score/count"], state["score/mean"], state["score/squares"])
