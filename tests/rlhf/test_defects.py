"""Defects of DeepSpeed-Chat that lived in its algorithms, each as it would show here.

In github.com/deepspeedai/DeepSpeedExamples at 45b4b715, applications/DeepSpeed-Chat:
dschat/rlhf/ppo_trainer.py derives masks from `seq != pad`, decodes Llama greedily, adds the score
one position behind the response, keeps the value of that position in GAE, and does not whiten;
dschat/utils/model/reward_model.py ends rows at the first padding id.

Those of its other parts are tested where these parts are: old log-probs with dropout on
(test_engine.py), class lookup by private names (test_models.py), unequal batches across ranks
(data/test_split.py), throughput by world size (test_metrics.py), experience that is used again
(test_trainer.py).
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rlhf.algorithm import Outputs
from rlhf.algorithms.ppo import PPO
from rlhf.algorithms.reward import RewardModel
from rlhf.algorithms.sft import SFT
from rlhf.errors import PlanError
from rlhf.experience import Experience, from_lists
from rlhf.plan import Plan
from rlhf.returns import alone

EOS = 9
PROMPT, RESPONSE = [1, 2], [3, 4, EOS]
LAST = len(PROMPT) + len(RESPONSE) - 1
"""The column of the end of text."""


def rollout(pad: int, values: Tensor | None = None) -> Experience:
    """Two finished responses of unequal length; behind them stands `pad`, twice at least."""
    rows = [PROMPT + RESPONSE, [*PROMPT, EOS]]
    trained = [[False] * 2 + [True] * 3, [False] * 2 + [True]]
    experience = from_lists([*rows, [0] * 7], [*trained, [False] * 7], pad=pad).select([0, 1])
    zero = torch.zeros(2, 7)
    return experience.with_(
        log_probs=zero,
        reference_log_probs=zero,
        values=zero if values is None else values,
        score=torch.tensor([2.0, -1.0]),
        finished=torch.tensor([True, True]),
    )


def by_id(experience: Experience, pad: int) -> Tensor:
    """The mask that DeepSpeed-Chat would have used."""
    return experience.tokens != pad


def prepared(experience: Experience, algorithm: PPO | None = None) -> Experience:
    """After `Prepare`."""
    algorithm = algorithm or PPO(kl_coefficient=0.0, whiten=False)
    return algorithm.prepare(experience, algorithm.start(), alone)[0]


def test_the_end_of_text_is_trained_when_it_is_also_the_padding() -> None:
    """By id it would be masked: SFT and PPO would never learn to stop, and the score of a response
    would be read before its end.
    """
    experience = rollout(pad=EOS)
    assert not by_id(experience, EOS)[0, LAST]  # the trap is set
    learned = SFT().learned(experience)
    assert learned[0].nonzero().ravel().tolist() == [2, 3, LAST]
    assert learned[1].nonzero().ravel().tolist() == [2]

    log_probs = torch.zeros(2, 7, requires_grad=True)
    advantages = experience.trained.float()
    PPO().loss(
        "actor", Outputs(log_probs), experience.with_(advantages=advantages)
    ).total.backward()
    assert log_probs.grad is not None
    assert float(log_probs.grad[0, LAST]) == -1
    assert log_probs.grad[0, LAST + 1 :].eq(0).all()

    heads = torch.zeros(2, 7, requires_grad=True)
    RewardModel().loss(
        "reward", Outputs(heads=heads), replace(experience, group=2)
    ).total.backward()
    assert heads.grad is not None
    assert heads.grad.nonzero().tolist() == [[0, LAST], [1, 2]]


def test_no_value_from_behind_the_end_of_text_enters_gae() -> None:
    """What a critic says after the end of text was never trained; the return there is the score."""
    values = torch.zeros(2, 7)
    values[:, LAST + 1 :] = 100.0
    values[1, 3:] = -100.0
    found = prepared(rollout(pad=0, values=values))
    clean = prepared(rollout(pad=0))
    for name in ("advantages", "returns"):
        assert found.known(name).equal(clean.known(name))
    assert float(found.known("returns")[0, LAST]) == 2
    assert float(found.known("returns")[1, 2]) == -1


@pytest.mark.parametrize("pad", [0, EOS])
def test_the_score_sits_on_the_end_of_text_and_not_one_position_late(pad: int) -> None:
    """Whether the padding is another id or the same; one late no trained token would receive it
    undiscounted, and in a full row it would sit elsewhere than in others.
    """
    rewards = prepared(rollout(pad=pad)).known("rewards")
    expected = torch.zeros(2, 7)
    expected[0, LAST], expected[1, 2] = 2.0, -1.0
    assert rewards.equal(expected)


def test_the_score_is_read_from_the_head_after_the_end_of_text() -> None:
    """Not from the token before it, nor from padding."""
    heads = torch.arange(14.0).view(2, 7)
    loss = RewardModel().loss("reward", Outputs(heads=heads), replace(rollout(pad=EOS), group=2))
    assert float(loss.sums["score/chosen"][0]) == LAST
    assert float(loss.sums["score/rejected"][0]) == 7 + 2


def test_advantages_are_whitened_unless_told_otherwise() -> None:
    """Over trained tokens alone; a critic that is off by a constant then changes nothing."""
    algorithm = PPO(kl_coefficient=0.0, lam=1.0)
    found = prepared(rollout(pad=0), algorithm).known("advantages")
    trained = rollout(pad=0).trained
    assert float(found[trained].mean()) == pytest.approx(0, abs=1e-6)
    assert float(found[trained].var()) == pytest.approx(1, abs=1e-6)
    assert found[~trained].eq(0).all()

    off = prepared(rollout(pad=0, values=torch.full((2, 7), 50.0)), algorithm).known("advantages")
    torch.testing.assert_close(off, found, atol=1e-4, rtol=1e-4)


def test_a_plan_with_greedy_rollouts_is_refused() -> None:
    """A policy that always takes the likeliest token never sees another; see the bandit's test."""
    ppo = {"algorithm": "ppo", "sampling": {"greedy": True}}
    with pytest.raises(PlanError, match="greedy"):
        Plan(name="x", roles={"actor": {"model": "llama"}}, data={}, stages=[ppo])
    sft = {"algorithm": "sft", "sampling": {"greedy": True}}  # its samples are only looked at
    Plan(name="x", roles={"actor": {"model": "llama"}}, data={}, stages=[sft])
