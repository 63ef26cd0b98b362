"""Supervised fine-tuning: which tokens are learned, and the sums of the loss."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlhf.algorithm import Outputs
from rlhf.algorithms.sft import SFT
from rlhf.experience import from_lists
from rlhf.phases import Sizes, Train

EOS = 9
ROWS = from_lists(
    [[1, 2, 3, EOS], [4, 5, EOS]],
    [[False, False, True, True], [False, True, True]],
)
LOG_PROBS = -torch.tensor([[0.0, 1.0, 2.0, 4.0], [0.0, 8.0, 16.0, 999.0]])


def test_loss_on_answers_is_by_hand() -> None:
    """The sum over answer tokens, end of text included, padding not; the weight is their number."""
    algorithm = SFT()
    loss = algorithm.loss("actor", Outputs(LOG_PROBS), ROWS)
    assert float(loss.total) == 2 + 4 + 8 + 16
    assert int(algorithm.weight("actor", ROWS)) == 4
    assert [float(value) for value in loss.sums["loss"]] == [30, 4]


def test_loss_on_all_is_every_token_but_the_first() -> None:
    """Nothing predicts the first."""
    algorithm = SFT(loss_on="all")
    assert float(algorithm.loss("actor", Outputs(LOG_PROBS), ROWS).total) == 31
    assert int(algorithm.weight("actor", ROWS)) == 5


def test_an_answer_without_a_prompt_does_not_learn_its_first_token() -> None:
    """What stands before it is padding or nothing."""
    rows = from_lists([[3, EOS]], [[True, True]])
    assert SFT().learned(rows).tolist() == [[False, True]]


def test_perplexity_is_the_exponential_of_the_mean_loss() -> None:
    """Of the mean over the batch, not a mean of exponentials; beyond a float it is infinite."""
    assert SFT().summary({"loss": 2.0})["perplexity"] == pytest.approx(7.38905609893)
    assert SFT().summary({"loss": 1e4})["perplexity"] == float("inf")


def test_the_loss_is_cross_entropy() -> None:
    """Against torch's own, on logits."""
    logits = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.where(ROWS.trained, ROWS.tokens, -100)
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    log_probs = logits.log_softmax(-1).gather(2, ROWS.tokens[..., None])[..., 0]
    algorithm = SFT()
    loss = algorithm.loss("actor", Outputs(log_probs), ROWS)
    torch.testing.assert_close(loss.total / algorithm.weight("actor", ROWS), expected)


def test_phases_are_one_step_of_the_actor() -> None:
    """Which is the only role."""
    assert SFT().phases(Sizes(8, 10, 20)) == (Train("actor", 8, 30, 8),)
    assert SFT().roles() == ("actor",)


@given(st.data(), st.sampled_from(["answers", "all"]))
def test_padding_changes_nothing(tiny: SimpleNamespace, data, loss_on) -> None:
    """Left, right, any id: loss, gradients and metrics."""
    rows = data.draw(tiny.pairs_of_rows())
    tiny.assert_padding_changes_nothing(SFT(loss_on=loss_on), ["actor"], rows, data.draw)


@given(st.data(), st.sampled_from(["answers", "all"]))
def test_micro_batches_change_nothing(tiny: SimpleNamespace, data, loss_on) -> None:
    """8 x 1 is 1 x 8, also where answers differ in length."""
    rows = data.draw(tiny.pairs_of_rows())
    tiny.assert_micro_batches_change_nothing(SFT(loss_on=loss_on), ["actor"], rows)
