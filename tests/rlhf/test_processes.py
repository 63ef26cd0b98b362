"""One process on its own, and a launcher's variables; exchanges of several: test_zero.py."""

import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from rlhf import processes
from rlhf.errors import LaunchError


@pytest.fixture
def alone(monkeypatch):
    """No launcher's variables."""
    for name in (*processes.LAUNCHED, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    yield
    processes.stop()


def test_one_process_needs_no_launcher(alone):
    """It is rank 0 of 1, starts and stops as often as it likes, and takes no port."""
    for _ in range(2):
        processes.start()
        processes.start()
        assert dist.is_initialized()
        assert (processes.rank(), processes.world()) == (0, 1)
        assert "MASTER_PORT" not in os.environ
        given = torch.tensor([2.0])
        assert processes.sum(given) is not given
        assert processes.sum(given).item() == processes.maximum(given).item() == 2.0
        assert processes.gather({"a": [1, None]}) == [{"a": [1, None]}]
        assert processes.broadcast("x") == "x"
        processes.barrier()
        processes.stop()
        assert not dist.is_initialized()


def test_before_the_start():
    """Nothing was started: one process, sums of one."""
    assert (processes.rank(), processes.world()) == (0, 1)
    assert processes.sum(torch.ones(2)).tolist() == [1.0, 1.0]


def test_only_json_is_exchanged(alone):
    """An object of code cannot be sent to another process."""
    with pytest.raises(TypeError):
        processes.gather(object())


def test_incomplete_variables(alone, monkeypatch):
    """A launcher sets all of them or none."""
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(LaunchError, match=r"incomplete(.|\n)*RANK(.|\n)*MASTER_PORT"):
        processes.start()


def test_threads(alone):
    """CPU threads as asked."""
    before = torch.get_num_threads()
    processes.start(threads=1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_free_port():
    """Somebody can listen there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", processes.free_port()))


def test_others_that_never_come():
    """The second of two processes is missing: an error that names rank and address, in time."""
    environment = {
        **os.environ, "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(processes.free_port()),
    }  # fmt: skip
    code = (
        "from rlhf import processes\nfrom rlhf.errors import LaunchError\n"
        "try: processes.start(timeout_s=2)\nexcept LaunchError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "rank 0: the processes did not find one another" in done.stdout, done.stderr
    assert "127.0.0.1" in done.stdout
