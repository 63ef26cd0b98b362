"""Our optimum against the optimum that AccelForge found, row by row, on its architectures.

Both search the same space: its divisors (any integer where its run explored imperfect factors), its
order of memories, its spatial constraints, and count alike (conventions `accelforge`). A row
compares what its objective names; of `A|B`, which keeps a front, the first. Its numbers are
float32, so within 1e-6 they are equal.

A workload of several operators is the sum over its operators, each mapped by itself, with every
tensor between them in the outermost memory; values that are only passed on (a softmax) cross each
memory that must hold them once in and once out. AccelForge maps the whole at once, keeps tensors on
the chip where it fuses, and may count steps that are not products in another way: both figures are
listed, but not compared.

Where AccelForge lays out an axis in parts that do not divide it, it counts fractions of tiles, so
that its latency may be below that of every mapping there is; such rows are listed as impossible.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hwopt.errors import FileFormatError
from hwopt.files import parse_json
from hwopt.mapping.analysis import Objective
from hwopt.validation.accelforge_arch import Architecture, Machine, changed, read_architectures
from hwopt.validation.accelforge_search import Factors, Found, plainest, search
from hwopt.validation.accelforge_workload import Workload, workload
from hwopt.validation.harness import REFERENCE, Outcome, comparison, number, read_rows, score

COLUMNS = (
    "id", "arch", "workload", "params", "objective", "options", "energy", "latency_s", "edp",
    "cpu_map_s",
)  # fmt: skip
ARCHES = "accelforge_arches.json"
EQUAL = 1e-6
OBJECTIVES: dict[str, Objective] = {
    "ENERGY": "energy", "LATENCY": "latency", "ENERGY_DELAY_PRODUCT": "edp",
}  # fmt: skip
OPTIONS = {
    "min_usage", "explore_imperfect_spatial_loops", "explore_imperfect_temporal_loops",
    "tiling_coarseness", "max_fused_loops", "fuse",
}  # fmt: skip
_ARCH = re.compile(r"(\w+)(?:\((.*)\))?")
Verdict = Literal["equal", "better", "worse", "listed", "impossible"]


@dataclass(frozen=True)
class Row:
    """One run of AccelForge: where it stands in the file, what was run, what it found."""

    where: str
    id: str
    architecture: Architecture
    workload: Workload
    objective: Objective
    options: Mapping[str, Any]
    joules: float
    seconds: float
    edp: float
    cpu_seconds: float

    @property
    def value(self) -> float:
        """What the row's objective names."""
        return {"energy": self.joules, "latency": self.seconds, "edp": self.edp}[self.objective]

    @property
    def factors(self) -> Factors:
        """Divisors, unless the run explored others."""
        kinds = ("spatial", "temporal")
        free = any(self.options.get(f"explore_imperfect_{kind}_loops") for kind in kinds)
        return "any" if free else "perfect"


@comparison("accelforge", "accelforge_optima.csv", folder=True)
def accelforge(data: Path) -> Outcome:
    """Energy, latency and EDP of our best mappings against AccelForge's, same semantics."""
    if data.is_dir():
        data = data / "accelforge_optima.csv"
    beside = data.parent / ARCHES
    arches = read_architectures(beside if beside.is_file() else REFERENCE / ARCHES)
    rows = [
        _row(cells, arches, f"{data}, row {number_ + 1}")
        for number_, cells in enumerate(read_rows(data, COLUMNS))
    ]
    results = [_compare(row) for row in rows]
    compared = [r for r in results if r["verdict"] in ("equal", "better", "worse")]
    if not compared:
        raise FileFormatError("no row can be compared", where=str(data))
    theirs = [r["theirs"] for r in compared]
    metrics = score([r["ours"] for r in compared], theirs)
    metrics["exact_share"] = sum(r["verdict"] == "equal" for r in compared) / len(compared)
    metrics["better_share"] = sum(r["verdict"] == "better" for r in compared) / len(compared)
    metrics["worse_rows"] = sum(r["verdict"] == "worse" for r in compared)
    metrics["compared_rows"] = len(compared)
    metrics["our_seconds"] = sum(r["our_seconds"] for r in compared)
    metrics["their_cpu_seconds"] = sum(r["their_cpu_seconds"] for r in compared)
    return Outcome(
        "accelforge", "accelforge", "nothing", results, metrics,
        score([r["baseline"] for r in compared], theirs),
        "one tile of everything in no buffer: all loops innermost, no lanes",
        tuple(_line(result) for result in results),
    )  # fmt: skip


def _compare(row: Row) -> dict[str, Any]:
    """One line of the result."""
    start = time.process_time()
    found = _sum(row, row.objective)
    seconds = time.process_time() - start
    verdict: Verdict = "equal"
    ratio = found.value(row.objective) / row.value - 1
    if not row.workload.single:
        verdict = "listed"
    elif ratio > EQUAL:
        verdict = "impossible" if _impossible(row) else "worse"
    elif ratio < -EQUAL:
        verdict = "better"
    plain = plainest(row.workload, row.architecture)
    return {
        "id": row.id, "objective": row.objective, "factors": row.factors, "ours":
        found.value(row.objective), "theirs": row.value, "relative": ratio, "verdict": verdict,
        "our_joules": found.joules, "our_seconds_of_latency": found.seconds,
        "their_joules": row.joules, "their_seconds_of_latency": row.seconds,
        "our_seconds": seconds, "their_cpu_seconds": row.cpu_seconds,
        "baseline": plain.value(row.objective), "certificate": found.certificate,
    }  # fmt: skip


def _sum(row: Row, objective: Objective) -> Found:
    """Our best for every operator of a row, added up."""
    machines = {p: _machine(row, p) for p, _ in row.workload.problems}
    return search(row.workload, machines, objective, row.factors)


def _machine(row: Row, problem: Any) -> Machine:
    machine = row.architecture.machine(problem)
    if "min_usage" in row.options:
        share = float(row.options["min_usage"])
        machine = Machine(machine.accelerator, dict.fromkeys(machine.usage, share))
    return machine


def _impossible(row: Row) -> bool:
    """Whether the latency that a row states is below that of every mapping."""
    return row.factors == "any" and _sum(row, "latency").seconds > row.seconds * (1 + EQUAL)


def _row(cells: dict[str, str], arches: Mapping[str, Architecture], where: str) -> Row:
    where = f"{where} ({cells['id']})"
    match = _ARCH.fullmatch(cells["arch"].strip())
    if match is None or match[1] not in arches:
        raise FileFormatError(
            "unknown architecture", where=where, value=cells["arch"], allowed=", ".join(arches)
        )
    architecture = arches[match[1]]
    if match[2]:
        architecture = changed(architecture, _parameters(match[2], where))
    objective = OBJECTIVES.get(cells["objective"].split("|")[0])
    if objective is None:
        raise FileFormatError(
            "unknown objective", where=where, value=cells["objective"],
            allowed=", ".join(OBJECTIVES),
        )  # fmt: skip
    options = _object(cells["options"], f"{where}, options")
    if unknown := sorted(set(options) - OPTIONS):
        raise FileFormatError(
            "unknown options", where=where, value=unknown, allowed=", ".join(sorted(OPTIONS))
        )
    joules, seconds, edp, cpu = (
        number(cells, name, where) for name in ("energy", "latency_s", "edp", "cpu_map_s")
    )
    if not min(joules, seconds, edp) > 0:
        raise FileFormatError("not above 0", where=where, value=[joules, seconds, edp])
    return Row(
        where, cells["id"], architecture,
        workload(cells["workload"], _object(cells["params"], f"{where}, params")), objective,
        options, joules, seconds, edp, cpu,
    )  # fmt: skip


def _parameters(text: str, where: str) -> dict[str, float]:
    """`A=1,B=2`."""
    found = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as error:
            raise FileFormatError("not NAME=NUMBER", where=where, value=part) from error
        if not math.isfinite(found[name.strip()]):
            raise FileFormatError("not a finite number", where=where, value=part)
    return found


def _object(text: str, where: str) -> dict[str, Any]:
    data = parse_json(text or "{}", where)
    if not isinstance(data, dict):
        raise FileFormatError("not an object", where=where, value=text)
    return data


def _line(result: dict[str, Any]) -> str:
    return (
        f"{result['verdict']:<10} {result['relative']:+9.2e}  {result['objective']:<7} "
        f"ours {result['ours']:.9g}, theirs {result['theirs']:.9g}; "
        f"{result['our_seconds']:.2f} s against {result['their_cpu_seconds']:.2f} CPU s  "
        f"{result['id']}"
    )
