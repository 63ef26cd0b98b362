"""Designs priced per second: the Numba kernel beside the plain reference, on one table.

ResNet-50 (batch 1, fused) on random designs of the `systolic` template with a 16 x 16 array. Both
sides price the same table with the same candidate mappings (staircases, made before the clock
starts); their answers must agree to 1e-12. Compilation is not counted.

    python benchmarks/kernel.py [--designs N] [--reference M]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from hwopt.cost.kernel import pack, price
from hwopt.cost.reference import price_table, total
from hwopt.cost.tables import OpTable
from hwopt.cost.tasks import op_table
from hwopt.files import write_json
from hwopt.frontend.capture import trace
from hwopt.hardware.table import COLUMNS, MEMORY_COLUMNS, HardwareTable
from hwopt.hardware.template import templates
from hwopt.mapping.staircase import staircase
from hwopt.passes.manager import PassManager, parse_pipeline

RESULTS = Path(__file__).parent / "results" / "kernel.json"
PIPELINE = "eliminate,canonicalize,fuse,classify,tile{factors=perfect}"
TEMPLATE, ARRAY = "systolic", {"rows": 16, "columns": 16}


def designs(count: int) -> tuple[np.ndarray, HardwareTable]:
    """Random codes with the array fixed, and their table."""
    template = templates[TEMPLATE]
    generator = np.random.default_rng(7)
    codes = np.stack([generator.integers(0, len(k.values), count) for k in template.knobs], axis=1)
    for column, knob in enumerate(template.knobs):
        if knob.name in ARRAY:
            codes[:, column] = knob.code(ARRAY[knob.name])
    return codes, template.table(codes)


def grid(hardware: HardwareTable) -> dict[str, tuple[float, ...]]:
    """The usable bytes that each finite memory takes in the table."""
    steps = {}
    for number, memory in enumerate(hardware.skeletons[0].memories):
        usable = hardware.rows[:, len(COLUMNS) + number * len(MEMORY_COLUMNS)]
        if np.isfinite(usable).all():
            steps[memory.name] = tuple(np.unique(usable).tolist())
    return steps


def candidates(table: OpTable, hardware: HardwareTable) -> dict:
    """The staircase of every nest, on the one fan-out shape."""
    steps = grid(hardware)
    return {
        request: staircase(
            request.problem, hardware.skeletons[0], steps, constraint=request.constraint
        ).rows
        for request in table.requests
    }


def rate(count: int, run) -> tuple[float, object]:
    """Designs per second (best of three) and the answer."""
    best, answer = 0.0, None
    for _ in range(3):
        start = time.perf_counter()
        answer = run()
        best = max(best, count / (time.perf_counter() - start))
    return best, answer


def main() -> None:
    """Run, check that both agree, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--designs", type=int, default=20_000)
    parser.add_argument("--reference", type=int, default=20, help="designs priced in plain Python")
    arguments = parser.parse_args()

    codes, hardware = designs(arguments.designs)
    graph = trace("resnet50")
    program, _ = PassManager(parse_pipeline(PIPELINE)).run(graph, target=hardware.skeletons[0])
    table = op_table(program, hardware.skeletons[0].bits)
    start = time.perf_counter()
    rows = candidates(table, hardware)
    preparing = time.perf_counter() - start
    packed = pack(table, hardware, lambda request, _: rows[request])
    price(packed, HardwareTable(hardware.skeletons, hardware.skeleton[:1], hardware.rows[:1]))

    kernel_rate, priced = rate(len(codes), lambda: price(packed, hardware))
    few = min(arguments.reference, len(codes))
    machines = [templates[TEMPLATE].decoded(row) for row in codes[:few]]
    reference_rate, expected = rate(
        few, lambda: [total(price_table(table, m, lambda r: rows[r])) for m in machines]
    )
    difference = max(
        abs(seconds / priced.seconds[i] - 1) if np.isfinite(seconds) else 0.0
        for i, (seconds, _) in enumerate(expected)
    )
    assert difference < 1e-12, difference
    result = {
        "model": graph.name, "template": TEMPLATE, "array": ARRAY, "tasks": len(table.tasks),
        "nests": len(rows), "candidate_rows": int(sum(len(r) for r in rows.values())),
        "staircase_seconds": preparing, "designs": len(codes),
        "kernel_designs_per_s": kernel_rate, "reference_designs_per_s": reference_rate,
        "ratio": kernel_rate / reference_rate, "largest_relative_difference": difference,
        "feasible_share": float(priced.feasible.mean()),
    }  # fmt: skip
    write_json(RESULTS, result)
    for name, value in result.items():
        print(f"{name:<28} {value:,.6g}" if isinstance(value, float) else f"{name:<28} {value}")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
