"""What goes wrong while a phase runs, told as our errors: memory, disk, numbers.

`phase_guard` stands around every phase. What torch, numpy, the system and safetensors raise when
memory or disk run out becomes an error that says in which phase, how much was asked for and what to
change; every other error passes unchanged.
"""

from __future__ import annotations

import errno
import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hwopt import show_bytes
from rlhf import processes
from rlhf.checkpoint import FULL, errno_of
from rlhf.errors import DivergedError, OutOfMemoryError, RlhfError, RunError
from rlhf.status import Status

LEVERS = (
    "lower micro_batch, turn on gradient_checkpointing, raise engine.zero, offload "
    "(engine.offload), or use more processes; then go on with --resume"
)
"""What makes a phase smaller, where no estimate says more; none changes what is trained."""

UNITS = {"bytes": 1, "B": 1} | {
    f"{prefix}iB": 2 ** (10 * power) for power, prefix in enumerate("KMGTPE", start=1)
}

ASKED = re.compile(r"(?:allocate|Unable to allocate) (\d+(?:\.\d+)?) ?(bytes|[KMGTPE]iB|B)\b")
"""In messages of torch on CPU and CUDA and of numpy."""

EXHAUSTED = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad_alloc|Cannot allocate memory"
    r"|(?:CUDNN|CUBLAS)_STATUS_(?:ALLOC_FAILED|NOT_INITIALIZED)"
)
"""In a RuntimeError that is about memory."""


@contextmanager
def phase_guard(
    phase: str,
    status: Status | None = None,
    *,
    stage: str = "",
    need: Callable[[], object] | None = None,
    kept: Callable[[], object] | None = None,
) -> Iterator[None]:
    """Around one phase of one stage.

    Args:
        phase: Its name, as in metrics.
        status: Told that the phase begins.
        stage: Its title.
        need: Called when memory ran out: what the phase was predicted to need, and what to change.
        kept: Called when the numbers are not finite: the checkpoint that training can go back to.

    Raises `OutOfMemoryError` (memory of the host or the GPU), `RunError` (disk), and
    `DivergedError` with phase and checkpoint where the phase raised one.
    """
    if status is not None:
        status.enter(phase, stage=stage or None)
    try:
        yield
    except DivergedError as error:
        raise _diverged(error, _where(stage, phase), kept) from error
    except RlhfError:
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise _out_of_memory(error, _where(stage, phase), need) from error
        if errno_of(error) in FULL:
            raise _disk_full(error, _where(stage, phase)) from error
        raise


def require_finite(name: str, value: float, *, where: str = "") -> None:
    """Raise `DivergedError` where a loss or a gradient's norm is infinite or not a number.

    Call it with a value that all processes share, before the step that would spread it.
    """
    if not math.isfinite(value):
        raise DivergedError(f"the {name} is not finite", where=where, value=value)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the host or a GPU, was not enough."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and EXHAUSTED.search(str(error)) is not None


def bytes_asked(message: str) -> int | None:
    """The size of the allocation that failed, where the message says it."""
    found = ASKED.search(message)
    return int(float(found[1]) * UNITS[found[2]]) if found else None


def _where(stage: str, phase: str) -> str:
    return ", ".join(filter(None, [stage and f"stage {stage}", phase, f"rank {processes.rank()}"]))


def _out_of_memory(
    error: BaseException, where: str, need: Callable[[], object] | None
) -> OutOfMemoryError:
    asked = bytes_asked(str(error))
    last = "an unknown amount" if asked is None else show_bytes(asked)
    return OutOfMemoryError(
        "out of memory", where=where,
        value=f"asked for {last} more, with {show_bytes(_in_use())} in use",
        fix=_advice(need) or LEVERS,
    )  # fmt: skip


def _advice(need: Callable[[], object] | None) -> str:
    """What the estimate says; nothing where it fails for want of memory as well."""
    try:
        return str((need() if need is not None else None) or "")
    except Exception:  # noqa: BLE001 - the first error is the one to tell
        return ""


def _in_use() -> int:
    """Bytes that this process holds: on its GPU, else in the host's memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * 4096


def _diverged(error: DivergedError, where: str, kept: Callable[[], object] | None) -> DivergedError:
    checkpoint = kept() if kept is not None else None
    state = (
        f"the last good checkpoint is kept: {checkpoint}"
        if checkpoint
        else "no checkpoint was written"
    )
    fix = error.fix or "lower the learning rate, or look at the rows of this step"
    at = ", ".join(filter(None, [where, error.where]))
    return DivergedError(
        error.what, where=at, value=error.value, allowed=error.allowed, fix=f"{fix}; {state}"
    )


def _disk_full(error: BaseException, where: str) -> RunError:
    file = _file_of(error)
    free = ""
    if file is not None:
        folder = next((p for p in Path(file).absolute().parents if p.is_dir()), Path("/"))
        free = f", {show_bytes(shutil.disk_usage(folder).free)} free"
    return RunError(
        "no room on the disk", where=", ".join(filter(None, [where, file])),
        value=f"{error}{free}",
        fix="make room, then go on with --resume: what was written before is intact",
    )  # fmt: skip


def _file_of(error: BaseException | None) -> str | None:
    """The file of the system's error, if it is known."""
    found: Any = None
    while error is not None and found is None:
        found = getattr(error, "filename", None) or getattr(error, "where", None)
        error = error.__cause__
    return None if found is None else str(found)
