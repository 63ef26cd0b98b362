"""The form of every validation: predicted against published, beside a trivial baseline.

A comparison is one file in this package with one function `(data: Path) -> Outcome`, registered
under the name that `hwopt validate NAME` takes. Adding a comparison is adding such a file.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hwopt.errors import FileFormatError, PathError
from hwopt.files import read_text
from hwopt.registry import Registry

REFERENCE = Path(__file__).parents[2] / "benchmarks" / "reference"
"""Published figures that the project carries, with their sources."""


@dataclass(frozen=True)
class Outcome:
    """What a comparison found.

    `metrics` and `baseline` hold, as they apply: `exact_share` (share of rows equal),
    `mape_percent`, `median_percent`, `max_percent` (relative errors), `spearman` (rank
    correlation), `worse_rows` (rows in which we are worse than the peer). `baseline` scores a
    trivial prediction on the same rows and says which in `baseline_is`.
    """

    name: str
    conventions: str
    calibrated_on: str
    rows: list[dict[str, Any]]
    metrics: dict[str, float]
    baseline: dict[str, float]
    baseline_is: str
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """What `hwopt validate --json` prints: `rows` is their number."""
        return {
            "name": self.name,
            "conventions": self.conventions,
            "calibrated_on": self.calibrated_on,
            "rows": len(self.rows),
            "metrics": self.metrics,
            "baseline": {**self.baseline, "is": self.baseline_is},
        }


@dataclass(frozen=True)
class Comparison:
    """A validation by name: its default data file and the function that runs it; `folder`: it
    takes a folder of several files as well.
    """

    data: Path
    run: Callable[[Path], Outcome]
    about: str
    folder: bool = False


comparisons: Registry[Comparison] = Registry("validation", "hwopt.validation")

Run: TypeAlias = Callable[[Path], Outcome]


def comparison(name: str, data: str, *, folder: bool = False) -> Callable[[Run], Run]:
    """Register a comparison; `data` names its file in `benchmarks/reference`."""

    def add(run: Run) -> Run:
        about = (run.__doc__ or "").strip().split("\n")[0]
        comparisons.register(name)(Comparison(REFERENCE / data, run, about, folder))
        return run

    return add


def validate(name: str, data: str | Path | None = None) -> Outcome:
    """Run one comparison on its own data, or on another file of the same columns."""
    entry = comparisons[name]
    path = Path(data) if data is not None else entry.data
    if path.is_dir() and not entry.folder:
        path = path / entry.data.name
    if not path.is_file() and not (entry.folder and path.is_dir()):
        raise PathError(
            "no data for this validation", where=name, value=str(path),
            fix="give it with --data FILE (the README says where each file comes from)",
        )  # fmt: skip
    return entry.run(path)


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file; every named column must be there, and at least one row."""
    reader = csv.DictReader(io.StringIO(read_text(path)))
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise FileFormatError("columns are missing", where=str(path), value=missing)
    rows = list(reader)
    if not rows:
        raise FileFormatError("no rows below the header", where=str(path))
    return rows


def number(row: dict[str, str], column: str, where: str, *, least: float = 0.0) -> float:
    """A cell as a finite number of at least `least`; `where` names file and row in errors."""
    text = row[column]
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= least):
        raise FileFormatError("not a number that this column may hold", where=f"{where}, {column}",
                              value=text, allowed=f"a number of at least {least:g}")  # fmt: skip
    return value


def count(row: dict[str, str], column: str, where: str, *, least: int = 1) -> int:
    """A cell as a whole number of at least `least`."""
    value = number(row, column, where, least=least)
    if not value.is_integer():
        raise FileFormatError("not a whole number", where=f"{where}, {column}", value=row[column])
    return int(value)


def score(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """Error metrics of predictions (same order and units as the measurements, which are > 0)."""
    guess, truth = np.asarray(predicted, float), np.asarray(measured, float)
    error = 100 * np.abs(guess - truth) / truth
    metrics = {
        "exact_share": float(np.mean(guess == truth)),
        "mape_percent": float(error.mean()),
        "median_percent": float(np.median(error)),
        "max_percent": float(error.max()),
    }
    if len(truth) > 2 and np.ptp(guess) > 0 and np.ptp(truth) > 0:
        from scipy.stats import spearmanr

        metrics["spearman"] = float(spearmanr(guess, truth).statistic)
    return metrics
