"""Fit the parameters of Gemmini's cycle model to the training rows, and say how well folds do.

    python benchmarks/gemmini_calibration.py FOLDER [--write]

FOLDER holds `gemmini_rtl_train.csv` (the file with the test rows is not opened). Rows count whose
array is 16 x 16, the machine of the test rows; the others ran on other machines. With --write the
fitted column of `benchmarks/reference/gemmini_rtl_parameters.csv` is replaced.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from hwopt.validation.gemmini import TRAIN, training_rows
from hwopt.validation.gemmini_rows import measured, trivial_factor, utilisations
from hwopt.validation.gemmini_rtl import (
    PARAMETERS,
    Programs,
    calibrate,
    cross_validate,
    read_parameters,
)
from hwopt.validation.harness import score


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true", help="replace the fitted column")
    options = parser.parse_args()
    rows = training_rows(options.folder / TRAIN)
    programs, cycles, used = [row.program for row in rows], measured(rows), utilisations(rows)
    known = read_parameters()
    fitted = calibrate(programs, cycles, used, known)
    held = cross_validate(programs, cycles, used, [row.layer_text for row in rows], known)
    print(f"{len(rows)} rows of {len({row.layer_text for row in rows})} layers")
    print("fitted", {name: round(value, 3) for name, value in fitted.items()})
    print(f"trivial constant {trivial_factor(rows):.3f}")
    for least in (0, 0.1, 0.3):
        part = np.flatnonzero(used > least)
        kinds = {"all": part, "convolutions": part[[not programs[i].is_matmul for i in part]],
                 "matrix products": part[[programs[i].is_matmul for i in part]]}  # fmt: skip
        for kind, where in kinds.items():
            inside = Programs([programs[i] for i in where]).cycles(fitted)
            folds = score(list(held[where]), list(cycles[where]))
            fit = score(list(inside), list(cycles[where]))
            print(f"utilisation > {least}, {kind}: {len(where)} rows, folds",
                  f"{folds['mape_percent']:.1f} % (median {folds['median_percent']:.1f} %),",
                  f"fit {fit['mape_percent']:.1f} %, Spearman {folds['spearman']:.4f}")  # fmt: skip
    if options.write:
        _write(fitted)


def _write(fitted: dict[str, float]) -> None:
    """Replace the fitted column, to four digits."""
    with PARAMETERS.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    for row in table:
        row["fitted"] = f"{fitted[row['name']]:.4g}"
    with PARAMETERS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
