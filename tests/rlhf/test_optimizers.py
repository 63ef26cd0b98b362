"""Parameter groups, the schedule, and DeepSpeed's configuration of a role."""

import logging
import math

import pytest
import torch
from torch import nn

from rlhf.deepspeed_config import deepspeed_config, tell_stage
from rlhf.models import build_model
from rlhf.optimizers import parameter_groups, schedule
from rlhf.plan import Engine, HybridEngine, Lora, Offload, Optimizer, RoleModel
from tests.rlhf.tiny import TINY


def groups_of(lora, **options):
    role = RoleModel(lora=lora)
    policy = build_model(TINY["opt"], "policy", engine=Engine(zero=0), role=role, seed=1)
    return parameter_groups(policy.named_parameters(), Optimizer(**options)), policy


def test_vectors_are_not_decayed():
    """Biases and normalisation weights have no weight decay, matrices have; none is forgotten."""
    groups, policy = groups_of(None, learning_rate=1e-3, weight_decay=0.1)
    assert {g["weight_decay"] for g in groups} == {0.0, 0.1}
    for group in groups:
        assert group["lr"] == 1e-3
        assert all((p.dim() > 1) == (group["weight_decay"] > 0) for p in group["params"])
    assert sum(len(g["params"]) for g in groups) == len(list(policy.parameters()))


@pytest.mark.parametrize("only", [True, False])
def test_adapters_have_their_own_rate(only):
    """Adapters learn at lora_learning_rate; frozen weights are in no group."""
    groups, policy = groups_of(Lora(rank=2, only=only), learning_rate=1e-5, lora_learning_rate=1e-2)
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    assert set(rates) == {id(p) for p in policy.parameters() if p.requires_grad}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (1e-2 if "lora_" in name else 1e-5)


def rates(kind, warmup, total, steps):
    """The learning rate of each step as torch's scheduler gives it."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=2.0)
    factor = schedule(Optimizer(schedule=kind, warmup_steps=warmup), total)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_schedules():
    """Up over the warm-up, then by a line, half a cosine, or not at all; zero after the end."""
    assert rates("linear", 2, 6, 8) == pytest.approx([1, 2, 2, 1.5, 1, 0.5, 0, 0])
    cosine = [1 + math.cos(math.pi * k / 4) for k in range(5)]
    assert rates("cosine", 0, 4, 5) == pytest.approx(cosine)
    assert rates("constant", 4, 9, 6) == pytest.approx([0.5, 1, 1.5, 2, 2, 2])


def config_of(**engine):
    return deepspeed_config(
        Engine(**engine), micro_rows=2, accumulation=3, elements=1000, trains=True
    )


def test_configuration():
    """Stage, precision, clipping, offload and the hybrid engine's knobs reach DeepSpeed."""
    found = config_of(
        zero=3, dtype="fp16", gradient_clipping=0.5, loss_scale_window=7, initial_scale_power=9,
        offload=Offload(optimizer=True, parameters=True), hybrid=HybridEngine(pin_parameters=False),
    )  # fmt: skip
    assert found["zero_optimization"]["stage"] == 3
    assert found["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert found["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert found["fp16"]["loss_scale_window"] == 7
    assert found["fp16"]["initial_scale_power"] == 9
    assert found["gradient_clipping"] == 0.5
    assert found["hybrid_engine"]["enabled"] is True
    assert found["hybrid_engine"]["pin_parameters"] is False


def test_raw_keys_come_last():
    """Nested keys of the plan's `deepspeed` are merged over what was chosen."""
    found = config_of(zero=2, deepspeed={"zero_optimization": {"reduce_bucket_size": 5}, "x": 1})
    assert found["zero_optimization"]["reduce_bucket_size"] == 5
    assert found["zero_optimization"]["stage"] == 2
    assert found["x"] == 1


@pytest.mark.parametrize(("dtype", "said"), [("bf16", True), ("fp16", True), ("fp32", False)])
def test_sixteen_bits_at_stage_0_run_as_stage_1(caplog, dtype, said):
    """And it is said aloud."""
    engine = Engine(zero=0, dtype=dtype)
    with caplog.at_level(logging.WARNING, logger="rlhf"):
        tell_stage(engine, "actor")
    assert ("runs as stage 1" in caplog.text) == said
    assert config_of(zero=0, dtype=dtype)["zero_optimization"]["stage"] == int(said)
