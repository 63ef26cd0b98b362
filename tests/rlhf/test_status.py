"""Where each process of a run is, as others read it while it runs and after it died."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from rlhf.status import Status, read_status


def test_each_phase_is_said_and_read_back(tmp_path):
    """Stage and step stay until they change; a new stage begins at step 0; ranks in order."""
    other, status = Status(tmp_path, 1), Status(tmp_path, 0)
    other.enter("start")
    status.enter("train actor", stage="sft", step=4)
    status.enter("checkpoint")
    first, second = read_status(tmp_path)
    assert (first.rank, first.stage, first.step, first.phase) == (0, "sft", 4, "checkpoint")
    assert (first.pid, first.host) == (os.getpid(), socket.gethostname())
    assert abs(first.time - time.time()) < 60
    assert (second.rank, second.stage, second.step, second.phase) == (1, "", 0, "start")
    status.enter("generate actor", stage="ppo")
    assert read_status(tmp_path)[0].step == 0


def test_a_reader_never_sees_half_a_file(tmp_path):
    """Reading while it is rewritten: always whole, whatever the moment."""
    status, over = Status(tmp_path, 0), threading.Event()
    status.enter("p" * 1000)

    def write():
        while not over.is_set():
            status.enter("p" * 1000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            assert json.loads((tmp_path / "status" / "rank-0.json").read_text())["rank"] == 0
    finally:
        over.set()
        writer.join()


def test_it_outlives_a_killed_process(tmp_path):
    """SIGKILL in a phase: the file says in which."""
    program = (
        "import os, signal, sys; from pathlib import Path; from rlhf.status import Status\n"
        "Status(Path(sys.argv[1]), 0).enter('train critic', stage='ppo', step=7)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL
    (left,) = read_status(tmp_path)
    assert (left.stage, left.step, left.phase) == ("ppo", 7, "train critic")


def test_what_cannot_be_written_or_read_is_let_be(tmp_path):
    """A status is a courtesy: a run does not end for want of it; strange files are left out."""
    (tmp_path / "status").write_text("a file where the folder should be")
    Status(tmp_path, 0).enter("start")
    assert read_status(tmp_path) == []
    folder = tmp_path / "run" / "status"
    folder.mkdir(parents=True)
    (folder / "rank-0.json").write_text('{"rank": 0')
    (folder / "rank-1.json").write_text('{"rank": 1}')
    Status(tmp_path / "run", 2).enter("start")
    assert [where.rank for where in read_status(tmp_path / "run")] == [2]
