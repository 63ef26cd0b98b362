"""The reward model's losses against closed forms and a plain loop; its metrics against numpy."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.algorithm import Outputs
from rlhf.algorithms.reward import RewardModel, calibration, window_losses
from rlhf.experience import Experience, from_lists
from rlhf.phases import Sizes, Train

LOG2 = math.log(2)


def pair_loss(margin: float) -> float:
    """-log sigmoid(margin)."""
    return math.log1p(math.exp(-margin))


def rows_of(*texts: list[int], prompt: int = 1) -> Experience:
    """Chosen, rejected, chosen, rejected ...; the first `prompt` tokens are not trained."""
    trained = [[False] * prompt + [True] * (len(text) - prompt) for text in texts]
    return from_lists(list(texts), trained, group=2)


def test_the_loss_at_the_last_token_is_by_hand() -> None:
    """Two pairs; every head but the last of each response is a trap."""
    rows = rows_of([1, 2, 3], [1, 2, 4, 5], [1, 6], [1, 7, 8])
    heads = torch.tensor(
        [[9, 9, 1.5, 99], [9, 9, 9, 0.5], [9, -1, 99, 99], [9, 9, 2, 99]], requires_grad=True
    )
    algorithm = RewardModel(loss_on="last")
    loss = algorithm.loss("reward", Outputs(heads=heads), rows)
    assert float(loss.total.detach()) == pytest.approx(pair_loss(1.0) + pair_loss(-3.0))
    assert int(algorithm.weight("reward", rows)) == 2

    loss.total.backward()
    push = [-1 / (1 + math.e), 1 / (1 + math.e), -1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-3))]
    expected = torch.zeros(4, 4)
    for row, column, slope in zip(range(4), (2, 3, 1, 2), push, strict=True):
        expected[row, column] = slope
    torch.testing.assert_close(heads.grad, expected)


def test_the_loss_over_the_window_is_by_hand() -> None:
    """From the first difference, position 2, to the longer end; the shorter keeps its last head."""
    rows = rows_of([1, 2, 3], [1, 2, 4, 5])
    heads = torch.tensor([[9.0, 9, 1, 99], [9, 9, 3, -1]])
    expected = (pair_loss(1 - 3) + pair_loss(1 + 1)) / 2
    assert window_losses(heads, rows).tolist() == pytest.approx([expected])


def test_an_answer_that_begins_the_other_differs_at_its_end() -> None:
    """The window is what the longer one adds, also where that repeats the shorter one's last."""
    rows = rows_of([1, 2], [1, 2, 2, 4])
    heads = torch.tensor([[9.0, 1, 99, 99], [9, 5, 3, 2]])
    expected = (pair_loss(1 - 3) + pair_loss(1 - 2)) / 2
    assert window_losses(heads, rows).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("loss_on", ["last", "window"])
def test_equal_answers_cost_log_two_and_teach_nothing(loss_on) -> None:
    """No window, and yet no division by zero; a coin would decide which is better."""
    rows = rows_of([1, 2, 3], [1, 2, 3])
    head = torch.tensor([0.3, -0.2, 0.7, 0.0], requires_grad=True)  # one model, the same text twice
    loss = RewardModel(loss_on=loss_on).loss(
        "reward", Outputs(heads=head.expand(2, 4)[:, :3]), rows
    )
    assert float(loss.total.detach()) == pytest.approx(LOG2)
    assert float(loss.sums["accuracy"][0]) == 0.5
    loss.total.backward()
    assert head.grad is not None
    assert head.grad.eq(0).all()


def window_loop(heads: list[list[float]], texts: list[list[int]]) -> list[float]:
    """The window form with plain lists: no padding, no masks, one position at a time."""
    losses = []
    for i in range(0, len(texts), 2):
        chosen, rejected = texts[i], texts[i + 1]
        longer = max(len(chosen), len(rejected))
        start = next((p for p in range(longer) if chosen[p : p + 1] != rejected[p : p + 1]), None)
        positions = [longer - 1] if start is None else list(range(start, longer))
        terms = []
        for p in positions:
            one = heads[i][min(p, len(chosen) - 1)]
            other = heads[i + 1][min(p, len(rejected) - 1)]
            terms.append(pair_loss(one - other))
        losses.append(sum(terms) / len(terms))
    return losses


@given(st.data())
def test_the_window_equals_a_plain_loop(tiny: SimpleNamespace, data) -> None:
    """Over lengths, first differences, padding and its id."""
    rows = data.draw(tiny.pairs_of_rows())
    texts = [list(row.prompt + row.response) for row in rows]
    time = max(map(len, texts)) + data.draw(st.integers(0, 3))
    offsets = [data.draw(st.integers(0, time - len(text))) for text in texts]
    experience = tiny.lay_out(rows, offsets=offsets, time=time, pad=data.draw(st.integers(0, 10)))
    heads = torch.randn(len(rows), time, generator=torch.Generator().manual_seed(len(texts)))
    own = [
        heads[i, start : start + len(text)].tolist()
        for i, (start, text) in enumerate(zip(offsets, texts, strict=True))
    ]
    assert window_losses(heads, experience).tolist() == pytest.approx(window_loop(own, texts))


@given(st.lists(st.tuples(st.floats(-6, 6), st.floats(-6, 6)), min_size=2, max_size=12))
def test_metrics_are_those_of_the_scores(scores: list[tuple[float, float]]) -> None:
    """Accuracy, margin, deviation, and Pearson's correlation with the length, as numpy has them."""
    texts: list[list[int]] = []
    for i in range(len(scores)):
        texts += [[0] + [1] * (i % 3 + 1), [0] + [2] * (i % 5 + 2)]
    rows = rows_of(*texts)
    flat = np.array(scores, dtype=np.float64).ravel()
    heads = torch.zeros(rows.tokens.shape, dtype=torch.float64)
    heads[torch.arange(len(texts)), rows.lengths - 1] = torch.tensor(flat)
    algorithm = RewardModel()
    loss = algorithm.loss("reward", Outputs(heads=heads), rows)
    found = algorithm.summary({n: float(total / count) for n, (total, count) in loss.sums.items()})

    margin, lengths = flat[0::2] - flat[1::2], np.array([len(text) - 1 for text in texts])
    assert found["loss"] == pytest.approx(np.mean([pair_loss(m) for m in margin]))
    assert found["margin"] == pytest.approx(margin.mean(), abs=1e-12)
    assert found["accuracy"] == pytest.approx(np.mean((margin > 0) + 0.5 * (margin == 0)))
    assert found["score/std"] == pytest.approx(flat.std(), abs=1e-6)
    assert found["score/chosen"] == pytest.approx(flat[0::2].mean(), abs=1e-12)
    assert found["score/rejected"] == pytest.approx(flat[1::2].mean(), abs=1e-12)
    if flat.std() > 1e-3:
        expected = np.corrcoef(flat, lengths)[0, 1]
        assert found["length_correlation"] == pytest.approx(expected, abs=1e-6)


def test_a_constant_score_has_no_correlation() -> None:
    """And no deviation, rather than a division by zero."""
    rows = rows_of([0, 1], [0, 2, 3])
    loss = RewardModel().loss("reward", Outputs(heads=torch.ones(2, 3)), rows)
    found = RewardModel().summary({n: float(s / c) for n, (s, c) in loss.sums.items()})
    assert (found["length_correlation"], found["score/std"], found["accuracy"]) == (0, 0, 0.5)


def error_of(margin: torch.Tensor) -> float:
    """The calibration error of some margins."""
    return sum(abs(float(total / count)) for total, count in calibration(margin).values())


def test_calibration_error_is_confidence_less_accuracy_per_bin() -> None:
    """Four pairs at confidence 0.8, right three times: off by 0.05; two at 0.99, always right."""
    at = torch.tensor([0.8, 0.99], dtype=torch.float64).logit()
    margin = torch.stack([at[0], at[0], -at[0], at[0]])
    assert error_of(margin) == pytest.approx(0.05)
    both = torch.cat([margin, at[1].repeat(2)])
    assert error_of(both) == pytest.approx(0.05 * 4 / 6 + 0.01 * 2 / 6)


def test_a_calibrated_model_has_a_small_calibration_error_and_a_boastful_one_a_large() -> None:
    """Outcomes drawn with the model's own confidence; then with every margin tripled."""
    generator = torch.Generator().manual_seed(0)
    strength = torch.rand(20_000, generator=generator, dtype=torch.float64) * 3
    wins = torch.rand(20_000, generator=generator, dtype=torch.float64) < strength.sigmoid()
    margin = torch.where(wins, strength, -strength)
    assert error_of(margin) < 0.02
    assert error_of(3 * margin) > 0.1


def test_phases_are_one_step_over_both_rows_of_each_pair() -> None:
    """A batch of 8 pairs is 16 rows."""
    assert RewardModel().phases(Sizes(8, 10, 20)) == (Train("reward", 16, 30, 16),)
    assert RewardModel().roles() == ("reward",)


@given(st.data(), st.sampled_from(["last", "window"]))
def test_padding_changes_nothing(tiny: SimpleNamespace, data, loss_on) -> None:
    """Left, right, any id: loss, gradients and metrics; the rows of a pair need not align."""
    rows = data.draw(tiny.pairs_of_rows())
    tiny.assert_padding_changes_nothing(RewardModel(loss_on=loss_on), ["reward"], rows, data.draw)


@given(st.data(), st.sampled_from(["last", "window"]))
def test_micro_batches_change_nothing(tiny: SimpleNamespace, data, loss_on) -> None:
    """8 x 1 pairs are 1 x 8, correlation and calibration included."""
    rows = data.draw(tiny.pairs_of_rows())
    tiny.assert_micro_batches_change_nothing(RewardModel(loss_on=loss_on), ["reward"], rows)
