"""Fixed mappings that Timeloop evaluated: counts, cycles and energy.

Two kinds of file are told apart by content: JSON records of timeloop-model with every count
(`timeloop_oracle`), and CSV rows of Timeloop + Accelergy on Gemmini-like machines
(`timeloop_gemmini`). A folder means the files of both names in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hwopt.errors import PathError
from hwopt.files import read_text
from hwopt.mapping.timeloop_counts import TIMELOOP_2022, TIMELOOP_2025
from hwopt.validation.harness import Outcome, comparison, score
from hwopt.validation.timeloop_gemmini import gemmini_rows
from hwopt.validation.timeloop_oracle import is_oracle, oracle_rows
from hwopt.validation.timeloop_rows import Row

_FILES = ("timeloop_oracle.json", "timeloop_gemmini_mappings.csv")
_WORST = 10
"""Rows with differences that are printed."""


@comparison("timeloop", _FILES[0], folder=True)
def timeloop(data: Path) -> Outcome:
    """Reads, fills, updates, cycles and energy of fixed mappings against Timeloop's own."""
    files = [data / name for name in _FILES if (data / name).is_file()] if data.is_dir() else [data]
    if not files:
        raise PathError("no file for this validation", where="timeloop", value=str(data),
                        allowed=" or ".join(_FILES))  # fmt: skip
    rows: list[Row] = []
    conventions, calibrated = [], []
    for path in files:
        if is_oracle(read_text(path)):
            rows += oracle_rows(path)
            conventions.append(TIMELOOP_2025.name)
        else:
            rows += gemmini_rows(path)
            conventions.append(TIMELOOP_2022.name)
            calibrated.append("energy per access of the Gemmini-like machines: their own rows")
    return Outcome(
        "timeloop", " and ".join(dict.fromkeys(conventions)),
        "; ".join(dict.fromkeys(calibrated)) or "nothing", [_plain(row) for row in rows],
        _metrics(rows), _baseline(rows),
        "every lane busy every cycle; the median energy per MAC of these rows",
        _notes(rows),
    )  # fmt: skip


def _metrics(rows: list[Row]) -> dict[str, float]:
    cycles = [row.cycles for row in rows]
    theirs = [row.their_cycles for row in rows]
    near = [abs(row.cycles - row.their_cycles) <= 1 for row in rows]
    errors = [row.energy_error_percent for row in rows]
    return {
        **score(cycles, theirs),
        "exact_share": float(np.mean([not row.different for row in rows])),
        "counts_compared": float(sum(row.compared for row in rows)),
        "counts_different": float(sum(len(row.different) for row in rows)),
        "cycles_within_1_share": float(np.mean(near)),
        "energy_within_0.1_percent_share": float(np.mean([error <= 0.1 for error in errors])),
        "energy_mape_percent": float(np.mean(errors)),
        "energy_max_percent": float(np.max(errors)),
    }


def _baseline(rows: list[Row]) -> dict[str, float]:
    cycles = [-(-row.macs // row.lanes) for row in rows]
    theirs = [row.their_cycles for row in rows]
    per_mac = float(np.median([row.their_joules / row.macs for row in rows]))
    errors = [100 * abs(per_mac * r.macs - r.their_joules) / r.their_joules for r in rows]
    return {
        **score(cycles, theirs),
        "cycles_within_1_share": float(
            np.mean([abs(a - b) <= 1 for a, b in zip(cycles, theirs, strict=True)])
        ),
        "energy_within_0.1_percent_share": float(np.mean([error <= 0.1 for error in errors])),
        "energy_mape_percent": float(np.mean(errors)),
        "energy_max_percent": float(np.max(errors)),
    }


def _plain(row: Row) -> dict[str, Any]:
    return {
        "name": row.name, "predicted": row.cycles, "published": row.their_cycles,
        "predicted_joules": row.joules, "published_joules": row.their_joules, "bound": row.bound,
        "different": list(row.different),
    }  # fmt: skip


def _notes(rows: list[Row]) -> tuple[str, ...]:
    """What differs, worst first; the one thing to say when nothing does."""
    odd = [row for row in rows if row.different or row.energy_error_percent > 0.1]
    if not odd:
        return ("no difference: every count and cycle is equal, every energy within 0.1 %",)
    odd.sort(key=lambda row: -(abs(row.cycles / row.their_cycles - 1) + row.energy_error_percent))
    notes = [f"{len(odd)} of {len(rows)} rows differ:"]
    for row in odd[:_WORST]:
        told = [*row.different[:3], f"energy off by {row.energy_error_percent:.2g} %"]
        notes.append(f"{row.name}: {'; '.join(told)}")
    return tuple(notes)
