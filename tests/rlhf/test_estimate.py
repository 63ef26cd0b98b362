"""A plan priced phase by phase, and the micro-batch that it gets."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from rlhf import estimate
from rlhf.device import device_of
from rlhf.errors import OutOfMemoryError
from rlhf.estimate import candidates, choose, fits, profile, what_would_fit
from rlhf.footprint import Memory
from rlhf.plan import Plan
from rlhf.pricing import StagePricer
from rlhf.traces import decode_step
from tests.rlhf.models import LLAMA

STAGES = [
    {"algorithm": "sft", "batch": 8, "micro_batch": 2},
    {"algorithm": "reward", "batch": 4, "micro_batch": 2},
    {"algorithm": {"name": "ppo", "epochs": 2, "generation_batches": 2, "ema_decay": 0.99,
                   "mixture_coefficient": 1.0},
     "batch": 8, "micro_batch": 2, "sampling": {"response_tokens": 12}},
]  # fmt: skip


NODE = {"device": "8xa100-80gb", "processes": 2}


def plan(stages=STAGES, role=None, **more):
    """A plan of a small model; `role` are settings of the actor and the critic."""
    return Plan(
        name="small",
        roles={"actor": {"model": LLAMA, **(role or {})}, "critic": role or {}},
        data={"prompt_tokens": 20, "answer_tokens": 20}, stages=stages,
        **{"engine": {"dtype": "fp32"}, "cluster": NODE, **more},
    )  # fmt: skip


@pytest.fixture(scope="module")
def found():
    """The estimate of the plan."""
    return profile(plan(), tokenizer_size=300)


def with_room(monkeypatch, capacity):
    """Devices with so much memory."""
    real = device_of

    def limited(of):
        return replace(real(of), capacity_bytes=capacity)

    monkeypatch.setattr(estimate, "device_of", limited)


def test_phases_are_those_that_run(found):
    """The tuple of each stage's algorithm for the plan's sizes, no other list."""
    whole = plan()
    for stage in whole.stages:
        names = [p.name for p in stage.algorithm.phases(whole.sizes(stage))]
        assert [p.name for p in found.stage(stage.title).phases] == names
    assert {"generate actor", "average ema"} <= {p.name for p in found.stage("ppo").phases}


def test_work_of_training_by_hand(found):
    """Passes and FLOPs: 8 rows in micro-batches of 2 on two processes; head and backbone."""
    phase = found.phase("sft", "train actor")
    pricer = StagePricer(plan(), plan().stages[0], device_of(plan()), 300)
    one = pricer._both(pricer.roles["actor"], 2, 40)
    assert phase.passes == 2
    assert phase.work.flops == 2 * 2 * one.flops
    assert phase.work.seconds > 2 * one.seconds
    ppo = found.phase("ppo", "train actor")
    assert ppo.passes == 4 * (2 + 2)  # four steps, own rows and supervised ones


def test_generation_is_a_sum_over_steps(found):
    """A prefill and eleven steps with a growing cache, interpolated exactly where it is linear."""
    stage = plan().stages[2]
    pricer = StagePricer(plan(), stage, device_of(plan()), 300)
    form = pricer.roles["actor"].form
    steps = [decode_step(form, 2, t, pricer.device.accelerator) for t in range(21, 32)]
    whole = pricer._decode(form, 2, 21, 11)
    assert whole.flops == sum(s.flops for s in steps)
    assert whole.moved_bytes == pytest.approx(sum(s.moved_bytes for s in steps))
    assert whole.seconds == pytest.approx(sum(s.seconds for s in steps), rel=0.01)
    assert pricer._decode(form, 2, 21, 0).flops == 0
    assert found.phase("ppo", "generate actor").memory.cache > 2 * 3 * 2 * 8 * 31 * 2 * 4


def test_memory_parts(found):
    """Only training has gradients, only generation a cache; others are what other roles hold."""
    score, train = found.phase("ppo", "score critic"), found.phase("ppo", "train critic")
    assert score.memory.gradients == score.memory.cache == 0
    assert train.memory.gradients > 0
    assert score.memory.weights == train.memory.weights
    # Beside the critic train the actor's weights, optimizer and gradients, and two frozen models.
    pricer = StagePricer(plan(), plan().stages[2], device_of(plan()), 300)
    states = {role: cast.states for role, cast in pricer.roles.items()}
    frozen = states["reward"].weights + states["reference"].weights
    actor = states["actor"]
    assert train.memory.others == frozen + actor.weights + actor.optimizer + actor.gradients
    assert score.memory.others == frozen + actor.weights + actor.optimizer
    assert Memory(1, 2, 3, 4, 5, 6, 7, 8, 9).total == 36


@pytest.mark.parametrize("algorithm", [0, 2])
def test_more_rows_never_take_less(algorithm):
    """Of every phase, memory rises with the micro-batch; the time of an iteration does not."""
    pricer = StagePricer(plan(), plan().stages[algorithm], device_of(plan()), 300)
    priced = [pricer.price(size) for size in (1, 2, 4)]
    for less, more in pairwise(priced):
        assert all(a.memory.total <= b.memory.total for a, b in zip(less, more, strict=True))
        assert sum(p.work.seconds for p in less) >= sum(p.work.seconds for p in more)


def test_a_higher_stage_holds_less():
    """Weights, gradients and optimizer in each process, whole plan."""
    sizes = []
    for zero in (1, 2, 3):
        memory = (
            profile(plan(engine={"zero": zero}), tokenizer_size=300)
            .phase("ppo", "train actor")
            .memory
        )
        sizes.append(memory.weights + memory.gradients + memory.optimizer + memory.others)
    assert sizes[0] > sizes[1] > sizes[2]


def test_partitioned_weights_take_time_to_gather(found):
    """Stage 3 communicates in every pass; one process communicates never."""
    three = profile(plan(engine={"zero": 3}), tokenizer_size=300)
    for name in ("generate actor", "score critic", "train actor"):
        assert three.phase("ppo", name).work.seconds > found.phase("ppo", name).work.seconds
    one = profile(plan(cluster={"device": "a100"}), tokenizer_size=300)
    assert one.phase("sft", "train actor").passes == 4


def test_checkpointing_trades_time_for_memory(found):
    """Forward once more, fewer activations; what is counted for utilisation is not here."""
    saved = profile(plan(role={"gradient_checkpointing": True}), tokenizer_size=300)
    before, after = (e.phase("sft", "train actor") for e in (found, saved))
    assert after.work.flops > before.work.flops
    assert after.memory.activations < before.memory.activations


def test_offload_empties_the_device(found):
    """The optimizer is on the host, and its step crosses to it."""
    away = profile(plan(engine={"offload": {"optimizer": True}}), tokenizer_size=300)
    before, after = (e.phase("sft", "train actor") for e in (found, away))
    assert after.memory.optimizer == 0
    assert after.memory.host >= before.memory.optimizer
    assert after.work.seconds > before.work.seconds


@pytest.mark.parametrize(("batch", "processes", "expected"), [
    (12, 2, [1, 2, 3, 6]), (8, 1, [1, 2, 4, 8]), (7, 2, [1]), (1, 4, [1]),
])  # fmt: skip
def test_candidates_divide_share_and_batch(batch, processes, expected):
    """Every pass is full, and the plan stays valid."""
    stage = plan([{"algorithm": "sft", "batch": batch}]).stages[0]
    assert candidates(stage, processes) == expected


@pytest.mark.parametrize("room", ["all", "half", "one"])
def test_choice_equals_brute_force(monkeypatch, room):
    """The smallest divisor within 5 % of the best that fits, as trying all of them finds it."""
    stage = {"algorithm": "sft", "batch": 32}
    whole = plan([stage], cluster={"device": "a100"})
    device = device_of(whole)
    pricer = StagePricer(whole, whole.stages[0], device, 300)
    priced = {d: pricer.price(d) for d in (1, 2, 4, 8, 16, 32)}
    need = {d: max(p.memory.total for p in phases) for d, phases in priced.items()}
    capacity = {"all": math.inf, "half": need[8], "one": need[1]}[room]
    seconds = {d: sum(p.work.seconds for p in priced[d]) for d in priced if need[d] <= capacity}
    best = min(seconds.values())
    expected = min(d for d, s in seconds.items() if s <= 1.05 * best)
    with_room(monkeypatch, capacity)
    assert choose(whole, tokenizer_size=300).stages[0].micro_batch == expected
    assert fits(priced[expected], estimate.device_of(whole))


def test_choice_keeps_what_is_given():
    """A plan that leaves nothing open comes back as it is."""
    assert choose(plan()) == plan()


def test_nothing_fits(monkeypatch):
    """Names phase, need and room, and the levers in their order with what each leaves."""
    whole = plan([{"algorithm": "sft", "batch": 4}])
    with_room(monkeypatch, 1000.0)
    with pytest.raises(OutOfMemoryError) as error:
        choose(whole, tokenizer_size=300)
    assert error.value.exit_code == 3
    text = str(error.value)
    assert "stage sft, train actor" in text
    assert "1000 B per process" in text
    order = ["offload.optimizer", "gradient_checkpointing", "roles.actor.lora", "fewer tokens"]
    places = [text.index(lever) for lever in order]
    assert places == sorted(places)
    assert not profile(whole, tokenizer_size=300).fits


@pytest.mark.slow
def test_levers_that_help_are_offered(monkeypatch):
    """Needs fall strictly; what is done already, or would not help, is not offered."""
    monkeypatch.setattr(estimate, "show_bytes", str)
    whole = plan()
    offers = what_would_fit(whole, whole.stages[0], tokenizer_size=300)
    needs = [int(offer.rpartition(": ")[2]) for offer in offers if offer[-1].isdigit()]
    assert len(needs) >= 2
    assert all(np.diff(needs) < 0)
    assert needs[0] < profile(whole, tokenizer_size=300).stage("sft").largest.memory.total
    done = plan(engine={"zero": 3, "offload": {"optimizer": True, "parameters": True}},
                role={"gradient_checkpointing": True, "lora": {"rank": 4}})  # fmt: skip
    (last,) = profile(done, tokenizer_size=300).stages[0].levers
    assert last.startswith("fewer tokens")


def test_on_this_machine_nothing_is_offloaded():
    """Its memory is the host's: levers leave offload out, and totals count the process itself."""
    here = profile(plan(cluster={"device": "host", "processes": 2}), tokenizer_size=300)
    assert not any("offload" in lever for lever in here.levers["sft"])
    phase = here.phase("sft", "train actor")
    assert phase.memory.runtime > 0
    assert phase.memory.host == 0
    assert here.peak_flops_per_s > 1e8


def test_reports(found):
    """Text, JSON, metrics and advice agree."""
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    ppo = data["stages"][2]
    assert ppo["peak_bytes"] == found.stage("ppo").largest.memory.total
    assert ppo["seconds"] == pytest.approx(sum(p["seconds"] for p in ppo["phases"]))
    text = found.table()
    assert all(phase["name"] in text for phase in ppo["phases"])
    assert max(map(len, text.splitlines())) < 160
    metrics = found.metrics(plan().stages[2])
    assert (
        metrics["predicted_seconds/train actor"] == found.phase("ppo", "train actor").work.seconds
    )
    assert metrics["predicted_memory/train actor"] > 0
    advice = found.advice(plan().stages[2], "train actor")
    assert "train actor was predicted to need" in advice
    assert advice.index("micro_batch below 2") < advice.index("offload") < advice.index("lora")
    assert "to need less" in found.advice(plan().stages[0], "evaluate")


def test_an_unknown_capacity_is_null(tmp_path):
    """A device that does not say how much memory it has fits everything."""
    path = tmp_path / "chip.yaml"
    path.write_text("name: chip\nclock_hz: 1 GHz\nlevels: [{type: memory, name: D, kind: dram}]\n")
    here = profile(plan([STAGES[0]], cluster={"device": str(path)}), tokenizer_size=300)
    assert here.to_json()["capacity_bytes"] is None
    assert here.fits
    assert "unknown" in here.table()
