"""The machines of a run: DeepSpeed's hostfile, processes on each, and whether they answer.

Several machines share the run's folder under one path, and have the same Python at the same path:
what DeepSpeed's launcher needs as well. It is checked on every machine before anything starts, so
that a machine that is down or lacks the folder is named, instead of the others waiting for it.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwopt import read_text
from rlhf.errors import LaunchError, PlanError

if TYPE_CHECKING:
    from rlhf.plan import ClusterPlan, Plan

CHECK_SECONDS = 20
"""How long a machine has to answer over ssh."""

_LINE = re.compile(r"^(?P<name>\S+)\s+slots=(?P<slots>\d+)\s*$")
_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.:@-]*$")
"""What is put on an ssh command line: nothing that starts like an option."""


@dataclass(frozen=True)
class Host:
    """A machine and how many processes it runs."""

    name: str
    slots: int


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """The machines of a hostfile: `host slots=N` a line, `#` starts a comment.

    Raises `PlanError` with file and line.
    """
    found: dict[str, Host] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        line = line.split("#", 1)[0].strip()
        if not line:
            continue
        match = _LINE.match(line)
        where = f"{path}:{number}"
        if match is None or not int(match["slots"]) or not _NAME.match(match["name"]):
            raise PlanError("not a line of a hostfile", where=where, value=line,
                            allowed="HOST slots=N")  # fmt: skip
        if match["name"] in found:
            raise PlanError("a machine that is already listed", where=where, value=match["name"],
                            fix="one line per machine, with all its slots")  # fmt: skip
        found[match["name"]] = Host(match["name"], int(match["slots"]))
    if not found:
        raise PlanError("no machine in it", where=str(path), allowed="HOST slots=N a line")
    return tuple(found.values())


def hosts(cluster: ClusterPlan) -> tuple[Host, ...]:
    """The machines of a plan's cluster: its hostfile's, else this one.

    The hostfile's slots say how many processes a machine runs. `cluster.processes`, where given,
    has to agree: batches and memory are planned with it. Raises `PlanError`.
    """
    if cluster.hostfile is None:
        return (Host("localhost", cluster.processes),)
    found = read_hostfile(Path(cluster.hostfile))
    given = cluster.processes if "processes" in cluster.model_fields_set else None
    wrong = next((host for host in found if given not in (None, host.slots)), None)
    if wrong is not None:
        raise PlanError("differs from the hostfile", where="cluster.processes", value=given,
                        allowed=f"{wrong.slots}, the slots of {wrong.name}",
                        fix="change one of them, or leave processes out")  # fmt: skip
    return found


def world_size(plan: Plan) -> int:
    """Processes over all machines."""
    return sum(host.slots for host in hosts(plan.cluster))


def machine() -> str:
    """What two processes share exactly when they see each other's process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def ssh_options(plan: Plan) -> list[str]:
    """Options of ssh that reach every machine: the plan's port, and the user's
    PDSH_SSH_ARGS_APPEND, which pdsh passes to ssh itself.
    """
    extra = shlex.split(os.environ.get("PDSH_SSH_ARGS_APPEND", ""))
    return extra if plan.cluster.ssh_port is None else [*extra, "-p", str(plan.cluster.ssh_port)]


def check_hosts(plan: Plan, run: Path) -> str:
    """Ask every machine whether it can take part; returns the address of the first one.

    Each has to answer over ssh without a password, have this Python, and see the run's folder.
    Raises `LaunchError` that names the machine and what is missing.
    """
    python, file = shlex.quote(sys.executable), shlex.quote(str(run / "plan.yaml"))
    wanted = f"test -x {python} || exit 81; test -f {file} || exit 82; hostname -I"

    def ask(host: Host) -> subprocess.CompletedProcess[str]:
        command = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CHECK_SECONDS}",
                   *ssh_options(plan), host.name, wanted]  # fmt: skip
        try:
            return subprocess.run(command, capture_output=True, text=True, check=False,
                                  stdin=subprocess.DEVNULL, timeout=2 * CHECK_SECONDS)  # fmt: skip
        except FileNotFoundError as error:
            raise LaunchError("ssh is not installed", fix="install openssh-client") from error
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 255, "", "no answer in time")

    machines = hosts(plan.cluster)
    with ThreadPoolExecutor(min(32, len(machines))) as pool:
        answers = list(pool.map(ask, machines))
    for host, answer in zip(machines, answers, strict=True):
        if answer.returncode == 81:
            raise LaunchError("no such Python there", where=host.name, value=sys.executable,
                              fix="install the same environment at the same path")  # fmt: skip
        if answer.returncode == 82:
            raise LaunchError("does not see the run's folder", where=host.name, value=str(run),
                              fix="put the run (-o) on a file system that all share")  # fmt: skip
        if answer.returncode not in (0, 1):
            said = answer.stderr.strip().splitlines()
            raise LaunchError("cannot be reached over ssh", where=host.name,
                              value=said[-1] if said else f"ssh exited with {answer.returncode}",
                              fix="ssh must log in without a password; the port is "
                                  "cluster.ssh_port")  # fmt: skip
    address = plan.cluster.master_address or next(iter(answers[0].stdout.split()), "")
    return address or machines[0].name
