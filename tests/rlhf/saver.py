"""A real role of plain torch for the tests of checkpoints; processes that save and come to harm.

python saver.py FOLDER kill              for N = 1, 2, ... in FOLDER/N: save step 1, then SIGKILL
                                         at the N-th file operation of saving step 2
python saver.py FOLDER limit BYTES       save step 1, then step 2 with files limited to BYTES
python saver.py FOLDER save WORLD RANK PORT [FAILS]    save step 1 as one of several processes;
                                         rank FAILS cannot write
"""

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rlhf import processes
from rlhf.checkpoint import Checkpoints
from rlhf.errors import RlhfError


class TorchRole:
    """A layer and its AdamW; every process writes a file of its own."""

    def __init__(self, seed: int, width: int = 8) -> None:
        torch.manual_seed(seed)
        self.module = nn.Linear(width, width)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1)

    def train(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.module(torch.ones(1, self.module.in_features)).square().sum().backward()
            self.optimizer.step()

    def tensors(self) -> dict[str, torch.Tensor]:
        found = dict(self.module.state_dict())
        for index, state in self.optimizer.state_dict()["state"].items():
            found |= {f"{key}.{index}": value for key, value in state.items()}
        return found

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors(), folder / f"rank-{processes.rank()}.safetensors")

    def load(self, folder: Path) -> None:
        self.train()  # makes the optimizer's state
        stored = load_file(folder / "rank-0.safetensors")
        with torch.no_grad():
            for name, value in self.tensors().items():
                value.copy_(stored[name])


def save(folder: Path, step: int, role: TorchRole, keep: int = 2) -> None:
    """A checkpoint of one role whose state says which it is."""
    Checkpoints(folder, keep).save(
        step, {"actor": role}, {"step": step, "coefficient": 0.1 * step},
        {"average.weight": role.module.weight}, "digest",
    )  # fmt: skip


def kill_at(count: int) -> None:
    """SIGKILL at the `count`-th time from now that Python opens, makes, renames or removes."""
    left = count

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}:
            if event == "open" and str(arguments[0]).startswith(("/proc", "/sys")):
                return
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def kill_everywhere(folder: Path, role: TorchRole) -> None:
    """A process is killed at each file operation of a save in turn, until one is not."""
    for count in range(1, 1000):
        if not (child := os.fork()):
            save(folder / str(count), 1, role, keep=1)
            role.train()
            kill_at(count)
            save(folder / str(count), 2, role, keep=1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        assert os.WTERMSIG(status) == signal.SIGKILL


def save_together(folder: Path, role: TorchRole, values: tuple[str, ...]) -> None:
    """Save step 1 as one of several processes."""
    world, rank, port, *fails = values
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, MASTER_PORT=port)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    processes.start(timeout_s=60)
    if rank in fails:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    save(folder, 1, role)
    found = Checkpoints(folder, 2).latest()
    assert found is not None
    assert found.world == int(world)


def save_limited(folder: Path, role: TorchRole, limit_bytes: int) -> None:
    """Step 2 with small files only, in a process of its own."""
    save(folder, 1, role, keep=1)
    if not (child := os.fork()):
        role.train()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        try:
            save(folder, 2, role, keep=1)
        except RlhfError as error:
            print(error, flush=True)
            os._exit(error.exit_code)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 2


def main(folder: Path, what: str, *values: str) -> None:
    role = TorchRole(0)
    role.train()
    try:
        if what == "save":
            save_together(folder, role, values)
        elif what == "kill":
            kill_everywhere(folder, role)
        else:
            for limit in values:
                save_limited(folder / limit, role, int(limit))
    except RlhfError as error:
        print(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
