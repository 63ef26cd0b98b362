"""Real DeepSpeed engines in one process, ZeRO 0 to 2; stage 3 and two processes: test_zero.py."""

import gc
import weakref

import pytest
import torch
import transformers

from rlhf import lora, processes
from rlhf.averaging import AveragedWeights
from rlhf.engine import start_engine
from rlhf.errors import CheckpointError, DivergedError
from rlhf.models import build_model
from rlhf.plan import Engine, Lora, Offload, Optimizer, RoleModel
from tests.rlhf.tiny import TINY, rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]


EPSILON = 1e-4
"""Of AdamW: gradients that are 0 but for rounding (keys' biases) must not become whole steps."""


@pytest.fixture(autouse=True, scope="module")
def started():
    """One process group for the module."""
    processes.start()
    yield
    processes.stop()


def engine_of(
    zero=0, kind="policy", *, family="opt", lora=None, dropout=None, trains=True, optimizer=None,
    seed=1, source=None, **settings,
):  # fmt: skip
    settings = Engine(zero=zero, **settings)
    role = RoleModel(lora=lora, dropout=dropout)
    module = build_model(source or TINY[family], kind, engine=settings, role=role, seed=seed)
    chosen = optimizer or Optimizer(
        learning_rate=1e-2, lora_learning_rate=1e-2, warmup_steps=2, epsilon=EPSILON
    )
    return start_engine(
        module, role="actor" if kind == "policy" else "critic", engine=settings,
        optimizer=chosen if trains else None, total_steps=10, micro_rows=2, accumulation=4,
    )  # fmt: skip


def train(engine, steps=3, parts=4, seed=7, scale=1.0):
    """Steps over 8 rows in `parts` micro-batches; losses and step results."""
    losses, results = [], []
    for step in range(steps):
        tokens, attended = rows(8, 9, seed + step)
        count = int(attended[:, 1:].sum())
        loss = 0.0
        for index in torch.arange(8).chunk(parts):
            outputs = engine.forward(tokens[index], attended[index])
            if outputs.log_probs is not None:
                part = -outputs.log_probs.sum() / count
            else:
                part = ((outputs.heads - 1) ** 2 * attended[index]).sum() / count
            engine.accumulate(part * scale)
            loss += float(part.detach())
        losses.append(loss)
        results.append(engine.step())
    return losses, results


def weights(engine):
    return {name: value.clone() for name, value in engine.state()}


@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("kind", ["policy", "value"])
def test_any_split_is_the_same_batch(zero, kind):
    """8 x 1, 4 x 2 and 1 x 8, and a number of micro-batches that changes: the same losses, gradient
    norms and weights, to float32 rounding. The engine was told 4 x 2 each time.
    """
    found = []
    for parts in (8, 4, 1):
        engine = engine_of(zero, kind)
        losses, results = train(engine, steps=2, parts=parts)
        more, _ = train(engine, steps=1, parts=3, seed=20)
        found.append(([*losses, *more], [r.gradient_norm for r in results], weights(engine)))
    for losses, norms, state in found[1:]:
        assert losses == pytest.approx(found[0][0], rel=1e-5)
        assert norms == pytest.approx(found[0][1], rel=1e-4)
        for name, value in state.items():
            torch.testing.assert_close(value, found[0][2][name], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_equals_plain_torch(zero):
    """Losses, gradient norms and weights are those of torch's AdamW on the whole batch, with
    clipping by the global norm.
    """
    settings = Optimizer(learning_rate=1e-2, weight_decay=0.1, schedule="constant", epsilon=EPSILON)
    engine = engine_of(zero, optimizer=settings, gradient_clipping=0.5)
    losses, results = train(engine)
    plain = build_model(TINY["opt"], "policy", engine=Engine(zero=0), role=RoleModel(), seed=1)
    matrices = [p for p in plain.parameters() if p.dim() > 1]
    vectors = [p for p in plain.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=EPSILON)
    for step in range(3):
        tokens, attended = rows(8, 9, 7 + step)
        loss = -plain(tokens, attended).log_probs.sum() / attended[:, 1:].sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        assert losses[step] == pytest.approx(float(loss.detach()), rel=1e-5)
        assert results[step].gradient_norm == pytest.approx(float(norm), rel=1e-4)
    mine = weights(engine)
    for name, parameter in plain.model.named_parameters():
        torch.testing.assert_close(mine[name], parameter.detach(), rtol=1e-4, atol=2e-5)


def test_learning_rate_follows_the_schedule():
    """Each step reports the rate that it used."""
    settings = Optimizer(learning_rate=1.0e-2, warmup_steps=2, schedule="linear")
    _, results = train(engine_of(2, optimizer=settings), steps=4, parts=1)
    assert [r.learning_rate for r in results] == pytest.approx([0.005, 0.01, 0.01, 0.00875])
    assert not any(r.overflowed for r in results)


@pytest.mark.parametrize("zero", [0, 2])
def test_old_log_probs_have_no_dropout(zero):
    """DeepSpeed-Chat took the old log-probs with dropout on. Here inference has none and leaves the
    mode as it was, so the first ratio is exactly 1 without dropout; training passes have theirs.
    """
    engine = engine_of(zero, dropout=0.3)
    tokens, attended = rows()
    first, second = (engine.infer(tokens, attended).log_probs for _ in range(2))
    trained = engine.forward(tokens, attended).log_probs
    assert torch.equal(first, second)
    assert not torch.equal(first, trained)
    assert trained.requires_grad
    assert not first.requires_grad
    engine.infer(tokens, attended)
    assert engine.module.network.training
    quiet = engine_of(zero)
    assert torch.equal(
        quiet.infer(tokens, attended).log_probs, quiet.forward(tokens, attended).log_probs
    )


@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("adapters", [None, Lora(rank=2)])
def test_resumed_is_uninterrupted(tmp_path, zero, adapters):
    """Save, load into a fresh engine of another seed, go on: bit for bit what it would have been,
    schedule included.
    """
    engine = engine_of(zero, lora=adapters)
    train(engine, 2)
    engine.save(tmp_path)
    losses, results = train(engine, 2, seed=30)
    again = engine_of(zero, lora=adapters, seed=5)
    again.load(tmp_path)
    assert train(again, 2, seed=30) == (losses, results)
    one, two = weights(engine), weights(again)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_loading_another_model_s_state(tmp_path):
    """One clear error."""
    engine_of(0).save(tmp_path)
    with pytest.raises(CheckpointError):
        engine_of(0, family="llama").load(tmp_path)


@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_skipped_step_changes_nothing(zero, dtype):
    """`skip` drops the gradients and leaves weights, moments and schedule: the next step is what it
    would have been without the skipped batch.
    """
    engine, twin = engine_of(zero, dtype=dtype), engine_of(zero, dtype=dtype)
    train(engine, 1)
    train(twin, 1)
    before = weights(engine)
    tokens, attended = rows()
    engine.accumulate(engine.forward(tokens, attended).log_probs.sum())
    result = engine.step(skip=True)
    assert result.overflowed
    after = weights(engine)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert train(engine, 2, seed=40) == train(twin, 2, seed=40)


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("offload", [False, True])
def test_overflow_is_found_and_aligned(zero, offload):
    """fp16: gradients too large for the scale are seen before the step; the role steps back and
    halves its scale, the other skips and keeps its own; both then train on, and nothing of the
    overflowed batch is left.
    """
    options = {
        "dtype": "fp16", "initial_scale_power": 8, "offload": Offload(optimizer=offload),
        "deepspeed": {"fp16": {"hysteresis": 1}},
    }  # fmt: skip
    actor, critic = engine_of(zero, **options), engine_of(zero, "value", **options)
    assert not actor.overflows()
    train(actor, 1)
    train(critic, 1)
    state = weights(actor), weights(critic)
    scales = [e.deepspeed.optimizer.loss_scaler.cur_scale for e in (actor, critic)]
    tokens, attended = rows()
    actor.accumulate(actor.forward(tokens, attended).log_probs.sum() * 1e6)
    critic.accumulate(critic.forward(tokens, attended).heads.sum() * 1e-3)
    assert [actor.overflows(), critic.overflows()] == [True, False]
    assert actor.step().overflowed
    assert critic.step(skip=True).overflowed
    after = [e.deepspeed.optimizer.loss_scaler.cur_scale for e in (actor, critic)]
    assert after == [scales[0] / 2, scales[1]]
    for engine, before in zip((actor, critic), state, strict=True):
        now = weights(engine)
        assert all(torch.equal(before[name], now[name]) for name in before)
        losses, results = train(engine, 2)
        assert not any(r.overflowed for r in results)
        assert all(torch.isfinite(torch.tensor(losses)))


@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_gradients_that_are_not_finite_stop_the_run(zero, dtype):
    """NaN in one gradient: an error that names the role, and weights as they were."""
    engine = engine_of(zero, dtype=dtype)
    train(engine, 1)
    before = weights(engine)
    tokens, attended = rows()
    outputs = engine.forward(tokens, attended)
    outputs.log_probs.register_hook(lambda gradient: gradient * float("nan"))
    engine.accumulate(outputs.log_probs.sum())
    with pytest.raises(DivergedError, match="actor"):
        engine.step()
    after = weights(engine)
    assert all(torch.equal(before[name], after[name]) for name in before)
    train(engine, 1)


def test_no_overflow_without_fp16():
    """Only fp16 has a scale; asking costs nothing elsewhere."""
    engine = engine_of(2, dtype="bf16")
    assert not engine.overflows()


@pytest.mark.parametrize("zero", [1, 2])
def test_offloaded_optimizer_is_the_same(zero):
    """Optimizer state on the host: the same losses and weights, to rounding."""
    plain, offloaded = engine_of(zero), engine_of(zero, offload=Offload(optimizer=True))
    one, two = train(plain)[0], train(offloaded)[0]
    assert one == pytest.approx(two, rel=1e-5)


def test_frozen_role_has_no_optimizer():
    """A reference: evaluation mode, no gradients, the dtype of its engine, and no DeepSpeed."""
    engine = engine_of(2, trains=False, dtype="bf16", dropout=0.2)
    assert engine.deepspeed is None
    assert not any(p.requires_grad for p in engine.module.parameters())
    assert {p.dtype for p in engine.module.parameters()} == {torch.bfloat16}
    tokens, attended = rows()
    found = engine.infer(tokens, attended).log_probs
    assert found.dtype == torch.float32
    assert torch.equal(found, engine.infer(tokens, attended).log_probs)
    with pytest.raises(RuntimeError, match="frozen"):
        engine.forward(tokens, attended)


def test_rotary_frequencies_stay_in_float32():
    """Weights are bf16, but positions are not rounded to 8 bits."""
    engine = engine_of(2, family="llama", dtype="bf16")
    buffers = dict(engine.module.model.named_buffers())
    assert buffers
    assert {value.dtype for value in buffers.values()} == {torch.float32}


@pytest.mark.parametrize("adapters", [None, Lora(rank=2)])
def test_generation_module_computes_the_same(adapters):
    """The model that generates has the trained weights, adapters merged, and is left as it was."""
    engine = engine_of(2, lora=adapters)
    train(engine, 2)
    tokens, attended = rows()
    expected = engine.infer(tokens, attended).log_probs
    before = {n: p.detach().clone() for n, p in engine.module.named_parameters()}
    with engine.generation_module() as model, torch.no_grad():
        assert not model.training
        logits = model(input_ids=tokens, attention_mask=attended.long()).logits
        made = model.generate(tokens[:, :4], max_new_tokens=3, do_sample=False)
    assert made.shape == (4, 7)
    logs = logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    real = attended[:, 1:]
    torch.testing.assert_close(logs[real], expected[:, 1:][real], rtol=1e-4, atol=1e-4)
    assert engine.module.model.training
    assert all(torch.equal(p, before[n]) for n, p in engine.module.named_parameters())
    assert not any(layer.is_merged for layer in lora.adapted_layers(engine.module.model).values())
    train(engine, 1)


def test_exported_while_training(tmp_path):
    """The trained weights in a folder that transformers loads."""
    engine = engine_of(1, lora=Lora(rank=2, only=False))
    train(engine, 2)
    engine.export(tmp_path / "actor")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "actor")
    mine = weights(engine)
    assert all(torch.equal(p, mine[n]) for n, p in plain.named_parameters())


def test_averaged_weights_closed_form(tmp_path):
    """After three updates: d^3 w0 + (1 - d)(d^2 w1 + d w2 + w3); saved and loaded exactly; its
    export is a plain folder.
    """
    decay, engine = 0.9, engine_of(2)
    average = AveragedWeights(engine)
    passed = [weights(engine)]
    for step in range(3):
        train(engine, 1, seed=50 + step)
        average.update(engine, decay)
        passed.append(weights(engine))
    for name, value in average.tensors().items():
        first, *rest = (state[name].double() for state in passed)
        expected = decay**3 * first
        for power, later in enumerate(reversed(rest)):
            expected = expected + (1 - decay) * decay**power * later
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)
    again = AveragedWeights(engine)
    again.load({name: value.clone() for name, value in average.tensors().items()})
    assert all(torch.equal(v, average.tensors()[n]) for n, v in again.tensors().items())
    again.export(tmp_path / "ema")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ema")
    assert all(torch.equal(p, average.tensors()[n]) for n, p in plain.named_parameters())
    with pytest.raises(CheckpointError, match="another model"):
        again.load({})


def test_average_of_sixteen_bit_weights_moves():
    """Kept in float32: small steps are not lost to bf16 rounding."""
    engine = engine_of(2, dtype="bf16")
    average = AveragedWeights(engine)
    before = {n: v.clone() for n, v in average.tensors().items()}
    train(engine, 1)
    average.update(engine, 0.999)
    assert any(not torch.equal(v, before[n]) for n, v in average.tensors().items())


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("trains", [True, False])
def test_closed_role_is_freed(zero, trains):
    """Nothing of a stage's roles is left in memory when the next stage begins."""
    engine = engine_of(zero, trains=trains)
    tokens, attended = rows()
    if trains:
        train(engine, 1)
    engine.infer(tokens, attended)
    kept = [weakref.ref(parameter) for parameter in engine.module.parameters()]
    engine.close()
    del engine
    gc.collect()
    assert [ref() for ref in kept if ref() is not None] == []


def test_other_models_keep_torch_s_linear():
    """DeepSpeed replaces torch's linear function for good under ZeRO-3; not here."""
    kept = torch.nn.functional.linear
    train(engine_of(3), 1)
    assert torch.nn.functional.linear is kept
