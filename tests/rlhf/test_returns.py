"""Advantages, shaped rewards, divergence and whitening against closed forms and recorded numbers.

Recorded numbers: Huang, Liu, von Werra, The N Implementation Details of RLHF with PPO
(huggingface.co/blog, 2023), recomputed; Schulman, Approximating KL Divergence (joschu.net, 2020),
by numerical integration.
"""

import json
import math
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.returns import (
    Moments,
    ScoreScale,
    adapted_coefficient,
    gae,
    kl_estimate,
    last_of,
    masked_mean,
    means,
    moments,
    predicted,
    score_from_heads,
    score_scale,
    shaped_rewards,
    tally,
    values_from_heads,
    whiten,
    within,
)

NAN = float("nan")
MASK = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()

masks = st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=5)
numbers = st.floats(-10, 10, allow_subnormal=False)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# Positions.


def test_the_last_trained_token_is_found_on_either_side_of_padding() -> None:
    """One per row that has any, wherever the row lies."""
    expected = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0] * 5]).bool()
    assert last_of(MASK).equal(expected)


def test_nothing_predicts_the_first_token_of_a_row() -> None:
    """Also where padding stands before it."""
    expected = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 1, 1, 1, 1], [0] * 5]).bool()
    assert predicted(MASK).equal(expected)


def test_a_value_is_the_head_before_its_token_and_a_score_the_head_after_the_last() -> None:
    """heads[t] is said after token t; the value of choosing token t is said before it."""
    heads = torch.arange(20.0).view(4, 5)
    assert values_from_heads(heads)[1].tolist() == [0, 5, 6, 7, 8]
    assert score_from_heads(heads, MASK).tolist() == [2, 9, 14, 0]


# Sums and statistics.


def test_means_are_over_all_processes(in_processes) -> None:
    """Unequal shares: the mean of all entries, not the mean of means; nothing counted gives 0."""
    values = [torch.tensor([1.0, 2.0, NAN]), torch.tensor([6.0, 7.0, 8.0])]
    counted = [torch.tensor([True, True, False]), torch.tensor([True, True, True])]

    def work(rank: int, reduce) -> dict[str, torch.Tensor]:
        none = torch.zeros(3, dtype=torch.bool)
        sums = {"x": tally(values[rank], counted[rank]), "none": tally(values[rank], none)}
        assert float(masked_mean(values[rank], counted[rank], reduce)) == 24 / 5
        return means(sums, reduce)

    for found in in_processes(2, work):
        assert {name: float(value) for name, value in found.items()} == {"x": 24 / 5, "none": 0}
    assert means({}, lambda tensor: tensor) == {}


@given(st.lists(numbers, max_size=8), st.lists(numbers, max_size=8))
def test_moments_of_two_sets_add_up(one: list[float], other: list[float]) -> None:
    """The moments of both together, empty sets included."""
    both = torch.tensor(one + other, dtype=torch.float64)
    summed = moments(torch.tensor(one)) + moments(torch.tensor(other))
    assert summed.count == len(both)
    if len(both):
        assert summed.mean == pytest.approx(float(both.mean()), abs=1e-5)
        assert summed.variance(unbiased=False) == pytest.approx(
            float(both.var(unbiased=False)), abs=1e-4
        )
    if len(both) > 1:
        assert summed.std == pytest.approx(float(both.std()), abs=1e-4)


def test_a_small_variance_survives_a_large_mean() -> None:
    """Squares are of distances from the mean; E[x^2] - E[x]^2 would give 0 or less here."""
    values = torch.tensor([1e9 + 1, 1e9 + 2, 1e9 + 3], dtype=torch.float64)
    assert moments(values).variance() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("unbiased", "first_row"),
    [(False, [0.050807, 0.438105, 0.825403]), (True, [0.139407, 0.504555, 0.869703])],
)
def test_whitening_has_the_recorded_numbers(unbiased: bool, first_row: list[float]) -> None:
    """Both variances, with the mean kept."""
    values = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]])
    everywhere = torch.ones_like(values, dtype=torch.bool)
    found = whiten(values, everywhere, shift_mean=False, unbiased=unbiased)
    assert found[0].tolist() == pytest.approx(first_row, abs=2e-6)
    assert float(found[1, 1]) == pytest.approx(1.6)
    shifted = whiten(values, everywhere, unbiased=unbiased)
    torch.testing.assert_close(shifted, found - 1.6)


def test_whitening_sees_the_mask_alone() -> None:
    """NaN outside the mask is not used, and is 0 in the result; inside: mean 0, variance 1."""
    values = torch.where(MASK, drawn(0, 4, 5) * 3 + 7, NAN)
    found = whiten(values, MASK)
    assert found[~MASK].eq(0).all()
    assert float(found[MASK].mean()) == pytest.approx(0, abs=1e-12)
    assert float(found[MASK].var()) == pytest.approx(1, abs=1e-6)


def test_whitening_is_over_all_processes(in_processes) -> None:
    """Two halves together are whitened as the whole, not each for itself."""
    values, mask = drawn(1, 4, 5) + torch.tensor([[5.0], [5.0], [-5.0], [-5.0]]), MASK
    whole = whiten(values, mask)

    def work(rank: int, reduce) -> torch.Tensor:
        half = slice(2 * rank, 2 * rank + 2)
        return whiten(values[half], mask[half], reduce)

    torch.testing.assert_close(torch.cat(in_processes(2, work)), whole)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_whitening_without_variance_is_zero(count: int) -> None:
    """No entry, one, or equal ones: no advantage over another, and no NaN."""
    values = torch.full((1, 5), 3.0)
    mask = torch.arange(5)[None] < count
    assert whiten(values, mask).abs().max() < 1e-6


# Divergence from the reference.


@pytest.mark.parametrize(
    ("shift", "true", "estimator", "bias", "std"),
    [
        (0.1, 0.005, "k1", 0.0, 20.0),
        (0.1, 0.005, "k2", 0.0025, 1.4177),
        (0.1, 0.005, "k3", 0.0, 1.4166),
        (1.0, 0.5, "k1", 0.0, 2.0),
        (1.0, 0.5, "k2", 0.25, 1.7321),
        (1.0, 0.5, "k3", 0.0, 1.695),
    ],
)
def test_kl_estimators_have_their_bias_and_spread(
    shift: float, true: float, estimator: str, bias: float, std: float
) -> None:
    """KL(N(0,1) || N(shift,1)): expectation and deviation by integration, relative to the truth."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)

    def log_density(mean: float) -> torch.Tensor:
        return -(x - mean).square() / 2 - math.log(2 * math.pi) / 2

    found = kl_estimate(log_density(0), log_density(shift), estimator)  # type: ignore[arg-type]
    weights = log_density(0).exp() * (x[1] - x[0])
    expectation = (weights * found).sum()
    deviation = (weights * (found - expectation).square()).sum().sqrt()
    assert float(expectation / true - 1) == pytest.approx(bias, abs=1e-4)
    assert float(deviation / true) == pytest.approx(std, abs=1e-3)


@given(numbers, numbers)
def test_k2_and_k3_are_never_negative(log_prob: float, reference: float) -> None:
    """And all three are 0 where policy and reference agree."""
    one, other = torch.tensor(log_prob), torch.tensor(reference)
    for estimator in ("k2", "k3"):
        assert float(kl_estimate(one, other, estimator)) >= -1e-9  # type: ignore[arg-type]
    for estimator in ("k1", "k2", "k3"):
        assert float(kl_estimate(one, one, estimator)) == 0  # type: ignore[arg-type]


def test_the_adaptive_coefficient_has_the_recorded_number() -> None:
    """0.15, target 6, horizon 10000; 256 responses at a KL of 9."""
    found = adapted_coefficient(0.15, 9.0, target=6, rows=256, horizon=10_000)
    assert found == pytest.approx(0.150768, abs=1e-12)


@pytest.mark.parametrize(("kl", "error"), [(0.0, -0.2), (5.4, -0.1), (6.0, 0.0), (600.0, 0.2)])
def test_the_adaptive_coefficient_moves_at_most_a_fifth_of_the_horizon(
    kl: float, error: float
) -> None:
    """The relative error is clipped on both sides."""
    found = adapted_coefficient(1.0, kl, target=6, rows=100, horizon=1000)
    assert found == pytest.approx(1 + error * 0.1)


# From rewards to advantages and returns.


def test_the_score_is_the_reward_of_the_last_trained_token() -> None:
    """Every trained token pays for its divergence; what lies outside is not looked at."""
    kl = torch.where(MASK, 0.5, NAN)
    score = torch.tensor([1.0, -2.0, 3.0, 4.0])
    found = shaped_rewards(score, kl, MASK, 0.1)
    expected = [
        [0, -0.05, 0.95, 0, 0],
        [0, 0, 0, -0.05, -2.05],
        [-0.05, -0.05, -0.05, -0.05, 2.95],
        [0, 0, 0, 0, 0],
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_gae_has_the_recorded_numbers() -> None:
    """With gamma 1 and lambda 0.95."""
    rewards = torch.tensor([[0.1, -0.2, 0.0, 1.0]])
    values = torch.tensor([[0.5, 0.4, 0.3, 0.2]])
    advantages, returns = gae(rewards, values, torch.ones(1, 4).bool(), gamma=1, lam=0.95)
    assert advantages[0].tolist() == pytest.approx([0.31065, 0.327, 0.66, 0.8])
    assert returns[0].tolist() == pytest.approx([0.81065, 0.727, 0.96, 1.0])


def double_loop(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """advantage[k] = sum over j >= k of (gamma lambda)^(j-k) delta[j], straight from the paper."""
    steps = len(rewards)
    advantages = []
    for k in range(steps):
        total = 0.0
        for j in range(k, steps):
            after = values[j + 1] if j + 1 < steps else 0.0
            total += (gamma * lam) ** (j - k) * (rewards[j] + gamma * after - values[j])
        advantages.append(total)
    return advantages


@given(masks, st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1))
def test_gae_equals_the_double_loop(
    mask: list[list[bool]], seed: int, gamma: float, lam: float
) -> None:
    """For every mask: padding on either side, gaps, empty rows; NaN outside stays there."""
    trained = torch.tensor(mask)
    rewards, values = drawn(seed, 2, *trained.shape)
    outside = torch.where(trained, 0.0, NAN)
    advantages, returns = gae(rewards + outside, values + outside, trained, gamma=gamma, lam=lam)
    assert advantages[~trained].eq(0).all()
    assert returns[~trained].eq(0).all()
    for i, steps in enumerate(trained):
        inside = values[i, steps]
        expected = double_loop(rewards[i, steps].tolist(), inside.tolist(), gamma, lam)
        assert advantages[i, steps].tolist() == pytest.approx(expected, abs=1e-9)
        assert returns[i, steps].tolist() == pytest.approx(
            [a + v for a, v in zip(expected, inside.tolist(), strict=True)], abs=1e-9
        )


def test_gae_at_lambda_one_is_the_return_less_the_value() -> None:
    """Its telescoping limit, and at lambda 0 the one-step error."""
    rewards, values = drawn(3, 2, 4, 5)
    _, returns = gae(rewards, values, MASK, gamma=1, lam=1)
    togo = within(rewards, MASK).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns, within(togo, MASK))
    advantages, _ = gae(rewards, values, MASK, gamma=1, lam=0)
    torch.testing.assert_close(advantages[1, 3], rewards[1, 3] + values[1, 4] - values[1, 3])


# The scale of scores.


def test_a_score_scale_gives_the_mean_and_deviation_asked_for() -> None:
    """By gain = std / std, bias = mean - gain * mean; it survives JSON."""
    scores = torch.tensor([1.0, 4.0, 7.0])  # mean 4, unbiased standard deviation 3
    scale = score_scale(moments(scores), mean=1, std=2)
    assert scale == ScoreScale(gain=pytest.approx(2 / 3), bias=pytest.approx(1 - 8 / 3))
    found = moments(scale(scores))
    assert (found.mean, found.std) == (pytest.approx(1), pytest.approx(2))
    assert ScoreScale(**json.loads(json.dumps(asdict(scale)))) == scale


def test_equal_scores_are_only_shifted() -> None:
    """No deviation to divide by."""
    assert score_scale(moments(torch.tensor([2.0, 2.0]))) == ScoreScale(1.0, -2.0)
    assert score_scale(Moments()) == ScoreScale(1.0, 0.0)
