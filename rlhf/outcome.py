"""How the processes of a run ended: what `rlhf.worker` wrote down, as one exit code or error."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwopt import HwoptError, read_json
from rlhf.errors import LaunchError, OutOfMemoryError
from rlhf.status import read_status
from rlhf.worker import log_file

CAUSES = {
    "SIGKILL": "somebody killed it, or the machine's memory ran out (see dmesg); ",
    "SIGBUS": "see whether shared memory (/dev/shm) or a disk is full; ",
}


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    """What ranks wrote ("error", "exit"), in order of time."""
    found = []
    for path in (run / "status").glob(f"{kind}-rank-*.json"):
        with contextlib.suppress(HwoptError):  # not whole yet on a network file system
            found.append(read_json(path))
    return sorted(found, key=lambda record: record["time"])


def conclude(run: Path, ranks: int, code: int, asked: int, unreached: Sequence[str]) -> int:
    """The exit code of a run whose processes have all ended, or the error that ended it.

    `ranks`: how many there should have been. `code`: of the launcher, which says nothing about
    ranks that ran. `asked`: how often the run was asked to stop. `unreached`: machines that failed.
    The first cause counts: a process that a signal ended (not ours) before errors that other ranks
    had of it, an error in the user's input before one that only follows from a lost connection.
    """
    exits, errors = records(run, "exit"), records(run, "error")
    if asked > 1:
        raise KeyboardInterrupt
    for ended in exits:
        ours = ended["stopped"] or (asked and ended["returncode"] == -signal.SIGINT)
        if ended["returncode"] < 0 and not ours:
            raise died(run, ended)
    if errors:
        first = min(errors, key=lambda error: (error["exit_code"] == 1, error["time"]))
        raise _repeated(run, first)
    if any(ended["returncode"] in (130, -signal.SIGINT) for ended in exits):
        return 130
    missing = sorted(set(range(ranks)) - {ended["rank"] for ended in exits})
    if unreached or missing or code:
        what = "not every process was started" if missing else "the launcher failed"
        ended_as = f"the launcher ended with {code}"
        raise LaunchError(what, where=f"ranks {missing}" if missing else "",
                          value="; ".join(unreached) or ended_as,
                          fix=f"see what it printed, and {run / 'status'}")  # fmt: skip
    bad = next((ended for ended in exits if ended["returncode"] != 0), None)
    if bad is not None:
        raise LaunchError("a process ended by itself", where=_name(bad),
                          value=f"exit code {bad['returncode']}", fix=_again(run))  # fmt: skip
    return 0


def died(run: Path, ended: Mapping[str, Any]) -> HwoptError:
    """The error about a process that a signal ended: rank, machine, signal, phase."""
    number = -ended["returncode"]
    known = {each.value: each.name for each in signal.Signals}
    name = known.get(number, f"signal {number}")
    told = next((where for where in read_status(run) if where.rank == ended["rank"]), None)
    phase = "before its first phase"
    if told is not None:
        phase = f"in stage {told.stage} after step {told.step}, {told.phase}"
    if ended.get("out_of_memory"):
        from rlhf.faults import LEVERS

        return OutOfMemoryError(
            f"the machine's memory ran out: the kernel killed process {ended['pid']} {phase}",
            where=_name(ended), fix=f"{LEVERS} (rlhf train -o {run} --resume)",
        )  # fmt: skip
    said = _tail(log_file(run, ended["rank"]))
    return LaunchError(f"process {ended['pid']} died of {name} {phase}", where=_name(ended),
                       value=said or None, fix=CAUSES.get(name, "") + _again(run))  # fmt: skip


def _repeated(run: Path, error: Mapping[str, Any]) -> HwoptError:
    """What a rank raised, with its exit code, as one message."""
    if error["exit_code"] == 1:
        log = log_file(run, error["rank"])
        found = LaunchError(error["message"], where=_name(error), fix=f"the traceback is in {log}")
    else:
        found = LaunchError(error["message"])
    found.exit_code = error["exit_code"]
    return found


def _name(record: Mapping[str, Any]) -> str:
    return f"rank {record['rank']} on {record['host']}"


def _again(run: Path) -> str:
    return f"go on from the last checkpoint: rlhf train -o {run} --resume"


def _tail(log: Path, lines: int = 3) -> str:
    """The end of a log."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    return ""
