"""How fast the mapper is, beside others.

1. Rates of the compiled kernels: boxes bounded, mappings priced from scratch.
2. Optimal solves: the slowest of a grid of capacities, proved, tables warm, beside what AccelForge
   needed (recorded CPU seconds; it starts from nothing for each capacity).
3. Whole networks, every table made anew (each in a process of its own, kernels compiled), on the
   NVDLA of AccelForge; ResNet-18 on ZigZag's tpu_like beside ZigZag, run here.
4. A random search over the mapper's own templates, in as much time and in a second: how far from
   the optimum it stays.
5. Staircases of operators over fan-out shapes and two capacities.

    python benchmarks/mapper.py [--quick] [-o benchmarks/results/mapper.json]

All times are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from peers import live, recorded, zigzag_ours

from hwopt.files import write_json
from hwopt.frontend.capture import trace
from hwopt.hardware.accelerator import ROLES, Accelerator, Fanout, Memory
from hwopt.hardware.conventions import ACCELFORGE, NATIVE, Conventions
from hwopt.hardware.library import load
from hwopt.ir.program import Constraint
from hwopt.mapping.analysis import OBJECTIVES
from hwopt.mapping.best import best_mapping, grove_of, machine_arrays
from hwopt.mapping.chains import Factors
from hwopt.mapping.mapping import Keep, Mapping
from hwopt.mapping.problem import Problem, normalise, problems_of
from hwopt.mapping.scratch import price_mappings
from hwopt.mapping.search import solve
from hwopt.mapping.space import skeleton
from hwopt.mapping.staircase import staircase
from hwopt.mapping.template import templates
from hwopt.validation.accelforge_arch import read_architectures
from hwopt.validation.accelforge_workload import workload

REFERENCE = Path(__file__).parent / "reference"
KIB = [8 * 2 ** (step / 2) for step in range(16)]
"""Capacities of the global buffer: 8 KiB to 1.45 MiB in steps of the square root of 2."""
Row = dict[str, Any]


def operator(name: str, **parameters: int) -> Problem:
    """One operator as AccelForge's rows name it."""
    return normalise(workload(name, parameters).problems[0][0])


def matmul(size: int) -> Problem:
    """A square product, 8 bits."""
    return operator("matmuls", N_EINSUMS=1, M=size, KN=size)


def accelforge(name: str, problem: Problem) -> Accelerator:
    """A machine of AccelForge; an axis spreads only where all that share its data take part."""
    return read_architectures(REFERENCE / "accelforge_arches.json")[name].machine(
        problem
    ).accelerator.resolved()  # fmt: skip


def sized(accelerator: Accelerator, memory: str, kib: float) -> Accelerator:
    """The machine with another capacity."""
    levels = tuple(
        level.model_copy(update={"capacity_bytes": round(kib * 1024)})
        if isinstance(level, Memory) and level.name == memory else level
        for level in accelerator.levels
    )  # fmt: skip
    return accelerator.model_copy(update={"levels": levels})


def timed(function: Any, *, least: float = 0.3) -> tuple[Any, float]:
    """A result and the CPU seconds of the fastest of several calls."""
    best, spent, result = np.inf, 0.0, None
    while spent < least:
        start = time.process_time()
        result = function()
        took = time.process_time() - start
        best, spent = min(best, took), spent + max(took, 1e-6)
    return result, best


def sample(problem: Problem, mapping: Mapping, rows: int, seed: int, *, perfect: bool) -> Any:
    """Random nested tiles: prime factors dealt to loops at random, or tiles of any size."""
    rng = np.random.default_rng(seed)
    tiles = np.ones((rows, len(mapping.nodes)), np.int64)
    for axis, size in problem.sizes.items():
        own = [n for n, node in enumerate(mapping.nodes)
               if not isinstance(node, Keep) and node.axis == axis]  # fmt: skip
        if not perfect:
            extent = np.full(rows, size)
            for n in own[:-1]:
                tiles[:, n] = extent = np.maximum(1, extent ** rng.random(rows)).astype(np.int64)
            continue
        trips = np.ones((rows, len(own)), np.int64)
        rest, prime = size, 2
        while rest > 1:
            while rest % prime == 0:
                trips[np.arange(rows), rng.integers(0, len(own), rows)] *= prime
                rest //= prime
            prime += 1
        tiles[:, own] = size // np.cumprod(trips, axis=1)
    return tiles


def rates(*, quick: bool) -> list[Row]:
    """Part 1."""
    found = []
    for machine, problem in (("nvdla", operator("conv3x3_64_56")), ("eyeriss", matmul(4096))):
        accelerator = load(machine).resolved()
        grove = grove_of(problem, skeleton(accelerator), Constraint(), NATIVE, (), "perfect")
        assert grove is not None
        arrays = machine_arrays(accelerator, problem.points)
        for place, objective in enumerate(OBJECTIVES):

            def run(
                place: int = place, grove: Any = grove, arrays: Any = arrays,
                points: float = float(problem.points),
            ) -> int:  # fmt: skip
                best, rows = np.full(3, np.inf), np.zeros(1 + len(grove.spaces[0].parts), np.int64)
                return int(solve(grove.forest, points, *arrays, place, best, rows, 1 << 30)[0])

            run()
            boxes, seconds = timed(run, least=0.2 if quick else 2)
            found.append({
                "kernel": f"boxes bounded, {machine}, {objective}", "count": boxes,
                "per_second": boxes / seconds,
            })  # fmt: skip
    problem, count = matmul(1024), 20_000 if quick else 400_000
    accelerator = accelforge("nvdla", problem)
    for perfect in (True, False):
        speeds = []
        for number, template in enumerate(
            templates(problem, accelerator, Constraint(), {}, NATIVE)[: 3 if quick else 12]
        ):
            mapping = Mapping(template.nodes)
            tiles = sample(problem, mapping, count, number, perfect=perfect)
            _, seconds = timed(
                lambda m=mapping, t=tiles: price_mappings(problem, m, accelerator, t)
            )
            speeds.append(count / seconds)
        kind = "perfect factors" if perfect else "edge tiles"
        found.append({
            "kernel": f"mappings from scratch, matmul 1024, {kind}", "count": count,
            "per_second": statistics.median(speeds), "slowest_template": min(speeds),
        })  # fmt: skip
    return found


def solves(*, quick: bool) -> list[Row]:
    """Part 2."""
    cases: list[tuple[str, str, Problem, Conventions, Factors]] = []
    for name, problem in (
        ("matmul 1024", matmul(1024)), ("matmul 4096", matmul(4096)),
        ("conv3x3_64_56", operator("conv3x3_64_56")),
    ):  # fmt: skip
        for machine in ("nvdla", "eyeriss"):
            cases += [(name, machine, problem, c, "perfect") for c in (ACCELFORGE, NATIVE)]
        cases.append((name, "nvdla", problem, NATIVE, "any"))
    peers = {(row.workload, row.machine, row.objective): row.cpu_seconds
             for row in recorded.peer_rows() if row.peer == "AccelForge"}  # fmt: skip
    found = []
    for name, machine, problem, conventions, factors in cases:
        if quick and (factors == "any" or conventions == NATIVE):
            continue
        accelerator = accelforge(machine, problem)
        buffer = accelerator.memories[1].name
        for objective in ("energy", "latency"):
            results = []
            for kib in KIB[:: 5 if quick else 1]:
                one = sized(accelerator, buffer, kib)

                run = partial(
                    best_mapping, problem, one, objective=objective, conventions=conventions,
                    factors=factors,
                )  # fmt: skip
                run()
                best, seconds = timed(run, least=0.02)
                results.append((seconds, kib, best.certificate.boxes, best.certificate.gap))
            slowest = max(results)
            found.append({
                "operator": name, "machine": machine, "conventions": conventions.name,
                "factors": factors, "objective": objective, "capacities": len(results),
                "slowest_ms": slowest[0] * 1e3, "at_kib": slowest[1], "boxes": slowest[2],
                "median_ms": statistics.median(r[0] for r in results) * 1e3,
                "largest_gap": max(r[3] for r in results),
                "accelforge_seconds": peers.get((name, machine, objective)),
            })  # fmt: skip
    return found


def network(name: str) -> Row:
    """One network on NVDLA, nothing remembered but compiled code (see `main`)."""
    if name.startswith("gpt3"):
        parts = workload(name, {"BATCH_SIZE": 1, "N_NEW_TOKENS": 2048}).problems
        problems = Counter({normalise(problem): 0 for problem, _ in parts})
        for problem, count in parts:
            problems[normalise(problem)] += count
    else:
        graph, bits = trace(name, batch=1), dict.fromkeys(ROLES, 8)
        problems = Counter(p for op in graph.ops if op.macs for p in problems_of(op, graph, bits))
    compiled = load("gemmini").resolved()
    for small in ("conv3x3_4_6", "conv1x1s2_4_4_6", "dw3x3_4_6"):
        best_mapping(operator(small), compiled, factors="perfect")
    best_mapping(matmul(4), compiled, factors="perfect")
    machines = {problem: accelforge("nvdla", problem) for problem in problems}
    start = time.process_time()
    found = {
        problem: best_mapping(problem, machines[problem], objective="energy", factors="perfect")
        for problem in problems
    }
    cold = time.process_time() - start
    start = time.process_time()
    for problem in problems:
        best_mapping(problem, machines[problem], objective="energy", factors="perfect")
    return {
        "network": name, "operators": problems.total(), "different": len(problems),
        "cold_seconds": cold, "warm_seconds": time.process_time() - start,
        "joules": sum(n * found[p].joules for p, n in problems.items()),
        "seconds": sum(n * found[p].seconds for p, n in problems.items()),
        "largest_gap": max(best.certificate.gap for best in found.values()),
    }  # fmt: skip


def networks(*, quick: bool) -> list[Row]:
    """Part 3, ours: each network in a process of its own."""
    peers = {row.workload: row.cpu_seconds for row in recorded.peer_rows()
             if row.peer == "AccelForge" and row.machine == "nvdla"}  # fmt: skip
    found = []
    for name in ("resnet18",) if quick else ("resnet18", "resnet50", "gpt3_6.7B"):
        done = subprocess.run(
            [sys.executable, __file__, "--network", name], check=True, stdout=subprocess.PIPE
        )
        found.append(json.loads(done.stdout) | {"accelforge_seconds": peers.get(name)})
    return found


def zigzag(*, quick: bool) -> Row:
    """Part 3, beside ZigZag: ResNet-18 on tpu_like, by ZigZag's accounting."""
    zigzag_ours.network("alexnet")
    row: Row = {"ours": zigzag_ours.network("resnet18")}
    theirs = None if quick else live.zigzag("resnet18", "EDP")
    if theirs is None:
        row["note"] = "not run in a quick check" if quick else live.HOW
    else:
        row["theirs"] = {key: theirs[key] for key in (
            "version", "cpu_seconds", "latency_cycles", "energy_pj", "evaluations")}  # fmt: skip
    return row


def random_search(*, quick: bool) -> list[Row]:
    """Part 4: energy of the best of random mappings over that of the optimum."""
    found = []
    for size in (1024,) if quick else (1024, 4096):
        problem = matmul(size)
        accelerator = accelforge("nvdla", problem)

        run = partial(best_mapping, problem, accelerator, objective="energy", factors="perfect")
        run()
        best, optimal = timed(run)
        orders = [
            Mapping(t.nodes) for t in templates(problem, accelerator, Constraint(), {}, NATIVE)
        ]
        price_mappings(
            problem, orders[0], accelerator, sample(problem, orders[0], 9, 0, perfect=True)
        )
        for budget in (optimal, 0.1 if quick else 1.0):
            spent, count, least, turn = 0.0, 0, np.inf, 0
            while spent < budget:
                mapping = orders[turn % len(orders)]
                tiles = sample(problem, mapping, 2_000, turn, perfect=True)
                start = time.process_time()
                prices = price_mappings(problem, mapping, accelerator, tiles)
                spent += time.process_time() - start
                least, count, turn = min(least, prices[:, 1].min()), count + len(tiles), turn + 1
            found.append({
                "operator": f"matmul {size}", "random_seconds": budget, "mappings": count,
                "over_optimum": least / best.joules, "optimal_seconds": optimal,
            })  # fmt: skip
    return found


def stairs(*, quick: bool) -> list[Row]:
    """Part 5: shapes of NVDLA's array, sizes of its buffer and of each unit's registers."""
    base = load("nvdla").resolved()
    buffer, register = base.memories[1], base.memories[-1]
    assert buffer.capacity_bytes is not None
    grid = {
        buffer.name: [kib * 1024 * buffer.usable_bytes / buffer.capacity_bytes
                      for kib in (16, 32, 64, 128, 256, 512, 1024, 2048)],
        register.name: [register.usable_bytes * n for n in (1, 2, 4, 8, 16, 32, 64, 128)],
    }  # fmt: skip
    sides = (8, 64) if quick else (4, 8, 12, 16, 24, 32, 48, 64)
    cases = {
        "conv3x3_64_56": operator("conv3x3_64_56"), "matmul 1024": matmul(1024),
        "conv1x1s2_1024_2048_7": operator("conv1x1s2_1024_2048_7"),
    }  # fmt: skip
    staircase(matmul(4), base, grid, factors="perfect", cache=False)  # compiles
    found = []
    for name, problem in cases.items():
        times, rows, gaps = [], [], []
        for x in sides:
            for y in sides:
                shaped = reshaped(base, (x, y))
                start = time.process_time()
                steps = staircase(problem, shaped, grid, factors="perfect", cache=False)
                times.append(time.process_time() - start)
                rows.append(len(steps))
                gaps.append(steps.gap)
        found.append({
            "operator": name, "shapes": len(times), "cold_ms": statistics.median(times) * 1e3,
            "slowest_ms": max(times) * 1e3, "rows": statistics.median(rows),
            "largest_gap": max(gaps),
        })  # fmt: skip
    return found


def reshaped(accelerator: Accelerator, sides: tuple[int, ...]) -> Accelerator:
    """The machine with other sizes of its first fan-out's dimensions."""
    levels = []
    for level in accelerator.levels:
        if isinstance(level, Fanout) and level is accelerator.fanouts[0]:
            dims = tuple(
                dim.model_copy(update={"size": side})
                for dim, side in zip(level.dims, sides, strict=False)
            )
            level = level.model_copy(update={"dims": dims})
        levels.append(level)
    return accelerator.model_copy(update={"levels": tuple(levels)})


def table(title: str, rows: list[Row]) -> None:
    """Print rows of equal keys."""
    print(f"\n{title}")
    if not rows:
        return
    cells = [[_cell(row.get(key)) for key in rows[0]] for row in rows]
    widths = [max(len(key), *(len(line[n]) for line in cells)) for n, key in enumerate(rows[0])]
    for line in ([*rows[0]], *cells):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Print all tables and write them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small part of each table")
    parser.add_argument("--network", help="print one row of the networks and nothing else")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/mapper.json"))
    options = parser.parse_args()
    if options.network:
        print(json.dumps(network(options.network)))
        return
    results: dict[str, Any] = {}
    for key, part in (
        ("rates", rates), ("solves", solves), ("networks", networks),
        ("random_search", random_search), ("staircases", stairs),
    ):  # fmt: skip
        results[key] = part(quick=options.quick)
        table(key, results[key])
    results["zigzag"] = zigzag(quick=options.quick)
    table("resnet18 on tpu_like", [
        {"mapper": who, **{key: row[key] for key in ("cpu_seconds", "latency_cycles", "energy_pj")}}
        for who, row in results["zigzag"].items() if isinstance(row, dict)
    ])  # fmt: skip
    print(results["zigzag"].get("note", ""))
    write_json(options.output, results)


if __name__ == "__main__":
    main()
