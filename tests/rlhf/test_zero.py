"""ZeRO stages, precisions, offload and adapters in two real processes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hwopt import read_json
from rlhf import processes

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).parent / "workers" / "zero3.py"
NAMES = [
    line.split("(")[0].removeprefix("def check_")
    for line in WORKER.read_text().splitlines()
    if line.startswith("def check_")
]


def load_matrix():
    """The benchmark `benchmarks/zero_matrix.py` as a module."""
    path = ROOT / "benchmarks" / "zero_matrix.py"
    spec = importlib.util.spec_from_file_location("zero_matrix", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["zero_matrix"] = module
    spec.loader.exec_module(module)
    return module


matrix = load_matrix()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each check of the worker found: one pair of processes runs them all."""
    folder = tmp_path_factory.mktemp("zero3")
    port = str(processes.free_port())
    started = []
    for rank in range(2):
        environment = {
            **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        command = [sys.executable, str(WORKER), str(folder)]
        with (folder / f"log-{rank}").open("w") as log:
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    for process in started:
        process.wait(timeout=580)
    logs = "\n".join((folder / f"log-{rank}").read_text()[-3000:] for rank in range(2))
    assert (folder / "results.json").exists(), logs
    return read_json(folder / "results.json"), logs


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes(results, name):
    """See the check of that name in `workers/zero3.py`."""
    found, logs = results
    assert found.get(f"check_{name}", f"did not run\n{logs}") == ""


@pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning")
def test_small_matrix():
    """ZeRO 0, 2 and 3, fp32 and bf16, offload and adapters in two processes train as ZeRO 0 in
    one: the same losses within the stated tolerances, the same gradient norms.
    """
    chosen = matrix.small()
    base = matrix.run(chosen[:2], 1)  # apart: DeepSpeed's groups outlive a process group
    assert base[0]["losses"][-1] < base[0]["losses"][0] - 0.2
    for case, own in zip(chosen, matrix.run(chosen, 2), strict=True):
        expected = base[int(case.lora)]
        tolerance = matrix.TOLERANCE[case.dtype]
        assert matrix.difference(own["losses"], expected["losses"]) <= tolerance, case
        if case.dtype == "fp32":
            norms = own["gradient_norms"], expected["gradient_norms"]
            assert matrix.difference(*norms) <= 1e-3, case


@pytest.mark.slow
def test_whole_matrix(tmp_path):
    """Every stage, precision, offload and adapters, in one and two processes."""
    chosen = matrix.cases()
    table = matrix.compared(chosen, {world: matrix.run(chosen, world) for world in (1, 2)})
    assert len(table) == 2 * len(chosen) > 70
    assert [row for row in table if not row["within"]] == []
