"""Peers that run beside a benchmark, each in the environment that `make bench-peers` makes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
HOW = "ZigZag did not run: `make bench-peers` installs it in .venv-peers"
LIMIT_SECONDS = 1800


def available() -> bool:
    """Whether the environment is there."""
    return PYTHON.is_file()


def zigzag(
    workload: str = "resnet18", objective: str = "latency", nests: Path | None = None
) -> dict[str, Any] | None:
    """What `zigzag_resnet18.py` prints, on one core; None (say `HOW`) where it is not installed.

    `cpu_seconds` is the time of the search alone. Raises `CalledProcessError` when the peer fails.
    """
    if not available():
        return None
    command = [
        str(PYTHON), str(Path(__file__).with_name("zigzag_resnet18.py")),
        "--workload", workload, "--objective", objective,
    ]  # fmt: skip
    if nests is not None:
        command += ["--nests", str(nests)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env=alone, timeout=LIMIT_SECONDS
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
