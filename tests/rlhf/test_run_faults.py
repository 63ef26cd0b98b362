"""What goes wrong with a whole run, each tried for real: `rlhf train` says what, and goes on after.

A process killed, memory too small, a disk full, a shard damaged. (A loss that is not a number is in
`test_trainer.py`.)
"""

import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from rlhf.metrics import read_metrics, series
from rlhf.status import read_status
from tests.rlhf.plans import LLAMA, SFT, command, curves, environment, rlhf, tiny_plan, write_plan

LONG = {**SFT, "steps": 400}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where plans and their data are."""
    return tmp_path_factory.mktemp("plans")


def _started(plan: Path, run: Path) -> subprocess.Popen:
    """A run that has taken its first step."""
    process = subprocess.Popen(
        command("train", plan, "-o", run), env=environment(), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    while process.poll() is None and not series(read_metrics(run), "sft", "loss"):
        time.sleep(0.05)
    assert process.poll() is None, process.stderr.read()
    return process


def test_a_worker_that_dies_is_named_and_stops_the_others(folder, tmp_path):
    """SIGKILL of rank 1: exit code 2, its rank and phase in the message, nobody left running."""
    run = tmp_path / "run"
    plan = tiny_plan(folder, LONG, cluster={"processes": 2})
    process = _started(write_plan(plan, tmp_path / "plan.yaml"), run)
    ranks = {where.rank: where.pid for where in read_status(run)}
    os.kill(ranks[1], signal.SIGKILL)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "rank 1" in printed
    assert "SIGKILL" in printed
    assert "sft" in printed
    assert not any(psutil.pid_exists(pid) for pid in ranks.values())


@pytest.mark.slow
def test_memory_that_is_too_small_names_phase_need_and_levers(folder, tmp_path):
    """An address space of 6 GB and activations that do not fit: exit code 3."""
    wide = {**LLAMA, "intermediate_size": 200_000}
    stage = {**SFT, "batch": 64, "micro_batch": 64}
    plan = write_plan(tiny_plan(folder, stage, model=wide), tmp_path / "plan.yaml")
    limit = 6 * 2**30
    done = subprocess.run(
        command("train", plan, "-o", tmp_path / "run"), env=environment(), text=True,
        capture_output=True, check=False, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "out of memory" in done.stderr
    assert "train actor" in done.stderr
    assert "predicted to need" in done.stderr
    assert "micro_batch below 64" in done.stderr


def test_a_damaged_shard_is_found_before_it_is_loaded(folder, tmp_path):
    """One flipped byte in the last checkpoint: exit code 2, the file is named; without that
    checkpoint the run goes on from the one before.
    """
    run = tmp_path / "run"
    plan = write_plan(tiny_plan(folder, SFT), tmp_path / "plan.yaml")
    rlhf("train", plan, "-o", run)
    whole = curves(run)
    (run / "stages" / "sft" / "finished.json").unlink()
    newest = max((run / "stages" / "sft" / "checkpoints").glob("step-*"))
    shard = next(newest.rglob("rank-*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    printed = rlhf("train", "-o", run, "--resume", code=2)
    assert shard.name in printed
    shutil.rmtree(newest)
    rlhf("train", "-o", run, "--resume")
    assert curves(run) == whole


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_saved(folder, tmp_path, small_disk):
    """No room for the next checkpoint: exit code 2, and with room the run goes on to the same
    curve as one that had it from the start.
    """
    plan = tiny_plan(folder, {**SFT, "steps": 8}, checkpoint={"every": 1, "keep": 8})
    file = write_plan(plan, tmp_path / "plan.yaml")
    rlhf("train", file, "-o", tmp_path / "roomy")
    run = small_disk / "run"
    printed = rlhf("train", file, "-o", run, code=2)
    assert "room" in printed or "No space left" in printed
    assert list((run / "stages" / "sft" / "checkpoints").glob("step-*"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    rlhf("train", "-o", run, "--resume")
    assert curves(run) == curves(tmp_path / "roomy")
