"""Where each process of a run is: one small file per process, rewritten at every phase.

    status/rank-0.json    {"stage": "ppo", "step": 12, "phase": "train actor", "pid": ..., ...}

When a process dies without a word (SIGKILL), this says what it was doing. The file is replaced, so
it is never seen half-written, but it is not flushed: it outlives the process, not the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from hwopt import HwoptError, read_json

FOLDER = "status"


@dataclass(frozen=True)
class Where:
    """What a process was doing at `time` (seconds since 1970): `step` steps of the stage done."""

    rank: int
    stage: str
    step: int
    phase: str
    pid: int
    host: str
    time: float


class Status:
    """Of this process in a run's folder."""

    def __init__(self, run: Path, rank: int) -> None:
        self.path = run / FOLDER / f"rank-{rank}.json"
        self.rank = rank
        self._stage, self._step = "", 0
        self._host, self._pid = socket.gethostname(), os.getpid()

    def enter(self, phase: str, *, stage: str | None = None, step: int | None = None) -> None:
        """Say that a phase begins; stage and step stay what they were where they are not given.

        A full disk is no error here: what has to be written says so itself.
        """
        if stage is not None and stage != self._stage:
            self._stage, self._step = stage, 0
        if step is not None:
            self._step = step
        now = Where(
            self.rank, self._stage, self._step, phase, self._pid, self._host, time.time()
        )  # fmt: skip
        temporary = self.path.with_name(f".{self.path.name}.{self._pid}")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(now)), encoding="utf-8")
            temporary.replace(self.path)


def read_status(run: Path) -> list[Where]:
    """Of every process that has said something, by rank; a file that cannot be read is left out."""
    found = []
    for path in (run / FOLDER).glob("rank-*.json"):
        with contextlib.suppress(HwoptError, TypeError):
            found.append(Where(**read_json(path)))
    return sorted(found, key=lambda where: where.rank)
