"""`rlhf/rollout.py` and `rlhf/decode.py`: plain generation on models of every kind."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import pytest
import torch
import transformers

from rlhf.algorithm import Outputs
from rlhf.decode import can_drop_rows
from rlhf.errors import DataError, ModelError, RolloutMismatchError
from rlhf.networks import Policy
from rlhf.plan import Plan
from rlhf.rollout import (
    Generated,
    Parity,
    PlainRollout,
    choose_rollout,
    measure_parity,
    uniforms,
)
from rlhf.sampling import Sampling

VOCABULARY = 97
END = 2
PAD = 0
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
COMMON = {
    "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": END, "pad_token_id": PAD,
    "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "opt": {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.5},
    "llama": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "qwen2": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 1},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mistral": {
        **SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "sliding_window": 6,
    },
}  # fmt: skip
KINDS = list(CONFIGS)


@cache
def build(kind: str) -> Any:
    """A tiny model at random, sharp enough that its tokens differ, in training mode."""
    torch.manual_seed(3)
    known = {k: v for k, v in COMMON.items() if kind not in ("gpt2", "bloom") or "max" not in k}
    config = transformers.AutoConfig.for_model(kind, **{**known, **CONFIGS[kind]})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    return model.train()


def rollout(kind: str, ends: tuple[int, ...] = (END,)) -> PlainRollout:
    """Plain generation with a tiny model."""
    return PlainRollout(lambda: nullcontext(build(kind)), ends, PAD)


def prompts(rows: int = 8, longest: int = 20) -> list[list[int]]:
    """Prompts of uneven lengths, 1 token at least."""
    generator = torch.Generator().manual_seed(rows)
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator).tolist()
    lengths[0], lengths[-1] = 1, longest
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def numbers(rows: int, tokens: int, step: int = 0) -> torch.Tensor:
    """The uniform numbers of a step."""
    return uniforms(11, step, slice(None), rows, tokens)


class PlainActor:
    """An actor without an engine: the policy of a plain model."""

    def __init__(self, model: Any) -> None:
        self.policy = Policy(model)
        self.gathers = 0

    def infer(self, tokens: torch.Tensor, attended: torch.Tensor, **options: Any) -> Outputs:
        self.policy.eval()
        with torch.no_grad():
            outputs = self.policy(tokens, attended, **options)
        self.policy.train()
        return outputs

    @contextmanager
    def generation_module(self) -> Iterator[Any]:
        self.gathers += 1
        yield self.policy.model


def rows_of(generated: Generated) -> list[tuple[list[int], bool]]:
    """What matters of each row."""
    finished = generated.finished.tolist()
    return [(generated.response(row), end) for row, end in enumerate(finished)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_equal_an_uncached_forward(kind: str, temperature: float) -> None:
    """fp32, uneven prompts: cached generation and a forward without cache agree to 1e-4."""
    sampling = Sampling(response_tokens=24, temperature=temperature)
    generated = rollout(kind).generate(prompts(), sampling, numbers(8, 24), micro_rows=3)
    parity = measure_parity(PlainActor(build(kind)), generated, temperature)
    assert parity.tokens == int(generated.response_lengths.sum()) > 50
    assert parity.largest < 1e-4
    assert parity.ratio == pytest.approx(1, abs=1e-4)
    assert parity.agrees("fp32")
    mask = generated.experience().trained
    assert (generated.log_probs[mask] < 0).all()
    assert (generated.log_probs[~mask] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_generate_of_transformers(kind: str) -> None:
    """Every row alone through `model.generate`, greedy, gives the same tokens."""
    sampling = Sampling(response_tokens=12, greedy=True)
    given = prompts(5)
    generated = rollout(kind).generate(given, sampling, numbers(5, 12), micro_rows=2)
    model = build(kind).eval()
    for row, prompt in enumerate(given):
        tokens = torch.tensor([prompt])
        expected = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=12
        )
        assert generated.response(row) == expected[0, len(prompt) :].tolist()
    model.train()


@pytest.mark.parametrize("kind", KINDS)
def test_samples_do_not_depend_on_batching(kind: str) -> None:
    """Micro-batches of 1, 3 and 8, a shuffled order, and two halves: the same responses."""
    given = prompts()
    sampling = Sampling(response_tokens=16, top_p=0.95, minimum_tokens=1)
    random = numbers(8, 16)
    generate = rollout(kind).generate
    expected = rows_of(generate(given, sampling, random, micro_rows=1))
    for micro_rows in (3, 8):
        assert rows_of(generate(given, sampling, random, micro_rows=micro_rows)) == expected
    order = [5, 2, 7, 0, 1, 6, 4, 3]
    shuffled = generate([given[row] for row in order], sampling, random[order], micro_rows=3)
    assert rows_of(shuffled) == [expected[row] for row in order]
    halves = [  # what two processes would sample
        rows_of(generate(given[part], sampling, uniforms(11, 0, part, 8, 16), micro_rows=8))
        for part in (slice(0, 4), slice(4, 8))
    ]
    assert halves[0] + halves[1] == expected


def test_streaming_gives_the_same_tokens() -> None:
    """Token by token for one row; stopping early is allowed."""
    sampling = Sampling(response_tokens=16)
    given = prompts()
    whole = rollout("llama").generate(given, sampling, numbers(8, 16), micro_rows=8)
    for row in (0, 3, 7):
        stream = rollout("llama").stream(given[row], sampling, numbers(8, 16)[row : row + 1])
        assert list(stream) == whole.response(row)
    stream = rollout("llama").stream(given[7], sampling, numbers(8, 16)[7:])
    assert next(stream) == whole.response(7)[0]
    stream.close()


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_end_of_text(kind: str) -> None:
    """A response includes the token that ended it, with its log-prob; one cut short has none."""
    sampling = Sampling(response_tokens=12)
    ends = tuple(range(2, 12))
    generated = rollout(kind, ends).generate(prompts(16), sampling, numbers(16, 12), micro_rows=5)
    finished = generated.finished.tolist()
    assert 0 < sum(finished) < 16
    for row, end in enumerate(finished):
        response = generated.response(row)
        assert (response[-1] in ends) == end
        assert not set(response[:-1]) & set(ends)
        assert len(response) == 12 or end
        last = int(generated.prompt_lengths[row]) + len(response) - 1
        assert generated.log_probs[row, last] < 0
    experience = generated.experience()
    assert experience.response_lengths.tolist() == generated.response_lengths.tolist()
    assert experience.finished is generated.finished
    assert (experience.attended & ~experience.trained).sum(1).tolist() == [
        len(prompt) for prompt in prompts(16)
    ]
    assert (experience.tokens[~experience.attended] == PAD).all()


def test_no_end_before_the_minimum() -> None:
    """`minimum_tokens` holds for every row, and the end is sampled after it."""
    sampling = Sampling(response_tokens=12, minimum_tokens=5)
    ends = tuple(range(2, 40))
    generated = rollout("llama", ends).generate(prompts(16), sampling, numbers(16, 12), 16)
    assert int(generated.response_lengths.min()) == 6
    assert generated.finished.all()


def test_little_is_computed_beyond_what_is_needed() -> None:
    """Uneven prompts and responses: at most 1.15 of what any cached generation computes; the
    positions counted are those that the model saw.
    """
    model = build("llama")
    seen: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].numel()), with_kwargs=True
    )
    given = prompts(64, longest=40)
    sampling = Sampling(response_tokens=24)
    try:
        generated = rollout("llama", tuple(range(2, 9))).generate(
            given, sampling, numbers(64, 24), micro_rows=8
        )
    finally:
        hook.remove()
    lengths = generated.response_lengths.tolist()
    assert len(set(lengths)) > 10
    assert generated.computed_tokens == sum(seen)
    assert generated.needed_tokens == sum(map(len, given)) + sum(lengths) - 64
    assert generated.computed_tokens / generated.needed_tokens <= 1.15


def test_a_cache_that_cannot_drop_rows_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples are the same, the rows stay and are counted."""
    sampling = Sampling(response_tokens=16)
    given, ends = prompts(), tuple(range(2, 12))
    dropped = rollout("llama", ends).generate(given, sampling, numbers(8, 16), micro_rows=8)
    monkeypatch.setattr("rlhf.decode.can_drop_rows", lambda _: False)
    kept = rollout("llama", ends).generate(given, sampling, numbers(8, 16), micro_rows=8)
    assert rows_of(kept) == rows_of(dropped)
    assert torch.allclose(kept.log_probs, dropped.log_probs, atol=1e-5)
    steps = int(kept.response_lengths.max()) - 1
    assert kept.computed_tokens == 8 * (max(map(len, given)) + steps) > dropped.computed_tokens


def test_caches_that_can_drop_rows() -> None:
    """Attention caches can, recurrent states cannot."""
    assert can_drop_rows(transformers.DynamicCache(config=build("mistral").config))
    layer = transformers.cache_utils.LinearAttentionLayer()
    assert not can_drop_rows(transformers.cache_utils.Cache(layers=[layer]))


def test_modes_and_gradients_are_restored() -> None:
    """Dropout is off while generating, and each module is as it was after."""
    model = build("opt")
    model.model.decoder.layers[0].eval()
    modes = [module.training for module in model.modules()]
    sampling = Sampling(response_tokens=6)
    first = rollout("opt").generate(prompts(), sampling, numbers(8, 6), micro_rows=8)
    again = rollout("opt").generate(prompts(), sampling, numbers(8, 6), micro_rows=8)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.log_probs, again.log_probs)
    assert [module.training for module in model.modules()] == modes
    assert not first.log_probs.requires_grad
    assert not first.log_probs.is_inference()
    model.train()


def test_the_model_is_taken_once_per_generation() -> None:
    """Under ZeRO-3 taking it gathers the weights: once per generation, not per token."""
    actor = PlainActor(build("llama"))
    plain = PlainRollout(actor.generation_module, (END,), PAD)
    plain.generate(prompts(), Sampling(response_tokens=9), numbers(8, 9), micro_rows=2)
    assert actor.gathers == 1


@pytest.mark.parametrize(
    ("kind", "longest"), [("opt", 64), ("gpt2", 64), ("llama", 64), ("bloom", None)]
)
def test_rows_beyond_the_positions_are_refused(kind: str, longest: int | None) -> None:
    """As long as the positions is fine, one more is refused; BLOOM has no limit."""
    plain = rollout(kind)
    sampling = Sampling(response_tokens=4)
    plain.generate([[5] * 60, [5]], sampling, numbers(2, 4), micro_rows=2)
    if longest is None:
        plain.generate([[5] * 61, [5]], sampling, numbers(2, 4), micro_rows=2)
        return
    with pytest.raises(ModelError, match=r"61 prompt \+ 4 response(.|\n)*at most 64"):
        plain.generate([[5] * 61, [5]], sampling, numbers(2, 4), micro_rows=2)


def test_an_empty_prompt_is_refused() -> None:
    """There is nothing to continue."""
    with pytest.raises(DataError, match="prompt 1"):
        rollout("opt").generate([[5], []], Sampling(response_tokens=4), numbers(2, 4), 2)


def test_no_prompts() -> None:
    """A process without rows still takes part, and gets no rows."""
    generated = rollout("opt").generate([], Sampling(response_tokens=4), numbers(0, 4), 2)
    assert generated.tokens.shape == (0, 0)
    assert generated.computed_tokens == generated.needed_tokens == 0


class SmallTokenizer:
    """What the self-check asks of a tokenizer."""

    eos_token_id, pad_token_id, all_special_ids = END, PAD, (0, 1, 2)

    def __len__(self) -> int:
        return VOCABULARY


def plan(**engine: Any) -> Plan:
    """A plan with one PPO stage."""
    return Plan(
        name="small",
        roles={"actor": {"model": "opt-125m"}},
        data={"sets": [{"path": "rows.jsonl"}]},
        stages=({"algorithm": "ppo"},),
        engine=engine,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_self_check_passes(kind: str) -> None:
    """Plain generation is what the plan asks for, and it agrees with a forward."""
    chosen = choose_rollout(PlainActor(build(kind)), plan(), SmallTokenizer())
    assert chosen.name == "plain"
    assert chosen.reason == ""


class Wrong(PlainActor):
    """A forward that disagrees with generation, by so much."""

    def __init__(self, model: Any, by: float) -> None:
        super().__init__(model)
        self.by = by

    def infer(self, tokens: torch.Tensor, attended: torch.Tensor, **options: Any) -> Outputs:
        found = super().infer(tokens, attended, **options).log_probs
        assert found is not None
        return Outputs(log_probs=found + self.by)


def test_a_mismatch_of_plain_generation_stops() -> None:
    """Nothing is left to fall back to: an error that says by how much."""
    with pytest.raises(RolloutMismatchError, match=r"log-probs differ by up to 0\.1"):
        choose_rollout(Wrong(build("opt"), 0.1), plan(), SmallTokenizer())
    with pytest.raises(RolloutMismatchError):
        choose_rollout(Wrong(build("opt"), float("nan")), plan(), SmallTokenizer())


def test_half_precision_has_a_wider_bound() -> None:
    """bf16: mean exp|difference| below 1.05; fp32: 1e-4 at most."""
    assert choose_rollout(Wrong(build("opt"), 0.04), plan(dtype="bf16"), SmallTokenizer())
    with pytest.raises(RolloutMismatchError):
        choose_rollout(Wrong(build("opt"), 0.06), plan(dtype="bf16"), SmallTokenizer())
    with pytest.raises(RolloutMismatchError):
        choose_rollout(Wrong(build("opt"), 2e-4), plan(), SmallTokenizer())
    assert not Parity(3, 0.0, float("nan")).agrees("bf16")


class Foreign:
    """A faster rollout whose log-probs are not the actor's, or that cannot run."""

    name = "fast"
    reason = ""

    def __init__(self, plain: PlainRollout, error: Exception | None) -> None:
        self.plain, self.error = plain, error

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, uniforms: Any, micro_rows: int
    ) -> Generated:
        if self.error is not None:
            raise self.error
        return self.plain.generate(prompts, sampling, uniforms, micro_rows)


@pytest.mark.parametrize("error", [None, RuntimeError("no kernel for this device")])
def test_a_faster_rollout_falls_back_aloud(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that differs from the forward, or fails, becomes plain generation, with a warning."""
    other = rollout("llama") if error is None else rollout("opt")
    monkeypatch.setattr("rlhf.rollout._faster", lambda *_: (Foreign(other, error), ""))
    with caplog.at_level(logging.WARNING, logger="rlhf.rollout"):
        chosen = choose_rollout(PlainActor(build("opt")), plan(), SmallTokenizer())
    assert chosen.name == "plain"
    expected = "log-probs differ by" if error is None else "no kernel for this device"
    assert expected in chosen.reason
    assert expected in caplog.text


def test_a_faster_rollout_that_agrees_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check passes: it is used."""
    monkeypatch.setattr("rlhf.rollout._faster", lambda *_: (Foreign(rollout("opt"), None), ""))
    assert choose_rollout(PlainActor(build("opt")), plan(), SmallTokenizer()).name == "fast"
