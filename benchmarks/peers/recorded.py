"""CPU seconds of other mappers, as recorded in benchmarks/reference with their sources."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

REFERENCE = Path(__file__).parents[1] / "reference"


@dataclass(frozen=True)
class PeerRow:
    """One search of a peer. `cpu_seconds` is None where only a rate is recorded; `evaluations` are
    priced mappings, `per_cpu_second` the least and the most of them in a second.
    """

    peer: str
    version: str
    workload: str
    machine: str
    objective: str
    cpu_seconds: float | None
    evaluations: int | None
    per_cpu_second: tuple[float, float]
    source: str


def peer_rows() -> list[PeerRow]:
    """Every recorded search: AccelForge and Timeloop (peer_seconds.csv), ZigZag (zigzag_runs.csv).

    Nothing of these ran on this machine: compare orders of magnitude, not percents.
    """
    rows = []
    for row in _read("peer_seconds.csv"):
        seconds = float(row["cpu_seconds"]) if row["cpu_seconds"] else None
        count = int(row["evaluations"]) if row["evaluations"] else None
        if seconds is not None and count is not None:
            rate = (count / seconds, count / seconds)
        else:
            rate = (float(row["least_per_cpu_second"]), float(row["most_per_cpu_second"]))
        rows.append(
            PeerRow(
                row["peer"], row["version"], row["workload"], row["machine"], row["objective"],
                seconds, count, rate, row["source"],
            )
        )  # fmt: skip
    for row in _read("zigzag_runs.csv"):
        rate = float(row["evals_per_cpu_s"])
        rows.append(
            PeerRow(
                row["peer"], row["version"], row["workload"].removesuffix(".onnx"),
                row["hw"].removesuffix(".yaml"), row["opt"], float(row["cpu_s"]),
                int(row["cost_model_evals"]), (rate, rate), row["source"],
            )
        )  # fmt: skip
    return rows


def _read(name: str) -> list[dict[str, str]]:
    with (REFERENCE / name).open(newline="") as file:
        return list(csv.DictReader(file))
