"""The trainer, in real runs: stages, resuming, exports, what is recorded."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.data import batch_at
from rlhf.metrics import read_metrics, read_samples, series
from tests.rlhf.plans import (
    OPT,
    PPO,
    REWARD,
    SFT,
    TIMES,
    command,
    curves,
    environment,
    rlhf,
    tiny_plan,
    write_plan,
)


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory) -> Path:
    """A plan of three short stages."""
    folder = tmp_path_factory.mktemp("plan")
    return write_plan(tiny_plan(folder), folder / "plan.yaml")


@pytest.fixture(scope="module")
def whole(plan_file, tmp_path_factory) -> Path:
    """A run of it that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    rlhf("train", plan_file, "-o", run)
    return run


def test_a_run_leaves_everything_that_was_promised(whole):
    """Metrics per step, samples before and after, models that transformers loads, a full plan."""
    rows = read_metrics(whole)
    for stage in ("sft", "reward", "ppo"):
        assert [s for s, _ in series(rows, stage, "seconds")] == [1, 2, 3]
    ppo = [row for row in rows if row["stage"] == "ppo" and "kl" in row]
    wanted = {
        "reward", "kl", "entropy", "clip_fraction", "approx_kl", "ratio_max", "value_loss",
        "response_length", "eos_rate", "actor/gradient_norm", "critic/gradient_norm", "mfu",
        "tokens_per_s", "seconds/generate actor", "seconds/score reference", "seconds/score reward",
        "seconds/score critic", "seconds/train actor", "seconds/train critic",
        "memory/train actor", "predicted_seconds/train actor", "predicted_memory/train actor",
        "tokens_computed_over_needed",
    }  # fmt: skip
    assert len(ppo) == 3
    assert all(wanted <= set(row) for row in ppo), wanted - set(ppo[0])
    assert {row["step"] for row in read_samples(whole) if row["stage"] == "ppo"} == {0, 3}
    assert {"held_out/accuracy"} <= set().union(*rows)
    plan = (whole / "plan.yaml").read_text()
    assert plan.count("micro_batch") == 3
    assert set(json.loads((whole / "data.json").read_text())) == {"sft", "reward", "ppo"}
    model = AutoModelForCausalLM.from_pretrained(whole / "stages" / "ppo" / "actor")
    tokenizer = AutoTokenizer.from_pretrained(whole / "stages" / "ppo" / "actor")
    assert model(**tokenizer("Where is the red key?", return_tensors="pt")).logits.isfinite().all()


def test_the_first_inner_step_has_ratio_one(plan_file, tmp_path):
    """One epoch over one batch: the policy that is trained is the one that sampled."""
    ppo = {**PPO, "algorithm": "ppo", "steps": 2}
    run = tmp_path / "run"
    plan = write_plan(tiny_plan(plan_file.parent, ppo), tmp_path / "plan.yaml")
    rlhf("train", plan, "-o", run)
    for row in read_metrics(run):
        if "ratio_max" in row:
            assert row["ratio_max"] == pytest.approx(1, abs=1e-4)
            assert row["clip_fraction"] == 0
            assert row["approx_kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kill_after", [2.0, pytest.param(None, marks=pytest.mark.slow)])
def test_killed_at_any_moment_resumes_to_the_same_curve(plan_file, whole, tmp_path, kill_after):
    """SIGKILL of every process again and again; in the end every number is that of a whole run."""
    run = tmp_path / "run"
    draw, killed = random.Random(3), 0
    for attempt in range(40):
        arguments = (
            ["train", plan_file, "-o", run] if attempt == 0 else ["train", "-o", run, "--resume"]
        )
        process = subprocess.Popen(
            command(*arguments), env=environment(), start_new_session=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        lines = len(read_metrics(run))
        wait = kill_after if kill_after is not None else draw.uniform(0.05, 1.5)
        limit = 2 if kill_after is not None else 12
        while process.poll() is None and killed < limit and len(read_metrics(run)) <= lines + 1:
            time.sleep(0.05)
        if process.poll() is None and killed < limit:
            time.sleep(wait)
            _kill(process)
            killed += 1
            continue
        assert process.wait(timeout=300) == 0
        break
    assert killed >= (1 if kill_after is not None else 5)
    assert curves(run) == curves(whole)
    ours, theirs = (_weights(r / "stages" / "ppo" / "actor") for r in (run, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _kill(process: subprocess.Popen) -> None:
    """SIGKILL to the whole tree of processes at once."""
    import psutil

    tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in tree:
        try:
            one.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_two_processes_and_other_micro_batches_are_the_same_run(plan_file, whole, tmp_path):
    """8 x 1 = 1 x 8 = two processes: metrics agree to rounding, in every stage."""
    stages = [{**s, "micro_batch": 1} for s in (SFT, REWARD, PPO)]
    plan = tiny_plan(plan_file.parent, *stages, cluster={"processes": 2})
    run = tmp_path / "run"
    rlhf("train", write_plan(plan, tmp_path / "plan.yaml"), "-o", run)
    for ours, theirs in zip(curves(run), curves(whole), strict=True):
        for name in set(ours) - {"stage", "tokens_computed_over_needed"}:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-3, abs=2e-4), (
                name,
                ours,
                theirs,
            )


def test_resuming_with_another_number_of_processes(plan_file, whole, tmp_path):
    """A run stopped on one process and resumed on two goes on to the same curve, to rounding."""
    plan = tiny_plan(plan_file.parent, {**SFT, "steps": 3})
    run = tmp_path / "run"
    file = write_plan(plan, tmp_path / "plan.yaml")
    process = subprocess.Popen(command("train", file, "-o", run), env=environment())
    while process.poll() is None and not series(read_metrics(run), "sft", "loss"):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) in (130, 0)
    two = plan.model_copy(update={"cluster": plan.cluster.model_copy(update={"processes": 2})})
    rlhf("train", write_plan(two, tmp_path / "two.yaml"), "-o", run, "--resume")
    theirs = dict(series(read_metrics(whole), "sft", "loss"))
    for step, loss in series(read_metrics(run), "sft", "loss"):
        assert loss == pytest.approx(theirs[step], rel=1e-4)


def test_no_experience_is_trained_on_twice():
    """DeepSpeed-Chat silently trained on old experience; here an epoch's batches share no row, and
    an iteration's rows come from its own batch alone.
    """
    seen = [i for step in range(5) for i in batch_at(40, 8, step, seed=1)]
    assert sorted(seen) == list(range(40))


@pytest.mark.slow
def test_each_iteration_samples_anew(plan_file, tmp_path):
    """Two iterations of rollouts differ, and none is longer than asked for."""
    run = tmp_path / "run"
    ppo = {**PPO, "steps": 2, "algorithm": {"name": "ppo", "generation_batches": 2}}
    plan = write_plan(tiny_plan(plan_file.parent, ppo), tmp_path / "plan.yaml")
    rlhf("train", plan, "-o", run)
    rewards = [value for _, value in series(read_metrics(run), "ppo", "reward")]
    lengths = [value for _, value in series(read_metrics(run), "ppo", "response_length")]
    assert len(set(rewards)) == len(rewards) == 2
    assert all(length <= 12 for length in lengths)


def test_a_function_as_reward_and_a_mixture_and_an_average(plan_file, tmp_path, monkeypatch):
    """Everything that PPO can be told, at once: a verifiable reward, ptx, EMA, adaptive KL."""
    (tmp_path / "counting.py").write_text(
        "def score(prompts, responses, records):\n"
        "    assert len(prompts) == len(responses) == len(records)\n"
        "    return [float(len(text.split())) for text in responses]\n"
    )
    monkeypatch.chdir(tmp_path)
    ppo = {
        **PPO,
        "algorithm": {
            "name": "ppo", "mixture_coefficient": 1.0, "ema_decay": 0.5, "kl_target": 1.0,
            "kl_estimator": "k3", "entropy_coefficient": 0.01, "normalise_score": True,
            "missing_eos_penalty": 0.5, "old_log_probs": "forward",
        },
    }  # fmt: skip
    plan = tiny_plan(
        plan_file.parent, SFT, ppo,
        roles={"actor": {"model": OPT}, "reward": {"function": "counting:score"}},
    )  # fmt: skip
    run = tmp_path / "run"
    rlhf("train", write_plan(plan, tmp_path / "plan.yaml"), "-o", run)
    rows = [row for row in read_metrics(run) if row["stage"] == "ppo" and "kl" in row]
    assert all("mixture/loss" in row and "seconds/score function" in row for row in rows)
    assert all("seconds/score reward" not in row for row in rows)
    averaged, last = (_weights(run / "stages" / "ppo" / name) for name in ("ema", "actor"))
    assert any(not torch.equal(averaged[name], last[name]) for name in last)


@pytest.mark.slow
def test_an_interrupted_run_says_so_and_goes_on(plan_file, whole, tmp_path):
    """Ctrl-C ends with 130 at a safe point, saved; --resume gives the curve of a whole run."""
    run = tmp_path / "run"
    process = subprocess.Popen(command("train", plan_file, "-o", run), env=environment())
    while process.poll() is None and not series(read_metrics(run), "reward", "loss"):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) == 130
    rlhf("train", run / "plan.yaml", "-o", run, "--resume")
    assert curves(run) == curves(whole)


def test_a_finished_or_foreign_run_is_never_overwritten(plan_file, whole):
    """Exit code 2, one message, nothing changed."""
    before = curves(whole)
    assert "--resume" in rlhf("train", plan_file, "-o", whole, code=2)
    other = write_plan(tiny_plan(plan_file.parent, seed=9), plan_file.with_name("other.yaml"))
    assert "seed" in rlhf("train", other, "-o", whole, "--resume", code=2)
    assert curves(whole) == before


def test_a_loss_that_is_not_a_number_stops_the_run(plan_file, tmp_path):
    """No step is taken with it, and the last good checkpoint stays and loads."""
    wild = {**SFT, "steps": 50, "optimizers": {"actor": {"learning_rate": 1e25, "warmup_steps": 2}}}
    run = tmp_path / "run"
    plan = tiny_plan(plan_file.parent, wild, engine={"gradient_clipping": 0.0})
    printed = rlhf("train", write_plan(plan, tmp_path / "plan.yaml"), "-o", run, code=2)
    assert "is not finite" in printed
    assert list((run / "stages" / "sft" / "checkpoints").glob("step-*"))
    losses = series(read_metrics(run), "sft", "loss")
    assert losses
    assert all(torch.isfinite(torch.tensor(loss)) for _, loss in losses)


def test_time_metrics_are_named_so():
    """`curves` leaves out times and memory, and nothing else."""
    assert all(not name.startswith(TIMES) for name in ("loss", "reward", "kl", "accuracy"))
