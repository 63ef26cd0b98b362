"""How good and how fast the mapper is.

1. Gap to exhaustive enumeration: on small matrix products, every order of three uneven keeps, every
   loop order, every tile of any size at every node and every spread is priced; the gap is how much
   the mapper's objective exceeds the least (negative: the enumeration lacks what the mapper has).
2. Time and gap certificate on operators of real networks, on two-level, Eyeriss-like and
   Gemmini-like machines; time and rows of their staircases.

    python benchmarks/mapper.py [--quick] [-o benchmarks/results/mapper.json]
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hwopt.files import write_json
from hwopt.hardware.accelerator import ROLES, Accelerator, Compute, Fanout, FanoutDim, Memory
from hwopt.hardware.conventions import NATIVE
from hwopt.hardware.library import load
from hwopt.ir.access import Axis, parse_access
from hwopt.mapping.analysis import OBJECTIVES, Objective, leakage_watts
from hwopt.mapping.best import best_mapping
from hwopt.mapping.mapping import Keep, Loop, Mapping, Spread
from hwopt.mapping.plan import above, make_plan, structure
from hwopt.mapping.problem import Operand, Problem, normalise
from hwopt.mapping.staircase import staircase
from hwopt.mapping.sums import plain_batch


def matmul(m: int, k: int, n: int) -> Problem:
    """Input (m, k) x weight (k, n) -> output (m, n), 8 bits."""
    return Problem(
        (Axis("m", m), Axis("k", k), Axis("n", n)),
        (
            Operand("input", parse_access("m", "k"), (m, k), 8),
            Operand("weight", parse_access("k", "n"), (k, n), 8),
            Operand("output", parse_access("m", "n"), (m, n), 8),
        ),
    )


def convolution(
    c: int, k: int, p: int, r: int, stride: int = 1, *, depthwise: bool = False
) -> Problem:
    """A square convolution with padding r // 2, 8 bits."""
    pad, height = r // 2, p * stride
    rows, columns = f"{stride}*p + r - {pad}", f"{stride}*q + s - {pad}"
    channels = {"c": c} if depthwise else {"k": k, "c": c}
    names = {**channels, "p": p, "q": p, "r": r, "s": r}
    weight = ["c", "r", "s"] if depthwise else ["k", "c", "r", "s"]
    output = ["c" if depthwise else "k", "p", "q"]
    return normalise(
        Problem(
            tuple(Axis(name, size) for name, size in names.items()),
            (
                Operand(
                    "input", parse_access("c", rows, columns, fill=0.0), (c, height, height), 8
                ),
                Operand("weight", parse_access(*weight), tuple(names[a] for a in weight), 8),
                Operand("output", parse_access(*output), tuple(names[a] for a in output), 8),
            ),
        )
    )


def small_machine(capacity: float, lanes: int) -> Accelerator:
    """DRAM, one shared buffer, one fan-out."""
    return Accelerator(
        name="small",
        clock_hz=1e9,
        levels=(
            Memory(
                name="DRAM", bytes_per_s=2e9, read_joules_per_byte=64e-12,
                write_joules_per_byte=64e-12,
            ),
            Memory(
                name="GLB", capacity_bytes=capacity, bytes_per_s=16e9,
                read_joules_per_byte=2e-12, write_joules_per_byte=2e-12,
            ),
            Fanout(name="PE", dims=(FanoutDim(name="x", size=lanes),)),
        ),
        compute=Compute(joules_per_mac=1e-12),
    )  # fmt: skip


def chains(size: int, lanes: int) -> np.ndarray:
    """Every chain of three temporal tiles and a spatial one, any integers."""
    found = [
        (a, b, c, d, 1)
        for a in range(1, size + 1)
        for b in range(1, a + 1)
        for c in range(1, b + 1)
        for d in range(1, c + 1)
        if -(-c // d) <= lanes
    ]
    return np.array(found, dtype=np.int64)


def exhaustive(problem: Problem, machine: Accelerator) -> dict[str, float]:
    """The least latency, energy and EDP over the whole mapspace, by vectorised enumeration."""
    lanes = machine.fanouts[0].size
    names = tuple(problem.sizes)
    tables = [chains(problem.sizes[name], lanes) for name in names]
    best = dict.fromkeys(OBJECTIVES, math.inf)
    for order, loops in itertools.product(
        itertools.permutations(ROLES), itertools.permutations(names)
    ):
        nodes: list[Keep | Loop | Spread] = [Keep("DRAM", ROLES)]
        for role in order:
            nodes += [*(Loop(axis, 1) for axis in loops), Keep("GLB", (role,))]
        nodes += [Spread("PE", "x", axis, 1) for axis in loops]
        nodes += [Loop(axis, 1) for axis in loops]
        rows = _rows(problem, machine, Mapping(tuple(nodes)), names, tables)
        for seconds, joules in rows:
            keys = {"latency": seconds, "energy": joules, "edp": seconds * joules}
            for name in OBJECTIVES:
                best[name] = min(best[name], float(keys[name].min()))
    return best


def _rows(
    problem: Problem, machine: Accelerator, mapping: Mapping, names: tuple[str, ...],
    tables: list[np.ndarray],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """Seconds and joules of all combinations of chains of one template, in slices."""
    plan = make_plan(problem, structure(mapping, machine), above(machine), NATIVE)
    values = {}
    for number, factor in enumerate(plan.factors):
        table = tables[names.index(factor.axes[0])]
        place = {node: i for i, node in enumerate(plan.slots[factor.axes[0]])}
        out = np.zeros((4, len(table)), np.int64)
        tiles = np.ascontiguousarray(table[:, [place[node] for node in factor.nodes[0]]])
        size = problem.sizes[factor.axes[0]]
        plain_batch(np.array(factor.kinds[0], np.int64), tiles, np.full(len(table), size), out)
        if factor.group is None:
            out[0], out[1], out[3] = out[2], out[2], 1
        values[number] = out.astype(np.float64)
    copies = [-(-table[:, 2] // table[:, 3]).astype(float) for table in tables]
    for first in range(len(tables[0])):
        shape = (len(tables[1]), len(tables[2]))

        def of(number: int, column: int, first: int = first) -> np.ndarray:
            axis = names.index(plan.factors[number].axes[0])
            value = values[number][column]
            return value[first] if axis == 0 else value[:, None] if axis == 1 else value[None, :]

        used = copies[0][first] * copies[1][:, None] * copies[2][None, :]
        terms = []
        for term in plan.terms:
            wanted, kept = np.ones(shape), np.ones(shape)
            for number in term.factors:
                wanted, kept = wanted * of(number, 0), kept * of(number, 1)
            terms.append(wanted if term.whole else wanted - kept)
        yield _prices(problem, machine, plan, terms, of, used)


def _prices(problem, machine, plan, terms, of, used):
    column = dict.fromkeys(
        ((m.name, way) for m in machine.memories for way in ("total_read", "total_write")), 0.0
    )
    for (memory, _, way), form in plan.columns.items():
        if way.startswith("total"):
            column[memory, way] = column[memory, way] + sum(c * terms[t] for t, c in form.items())
    footprint = np.zeros_like(used)
    for (memory, _), factors in plan.footprints.items():
        if memory == "GLB":
            size = np.ones_like(used)
            for number in factors:
                size = size * of(number, 3)
            footprint += size
    seconds = terms[plan.steps] / machine.clock_hz
    joules = problem.points * machine.compute.joules_per_mac
    for memory in machine.memories:
        read, write = column[memory.name, "total_read"], column[memory.name, "total_write"]
        seconds = np.maximum(seconds, (read + write) / memory.bytes_per_s)
        joules = joules + read * memory.read_joules_per_byte + write * memory.write_joules_per_byte
    joules = joules + leakage_watts(machine) * seconds
    bad = (footprint > machine.level("GLB").usable_bytes) | (used > machine.fanouts[0].size)
    return np.where(bad, np.inf, seconds), np.where(bad, np.inf, joules)


def gaps(*, quick: bool) -> list[dict[str, object]]:
    """Part 1."""
    sizes = [(2, 3, 4), (4, 4, 4), (5, 3, 2)] if quick else [
        (2, 3, 4), (4, 4, 4), (5, 3, 2), (5, 5, 5), (6, 4, 5), (7, 2, 6), (1, 8, 6),
    ]  # fmt: skip
    found: list[dict[str, object]] = []
    for size, capacity, lanes in itertools.product(sizes, (4, 10, 30), (1, 3)):
        problem, machine = matmul(*size), small_machine(capacity, lanes)
        least = exhaustive(problem, machine)
        for objective in OBJECTIVES:
            best = best_mapping(normalise(problem), machine, objective=objective)
            value = {"latency": best.seconds, "energy": best.joules,
                     "edp": best.seconds * best.joules}[objective]  # fmt: skip
            found.append({
                "sizes": list(size), "capacity_bytes": capacity, "lanes": lanes,
                "objective": objective, "gap": value / least[objective] - 1,
                "exhausted": best.certificate.exhausted,
            })  # fmt: skip
    return found


def speeds(*, quick: bool) -> list[dict[str, object]]:
    """Part 2."""
    cases = {
        "matmul 1024": matmul(1024, 1024, 1024),
        "matmul 4096": matmul(4096, 4096, 4096),
        "matvec 4096": normalise(matmul(1, 4096, 4096)),
        "conv 1x1 256-64, 56": convolution(256, 64, 56, 1),
        "conv 3x3 64-64, 56": convolution(64, 64, 56, 3),
        "conv 7x7 3-64, 112, stride 2": convolution(3, 64, 112, 7, 2),
        "depthwise 3x3 192, 28": convolution(192, 192, 28, 3, depthwise=True),
    }
    found: list[dict[str, object]] = []
    for name in ("nvdla", "gemmini") if quick else ("nvdla", "gemmini", "eyeriss", "simba", "a100"):
        machine = load(name).resolved()
        grid = {m.name: [m.usable_bytes / 2, m.usable_bytes] for m in machine.memories[1:]}
        for case, problem in cases.items():
            objective: Objective = "latency"
            start = time.perf_counter()
            best_mapping(problem, machine, objective=objective)
            cold = time.perf_counter() - start
            start = time.perf_counter()
            best = best_mapping(problem, machine, objective=objective)
            warm = time.perf_counter() - start
            start = time.perf_counter()
            steps = staircase(problem, machine, grid, cache=False)
            stairs = time.perf_counter() - start
            price = steps.best(machine, objective)[1]
            found.append({
                "machine": name, "operator": case, "cold_seconds": cold, "warm_seconds": warm,
                "certified_gap": best.certificate.gap, "boxes": best.certificate.boxes,
                "utilisation": problem.points / machine.peak_macs_per_s / best.seconds,
                "staircase_seconds": stairs, "staircase_rows": len(steps),
                "staircase_over_best": price.seconds / best.seconds,
            })  # fmt: skip
    return found


def main() -> None:
    """Print both tables and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/mapper.json"))
    options = parser.parse_args()
    small = gaps(quick=options.quick)
    worst = [float(str(row["gap"])) for row in small]
    print(f"gap to exhaustive enumeration, {len(small)} cases: "
          f"largest {max(worst):.2%}, mean {sum(worst) / len(worst):.2%}, "
          f"equal or better {sum(gap <= 1e-12 for gap in worst)}")  # fmt: skip
    large = speeds(quick=options.quick)
    print(f"{'machine':8} {'operator':30} {'cold s':>7} {'warm ms':>8} {'gap':>6} {'util':>5} "
          f"{'stairs s':>8} {'rows':>5} {'/best':>6}")  # fmt: skip
    for row in large:
        print(
            f"{row['machine']:8} {row['operator']:30} {row['cold_seconds']:7.2f} "
            f"{float(str(row['warm_seconds'])) * 1e3:8.0f} {row['certified_gap']:6.1%} "
            f"{row['utilisation']:5.2f} {row['staircase_seconds']:8.2f} "
            f"{row['staircase_rows']:5} {row['staircase_over_best']:6.3f}"
        )
    write_json(options.output, {"gap_to_exhaustive": small, "speed": large})


if __name__ == "__main__":
    main()
