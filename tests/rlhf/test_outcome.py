"""How records of ended processes become one exit code or error."""

import signal

import pytest

from hwopt import write_json
from rlhf.errors import LaunchError
from rlhf.errors import OutOfMemoryError as DoesNotFit
from rlhf.outcome import conclude
from rlhf.status import Status


@pytest.fixture
def run(tmp_path):
    """A folder where ranks have written: `run.exit(rank, code)`, `run.error(rank, ...)`."""

    class Run:
        path = tmp_path
        time = 0.0

        def exit(self, rank, code, **facts):
            self.time += 1
            record = {"rank": rank, "host": "a", "pid": 7, "returncode": code, "stopped": False,
                      "time": self.time, **facts}  # fmt: skip
            write_json(tmp_path / "status" / f"exit-rank-{rank}.json", record)

        def error(self, rank, message, exit_code, code=None):
            self.time += 1
            record = {"rank": rank, "host": "a", "kind": "X", "message": message,
                      "exit_code": exit_code, "time": self.time}  # fmt: skip
            write_json(tmp_path / "status" / f"error-rank-{rank}.json", record)
            self.exit(rank, exit_code if code is None else code)

    return Run()


def test_all_well(run):
    """Every rank ended with 0."""
    for rank in range(3):
        run.exit(rank, 0)
    assert conclude(run.path, 3, 0, 0, []) == 0


def test_saved(run):
    """Asked to stop, and saved; also where a rank was still starting when it was asked."""
    run.exit(0, 130)
    run.exit(1, -signal.SIGINT)
    assert conclude(run.path, 2, 0, 1, []) == 130
    with pytest.raises(KeyboardInterrupt):
        conclude(run.path, 2, 0, 2, [])


def test_a_death_comes_before_the_errors_that_follow_from_it(run):
    """Others lose the connection first and say so first; the dead one is the cause. Where it was is
    told from its status.
    """
    run.error(0, "RuntimeError: connection closed by peer", 1)
    run.exit(1, -signal.SIGKILL)
    run.exit(2, -signal.SIGKILL, stopped=True)
    Status(run.path, 1).enter("train actor", stage="ppo", step=12)
    with pytest.raises(LaunchError) as caught:
        conclude(run.path, 3, 0, 0, [])
    first = "rank 1 on a: process 7 died of SIGKILL in stage ppo after step 12, train actor"
    assert str(caught.value).startswith(first)
    assert caught.value.exit_code == 2


def test_a_kill_for_memory_is_exit_code_3(run):
    """Where the kernel counted one, the message says what makes it smaller."""
    run.exit(0, -signal.SIGKILL, out_of_memory=True)
    with pytest.raises(DoesNotFit, match=r"memory ran out.*before its first phase") as caught:
        conclude(run.path, 1, 0, 0, [])
    assert caught.value.exit_code == 3
    assert "micro_batch" in str(caught.value)
    assert str(run.path) in str(caught.value)


def test_an_error_in_the_input_comes_before_what_follows_from_it(run):
    """Exit code 2 of one rank, a lost connection of another: the first is told."""
    run.error(0, "RuntimeError: connection closed by peer", 1)
    run.error(1, "rows.jsonl:3: no prompt", 2)
    with pytest.raises(LaunchError, match=r"^rows\.jsonl:3: no prompt$") as caught:
        conclude(run.path, 2, 0, 0, [])
    assert caught.value.exit_code == 2


def test_a_rank_that_never_was(run):
    """A machine that failed before its process could write anything is named."""
    run.exit(0, -signal.SIGKILL, stopped=True)
    with pytest.raises(LaunchError, match=r"ranks \[1\]: not every process") as caught:
        conclude(run.path, 2, 1, 0, ["node-2: ssh exited with exit code 1"])
    assert "node-2" in str(caught.value)


def test_an_exit_without_a_word(run):
    """A process that called exit(5) is an error too."""
    run.exit(0, 5)
    with pytest.raises(LaunchError, match="exit code 5"):
        conclude(run.path, 1, 0, 0, [])
