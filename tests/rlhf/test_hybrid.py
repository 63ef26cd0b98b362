"""`rlhf/hybrid.py`, and generation with real engines: ZeRO-2, ZeRO-3, LoRA, one and two processes.

The kernels of the hybrid engine need a GPU; everything around them is what runs here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf import processes
from rlhf.hybrid import hybrid_rollout
from rlhf.plan import Plan

WORKER = Path(__file__).with_name("hybrid_worker.py")
ROOT = WORKER.parents[2]


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of 1 or 2 processes saw."""
    out = tmp_path_factory.mktemp("hybrid")
    world = request.param
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(processes.free_port()), "WORLD_SIZE": str(world),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(out)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    printed = [process.communicate(timeout=540)[0] for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(printed)
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(world)]


def test_hybrid_generation_samples_what_plain_generation_does(seen: list[Any]) -> None:
    """Before and after an optimizer step; its log-probs are those of a forward to 1e-4."""
    for found in (rank["hybrid"] for rank in seen):
        assert found["same"] == [True, True]
        assert max(found["difference"]) < 1e-4
        assert found["changed"]  # the step's weights are the ones that generate
        assert True in found["finished"]


def test_hybrid_generation_counts_what_it_computes(seen: list[Any]) -> None:
    """Finished rows stay, so it computes no less than plain generation for the same need."""
    for found in (rank["hybrid"] for rank in seen):
        assert found["needed"][0] == found["needed"][1]
        assert found["computed"][1] >= found["computed"][0] >= found["needed"][0]
        order = sorted(range(6), key=lambda row: (-found["prompts"][row], row))
        expected = sum(
            3
            * (max(found["prompts"][r] for r in rows) + max(found["lengths"][r] for r in rows) - 1)
            for rows in (order[:3], order[3:])
        )
        assert found["computed"][1] == expected


def test_hybrid_generation_leaves_the_engine_as_it_was(seen: list[Any]) -> None:
    """Modes of every module, and the model's own generation settings."""
    assert all(rank["hybrid"]["restored"] for rank in seen)


def test_without_kernels_plain_generation_is_used_and_said(seen: list[Any]) -> None:
    """On CPU the hybrid engine injects nothing."""
    for found in (rank["hybrid"] for rank in seen):
        assert not found["injects"]
        assert found["chosen"] == ["plain", found["reason"]]
        assert "no inference kernels on CPU" in found["reason"]


def test_zero_3_gathers_once_per_generation(seen: list[Any]) -> None:
    """Each weight once, for 4 tokens as for 16; the samples are those of an unsharded model."""
    for found in (rank["sharded"] for rank in seen):
        assert found["gathers"] == [found["parameters"]] * 2
        assert found["same"] == [True, True]
        assert found["lengths"] == [4, 16]
        assert found["chosen"] == ["plain", ""]


def test_adapters_take_part(seen: list[Any]) -> None:
    """LoRA: the self-check compares generation (merged) with a forward (apart)."""
    assert all(rank["adapted"]["chosen"] == ["plain", ""] for rank in seen)


def test_half_precision_agrees_within_its_bound(seen: list[Any]) -> None:
    """bf16 weights: mean exp|difference| of log-probs below 1.05."""
    assert all(rank["halved"]["chosen"] == ["plain", ""] for rank in seen)


def role_engine(**settings: Any) -> Any:
    """What `hybrid_rollout` looks at, of an engine with kernels: those need a GPU."""
    hybrid = SimpleNamespace(**{"inference_tp_size": 1, "max_out_tokens": 512, **settings})
    wrapped = SimpleNamespace(
        _inference_containers=[object()], _config=SimpleNamespace(hybrid_engine=hybrid)
    )
    model = SimpleNamespace(named_modules=list)
    return SimpleNamespace(deepspeed=wrapped, module=SimpleNamespace(model=model))


def plan(response_tokens: int) -> Plan:
    """Prompts of 256 tokens and responses of so many."""
    return Plan(
        name="small", roles={"actor": {"model": "x"}}, data={"sets": [{"path": "rows.jsonl"}]},
        stages=({"algorithm": "ppo", "sampling": {"response_tokens": response_tokens}},),
        engine={"hybrid": {}},
    )  # fmt: skip


def test_what_the_kernels_cannot_do_is_refused_with_the_reason() -> None:
    """Too long rows, tensor parallel generation, no hybrid engine at all."""
    engine = role_engine()
    assert hybrid_rollout(engine, plan(256), ends=(2,), pad=0)[1] == ""
    rollout, reason = hybrid_rollout(engine, plan(257), ends=(2,), pad=0)
    assert rollout is None
    assert "max_out_tokens: 513" in reason
    split = role_engine(inference_tp_size=2)
    assert "inference_tp_size" in hybrid_rollout(split, plan(256), ends=(2,), pad=0)[1]
    split.deepspeed = None
    assert "not a hybrid engine" in hybrid_rollout(split, plan(256), ends=(2,), pad=0)[1]
