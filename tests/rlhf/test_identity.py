"""Which plans are the same run: what may change between a stop and a resume, and what may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.identity import differences, plan_digest
from rlhf.plan import Plan

TINY = {"model_type": "llama", "hidden_size": 32}


def plan(**changes):
    """A plan of two stages, changed."""
    data = {
        "name": "t",
        "roles": {"actor": {"model": TINY}},
        "data": {"sets": [{"path": "a.jsonl"}]},
        "stages": [{"algorithm": "sft"}, {"algorithm": {"name": "ppo", "kl_coefficient": 0.1}}],
    }
    return Plan(**data | changes)


FREE = {
    "name": "other",
    "cluster": {"processes": 4, "device": "1xa100-80gb", "threads": 2},
    "checkpoint": {"every": 1, "keep": 9},
    "watch": {"tensorboard": False, "samples": 0},
    "engine": {"zero": 3, "offload": {"optimizer": True, "parameters": True}},
    "roles": {"actor": {"model": TINY, "gradient_checkpointing": True}},
    "stages": [
        {"algorithm": "sft", "micro_batch": 4, "evaluate_every": 7},
        {"algorithm": {"name": "ppo", "kl_coefficient": 0.1}},
    ],
}
DECIDING = {
    "seed": ({"seed": 7}, ["seed: 1234 -> 7"]),
    "data": ({"data": {"sets": [{"path": "b"}]}}, ['data.sets[0].path: "a.jsonl" -> "b"']),
    "model": (
        {"roles": {"actor": {"model": TINY | {"hidden_size": 64}}}},
        ["roles.actor.model.hidden_size: 32 -> 64"],
    ),
    "lora": (
        {"roles": {"actor": {"model": TINY, "lora": {"rank": 4}}}},
        ["roles.actor.lora.rank: absent -> 4"],
    ),
    "dtype": (
        {"engine": {"dtype": "bf16"}},
        [f'roles.{r}.engine.dtype: "fp32" -> "bf16"' for r in ("actor", "reward")],
    ),
    "algorithm": (
        {"stages": [{"algorithm": "sft"}, {"algorithm": {"name": "ppo", "kl_coefficient": 0.2}}]},
        ["stages[1].algorithm.kl_coefficient: 0.1 -> 0.2"],
    ),
    "fewer stages": ({"stages": [{"algorithm": "sft"}]}, ['algorithm.name: "ppo" -> absent']),
    "steps": (
        {"stages": [{"algorithm": "sft", "steps": 9},
                    {"algorithm": {"name": "ppo", "kl_coefficient": 0.1}}]},
        ["stages[0].steps: null -> 9"],
    ),
}  # fmt: skip


@given(st.sets(st.sampled_from(sorted(FREE))))
def test_where_and_how_fast_may_change(keys):
    """Machines, processes, ZeRO stage, offloading, micro-batches, checkpoints: in any mixture."""
    changed = plan(**{key: FREE[key] for key in keys})
    assert differences(plan(), changed) == []
    assert plan_digest(plan()) == plan_digest(changed)


@pytest.mark.parametrize("case", DECIDING)
def test_what_decides_the_training_may_not(case):
    """The differing keys are named with both values; the digest differs."""
    changes, expected = DECIDING[case]
    found = differences(plan(), plan(**changes))
    assert all(any(line in one for one in found) for line in expected), found
    assert plan_digest(plan()) != plan_digest(plan(**changes))


def test_the_same_thing_said_otherwise_is_the_same():
    """Defaults written out, a stage named by its algorithm, a role's engine equal to the plan's."""
    said = plan(
        seed=1234,
        roles={"actor": {"model": TINY, "engine": {"zero": 1}}, "critic": {}},
        stages=[{"name": "sft", "algorithm": {"name": "sft"}, "batch": 16},
                {"algorithm": {"name": "ppo", "kl_coefficient": 0.1}}],
    )  # fmt: skip
    assert differences(plan(), said) == []
    assert plan_digest(plan()) == plan_digest(said)


def test_a_plan_read_back_is_the_same(tmp_path):
    """What the run's folder holds is the plan that it began with."""
    path = tmp_path / "plan.yaml"
    path.write_text(plan().text(), encoding="utf-8")
    assert differences(plan(), Plan.load(path)) == []
    assert plan_digest(plan()) == plan_digest(Plan.load(path))
