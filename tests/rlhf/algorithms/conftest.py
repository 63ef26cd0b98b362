"""Tiny real models and rows in any layout, for properties of whole algorithms."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from rlhf.algorithm import Algorithm, Loss, Outputs
from rlhf.algorithms.ppo import PPO
from rlhf.experience import Experience
from rlhf.phases import Role
from rlhf.returns import alone, score_from_heads, values_from_heads

VOCABULARY = 11


class Context(nn.Module):
    """After token t: the mean embedding of the attended tokens so far. Float64; no positions."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.embedding, self.out = drawn(VOCABULARY, 4), drawn(4, VOCABULARY)
        self.head = drawn(4)

    def states(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """(rows, time, 4)."""
        seen = attended[..., None].double()
        return (self.embedding[tokens] * seen).cumsum(1) / seen.cumsum(1).clamp(min=1)


class TinyPolicy(Context):
    """Log-probs and entropy, token-aligned."""

    def forward(self, tokens: Tensor, attended: Tensor) -> Outputs:
        before = nn.functional.pad(self.states(tokens, attended)[:, :-1], (0, 0, 1, 0))
        everything = (before @ self.out).log_softmax(-1)
        entropy = -(everything.exp() * everything).sum(-1)
        return Outputs(everything.gather(2, tokens[..., None])[..., 0], entropy)


class TinyValues(Context):
    """Heads, token-aligned."""

    def forward(self, tokens: Tensor, attended: Tensor) -> Outputs:
        return Outputs(heads=self.states(tokens, attended).tanh() @ self.head)


@dataclass(frozen=True)
class Row:
    """A prompt, a response, and whether the response ended by itself."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    finished: bool


def tokens(least: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Some token ids."""
    ids = st.integers(0, VOCABULARY - 1)
    return st.lists(ids, min_size=least, max_size=most).map(tuple)


@st.composite
def pairs_of_rows(draw: st.DrawFn) -> list[Row]:
    """An even number of rows; two and two share a prompt."""
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        prompt = draw(tokens(1, 4))
        rows += [Row(prompt, draw(tokens(1, 5)), draw(st.booleans())) for _ in range(2)]
    return rows


def lay_out(
    rows: Sequence[Row], *, offsets: Sequence[int] | None = None, time: int | None = None, pad: int
) -> Experience:
    """Each row from its own column on, `pad` everywhere else."""
    lengths = [len(row.prompt) + len(row.response) for row in rows]
    starts = list(offsets or [0] * len(rows))
    time = time or max(s + n for s, n in zip(starts, lengths, strict=True))
    ids = torch.full((len(rows), time), pad)
    attended, trained = torch.zeros(2, len(rows), time, dtype=torch.bool)
    for i, (row, start, length) in enumerate(zip(rows, starts, lengths, strict=True)):
        ids[i, start : start + length] = torch.tensor(row.prompt + row.response)
        attended[i, start : start + length] = True
        trained[i, start + len(row.prompt) : start + length] = True
    finished = torch.tensor([row.finished for row in rows])
    return Experience(ids, attended, trained, finished=finished)


def scored(experience: Experience) -> Experience:
    """What the phases before `Prepare` fill in, by models that are not the trained ones."""
    given = (experience.tokens, experience.attended)
    old, reference, critic, reward = TinyPolicy(1), TinyPolicy(2), TinyValues(3), TinyValues(4)
    with torch.no_grad():
        heads = critic(*given).heads
        return experience.with_(
            log_probs=old(*given).log_probs,
            reference_log_probs=reference(*given).log_probs,
            values=values_from_heads(heads),
            score=4 * score_from_heads(reward(*given).heads, experience.trained),
        )


def prepared(algorithm: Algorithm, experience: Experience) -> tuple[Experience, dict[str, float]]:
    """Ready for its losses, and the metrics of getting there."""
    if isinstance(algorithm, PPO):
        experience = scored(experience)
    if algorithm.group == 2:
        experience = experience.with_(group=2)
    experience, _, metrics = algorithm.prepare(experience, algorithm.start(), alone)
    return experience, {name: float(value) for name, value in metrics.items()}


@dataclass(frozen=True)
class Learned:
    """What an optimizer batch comes to."""

    loss: float
    gradients: list[Tensor]
    metrics: Mapping[str, float]


def learn(algorithm: Algorithm, role: Role, parts: Sequence[Experience]) -> Learned:
    """One optimizer batch given as micro-batches, as the contract of losses says."""
    value_model = role in ("critic", "reward")
    model = TinyValues(7) if value_model else TinyPolicy(7)
    weight = sum(algorithm.weight(role, part) for part in parts)
    losses: list[Loss] = []
    for part in parts:
        loss = algorithm.loss(role, model(part.tokens, part.attended), part)
        (loss.total / weight).backward()
        losses.append(loss)
    sums = {
        name: sum(loss.sums[name][0] for loss in losses) / sum(x.sums[name][1] for x in losses)
        for name in losses[0].sums
    }
    largest = {n: max(float(loss.largest[n]) for loss in losses) for n in losses[0].largest}
    metrics = algorithm.summary({name: float(value) for name, value in sums.items()})
    return Learned(
        float(sum(loss.total.detach() for loss in losses) / weight),
        [p.grad for p in model.parameters() if p.grad is not None],
        {**metrics, **largest},
    )


def assert_same(one: Learned, other: Learned) -> None:
    """To the rounding of float64."""
    assert one.loss == pytest.approx(other.loss, abs=1e-10)
    assert one.metrics == pytest.approx(dict(other.metrics), abs=1e-8)
    for mine, theirs in zip(one.gradients, other.gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=1e-8)


def assert_padding_changes_nothing(
    algorithm: Algorithm, roles: Sequence[Role], rows: list[Row], draw: Callable[..., Any]
) -> None:
    """Rows from column 0 on, against rows anywhere among any id: losses, gradients, metrics."""
    time = max(len(row.prompt) + len(row.response) for row in rows) + draw(st.integers(0, 4))
    offsets = [draw(st.integers(0, time - len(row.prompt) - len(row.response))) for row in rows]
    pad = draw(st.integers(0, VOCABULARY - 1))
    plain, metrics = prepared(algorithm, lay_out(rows, pad=0))
    padded, others = prepared(algorithm, lay_out(rows, offsets=offsets, time=time, pad=pad))
    assert metrics == pytest.approx(others, abs=1e-8)
    for role in roles:
        assert_same(learn(algorithm, role, [plain]), learn(algorithm, role, [padded]))


def assert_micro_batches_change_nothing(
    algorithm: Algorithm, roles: Sequence[Role], rows: list[Row]
) -> None:
    """One micro-batch of all groups, against one of each group, trimmed to its own length."""
    whole, _ = prepared(algorithm, lay_out(rows, pad=3))
    parts = [whole.select([i]).trimmed() for i in range(whole.groups)]
    for role in roles:
        assert_same(learn(algorithm, role, [whole]), learn(algorithm, role, parts))


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """All of the above."""
    return SimpleNamespace(**globals())
