"""Systolic cycles against SCALE-Sim 3.0.0, whose compute cycles equal published closed forms.

Each row is one layer on one array under one dataflow; a convolution is the matrix product that
im2col makes of it (M output positions, N filters, K = channels x kernel height x kernel width).
Predicted by `mapping.systolic` under `SCALESIM` conventions. SCALE-Sim numbers its cycles from
zero and prints the last one, so its figure is one less than the cycles taken.

Beside the cycles, reads and writes of the three SRAMs and the two utilisations are compared where
the file has them. SCALE-Sim counts output writes of the output stationary dataflow with
rows + columns more in every fold: in `systolic_compute_os.py` (3.0.0) the shape of a fold is added
up where it has already been multiplied. That is no traffic, and not modelled.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hwopt.errors import FileFormatError
from hwopt.hardware.accelerator import OperandRole
from hwopt.mapping.systolic import DATAFLOWS, SystolicArray, matrix_product
from hwopt.validation.harness import Outcome, comparison, count, number, read_rows, score

_COLUMNS = ("layer", "M", "N", "K", "array", "dataflow", "total_cycles")
_SRAM: dict[str, tuple[OperandRole, str]] = {
    "sram_ifmap_reads": ("input", "total_read"),
    "sram_filter_reads": ("weight", "total_read"),
    "sram_ofmap_writes": ("output", "total_write"),
}
"""Columns of SRAM traffic, and which of our counters says the same."""

_SLIP = "... os rows after adding rows + columns per fold, a slip of its counter"


@comparison("scalesim", "scalesim.csv")
def scalesim(data: Path) -> Outcome:
    """Cycles of systolic arrays, three dataflows, against SCALE-Sim."""
    cells = read_rows(data, _COLUMNS)
    rows = [_compared(row, f"{data}, row {line}") for line, row in enumerate(cells, 2)]
    published = [row["published"] for row in rows]
    return Outcome(
        "scalesim", "scalesim", "nothing", rows,
        score([row["predicted"] for row in rows], published),
        score([row["busy_bound"] for row in rows], published),
        "MACs / PEs", _notes(rows),
    )  # fmt: skip


def _compared(cells: dict[str, str], where: str) -> dict[str, Any]:
    """One row: predicted beside published, column by column."""
    array = _array(cells, where)
    m, n, k = (count(cells, column, where) for column in "MNK")
    run = array.run(matrix_product(m, n, k))
    last = run.cycles - 1
    row: dict[str, Any] = {
        "layer": cells["layer"], "array": cells["array"], "dataflow": array.dataflow,
        "predicted": last, "published": count(cells, "total_cycles", where),
        "busy_bound": run.analysis.points / array.lanes,
    }  # fmt: skip
    ours: dict[str, float] = {
        "overall_util_pct": 100 * run.analysis.points / (last * array.lanes) if last else 100,
        "mapping_eff_pct": 100 * run.mapping_efficiency(array.lanes),
    }
    for column, (role, counter) in _SRAM.items():
        ours[column] = getattr(run.analysis.flows[f"{role}_sram"][role], counter)
    for column, value in ours.items():
        if cells.get(column):
            row[column] = value, number(cells, column, where)
    if array.dataflow == "os" and "sram_ofmap_writes" in row:
        slip = run.folds * (array.rows + array.columns)
        row["with_slip"] = row["sram_ofmap_writes"][0] + slip, row["sram_ofmap_writes"][1]
    return row


def _array(cells: dict[str, str], where: str) -> SystolicArray:
    shape = re.fullmatch(r"\s*([1-9]\d*)\s*x\s*([1-9]\d*)\s*", cells["array"] or "")
    if shape is None:
        raise FileFormatError("not an array", where=where, value=cells["array"],
                              allowed="ROWSxCOLUMNS, as in 32x32")  # fmt: skip
    given = (cells["dataflow"] or "").strip().lower()
    dataflow = next((known for known in DATAFLOWS if known == given), None)
    if dataflow is None:
        raise FileFormatError("unknown dataflow", where=where, value=cells["dataflow"],
                              allowed=", ".join(DATAFLOWS))  # fmt: skip
    return SystolicArray(int(shape[1]), int(shape[2]), dataflow)


def _notes(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Which other columns are equal, and the rows in which cycles are not."""
    notes = []
    for column, text in (*zip(_SRAM, _SRAM, strict=True), ("with_slip", _SLIP)):
        pairs = [row[column] for row in rows if column in row]
        if pairs:
            equal = sum(ours == theirs for ours, theirs in pairs)
            notes.append(f"{text}: {equal} of {len(pairs)} rows equal")
    for column in ("overall_util_pct", "mapping_eff_pct"):
        pairs = [row[column] for row in rows if column in row]
        if pairs:
            worst = max(abs(ours - theirs) for ours, theirs in pairs)
            notes.append(f"{column}: largest difference {worst:.1g} points")
    notes.extend(
        f"{row['layer']} {row['dataflow']} on {row['array']}: {row['predicted']:,} cycles, "
        f"published {row['published']:,}"
        for row in rows
        if row["predicted"] != row["published"]
    )
    return tuple(notes)
