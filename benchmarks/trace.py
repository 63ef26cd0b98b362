"""Time and memory of traces, with blocks expanded and (`--baseline`) with every block traced.

Each figure is from a fresh process: CPU seconds without the imports of torch and transformers, with
the building of the model; peak memory of the process in all. Both ways give equal graphs.

    python benchmarks/trace.py [--baseline] [MODEL ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from hwopt.files import write_json

RESULTS = Path(__file__).parent / "results" / "trace.json"
CASES = (
    ("resnet50", "forward", None), ("resnet50", "train", None), ("bert-base", "train", 128),
    ("opt-1.3b", "train", 512), ("llama-2-7b", "forward", 2048), ("llama-2-7b", "train", 2048),
    ("mixtral-8x7b", "forward", 512), ("opt-175b", "forward", 2048), ("opt-175b", "train", 2048),
    ("llama-3-405b", "forward", 2048), ("llama-3-405b", "decode", 2048),
    ("llama-3-405b", "train", 2048),
)  # fmt: skip
LIMIT = {"forward": 10.0, "decode": 10.0, "train": 15.0}
"""Promised CPU seconds."""

CHILD = """
import json, resource, sys, time
import torch, transformers, torch._dynamo, torch.export
import hwopt.frontend.pipeline
from hwopt import trace
from hwopt.models.library import library
list(library)
name, mode, seq, expand = json.loads(sys.argv[1])
begin = time.process_time()
graph = trace(name, mode=mode, seq=seq, cache=False, expand=expand)
seconds = time.process_time() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([seconds, peak, len(graph.ops), graph.parameter_count, graph.flops]))
"""


def measure(name: str, mode: str, seq: int | None, *, expand: bool) -> list[float]:
    """CPU seconds, peak bytes, operators, parameters and FLOPs of one trace in its own process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, json.dumps([name, mode, seq, expand])],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    result: list[float] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="only these")
    parser.add_argument("--baseline", action="store_true", help="trace every block as well")
    given = parser.parse_args()
    rows = []
    print(
        f"{'model':<14}{'mode':<9}{'cpu s':>7}{'limit':>7}{'GB':>6}{'operators':>11}{'full s':>8}"
    )
    for name, mode, seq in CASES:
        if given.models and name not in given.models:
            continue
        seconds, peak, operators, parameters, flops = measure(name, mode, seq, expand=True)
        full = measure(name, mode, seq, expand=False)[0] if given.baseline else None
        rows.append({
            "model": name, "mode": mode, "seq": seq, "cpu_seconds": round(seconds, 2),
            "limit_seconds": LIMIT[mode], "peak_bytes": peak, "operators": operators,
            "parameters": parameters, "flops": flops,
            "baseline_cpu_seconds": None if full is None else round(full, 2),
        })  # fmt: skip
        beside = "-" if full is None else f"{full:.1f}"
        print(f"{name:<14}{mode:<9}{seconds:>7.1f}{LIMIT[mode]:>7.0f}{peak / 1e9:>6.2f}"
              f"{operators:>11.0f}{beside:>8}")  # fmt: skip
    if not given.models:
        write_json(RESULTS, {"benchmark": "trace", "rows": rows})


if __name__ == "__main__":
    main()
