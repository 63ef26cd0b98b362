"""A worker that trains nothing: what `test_launch` starts instead of `rlhf.worker`.

`python -m pretend RUN ...`: all ranks sum their numbers, then the run's file `do.json` says what
each does: {"RANK": "finish" | "wait" | "raise" | "bug" | "segfault" | "ignore"}. With "apart" in it
they do not meet, which spares them loading torch.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from rlhf.errors import DataError
from rlhf.worker import main


def save(run: Path, rank: int, name: str, data: object) -> None:
    """Leave a file of this rank behind."""
    (run / f"{name}-{rank}.json").write_text(json.dumps(data))


def fit(run: Path, resume: bool) -> None:
    """Meet the others, then do as told."""
    rank, orders = int(os.environ["RANK"]), json.loads((run / "do.json").read_text())
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "CARRIED_BY_USER")
    seen = {name: os.environ.get(name) for name in names} | {"pid": os.getpid(), "resume": resume}
    if "apart" not in orders:
        seen["sum"] = meet(rank)
    print(f"rank {rank} is here", flush=True)
    save(run, rank, "joined", seen)
    what = orders.get(str(rank), "finish")
    if what == "raise":
        raise DataError("a bad row", where="train.jsonl:7", fix="mend it")
    if what == "bug":
        raise ZeroDivisionError("of ours")
    if what == "segfault":
        print("about to crash", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "ignore":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if what in ("wait", "ignore"):
        wait(run, rank)


def meet(rank: int) -> int:
    """The sum of what all ranks gave; each knows the others are there."""
    from rlhf import processes

    processes.start(timeout_s=60)
    total = sum(processes.gather(rank + 1))
    processes.barrier()
    processes.stop()
    return total


def wait(run: Path, rank: int) -> None:
    """Until interrupted: then 'save' for a moment, counting what else comes."""
    try:
        time.sleep(100)
    except KeyboardInterrupt:
        more = []
        signal.signal(signal.SIGINT, lambda *_: more.append(1))
        time.sleep(1)
        save(run, rank, "saved", {"interrupts": 1 + len(more)})
        raise


if __name__ == "__main__":
    sys.exit(main(fit=fit))
