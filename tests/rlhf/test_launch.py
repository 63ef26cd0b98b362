"""Starting and ending the processes of a run, on one machine and on 'several' over loopback ssh.

The processes are real, and so are DeepSpeed's launcher and runner, pdsh, ssh and sshd; only what is
trained is not there (`pretend.py`).
"""

import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf import launch as launching
from rlhf.errors import LaunchError, PlanError, RunError
from rlhf.hosts import Host, hosts, read_hostfile, world_size
from rlhf.launch import free_port, launch, locked
from rlhf.metrics import read_metrics, series
from rlhf.plan import Plan
from tests.rlhf.plans import SFT, rlhf, tiny_plan, write_plan

HERE = Path(__file__).parent


def a_plan(**cluster):
    """A plan that is only good for its cluster."""
    return Plan(name="t", roles={"actor": {"model": {"model_type": "llama"}}}, data={},
                stages=[{"algorithm": "sft"}], cluster=cluster)  # fmt: skip


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run pretended workers: `start(do, **cluster)` is `launch`, and what each rank left."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    said = []

    def call(do=None, *, resume=False, **cluster):
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        plan = a_plan(**cluster)
        (run / "plan.yaml").write_text(plan.text())
        (run / "do.json").write_text(json.dumps(do or {}))
        return launch(plan, run, resume, module="pretend", say=said.append)

    call.run = tmp_path / "run"
    call.said = said
    call.joined = lambda: [json.loads(p.read_text()) for p in sorted(call.run.glob("joined*"))]
    return call


def test_one_process(start, capfd):
    """No launcher between: rank 0 of 1, its output passes through, --resume arrives."""
    assert start({"apart": True}, resume=True, processes=1) == 0
    (only,) = start.joined()
    assert only["WORLD_SIZE"] == "1"
    assert only["resume"] is True
    assert "rank 0 is here" in capfd.readouterr().out


def test_two_processes(start, capfd):
    """DeepSpeed's launcher starts both; they meet; only rank 0 is heard, the other has a log."""
    assert start(processes=2, threads=3) == 0
    assert [each["sum"] for each in start.joined()] == [3, 3]
    assert [each["LOCAL_RANK"] for each in start.joined()] == ["0", "1"]
    assert {each["OMP_NUM_THREADS"] for each in start.joined()} == {"3"}
    printed = capfd.readouterr().out
    assert "rank 0 is here" in printed
    assert "rank 1 is here" not in printed
    assert "launch.py" not in printed
    assert "rank 1 is here" in (start.run / "status" / "rank-1.log").read_text()


def test_a_death_is_explained_and_ends_the_others(start):
    """One rank crashes while the other waits: rank, machine, signal, last words, what to do."""
    with pytest.raises(LaunchError) as caught:
        start({"apart": True, "0": "wait", "1": "segfault"}, processes=2)
    message = str(caught.value)
    assert message.startswith(f"rank 1 on {os.uname().nodename}: process ")
    assert "died of SIGSEGV" in message
    assert "about to crash" in message
    assert f"rlhf train -o {start.run} --resume" in message
    for rank in start.joined():
        assert not Path(f"/proc/{rank['pid']}").exists()


@pytest.mark.slow
def test_an_error_of_all_ranks_is_told_once(start):
    """Bad input found by every rank: its message as it is, exit code 2, no traceback."""
    with pytest.raises(LaunchError) as caught:
        start({"apart": True, "0": "raise", "1": "raise"}, processes=2)
    assert str(caught.value) == "train.jsonl:7: a bad row\n  fix: mend it"
    assert caught.value.exit_code == 2


def test_a_bug_is_exit_code_1(start):
    """Any other exception names its rank and where the traceback is."""
    with pytest.raises(LaunchError, match="ZeroDivisionError: of ours") as caught:
        start({"apart": True, "0": "bug"}, processes=1)
    assert caught.value.exit_code == 1
    log = start.run / "status" / "rank-0.log"
    assert str(log) in str(caught.value)
    assert "Traceback" in log.read_text()


@pytest.mark.slow
def test_a_taken_port_is_retried(start, monkeypatch):
    """Somebody listens on the port that was free a moment ago: another one is tried, aloud."""
    import socket

    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        taken = busy.getsockname()[1]
        ports = iter([taken, free_port()])
        monkeypatch.setattr(launching, "free_port", lambda: next(ports))
        assert start(processes=1) == 0
    assert start.said == [f"port {taken} was taken meanwhile: trying another"]


def test_one_run_is_trained_once_at_a_time(tmp_path):
    """A second start in the same folder is refused while the first lives, and free after."""
    with locked(tmp_path), pytest.raises(RunError, match="another"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.fixture
def parent(tmp_path):
    """A process that calls `launch` with pretended workers; ready when all have joined."""
    run = tmp_path / "run"
    run.mkdir()
    code = (
        "import sys; from pathlib import Path; from rlhf.plan import Plan; "
        "from rlhf.launch import launch; run = Path(sys.argv[1]); "
        "sys.exit(launch(Plan.load(run / 'plan.yaml'), run, module='pretend'))"
    )
    started = []

    def call(do):
        (run / "plan.yaml").write_text(a_plan(processes=len(do)).text())
        (run / "do.json").write_text(json.dumps({"apart": True} | do))
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(run)], stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}"},
        )  # fmt: skip
        started.append(process)
        wait_for(lambda: len(list(run.glob("joined*"))) == len(do))
        time.sleep(0.5)  # now they wait
        return process

    call.run = run
    yield call
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def wait_for(condition, seconds=60):
    """Poll until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


def gone(run):
    """Whether no process of the run is left."""
    joined = [json.loads(path.read_text()) for path in run.glob("joined*")]
    return not any(Path(f"/proc/{rank['pid']}").exists() for rank in joined)


def test_ctrl_c_reaches_each_worker_once_and_lets_it_save(parent):
    """SIGINT to the parent: one to each worker, which saves; exit 130; nobody is cut short."""
    process = parent({"0": "wait", "1": "wait"})
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    saved = [json.loads(path.read_text()) for path in sorted(parent.run.glob("saved*"))]
    assert saved == [{"interrupts": 1}] * 2
    assert "stopping at the next safe point" in process.stderr.read()


@pytest.mark.slow
def test_a_second_ctrl_c_kills(parent):
    """A worker that ignores the first is ended by the second."""
    process = parent({"0": "ignore"})
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    assert "KeyboardInterrupt" in process.stderr.read()
    assert gone(parent.run)


def test_workers_end_with_a_killed_parent(parent):
    """Killing `rlhf train` leaves nothing behind that would go on writing."""
    process = parent({"0": "ignore"})
    process.kill()
    process.wait()
    wait_for(lambda: gone(parent.run), 10)


def test_hostfile(tmp_path):
    """Machines and slots, comments left out; one message with the line for anything else."""
    path = tmp_path / "hosts"
    path.write_text("# two\nnode-1 slots=4\n\nnode-2 slots=2  # smaller\n")
    assert read_hostfile(path) == (Host("node-1", 4), Host("node-2", 2))
    assert world_size(a_plan(hostfile=str(path))) == 6
    for text, line, what in [
        ("node-1\n", 1, "not a line"), ("a slots=1\na slots=2", 2, "already listed"),
        ("a slots=0", 1, "not a line"), ("-oProxyCommand=x slots=1", 1, "not a line"),
    ]:  # fmt: skip
        path.write_text(text)
        with pytest.raises(PlanError, match=f"{path}:{line}: .*{what}"):
            read_hostfile(path)
    path.write_text("# nobody\n")
    with pytest.raises(PlanError, match="no machine"):
        read_hostfile(path)


def test_processes_and_slots_agree(tmp_path):
    """A plan that says 3 processes of a machine with 2 slots was planned for something else."""
    path = tmp_path / "hosts"
    path.write_text("node-1 slots=2\n")
    assert hosts(a_plan(hostfile=str(path), processes=2).cluster) == (Host("node-1", 2),)
    with pytest.raises(PlanError, match=r"cluster\.processes: differs"):
        hosts(a_plan(hostfile=str(path), processes=3).cluster)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """A server of our own on loopback with temporary keys; gives (port, options of ssh)."""
    server = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if server is None or shutil.which("pdsh") is None:
        pytest.skip("needs sshd and pdsh: apt-get install openssh-server pdsh")
    if not Path("/run/sshd").is_dir():
        if os.geteuid():
            pytest.skip("needs the folder /run/sshd, which only root can make")
        Path("/run/sshd").mkdir(mode=0o755)
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name],
                       check=True)  # fmt: skip
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    port = free_port()
    config = {
        "ListenAddress": f"127.0.0.1:{port}", "HostKey": folder / "host", "PidFile": "none",
        "AuthorizedKeysFile": folder / "authorized", "StrictModes": "no", "UsePAM": "no",
        "PasswordAuthentication": "no", "PermitRootLogin": "prohibit-password",
    }  # fmt: skip
    (folder / "config").write_text("".join(f"{k} {v}\n" for k, v in config.items()))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([server, "-D", "-e", "-f", folder / "config"], stderr=log)
    options = (f"-i {folder / 'user'} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no "
               f"-o UserKnownHostsFile={folder / 'known'} -o LogLevel=ERROR")  # fmt: skip
    try:
        user = f"{getpass.getuser()}@127.0.0.1"
        ask = ["ssh", *options.split(), "-o", "BatchMode=yes", "-p", str(port), user, "true"]
        wait_for(lambda: subprocess.run(ask, check=False, capture_output=True).returncode == 0, 15)
        yield port, options
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def machines(sshd, tmp_path, monkeypatch):
    """A hostfile of two names of this machine, reached through the server."""
    port, options = sshd
    monkeypatch.setenv("PDSH_SSH_ARGS_APPEND", options)
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    return {"hostfile": str(hostfile), "ssh_port": port, "master_address": "127.0.0.1"}


def test_several_machines_over_ssh(start, machines, capfd, tmp_path, monkeypatch):
    """A hostfile of two: DeepSpeed's runner starts a rank on each through pdsh; they meet. Rank 0
    is heard without host names or the launcher's chatter; the user's .deepspeed_env arrives.
    """
    (tmp_path / ".deepspeed_env").write_text("CARRIED_BY_USER=yes\n")
    monkeypatch.setenv("DS_ENV_FILE", str(tmp_path / ".deepspeed_env"))
    assert start(**machines) == 0
    joined = start.joined()
    assert [each["sum"] for each in joined] == [3, 3]
    assert [each["LOCAL_RANK"] for each in joined] == ["0", "0"]
    assert [each["CARRIED_BY_USER"] for each in joined] == ["yes", "yes"]
    assert capfd.readouterr().out.splitlines() == ["rank 0 is here"]


@pytest.mark.slow
def test_a_death_on_another_machine(start, machines):
    """Rank 1 crashes on the second machine: the first is ended too, and the message says so."""
    with pytest.raises(LaunchError, match=r"rank 1 on .*died of SIGSEGV"):
        start({"apart": True, "0": "wait", "1": "segfault"}, **machines)
    assert gone(start.run)


def test_a_machine_that_cannot_take_part_is_named(start, machines, tmp_path, monkeypatch):
    """Before anything starts: no ssh, no such Python, or no sight of the run's folder."""
    with pytest.raises(LaunchError, match=r"127\.0\.0\.1: cannot be reached"):
        start(**machines | {"ssh_port": free_port()})
    plan = a_plan(**machines)
    with pytest.raises(LaunchError, match=r"127\.0\.0\.1: does not see the run's folder"):
        launch(plan, tmp_path)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(LaunchError, match="no such Python"):
        start(**machines)


@pytest.mark.slow
def test_training_over_machines(machines, tmp_path):
    """`rlhf train` with a hostfile of two machines trains: the metrics of each step, once, and the
    actor of both processes exported.
    """
    stage = {**SFT, "steps": 2}
    plan = write_plan(tiny_plan(tmp_path, stage, cluster=machines), tmp_path / "plan.yaml")
    printed = rlhf("train", plan, "-o", tmp_path / "run")
    assert "done" in printed
    assert "launch.py" not in printed
    rows = read_metrics(tmp_path / "run")
    assert [step for step, _ in series(rows, "sft", "seconds")] == [1, 2]
    assert (tmp_path / "run" / "stages" / "sft" / "actor" / "config.json").is_file()
    ends = [json.loads(p.read_text()) for p in (tmp_path / "run" / "status").glob("exit-*")]
    assert [end["returncode"] for end in ends] == [0, 0]
