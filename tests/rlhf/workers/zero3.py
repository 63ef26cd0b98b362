"""Checks of ZeRO-3 engines and of exchanges among processes, run by each of two real processes.

    RANK=.. WORLD_SIZE=2 .. python zero3.py FOLDER

Each check is a function; process 0 writes FOLDER/results.json: by its name, "" or what failed on
some process.
"""

import sys
import traceback
from pathlib import Path

import torch
import transformers

from hwopt import write_json
from rlhf import processes
from rlhf.averaging import AveragedWeights
from rlhf.engine import RoleEngine, start_engine
from rlhf.models import build_model
from rlhf.plan import Engine, Lora, Offload, Optimizer, RoleModel
from tests.rlhf.tiny import TINY, rows


def started(zero=3, kind="policy", *, family="opt", lora=None, trains=True, source=None, seed=1,
            checkpointing=False, **settings) -> RoleEngine:  # fmt: skip
    engine = Engine(zero=zero, **settings)
    role = RoleModel(lora=lora, gradient_checkpointing=checkpointing)
    module = build_model(source or TINY[family], kind, engine=engine, role=role, seed=seed)
    optimizer = Optimizer(
        learning_rate=1e-2, lora_learning_rate=1e-2, warmup_steps=2, epsilon=1e-4
    )  # fmt: skip
    return start_engine(
        module, role="actor" if kind == "policy" else "critic", engine=engine, total_steps=10,
        optimizer=optimizer if trains else None,
    )  # fmt: skip


def train(engine: RoleEngine, steps: int, seed: int = 7) -> list[float]:
    losses = []
    for step in range(steps):
        tokens, attended = rows(8, 9, seed + step)
        count = attended[:, 1:].sum()
        total = torch.zeros(())
        for index in torch.arange(8)[processes.rank() :: processes.world()].split(2):
            outputs = engine.forward(tokens[index], attended[index])
            found = outputs.log_probs if outputs.log_probs is not None else outputs.heads
            part = -found.sum() / count
            engine.accumulate(part)
            total += part.detach()
        result = engine.step()
        losses += [float(processes.sum(total)), result.gradient_norm, result.learning_rate]
    return losses


def weights(engine: RoleEngine) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in engine.state()}


def same(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def check_construction_is_partitioned(folder: Path) -> None:
    """Before DeepSpeed has even started, each process holds its share alone, with the values of an
    unpartitioned start; a tied head is still tied.
    """
    for family in ("opt", "llama", "gpt2", "bloom"):
        module = build_model(
            TINY[family], "policy", engine=Engine(zero=3), role=RoleModel(), seed=1
        )
        for parameter in module.parameters():
            assert parameter.numel() == 0
            assert parameter.ds_tensor.numel() == -(-parameter.ds_numel // 2)
        whole = build_model(TINY[family], "policy", engine=Engine(), role=RoleModel(), seed=1)
        engine = start_engine(module, role="reference", engine=Engine(zero=3), optimizer=None)
        assert same(weights(engine), {n: p.detach() for n, p in whole.model.named_parameters()})


def check_loading_is_partitioned(folder: Path) -> None:
    """The same of weights from a folder, for a policy and a backbone."""
    one = started(zero=0, family="qwen2", trains=False)
    one.export(folder / "policy")
    for kind in ("policy", "value"):
        options = {"source": folder / "policy", "trains": False}
        whole, sharded = started(0, kind, **options), started(3, kind, **options)
        assert same(weights(whole), weights(sharded))
        tokens, attended = rows()
        for a, b in zip(
            *(vars(e.infer(tokens, attended)).values() for e in (whole, sharded)), strict=True
        ):
            assert a is None or torch.allclose(a, b, atol=1e-5)


def check_resume_is_exact(folder: Path) -> None:
    """Save, load into a fresh engine of another seed, go on: bit for bit the same."""
    for name, lora in (("plain", None), ("lora", Lora(rank=2))):
        engine = started(lora=lora)
        train(engine, 2)
        engine.save(folder / name)
        processes.barrier()
        losses = train(engine, 2, seed=30)
        again = started(lora=lora, seed=5)
        again.load(folder / name)
        assert train(again, 2, seed=30) == losses
        assert same(weights(engine), weights(again))


def check_generation_is_unsharded(folder: Path) -> None:
    """The shadow model is whole, computes what the engine does, and training goes on after it."""
    for lora in (None, Lora(rank=2)):
        engine = started(lora=lora)
        train(engine, 1)
        tokens, attended = rows()
        expected = engine.infer(tokens, attended).log_probs
        before = weights(engine)
        with engine.generation_module() as model, torch.no_grad():
            assert all(p.numel() for p in model.parameters())
            logits = model(input_ids=tokens, attention_mask=attended.long()).logits
            # each process may stop when it likes: nothing is gathered inside
            model.generate(tokens[:, :4], max_new_tokens=2 + processes.rank(), do_sample=False)
        logs = logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
        real = attended[:, 1:]
        assert torch.allclose(logs[real], expected[:, 1:][real], atol=1e-4)
        assert same(before, weights(engine))
        train(engine, 1)


def check_export_and_average(folder: Path) -> None:
    """Process 0 writes plain folders of the gathered weights and of their average."""
    engine = started(lora=Lora(rank=2, only=False))
    average = AveragedWeights(engine)
    first = weights(engine)
    train(engine, 2)
    average.update(engine, 0.75)
    engine.export(folder / "actor")
    average.export(folder / "ema")
    last = weights(engine)
    load = transformers.AutoModelForCausalLM.from_pretrained
    exported, averaged = load(folder / "actor"), dict(load(folder / "ema").named_parameters())
    assert same({n: p.detach() for n, p in exported.named_parameters()}, last)
    for name, value in averaged.items():
        assert torch.allclose(value, 0.75 * first[name] + 0.25 * last[name], atol=1e-6)
    assert bool(average.tensors()) == (processes.rank() == 0)


def check_overflow_is_aligned(folder: Path) -> None:
    """fp16: one role's overflow on one process alone is everybody's, and the other role skips."""
    more = {"dtype": "fp16", "initial_scale_power": 8, "deepspeed": {"fp16": {"hysteresis": 1}}}
    for zero in (2, 3):
        for offload in (Offload(), Offload(optimizer=True)):
            actor = started(zero, offload=offload, **more)
            critic = started(zero, "value", offload=offload, **more)
            train(actor, 1)
            train(critic, 1)
            before = weights(actor), weights(critic)
            tokens, attended = rows()
            factor = 1e6 if processes.rank() == 1 else 1e-3
            actor.accumulate(actor.forward(tokens, attended).log_probs.sum() * factor)
            critic.accumulate(critic.forward(tokens, attended).heads.sum() * 1e-3)
            assert [actor.overflows(), critic.overflows()] == [True, False]
            assert actor.step().overflowed
            assert critic.step(skip=True).overflowed
            scales = [e.deepspeed.optimizer.loss_scaler.cur_scale for e in (actor, critic)]
            assert scales == [128, 256]
            assert same(before[0], weights(actor))
            assert same(before[1], weights(critic))
            twin = started(zero, "value", offload=offload, **more)
            train(twin, 1)
            assert train(critic, 2, seed=40) == train(twin, 2, seed=40)
            assert all(torch.isfinite(torch.tensor(train(actor, 2))))


def check_recomputed_activations(folder: Path) -> None:
    """Gradient checkpointing under ZeRO-3, adapters alone too: the same losses."""
    for lora in (None, Lora(rank=2)):
        one, two = (
            train(started(lora=lora, checkpointing=recompute), 2) for recompute in (False, True)
        )
        assert one == two


def check_exchanges(folder: Path) -> None:
    """Sums, maxima, and JSON of unequal size."""
    rank = processes.rank()
    assert processes.world() == 2
    given = torch.tensor([1.0 + rank, -rank])
    assert processes.sum(given).tolist() == [3.0, -1.0]
    assert processes.maximum(given).tolist() == [2.0, 0.0]
    assert given.tolist() == [1.0 + rank, -rank]
    values = [{"names": ["ü" * 50 * r, None], "x": 0.1} for r in range(2)]
    assert processes.gather(values[rank]) == values
    assert processes.broadcast({"from": rank}) == {"from": 0}
    assert processes.broadcast({"from": rank}, source=1) == {"from": 1}
    processes.barrier()


CHECKS = {name: check for name, check in list(globals().items()) if name.startswith("check_")}


def main() -> None:
    root = Path(sys.argv[1])
    processes.start(timeout_s=240, threads=1)
    results = {}
    for name, check in CHECKS.items():
        failure = ""
        try:
            check(root / name)
        except Exception:  # noqa: BLE001 - told to the test
            failure = traceback.format_exc()
        results[name] = "\n".join(filter(None, processes.gather(failure)))
        if processes.rank() == 0:
            write_json(root / "results.json", results)
    processes.stop()


if __name__ == "__main__":
    main()
