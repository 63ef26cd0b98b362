"""`rlhf/draw.py`: uniform numbers by (seed, step, row, token), and the token each means."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from rlhf.draw import draw, uniforms
from rlhf.errors import DivergedError
from rlhf.sampling import Sampling

NO_ENDS = torch.tensor([], dtype=torch.int64)
LOGITS = torch.tensor([2.0, 0.5, -torch.inf, 1.0, 1.0, -2.0, 0.0, -8.0])


def counts(sampling: Sampling, draws: int = 20_000) -> np.ndarray:
    """How often each token of `LOGITS` is drawn."""
    numbers = uniforms(7, 3, slice(None), 1, draws)[0]
    tokens, _ = draw(LOGITS.expand(draws, -1), numbers, sampling, NO_ENDS, 0)
    return np.bincount(tokens.numpy(), minlength=len(LOGITS))


def test_numbers_belong_to_seed_step_row_and_token() -> None:
    """A row has the same numbers alone, in a slice, in any order; fewer tokens are a prefix."""
    whole = uniforms(5, 2, slice(None), 6, 9)
    assert whole.shape == (6, 9)
    assert whole.dtype == torch.float64
    assert torch.equal(uniforms(5, 2, slice(2, 6, 2), 6, 9), whole[2::2])
    assert torch.equal(uniforms(5, 2, torch.tensor([4, 0]), 6, 4), whole[[4, 0], :4])
    assert torch.equal(uniforms(5, 2, slice(0, 6), 600, 9), whole)
    for other in (uniforms(6, 2, slice(None), 6, 9), uniforms(5, 3, slice(None), 6, 9)):
        assert not torch.isin(other, whole).any()
    assert whole.unique().numel() == whole.numel()


def test_numbers_are_uniform() -> None:
    """Twenty equal bins are equally full, in [0, 1)."""
    numbers = uniforms(1, 1, slice(None), 40, 1000).ravel().numpy()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert chisquare(np.histogram(numbers, 20, (0, 1))[0]).pvalue > 1e-3


def test_numbers_of_a_row_outside_are_refused() -> None:
    """A row beyond the batch is a mistake of the caller."""
    with pytest.raises(IndexError, match=r"rows \[6\] of 6"):
        uniforms(1, 1, [0, 6], 6, 3)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(), (0, 1, 3, 4, 5, 6, 7)),
        (Sampling(temperature=0.5), (0, 1, 3, 4, 5, 6, 7)),
        (Sampling(top_k=3), (0, 3, 4)),
        (Sampling(top_k=2), (0, 3)),  # 3 and 4 are equally likely: the first of the vocabulary
        (Sampling(top_p=0.6), (0, 3)),
        (Sampling(top_p=0.4, temperature=2.0), (0, 3)),
        (Sampling(top_k=3, top_p=0.7), (0, 3)),  # of what top-k left, token 0 has 0.576
        (Sampling(top_k=100, top_p=1.0), (0, 1, 3, 4, 5, 6, 7)),
    ],
)
def test_draws_follow_the_distribution(sampling: Sampling, kept: tuple[int, ...]) -> None:
    """Frequencies match softmax(logits / temperature) over the kept tokens (chi-square)."""
    found = counts(sampling)
    expected = torch.zeros(len(LOGITS), dtype=torch.float64)
    expected[list(kept)] = (LOGITS.double()[list(kept)] / sampling.temperature).softmax(0)
    expected = expected.numpy() * found.sum()
    assert found[expected == 0].sum() == 0
    often = expected >= 5
    seen = np.append(found[often], found[~often].sum())
    meant = np.append(expected[often], expected[~often].sum())
    some = meant > 0
    assert chisquare(seen[some], meant[some]).pvalue > 1e-3


def test_log_prob_is_of_the_full_tempered_distribution() -> None:
    """Neither top-k, top-p nor an excluded end changes the log-prob that training compares."""
    sampling = Sampling(temperature=0.7, top_k=2, top_p=0.5, minimum_tokens=1)
    tokens, chosen = draw(LOGITS[None], torch.tensor([0.3]), sampling, torch.tensor([0]), 0)
    assert tokens.tolist() == [3]
    assert chosen.dtype == torch.float32
    assert chosen.item() == pytest.approx((LOGITS / 0.7).log_softmax(0)[3].item(), abs=1e-6)


def test_ends_wait_for_the_minimum() -> None:
    """Below minimum_tokens no end is drawn, greedy or not; from there on it is."""
    ends = torch.tensor([0, 3])
    numbers = uniforms(0, 0, slice(None), 1, 2000)[0]
    logits = LOGITS.expand(2000, -1)
    for greedy in (False, True):
        sampling = Sampling(minimum_tokens=2, greedy=greedy)
        assert not torch.isin(draw(logits, numbers, sampling, ends, 1)[0], ends).any()
        assert torch.isin(draw(logits, numbers, sampling, ends, 2)[0], ends).any()


def test_greedy_takes_the_likeliest() -> None:
    """Whatever the number."""
    numbers = torch.tensor([0.0, 0.5, 0.999])
    tokens, _ = draw(LOGITS.expand(3, -1), numbers, Sampling(greedy=True), NO_ENDS, 0)
    assert tokens.tolist() == [0, 0, 0]


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 0.25, 1.0, 3.0]), min_size=1, max_size=9),
    number=st.one_of(
        st.sampled_from([0.0, 0.25, 0.5, 0.75, 1 - 2.0**-53]),
        st.floats(0, 1, exclude_max=True),
    ),
    top_k=st.integers(0, 4),
    top_p=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_no_impossible_token(weights: list[float], number: float, top_k: int, top_p: float) -> None:
    """The token drawn has a probability above 0, at the edges of [0, 1) and of the steps too."""
    if not any(weights):
        weights[0] = 1.0
    logits = torch.tensor(weights).log()[None]
    sampling = Sampling(top_k=top_k, top_p=top_p)
    tokens, chosen = draw(logits, torch.tensor([number]).double(), sampling, NO_ENDS, 0)
    assert weights[tokens.item()] > 0
    assert torch.isfinite(chosen).all()


def test_inverse_equals_a_walk_over_the_vocabulary() -> None:
    """The token is the first whose running sum exceeds the number."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 30, generator=generator)
    numbers = torch.rand(50, generator=generator, dtype=torch.float64)
    tokens, _ = draw(logits, numbers, Sampling(), NO_ENDS, 0)
    for row in range(50):
        shares = logits[row].double().softmax(0).tolist()
        total, walked = 0.0, 0
        for walked, share in enumerate(shares):  # noqa: B007
            total += share
            if total > numbers[row]:
                break
        assert tokens[row] == walked


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_stop_the_run(bad: float) -> None:
    """A diverged model is named as such, not sampled from."""
    logits = LOGITS.clone()
    logits[0] = bad
    with pytest.raises(DivergedError, match="response token 5"):
        draw(logits[None], torch.tensor([0.4]), Sampling(), NO_ENDS, 4)
