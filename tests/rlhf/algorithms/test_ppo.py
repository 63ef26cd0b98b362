"""PPO: phases, what it prepares, its losses, and that it learns what only sampling can teach."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rlhf.algorithm import Outputs
from rlhf.algorithms.ppo import PPO
from rlhf.experience import Experience, from_lists
from rlhf.phases import Average, Forward, Generate, Prepare, Reward, Sizes, Train
from rlhf.plan import Plan
from rlhf.returns import alone, values_from_heads

SIZES = Sizes(batch=8, prompt_tokens=10, response_tokens=20)
PLAIN = PPO(whiten=False, kl_coefficient=0.0)


def rollout(score: list[float], **fields: Any) -> Experience:
    """Rows of one prompt token and two response tokens, whose log-probs and values are 0."""
    rows = len(score)
    experience = from_lists([[1, 2, 3]] * rows, [[False, True, True]] * rows)
    zero = torch.zeros(rows, 3)
    given = {"log_probs": zero, "reference_log_probs": zero, "values": zero}
    given["finished"] = torch.ones(rows, dtype=torch.bool)
    return experience.with_(**{**given, "score": torch.tensor(score), **fields})


# Phases.


def test_the_default_computes_no_pass_twice() -> None:
    """Log-probs are those of sampling; one pass each of reference, reward and critic."""
    assert PPO().phases(SIZES) == (
        Generate("actor", 8, 10, 20),
        Forward("reference", "reference_log_probs", 8, 30),
        Forward("reward", "score", 8, 30),
        Forward("critic", "values", 8, 30),
        Prepare(8),
        Train("actor", 8, 30, 8),
        Train("critic", 8, 30, 8),
    )
    assert PPO().roles() == ("actor", "reference", "reward", "critic")


def test_phases_follow_the_options() -> None:
    """Old log-probs of a forward, a function beside the reward model, batches, epochs, mixture."""
    algorithm = PPO(
        old_log_probs="forward", generation_batches=3, epochs=2, mixture_coefficient=27.8,
        entropy_coefficient=0.01, ema_decay=0.992,
    )  # fmt: skip
    assert algorithm.phases(replace(SIZES, reward_function="rewards:exact")) == (
        Generate("actor", 24, 10, 20),
        Forward("actor", "log_probs", 24, 30),
        Forward("reference", "reference_log_probs", 24, 30),
        Forward("reward", "score", 24, 30),
        Reward("rewards:exact", 24),
        Forward("critic", "values", 24, 30),
        Prepare(24),
        Train("actor", 24, 30, 8, epochs=2, mixture_rows=8, entropy=True),
        Train("critic", 24, 30, 8, epochs=2),
        Average("actor", 0.992),
    )
    assert algorithm.phases(SIZES)[-3].steps == 6


@pytest.mark.parametrize(
    ("reward", "before", "roles", "functions"),
    [
        ({}, [], True, 0),
        ({"model": "opt-125m"}, [], True, 0),
        ({"function": "rewards:exact"}, [], False, 1),
        ({"model": "opt-125m", "function": "rewards:exact"}, [], True, 1),
        ({"function": "rewards:exact"}, ["reward"], True, 1),
    ],
)
def test_what_scores_follows_from_the_plan(reward, before, roles, functions) -> None:
    """A model, a function, or both: also one that an earlier stage trains."""
    plan = Plan(
        name="x",
        roles={"actor": {"model": "opt-125m"}, "reward": reward},
        data={},
        stages=[{"algorithm": name} for name in [*before, "ppo"]],
    )
    sizes = plan.sizes(plan.stages[-1])
    algorithm = plan.stages[-1].algorithm
    assert ("reward" in algorithm.roles(sizes)) == roles
    assert sum(isinstance(phase, Reward) for phase in algorithm.phases(sizes)) == functions


@pytest.mark.parametrize(
    "option",
    [
        {"kl_coefficient": -0.1}, {"kl_target": 0}, {"kl_horizon": 0}, {"gamma": 1.1}, {"lam": -1},
        {"clip_ratio": 1}, {"clip_value": 0}, {"clip_reward": -5}, {"entropy_coefficient": -1},
        {"mixture_coefficient": -1}, {"missing_eos_penalty": -1}, {"value_coefficient": 0},
        {"epochs": 0}, {"generation_batches": 0}, {"ema_decay": 1}, {"gamma": float("nan")},
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(option: dict[str, float]) -> None:
    """With their name and what is allowed."""
    with pytest.raises(ValueError, match=next(iter(option))):
        PPO(**option)  # type: ignore[arg-type]


# Preparing.


def test_the_prepared_rewards_and_returns_are_by_hand() -> None:
    """Half a nat at each token at a price of 0.1; the score 1 at the last; gamma = lambda = 1."""
    experience = rollout([1.0], reference_log_probs=torch.tensor([[0.0, -0.5, -0.5]]))
    algorithm = PPO(lam=1.0, whiten=False)
    found, state, metrics = algorithm.prepare(experience, algorithm.start(), alone)
    torch.testing.assert_close(found.known("rewards"), torch.tensor([[0, -0.05, 0.95]]))
    torch.testing.assert_close(found.known("returns"), torch.tensor([[0, 0.9, 0.95]]))
    assert state == algorithm.start()
    expected = {
        "reward": 1, "reward/shaped": 0.9, "kl": 1, "kl_per_token": 0.5, "response_length": 2,
        "eos_rate": 1, "kl_coefficient": 0.1, "return": 0.925, "value": 0, "entropy": 0,
        "explained_variance": 0, "reward/std": 0,
    }  # fmt: skip
    assert {n: float(value) for n, value in metrics.items()} == pytest.approx(expected, abs=1e-7)


def test_scores_are_clipped_and_then_penalised() -> None:
    """A clipped score still feels that its response did not end."""
    experience = rollout([9.0, -9.0, 2.0], finished=torch.tensor([False, True, True]))
    algorithm = replace(PLAIN, missing_eos_penalty=1.0)
    found, _, metrics = algorithm.prepare(experience, algorithm.start(), alone)
    assert found.known("rewards")[:, 2].tolist() == [4, -5, 2]
    assert float(metrics["reward"]) == pytest.approx(2 / 3)  # what was given, before all that
    assert float(metrics["eos_rate"]) == pytest.approx(2 / 3)
    free = replace(PLAIN, clip_reward=None)
    assert free.prepare(experience, free.start(), alone)[0].known("rewards")[0, 2] == 9


def test_normalised_scores_remember_every_iteration() -> None:
    """After 1 and 3, the scores 5 and 7 lie 1 and 3 above the mean 4 of all, in their deviation."""
    algorithm = replace(PLAIN, normalise_score=True)
    _, state, _ = algorithm.prepare(rollout([1.0, 3.0]), algorithm.start(), alone)
    found, state, metrics = algorithm.prepare(rollout([5.0, 7.0]), state, alone)
    std = (20 / 3) ** 0.5
    assert found.known("rewards")[:, 2].tolist() == pytest.approx([1 / std, 3 / std])
    assert all(type(value) is float for value in state.values())  # goes into a checkpoint's JSON
    assert float(metrics["reward"]) == 6
    assert float(metrics["reward/std"]) == pytest.approx(2**0.5)


def test_the_coefficient_adapts_for_the_next_iteration() -> None:
    """The recorded rule: two responses at 9 nats, target 6; this iteration still pays the old."""
    reference = torch.tensor([[0.0, -4.0, -5.0]] * 2)
    algorithm = PPO(kl_coefficient=0.15, kl_target=6.0)
    experience = rollout([0.0, 0.0], reference_log_probs=reference)
    found, state, metrics = algorithm.prepare(experience, algorithm.start(), alone)
    assert state["kl_coefficient"] == pytest.approx(0.15 * (1 + 0.2 * 2 / 10_000), abs=1e-15)
    assert float(metrics["kl_coefficient"]) == pytest.approx(0.15)
    assert found.known("rewards")[0].tolist() == pytest.approx([0, -0.6, -0.75])


@pytest.mark.parametrize(("values", "explained"), [([0.0, 0, 1, 1], 1.0), ([0.0, 0, 0, 0], 0.0)])
def test_explained_variance_is_one_for_a_critic_that_knows(values, explained) -> None:
    """And 0 for one that says the same of every state."""
    known = torch.tensor(values)[:, None].expand(4, 3)
    experience = rollout([0.0, 0.0, 1.0, 1.0], values=known)
    _, _, metrics = PLAIN.prepare(experience, PLAIN.start(), alone)
    assert float(metrics["explained_variance"]) == pytest.approx(explained)


@given(st.data())
def test_processes_change_nothing(tiny: SimpleNamespace, in_processes, data) -> None:
    """Every option that looks across rows: two processes prepare what one would, and measure it."""
    algorithm = PPO(normalise_score=True, kl_target=1.0, missing_eos_penalty=0.5)
    whole = tiny.scored(tiny.lay_out(data.draw(tiny.pairs_of_rows()), pad=0))
    cut = data.draw(st.integers(1, whole.rows - 1))
    parts = [whole.select(range(cut)), whole.select(range(cut, whole.rows))]

    def work(rank: int, reduce) -> Any:
        return algorithm.prepare(parts[rank], algorithm.start(), reduce)

    expected, state, metrics = algorithm.prepare(whole, algorithm.start(), alone)
    results = in_processes(2, work)
    for name in ("rewards", "advantages", "returns"):
        both = torch.cat([found.known(name) for found, _, _ in results])
        torch.testing.assert_close(both, expected.known(name), atol=1e-9, rtol=1e-9)
    for _, its_state, its_metrics in results:
        assert its_state == pytest.approx(state)
        assert {n: float(v) for n, v in its_metrics.items()} == pytest.approx(
            {n: float(v) for n, v in metrics.items()}, abs=1e-9
        )


# Losses.


def test_the_first_inner_step_has_ratio_one_and_clips_nothing(tiny: SimpleNamespace) -> None:
    """Exactly; and its gradient is the plain policy gradient of the advantages."""
    rows = [tiny.Row((1, 2), (3, 4, 5), True), tiny.Row((6,), (7, 8), False)]
    experience = tiny.lay_out(rows, pad=0)
    policy = tiny.TinyPolicy(0)
    outputs = policy(experience.tokens, experience.attended)
    assert outputs.log_probs is not None
    advantages = torch.where(experience.trained, torch.randn(2, 5, dtype=torch.float64), 0)
    experience = experience.with_(log_probs=outputs.log_probs.detach(), advantages=advantages)
    loss = PPO().loss("actor", outputs, experience)
    assert float(loss.largest["ratio_max"]) == 1
    assert float(loss.sums["clip_fraction"][0]) == 0
    assert float(loss.sums["approx_kl"][0]) == 0
    assert float(loss.total.detach()) == pytest.approx(-float(advantages.sum()))

    found = torch.autograd.grad(loss.total, policy.out, retain_graph=True)
    plain = torch.autograd.grad(-(advantages * outputs.log_probs).sum(), policy.out)
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 1.0, -1.1, -1.0),  # inside: the surrogate
        (1.5, 1.0, -1.2, 0.0),  # gone far enough in the good direction: no more to gain
        (0.5, 1.0, -0.5, -1.0),  # gone the wrong way: free to come back
        (1.5, -1.0, 1.5, 1.0),
        (0.5, -1.0, 0.8, 0.0),
    ],
)
def test_the_clipped_surrogate_is_pessimistic(ratio, advantage, loss, slope) -> None:
    """The cases of Schulman et al., figure 1; slope is that of the loss in the ratio."""
    experience = rollout([0.0], advantages=torch.tensor([[0.0, advantage, 0.0]]))
    log_probs = torch.tensor([[0.0, ratio, 1.0]]).clamp(min=1e-9).log().requires_grad_()
    found = PPO().loss("actor", Outputs(log_probs), experience)
    assert float(found.total.detach()) == pytest.approx(loss, abs=1e-6)
    found.total.backward()
    assert log_probs.grad is not None
    assert float(log_probs.grad[0, 1]) == pytest.approx(slope * ratio, abs=1e-6)
    outside = abs(ratio - 1) > 0.2
    assert [float(value) for value in found.sums["clip_fraction"]] == [outside, 2]
    assert float(found.largest["ratio_max"]) == pytest.approx(max(ratio, 1.0))
    k3 = ratio - 1 - math.log(ratio)  # of KL(old || new), from samples of the old
    assert float(found.sums["approx_kl"][0]) == pytest.approx(k3, abs=1e-6)


def test_what_a_model_says_of_padding_reaches_neither_loss_nor_gradient() -> None:
    """Not even NaN, which rows that attend nothing may give."""
    nan = float("nan")
    experience = rollout([0.0], advantages=torch.tensor([[0.0, 1.0, 1.0]]))
    experience = experience.with_(returns=torch.zeros(1, 3))
    log_probs = torch.tensor([[nan, 0.0, 0.0]], requires_grad=True)
    entropy = torch.tensor([[nan, 1.0, 1.0]], requires_grad=True)
    loss = PPO(entropy_coefficient=0.1).loss("actor", Outputs(log_probs, entropy), experience)
    heads = torch.tensor([[0.0, 0.0, nan]], requires_grad=True)
    total = loss.total + PPO().loss("critic", Outputs(heads=heads), experience).total
    assert total.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(total, [log_probs, entropy, heads]))
    assert float(loss.largest["ratio_max"]) == 1


def test_entropy_is_watched_where_given_and_rewarded_where_asked_for() -> None:
    """Each trained token's entropy lowers the loss by the coefficient; missing, it is our bug."""
    experience = rollout([0.0], advantages=torch.zeros(1, 3))
    outputs = Outputs(torch.zeros(1, 3), torch.tensor([[9.0, 1.0, 2.0]]))
    assert float(PPO().loss("actor", outputs, experience).total) == 0
    loss = PPO(entropy_coefficient=0.1).loss("actor", outputs, experience)
    assert float(loss.total) == pytest.approx(-0.3)
    assert [float(value) for value in loss.sums["entropy"]] == [3, 2]
    with pytest.raises(RuntimeError, match="entropy"):
        PPO(entropy_coefficient=0.1).loss("actor", Outputs(torch.zeros(1, 3)), experience)


@pytest.mark.parametrize(
    ("value", "target", "error", "clipped"),
    [
        (0.1, 1.0, 0.81, False),  # near the old value 0: the plain error
        (0.5, 1.0, 0.64, True),  # far towards the target: as if it had gone to 0.2 alone
        (-0.5, 1.0, 2.25, False),  # far away from it: the plain error is the larger
    ],
)
def test_the_clipped_value_loss_is_pessimistic(value, target, error, clipped) -> None:
    """The larger of the two squared errors, times the coefficient; heads stand one before."""
    experience = rollout([0.0], returns=torch.tensor([[0.0, target, 0.0]]))
    heads = torch.tensor([[value, 0.0, 99.0]])
    loss = PPO().loss("critic", Outputs(heads=heads), experience)
    assert float(loss.total) == pytest.approx(0.5 * error)
    assert float(loss.sums["value_loss"][0]) == pytest.approx(error)
    assert [float(v) for v in loss.sums["value_clip_fraction"]] == [clipped, 2]
    free = PPO(clip_value=None).loss("critic", Outputs(heads=heads), experience)
    assert float(free.total) == pytest.approx(0.5 * (value - target) ** 2)


def test_the_mixture_is_the_supervised_loss_times_its_coefficient() -> None:
    """PPO-ptx."""
    rows = from_lists([[1, 2, 3]], [[False, True, True]])
    loss = PPO(mixture_coefficient=27.8).mixture(Outputs(torch.tensor([[0.0, -1.0, -2.0]])), rows)
    assert float(loss.total) == pytest.approx(27.8 * 3)
    assert [float(value) for value in loss.sums["mixture/loss"]] == [3, 2]


options = st.builds(
    PPO,
    kl_estimator=st.sampled_from(["k1", "k2", "k3"]),
    gamma=st.sampled_from([1.0, 0.9]),
    whiten=st.booleans(),
    normalise_score=st.booleans(),
    missing_eos_penalty=st.sampled_from([0.0, 1.0]),
    entropy_coefficient=st.sampled_from([0.0, 0.01]),
    clip_value=st.sampled_from([None, 0.2]),
)


@given(st.data(), options)
def test_padding_changes_nothing(tiny: SimpleNamespace, data, algorithm: PPO) -> None:
    """Left, right, any id: losses, gradients and metrics of actor and critic, and of preparing."""
    rows = data.draw(tiny.pairs_of_rows())
    tiny.assert_padding_changes_nothing(algorithm, ["actor", "critic"], rows, data.draw)


@given(st.data(), options)
def test_micro_batches_change_nothing(tiny: SimpleNamespace, data, algorithm: PPO) -> None:
    """8 x 1 is 1 x 8, also where responses differ in length."""
    rows = data.draw(tiny.pairs_of_rows())
    tiny.assert_micro_batches_change_nothing(algorithm, ["actor", "critic"], rows)


# Learning.


class Bandit(nn.Module):
    """Two arms as two tokens: the prompt is token 2, a response is one token, its arm's number."""

    PRIZES = torch.tensor([0.2, 1.0])

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([1.5, 0.0]))  # the poor arm, four times in five
        self.value = nn.Parameter(torch.zeros(()))

    def log_probs(self, tokens: Tensor) -> Tensor:
        """(rows, 2), token-aligned."""
        return nn.functional.pad(self.logits.log_softmax(0)[tokens[:, 1:]], (1, 0))


def play(algorithm: PPO, *, greedy: bool, seed: int, iterations: int = 60) -> float:
    """The probability of the rich arm after training from the given start."""
    bandit, rows = Bandit(), 16
    optimizer = torch.optim.Adam(bandit.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(seed)
    reference = bandit.log_probs(torch.tensor([[2, 0], [2, 1]])).detach()[:, 1]
    state = algorithm.start()
    for _ in range(iterations):
        odds = bandit.logits.detach().softmax(0)
        arms = torch.multinomial(odds, rows, replacement=True, generator=generator)
        arms = odds.argmax().expand(rows) if greedy else arms
        tokens = torch.stack([torch.full((rows,), 2), arms], 1)
        heads = bandit.value.expand(rows, 2)
        trained = torch.tensor([False, True]).expand(rows, 2)
        experience = Experience(
            tokens,
            attended=torch.ones_like(trained),
            trained=trained,
            log_probs=bandit.log_probs(tokens).detach(),
            reference_log_probs=nn.functional.pad(reference[arms][:, None], (1, 0)),
            values=values_from_heads(heads.detach()),
            score=Bandit.PRIZES[arms],
            finished=torch.ones(rows, dtype=torch.bool),
        )
        experience, state, _ = algorithm.prepare(experience, state, alone)
        for _ in range(algorithm.epochs):
            actor = algorithm.loss("actor", Outputs(bandit.log_probs(tokens)), experience)
            critic = algorithm.loss(
                "critic", Outputs(heads=bandit.value.expand(rows, 2)), experience
            )
            optimizer.zero_grad()
            ((actor.total + critic.total) / algorithm.weight("actor", experience)).backward()
            optimizer.step()
    return float(bandit.logits.detach().softmax(0)[1])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("whiten", [True, False])
def test_ppo_solves_a_two_armed_bandit_by_sampling(whiten: bool, seed: int) -> None:
    """From a start that prefers the poor arm."""
    algorithm = PPO(kl_coefficient=0.01, epochs=2, whiten=whiten)
    assert play(algorithm, greedy=False, seed=seed) > 0.9


@pytest.mark.parametrize("whiten", [True, False])
def test_greedy_rollouts_never_find_the_rich_arm(whiten: bool) -> None:
    """The likeliest arm is the only one ever tried, so the start's mistake is never found out."""
    algorithm = PPO(kl_coefficient=0.01, epochs=2, whiten=whiten)
    assert play(algorithm, greedy=True, seed=0) < 0.25


def test_a_dear_divergence_keeps_the_policy_at_its_reference() -> None:
    """At a price above what the rich arm is worth the optimum stays near the start, 0.18.

    The optimum of E[prize] - price * KL(policy || reference) is proportional to
    reference * exp(prize / price): for a price of 2, odds of exp(-1.5 + 0.8 / 2).
    """
    found = play(PPO(kl_coefficient=2.0, whiten=False), greedy=False, seed=0, iterations=300)
    assert found == pytest.approx(torch.tensor(-1.1).sigmoid().item(), abs=0.05)
