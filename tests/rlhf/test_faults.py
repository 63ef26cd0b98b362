"""Faults told as errors, each one real: no memory, a full disk, numbers that are none."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hwopt import write_json
from rlhf.errors import CheckpointError, DivergedError, OutOfMemoryError, RunError
from rlhf.faults import bytes_asked, phase_guard, ran_out_of_memory, require_finite
from rlhf.status import Status, read_status

HUGE = 2**62
"""Bytes: no machine has them, so an allocation fails at once and disturbs nobody."""

STARVED = """
import resource, sys
import torch
from rlhf.faults import phase_guard
from rlhf.errors import OutOfMemoryError

torch.set_num_threads(1)
torch.ones(8, 8, requires_grad=True).sum().backward()  # makes the threads of autograd
held = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (held + 64 * 2**20,) * 2)
layers = []
try:
    with phase_guard("train actor", stage="sft", need=lambda: "predicted: 96.0 MiB"):
        layers.append(torch.zeros(20, 2**18))                       # 20 MiB: fits
        {work}
except OutOfMemoryError as error:
    layers.clear()
    print(error)
    sys.exit(error.exit_code)
"""


def starved(work):
    """What a process with 64 MiB left says of `work` in a phase."""
    ended = subprocess.run(
        [sys.executable, "-c", STARVED.replace("{work}", work)],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert ended.returncode == 3, ended.stderr
    return ended.stdout


def test_memory_that_runs_out_in_torch(tmp_path):
    """A real limit, a real tensor: the phase, the size asked for, what to change."""
    said = starved("layers.append(torch.zeros(100, 2**18))")
    assert said.startswith("stage sft, train actor, rank 0: out of memory")
    assert "asked for 100.0 MiB more, with " in said
    assert "fix: predicted: 96.0 MiB" in said


@pytest.mark.slow
def test_memory_that_runs_out_in_python():
    """Not torch's message but MemoryError: the size is unknown, the rest is told."""
    said = starved("layers.append(bytearray(200 * 2**20))")
    assert "train actor" in said
    assert "asked for an unknown amount more" in said


@pytest.mark.parametrize(
    ("allocate", "asked"),
    [
        (lambda: torch.empty(HUGE // 4, dtype=torch.float32), "4194304.0 TiB"),
        (lambda: np.empty(HUGE // 4, dtype=np.float32), "4194304.0 TiB"),
        (lambda: bytearray(HUGE), "an unknown amount"),
    ],
)
def test_each_library_that_allocates(allocate, asked):
    """torch, numpy and Python say it in their own ways."""
    with pytest.raises(OutOfMemoryError) as caught, phase_guard("prepare", stage="ppo"):
        allocate()
    message = str(caught.value)
    assert f"asked for {asked} more" in message
    assert "micro_batch" in message
    assert caught.value.exit_code == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_that_runs_out_on_a_gpu():
    """The size asked for, and what this process holds there."""
    with pytest.raises(OutOfMemoryError, match="asked for"), phase_guard("train actor"):
        torch.empty(HUGE // 4, device="cuda")


@pytest.mark.parametrize(
    ("message", "size"),
    [
        # As torch 2.13 and numpy 2.4 word them; the first two only a GPU says.
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity", 2 * 2**30),
        ("CUDA out of memory. Tried to allocate 20.50 MiB. GPU 0 has", int(20.5 * 2**20)),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40 bytes. Error", 40),
        ("Unable to allocate 7.45 GiB for an array with shape (1000000000,)", int(7.45 * 2**30)),
        ("CUDA error: out of memory", None),
        ("invalid shape", None),
    ],
)
def test_sizes_are_read_from_messages(message, size):
    """The last allocation, in bytes."""
    assert bytes_asked(message) == size


def test_what_is_about_memory_and_what_is_not():
    """Other errors of the same types pass."""
    assert ran_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert ran_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert ran_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not ran_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not ran_out_of_memory(OSError(errno.ENOSPC, "No space left on device"))
    assert not ran_out_of_memory(ValueError("out of memory"))


def test_advice_that_fails_gives_way():
    """Whoever is asked what to change may lack memory as well: the first error is told."""

    def need():
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match="lower micro_batch"), phase_guard("x", need=need):
        bytearray(HUGE)


def test_a_number_that_is_none_stops_the_run(tmp_path):
    """A real model with an infinite weight: its loss is refused, the last checkpoint is named."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    kept = tmp_path / "step-00000003"
    with torch.no_grad():
        model[0].weight[0, 0] = float("inf")
    loss = float(model(torch.ones(2, 4)).square().mean().detach())
    guard = phase_guard("train actor", stage="sft", kept=lambda: kept)
    with pytest.raises(DivergedError) as caught, guard:
        require_finite("loss", loss, where="step 4")
    message = str(caught.value)
    assert message.startswith("stage sft, train actor, rank 0, step 4: the loss is not finite")
    assert "got: nan" in message
    assert f"the last good checkpoint is kept: {kept}" in message
    with pytest.raises(DivergedError, match="no checkpoint was written"), phase_guard("x"):
        require_finite("gradient norm", float("inf"))
    require_finite("loss", 1e30)


def test_a_gradient_that_is_no_number_is_found():
    """A finite loss can have an infinite gradient: the square root at zero."""
    weight = torch.zeros(3, requires_grad=True)
    loss = weight.abs().sqrt().sum()
    loss.backward()
    require_finite("loss", float(loss.detach()))
    with pytest.raises(DivergedError, match="gradient norm"):
        require_finite("gradient norm", float(weight.grad.norm()))


@pytest.fixture
def full(tmp_path):
    """A folder on a real file system that is full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system can only be mounted by root")
    (disk / "ballast").write_bytes(b"x" * 60 * 1024)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _append(path):
    with path.open("a", encoding="utf-8") as file:
        file.write("x" * 10_000)


@pytest.mark.parametrize(
    "write",
    [
        lambda disk: write_json(disk / "metrics.json", {"loss": "x" * 10_000}),
        lambda disk: _append(disk / "metrics.jsonl"),
        lambda disk: save_file({"w": torch.ones(10_000)}, disk / "w.safetensors"),
    ],
    ids=["whole file", "line", "safetensors"],
)
def test_a_full_disk_is_told_whoever_writes(full, write):
    """One error for all ways to write, with the phase; and after room is made it goes on."""
    with pytest.raises(RunError) as caught, phase_guard("record", stage="ppo"):
        write(full)
    message = str(caught.value)
    assert "stage ppo, record, rank 0" in message
    assert "no room on the disk" in message
    assert "make room" in message
    (full / "ballast").unlink()
    with phase_guard("record"):
        write(full)


def test_a_status_on_a_full_disk_ends_nothing(full):
    """The run goes on until something must be written."""
    (full / "ballast").write_bytes(b"x" * 64 * 1024)
    with phase_guard("train actor", Status(full, 0), stage="sft"):
        pass


def test_a_phase_is_said_before_it_runs(tmp_path):
    """So that it is known when the process dies in it."""
    with phase_guard("score critic", Status(tmp_path, 3), stage="ppo"):
        (where,) = read_status(tmp_path)
        assert (where.rank, where.stage, where.phase) == (3, "ppo", "score critic")


def test_every_other_error_passes_unchanged():
    """Our own errors, bugs, Ctrl-C."""
    for error in (CheckpointError("x"), ValueError("x"), KeyError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, phase_guard("x"):
            raise error
        assert caught.value is error
