"""The processes of a run: who this one is, and what they tell one another.

Every training process calls `start` first; a single one needs no launcher. Objects travel as JSON,
never pickled: a process can only be sent data. Back-end: gloo on CPU, NCCL on CUDA.
"""

from __future__ import annotations

import json
import os
import socket
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rlhf.errors import LaunchError

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What every launcher sets."""

TIMEOUT_S = 1800.0
"""How long a process waits for the others in one exchange before it gives up."""


def start(*, timeout_s: float = TIMEOUT_S, threads: int | None = None) -> None:
    """Join the run's processes; does nothing when this process has joined already.

    Reads what every launcher sets (`LAUNCHED`, LOCAL_RANK); without them this is a run of one
    process. `threads`: CPU threads of this process.
    Raises `LaunchError` where only some of the variables are set or the others cannot be reached.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    # DeepSpeed calls what torch has renamed, several times in each layer under ZeRO-3.
    warnings.filterwarnings("ignore", r".torch\.distributed\.\w+. is deprecated", FutureWarning)
    if dist.is_initialized():
        return
    given = [name for name in LAUNCHED if name in os.environ]
    if given and len(given) < len(LAUNCHED):
        raise LaunchError(
            "the launcher's variables are incomplete", value=", ".join(given),
            allowed="all of " + ", ".join(LAUNCHED), fix="start it with `rlhf train`",
        )  # fmt: skip
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed reads it
    alone: dict[str, Any] = {}
    if not given:  # nobody to meet, so no port is taken
        alone = {"store": torch.distributed.HashStore(), "rank": 0, "world_size": 1}  # type: ignore[attr-defined]
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(device())
    try:
        dist.init_process_group(
            "nccl" if gpu else "gloo", timeout=timedelta(seconds=timeout_s),
            device_id=device() if gpu else None, **alone,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise LaunchError(
            "the processes did not find one another", where=f"rank {os.environ.get('RANK', '0')}",
            value=str(error).split("\n", 1)[0],
            fix=f"check that every host reaches {address} and that nothing else listens there",
        ) from error  # fmt: skip


def stop() -> None:
    """Leave; the process may end, or start again if no engine was made (DeepSpeed keeps groups)."""
    if dist.is_initialized():
        dist.destroy_process_group()


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def rank() -> int:
    """This process among all; 0 where nothing was started."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """Where this process computes: its GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def sum(value: Tensor) -> Tensor:  # noqa: A001 - read as processes.sum
    """The sum of a tensor over all processes, on every one of them; a new tensor."""
    return _reduced(value, dist.ReduceOp.SUM)


def maximum(value: Tensor) -> Tensor:
    """The largest over all processes, element by element; a new tensor."""
    return _reduced(value, dist.ReduceOp.MAX)


def _reduced(value: Tensor, operation: Any) -> Tensor:
    if world() == 1:
        return value.detach().clone()
    moved = value.detach().to(device(), copy=True).contiguous()
    dist.all_reduce(moved, op=operation)
    return moved.to(value.device)


def gather(value: Any) -> list[Any]:
    """What each process gave (JSON data), by rank, on every process."""
    if world() == 1:
        return [json.loads(json.dumps(value))]
    data = json.dumps(value).encode()
    sizes = [int(s) for s in _all_gathered(torch.tensor([len(data)], dtype=torch.int64))]
    mine = torch.zeros(max(sizes), dtype=torch.uint8)
    mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    parts = _all_gathered(mine)
    return [
        json.loads(bytes(part[:size].tolist())) for part, size in zip(parts, sizes, strict=True)
    ]


def _all_gathered(value: Tensor) -> list[Tensor]:
    """The same-shaped tensor of every process, on the host."""
    mine = value.to(device())
    parts = [torch.empty_like(mine) for _ in range(world())]
    dist.all_gather(parts, mine)
    return [part.cpu() for part in parts]


def broadcast(value: Any, source: int = 0) -> Any:
    """JSON data of one process, on every process; what the others give is ignored."""
    return gather(value if rank() == source else None)[source]


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier()
