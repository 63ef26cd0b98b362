"""Start the processes of a run and see them through.

One process is started directly. Several on one machine are started by DeepSpeed's launcher for one
machine (`deepspeed.launcher.launch`), several machines by DeepSpeed's runner through pdsh and ssh
(`deepspeed.launcher.runner`), as `deepspeed --hostfile` does. Each is a `rlhf.worker`.

DeepSpeed's launcher starts; ending is done here, the same way in all three cases, through the files
that `rlhf.worker` describes. (Its own way to stop several machines is `pkill -f`, which would end
every DeepSpeed run on them.) So this process
* asks all ranks to save and end at the first Ctrl-C, SIGTERM or SIGHUP, kills them at the second;
* when one rank ends badly, gives the others a moment to say why they do, and ends them;
* names the rank, machine, signal and phase of a death, or repeats the error once;
* tries another master port when the one it found free was taken in between.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from filelock import FileLock, Timeout

from hwopt import HwoptError, write_json, write_text
from rlhf.errors import LaunchError, RunError
from rlhf.hosts import check_hosts, hosts, machine
from rlhf.outcome import conclude, records
from rlhf.plan import Plan
from rlhf.worker import POLL_SECONDS, PORT_TAKEN, status_file

PORT_TRIES = 3
GRACE_SECONDS = 5.0
"""How long other ranks may report their own error after one has ended badly."""
SAVE_SECONDS = 60.0
"""How long other ranks may take to save after one has ended as it was asked to."""
END_SECONDS = 15.0
"""How long DeepSpeed's launcher may take to notice that its processes have ended."""

CARRIED = (
    "PATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "DS_ACCELERATOR", "HF_HUB_OFFLINE", "HF_HOME",
    "HF_DATASETS_OFFLINE", "TORCH_EXTENSIONS_DIR", "HWOPT_CACHE", "XDG_CACHE_HOME",
    "GLOO_SOCKET_IFNAME", "CUDA_HOME", "WANDB_MODE", "TERM", "COLUMNS",
)  # fmt: skip
"""Variables that other machines get beside those DeepSpeed carries itself (NCCL*, PYTHON* ...).
Others belong in a `.deepspeed_env` file; no secret is ever put on a command line from here."""

_NOISE = re.compile(r"^\[[^\]]*\] \[(INFO|WARNING)\] \[(launch|runner)\.py:")
_UNREACHED = re.compile(r"^pdsh@[^:]*: (?P<host>[^:]+): (?P<what>ssh exited with exit code .*)$")


@dataclass
class Signals:
    """Counts requests to stop while it is entered; elsewhere than in the main thread, none."""

    asked: int = 0
    _before: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                    self._before[number] = signal.signal(number, self._count)
        return self

    def _count(self, *_: object) -> None:
        self.asked += 1

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def launch(
    plan: Plan, run: Path, resume: bool = False, *, module: str = "rlhf.worker",
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr),  # noqa: T201
) -> int:  # fmt: skip
    """Run the processes of a plan to their end; 0, or 130 when asked to stop and saved.

    `run` has a plan.yaml. `module`: what each process is. `say` gets text for people. Raises
    `LaunchError` when a process cannot be started or dies, and the error that ended a rank as an
    `HwoptError` with its exit code.
    """
    run = run.resolve()
    with locked(run):
        return _launch(plan, run, resume, module, say)


def _launch(plan: Plan, run: Path, resume: bool, module: str, say: Callable[[str], None]) -> int:
    several = plan.cluster.hostfile is not None
    address = "127.0.0.1"
    if several:
        if shutil.which("pdsh") is None:
            raise LaunchError("pdsh is not installed", fix="install it: apt-get install pdsh")
        address = check_hosts(plan, run)
    with Signals() as signals:
        for attempt in range(1, PORT_TRIES + 1):
            port = plan.cluster.master_port or free_port()
            _clear(run)
            started = Started.processes(plan, run, resume, module, address, port)
            code = started.watch(signals, say)
            started.close()
            errors = records(run, "error")
            retry = plan.cluster.master_port is None and attempt < PORT_TRIES
            if retry and not signals.asked and any(e["kind"] == PORT_TAKEN for e in errors):
                say(f"port {port} was taken meanwhile: trying another")
                continue
            return conclude(run, started.ranks, code, signals.asked, started.unreached)
    raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Nobody else trains in this folder meanwhile. Raises `RunError` when somebody does."""
    lock = FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError("is being trained by another rlhf train", where=str(run)) from None
    try:
        yield
    finally:
        lock.release()


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _clear(run: Path) -> None:
    """Forget how an earlier start ended."""
    for path in (run / "status").glob("*"):
        path.unlink(missing_ok=True)


@dataclass
class Started:
    """Processes that run: the one that started them, and what the run said so far."""

    run: Path
    process: subprocess.Popen[str]
    ranks: int
    unreached: list[str] = field(default_factory=list)
    """Machines whose ssh ended badly, with what pdsh says."""
    pumps: list[threading.Thread] = field(default_factory=list)
    """Pass on what several machines print."""

    @classmethod
    def processes(cls, plan: Plan, run: Path, resume: bool, module: str, address: str,
                  port: int) -> Started:  # fmt: skip
        """Start every rank."""
        machines = hosts(plan.cluster)
        worker = [module, str(run), "--launcher", f"{machine()}#{os.getpid()}"]
        worker += ["--resume"] if resume else []
        if plan.cluster.threads is not None:
            worker += ["--threads", str(plan.cluster.threads)]
        ranks = sum(host.slots for host in machines)
        environment = _environment()
        several = plan.cluster.hostfile is not None
        if several:
            environment["DS_ENV_FILE"] = str(_carry(run, environment))
            command = _machines_command(plan, address, port, worker)
        elif ranks > 1:
            command = _machine_command(ranks, port, worker)
        else:
            environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1",
                            "MASTER_ADDR": address, "MASTER_PORT": str(port)}  # fmt: skip
            command = [sys.executable, "-m", *worker]
        process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.DEVNULL, start_new_session=True,
            stdout=subprocess.PIPE if several else None,
            stderr=subprocess.PIPE if several else None,
        )  # fmt: skip
        started = cls(run, process, ranks)
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            if source is not None:
                pump = threading.Thread(target=started.pass_on, args=(source, target), daemon=True)
                pump.start()
                started.pumps.append(pump)
        return started

    def close(self) -> None:
        """Print what is left to print."""
        for pump in self.pumps:
            pump.join(timeout=END_SECONDS)
        for source in (self.process.stdout, self.process.stderr):
            if source is not None:
                source.close()

    def pass_on(self, lines: IO[str], target: IO[str]) -> None:
        """Print what the machines print, without the launchers' own chatter."""
        for line in lines:
            failure = _UNREACHED.match(line)
            if failure is not None:
                self.unreached.append(f"{failure['host']}: {failure['what'].strip()}")
            elif not _NOISE.match(line):
                target.write(line)
                target.flush()

    def watch(self, signals: Signals, say: Callable[[str], None]) -> int:
        """Wait until all have ended, stopping them as asked and when one has failed."""
        asked = False
        deadline: float | None = None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=POLL_SECONDS)
            if signals.asked > 1:
                say("killing")
                return self.kill()
            if signals.asked and not asked:
                asked = True
                self.order("interrupt")
                say("stopping at the next safe point; Ctrl-C again kills")
            if deadline is None:
                deadline = self._deadline(asked)
            if deadline is not None and time.monotonic() >= deadline:
                return self.kill()

    def _deadline(self, asked: bool) -> float | None:
        """When what still runs is killed: soon after the first bad end."""
        exits = records(self.run, "exit")
        if len(exits) == self.ranks:
            return time.monotonic() + END_SECONDS
        if self.unreached or any(ended["returncode"] != 0 for ended in exits):
            return time.monotonic() + (SAVE_SECONDS if asked else GRACE_SECONDS)
        return None

    def order(self, signal_name: str) -> None:
        """Tell every rank, on every machine."""
        write_json(status_file(self.run, "stop"), {"signal": signal_name})

    def kill(self) -> int:
        """End every rank, then what started them."""
        with contextlib.suppress(HwoptError):  # the run's folder may be gone
            self.order("kill")
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout=END_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


def _environment() -> dict[str, str]:
    """Of what is started here."""
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    if "DS_ACCELERATOR" not in environment:
        import torch

        if not torch.accelerator.is_available():
            environment["DS_ACCELERATOR"] = "cpu"
    return environment


def _machine_command(ranks: int, port: int, worker: list[str]) -> list[str]:
    """DeepSpeed's launcher on this machine."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    chosen = [int(device) for device in visible.split(",") if device.isdigit()]
    devices = chosen[:ranks] if len(chosen) >= ranks else list(range(ranks))
    world = base64.urlsafe_b64encode(json.dumps({"localhost": devices}).encode()).decode()
    return [
        sys.executable, "-m", "deepspeed.launcher.launch", "--quiet", f"--world_info={world}",
        "--master_addr=127.0.0.1", f"--master_port={port}", "--no_local_rank", "--module", *worker,
    ]  # fmt: skip


def _machines_command(plan: Plan, address: str, port: int, worker: list[str]) -> list[str]:
    """DeepSpeed's runner over the hostfile. `check_hosts` has asked all of them already, so its own
    check of the first is left out; one machine in the file is a remote one all the same.
    """
    ssh_port = [] if plan.cluster.ssh_port is None else ["--ssh_port", str(plan.cluster.ssh_port)]
    return [
        sys.executable, "-m", "deepspeed.launcher.runner", "--quiet",
        "--hostfile", str(plan.cluster.hostfile), "--launcher", "pdsh", "--launcher_args=-N",
        "--force_multi", "--no_ssh_check", "--master_addr", address, "--master_port", str(port),
        *ssh_port, "--no_local_rank", "--module", *worker,
    ]  # fmt: skip


def _carry(run: Path, environment: Mapping[str, str]) -> Path:
    """The file of variables that DeepSpeed's runner sets on every machine: the user's own
    `.deepspeed_env` files and `CARRIED`. DeepSpeed puts values between double quotes into a shell
    line, so those that a shell would expand are left out.
    """
    lines = list(_user_lines())
    named = {line.split("=", 1)[0] for line in lines}
    lines += [f"{name}={environment[name]}" for name in CARRIED
              if name in environment and name not in named
              and not re.search(r'["$`\\\n]', environment[name])]  # fmt: skip
    path = run / "status" / "environment"
    write_text(path, "".join(f"{line}\n" for line in lines))
    return path


def _user_lines() -> Iterator[str]:
    """Lines of the files that DeepSpeed's runner would have read."""
    name = os.environ.get("DS_ENV_FILE", ".deepspeed_env")
    for folder in (Path.home(), Path()):
        path = folder / name
        if path.is_file():
            yield from (line for line in path.read_text(encoding="utf-8").splitlines()
                        if "=" in line)  # fmt: skip
