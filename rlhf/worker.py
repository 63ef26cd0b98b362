"""One process of a run: `python -m rlhf.worker RUN`, once per rank, under any launcher.

It is two processes. The outer one is small, loads neither torch nor DeepSpeed, and stays when the
inner one, which trains, is killed for its memory or crashes. It says in the run's status folder how
the inner one ended, and passes on what the run is told there:

    status/stop.json           {"signal": "interrupt" | "kill"}, written by `rlhf.launch`: one
                               SIGINT to every inner process (it saves and ends), or SIGKILL
    status/error-rank-N.json   {"message", "exit_code", ...}: the error that ended the inner process
    status/exit-rank-N.json    {"returncode", "host", ...}: how the inner process ended
    status/rank-N.log          what ranks other than 0 print, and tracebacks of every rank

A file reaches every machine alike, and an outer process answers while the inner one hangs. When
`rlhf train` itself is killed, the outer processes on its machine end theirs; so nothing that nobody
watches goes on writing into the run.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn, TypeAlias

from hwopt import HwoptError, read_json, write_json
from rlhf.hosts import machine

Fit: TypeAlias = Callable[[Path, bool], None]
"""What the inner process does: a run's folder, and whether to resume it."""

POLL_SECONDS = 0.3
PORT_TAKEN = "port taken"
"""`kind` of an error that another master port may avoid."""


def status_file(run: Path, kind: str, rank: int | None = None) -> Path:
    """A file of the status folder: "stop", or "error" and "exit" of a rank."""
    return run / "status" / (f"{kind}.json" if rank is None else f"{kind}-rank-{rank}.json")


def log_file(run: Path, rank: int) -> Path:
    """What a rank printed besides progress."""
    return run / "status" / f"rank-{rank}.log"


def fit(run: Path, resume: bool) -> None:
    """Train what the run's plan says."""
    from rlhf.plan import Plan
    from rlhf.trainer import Trainer

    Trainer(Plan.load(run / "plan.yaml"), run).fit(resume=resume)


def main(arguments: list[str] | None = None, fit: Fit = fit) -> int:
    """The outer process, or with --train the inner one; returns the exit code.

    Under `rlhf.launch` (--launcher) the outer one always exits with 0: the launcher of DeepSpeed
    would otherwise kill the other ranks before they could say why they ended, or save.
    """
    parser = argparse.ArgumentParser(prog="rlhf.worker", description="one process of a run")
    parser.add_argument("run", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--train", action="store_true", help="be the inner process")
    parser.add_argument("--launcher", help="machine and process id of what started the run")
    parser.add_argument("--threads", type=int, help="CPU threads")
    options = parser.parse_args(arguments)
    rank = int(os.environ.get("RANK", "0"))
    if options.train:
        return train(options.run, rank, options.resume, fit)
    spec = sys.modules["__main__"].__spec__
    module = spec.name if spec is not None else "rlhf.worker"
    command = [sys.executable, "-u", "-m", module, "--train", str(options.run)]
    command += ["--resume"] if options.resume else []
    code = supervise(options.run, rank, command, options.launcher, options.threads)
    return 0 if options.launcher else code


def supervise(
    run: Path, rank: int, command: list[str], launcher: str | None, threads: int | None
) -> int:
    """Run the inner process, pass signals on, and write down how it ended; returns its exit code
    (128 + signal when a signal ended it).
    """
    stop, killed_before = status_file(run, "stop"), out_of_memory_kills()
    log_file(run, rank).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        output: IO[bytes] | None = None
        if rank:
            output = stack.enter_context(log_file(run, rank).open("ab"))
        # Its own session: a Ctrl-C of the terminal comes once, through the file.
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=_environment(threads), start_new_session=True,
        )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: child.send_signal(number))
    interrupted = stopped = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=POLL_SECONDS)
            break
        order = _order(stop)
        if order == "kill" or not _alive(launcher):
            stopped = True
            child.kill()
        elif order == "interrupt" and not interrupted:
            interrupted = True
            child.send_signal(signal.SIGINT)
    code = child.returncode
    ended = {"rank": rank, "host": socket.gethostname(), "pid": child.pid, "returncode": code,
             "stopped": stopped, "time": time.time(),
             "out_of_memory": code == -signal.SIGKILL and not stopped
             and out_of_memory_kills() > killed_before}  # fmt: skip
    with contextlib.suppress(HwoptError):  # the run's folder may be gone or full
        write_json(status_file(run, "exit", rank), ended)
    return code if code >= 0 else 128 - code


def train(run: Path, rank: int, resume: bool, fit: Fit) -> int:
    """The inner process: 0, or the exit code of the error that it has written down."""
    _die_with_parent()
    try:
        fit(run, resume)
    except KeyboardInterrupt:
        _leave(130)
    except HwoptError as error:
        _report(run, rank, error, str(error), error.exit_code)
        _leave(error.exit_code)
    except Exception as error:  # noqa: BLE001 - the edge of the process: the rest is a bug
        _report(run, rank, error, f"{type(error).__name__}: {error}", 1)
        _leave(1)
    return 0


def _report(run: Path, rank: int, error: BaseException, message: str, exit_code: int) -> None:
    """Write the error for the launcher, and its traceback to the log."""
    taken = "EADDRINUSE" in message or "address already in use" in message.lower()
    data = {"rank": rank, "host": socket.gethostname(),
            "kind": PORT_TAKEN if taken else type(error).__name__,
            "message": message, "exit_code": exit_code, "time": time.time()}  # fmt: skip
    try:
        with log_file(run, rank).open("a", encoding="utf-8") as log:
            traceback.print_exception(error, file=log)
        write_json(status_file(run, "error", rank), data)
    except (OSError, HwoptError):  # a full disk: the terminal is what is left
        sys.stderr.write(f"rank {rank}: {message}\n")


def _leave(code: int) -> NoReturn:
    """End now: a regular exit would wait for other ranks that may be gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _environment(threads: int | None) -> dict[str, str]:
    """The inner process's: the interpreter's own programs first (DeepSpeed looks for ninja), and
    the cores of this machine shared by its ranks unless told otherwise.
    """
    environment = dict(os.environ)
    programs = str(Path(sys.executable).parent)
    environment["PATH"] = f"{programs}{os.pathsep}{environment.get('PATH', os.defpath)}"
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    elif "OMP_NUM_THREADS" not in environment:
        ranks = int(environment.get("LOCAL_SIZE") or environment.get("LOCAL_WORLD_SIZE") or 1)
        environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // ranks))
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    return environment


def out_of_memory_kills() -> int:
    """How many processes Linux has killed on this machine because memory ran out."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def _order(stop: Path) -> str | None:
    """What the run is told, if anything."""
    try:
        data: Any = read_json(stop) if stop.exists() else {}
    except HwoptError:  # a network file system between two states: it is there the next time
        return None
    return data.get("signal") if isinstance(data, dict) else None


def _alive(launcher: str | None) -> bool:
    """Whether what started the run still runs; taken as true from another machine."""
    if launcher is None:
        return True
    where, _, process = launcher.rpartition("#")
    if where != machine():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the outer one dies."""
    if sys.platform == "linux":
        parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
