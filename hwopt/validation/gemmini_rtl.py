"""Cycles of Gemmini's RTL: nine physical parameters over what the chip is asked to do.

For one tile (one loop command; `gemmini_program` says what it contains), in cycles:

    execute = commands x max(rows, command_floor), rows = output pixels a command streams
    load    = beats x beat + L2 misses x l2_miss + LLC misses x llc_miss (of an average tile)
    store   = rows stored x store_row / tiles per stored tile
    issue   = conv_issue or matmul_issue: the host computes the arguments and sends the commands

The four overlap by double buffering, as far as they can: a tile takes their p-norm,

    tile = (execute^p + load^p + store^p + issue^p)^(1/p),    p = overlap

p = 1 is no overlap, p -> infinity perfect overlap (the longest alone). The row takes the sum of its
tiles, and `start` once: first loads, last stores, set-up of chip and host. Fill and drain of the
array are hidden between commands, except for what `command_floor` says.

Parameters live in `benchmarks/reference/gemmini_rtl_parameters.csv`: their data-sheet values with
sources (the *unfitted* model), the fitted ones with bounds. `calibrate` finds the fitted ones from
the training rows whose array is 16 x 16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.errors import FileFormatError
from hwopt.validation.gemmini_program import Program
from hwopt.validation.harness import REFERENCE, number, read_rows

Floats: TypeAlias = npt.NDArray[np.float64]

PARAMETERS = REFERENCE / "gemmini_rtl_parameters.csv"
NAMES = (
    "start", "conv_issue", "matmul_issue", "command_floor", "beat", "l2_miss", "llc_miss",
    "store_row", "overlap",
)  # fmt: skip

FULL_WEIGHT = 0.1
"""Utilisation (MACs per lane and cycle) from which a training row counts fully; the weight of a
squared error falls in proportion below it, to a tenth: what mappers choose uses the array well."""
TYPICAL_ERROR = 0.1
"""Scale of the robust loss: log-errors beyond it count linearly, not squared."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row of the parameter file, in cycles (`overlap` is a pure exponent)."""

    name: str
    datasheet: float
    fitted: float
    low: float
    high: float


def read_parameters(path: Path = PARAMETERS) -> dict[str, Parameter]:
    """The parameter file by name; `FileFormatError` if one is missing or out of its bounds."""
    columns = ("name", "datasheet", "fitted", "low", "high")
    found: dict[str, Parameter] = {}
    for line, row in enumerate(read_rows(path, columns), 2):
        where = f"{path}, row {line}"
        values = (number(row, column, where) for column in columns[1:])
        parameter = Parameter(row["name"], *values)
        if not parameter.low <= parameter.fitted <= parameter.high:
            raise FileFormatError("not within its bounds", where=where, value=parameter.fitted)
        found[parameter.name] = parameter
    if set(found) != set(NAMES):
        raise FileFormatError("parameters are missing or unknown", where=str(path),
                              value=sorted(set(found) ^ set(NAMES)))  # fmt: skip
    return found


class Programs:
    """Programs of many rows as arrays: one entry per tile shape, and the row it belongs to."""

    def __init__(self, programs: Sequence[Program]) -> None:
        flat = [(row, tiles) for row, each in enumerate(programs) for tiles in each.tiles]
        tiles = [tiles for _, tiles in flat]
        self.rows = len(programs)
        self.row = np.array([row for row, _ in flat])
        self.number = np.array([each.number for each in tiles], float)
        self.commands = np.array([each.commands for each in tiles], float)
        self.last_commands = np.array([each.last_commands for each in tiles], float)
        self.last_rows = np.array([each.last_rows for each in tiles], float)
        self.beats = np.array([each.beats for each in tiles], float)
        self.stores = np.array([each.stores / programs[row].reductions for row, each in flat])
        row = self.row
        self.side = np.array([each.side for each in programs], float)[row]
        self.is_matmul = np.array([each.is_matmul for each in programs])[row]
        number = np.array([each.number_of_tiles for each in programs], float)
        self.l2_misses = (np.array([each.l2_misses for each in programs]) / number)[row]
        self.llc_misses = (np.array([each.llc_misses for each in programs]) / number)[row]

    def cycles(self, p: Mapping[str, float]) -> Floats:
        """Cycles of each row with parameters `p`."""
        parts = np.stack(self._parts(p))
        longest = parts.max(axis=0)
        overlapped = longest * ((parts / longest) ** p["overlap"]).sum(axis=0) ** (1 / p["overlap"])
        tiles = np.bincount(self.row, self.number * overlapped, self.rows)
        return np.asarray(p["start"] + tiles, np.float64)

    def shares(self, p: Mapping[str, float]) -> Floats:
        """Cycles of execute, load, store and issue, each alone, per row: shape (4, rows)."""
        alone = [np.bincount(self.row, self.number * part, self.rows) for part in self._parts(p)]
        return np.stack(alone)

    def _parts(self, p: Mapping[str, float]) -> tuple[Floats, Floats, Floats, Floats]:
        """Execute, load, store and issue of a tile of each shape."""
        floor = p["command_floor"]
        execute = self.commands * np.maximum(self.side, floor)
        execute = execute + self.last_commands * np.maximum(self.last_rows, floor)
        load = self.beats * p["beat"]
        load = load + self.l2_misses * p["l2_miss"] + self.llc_misses * p["llc_miss"]
        issue = np.where(self.is_matmul, p["matmul_issue"], p["conv_issue"])
        return execute, load, self.stores * p["store_row"], issue


def calibrate(
    programs: Sequence[Program], cycles: Floats, utilisation: Floats,
    bounds: Mapping[str, Parameter],
) -> dict[str, float]:  # fmt: skip
    """The parameters that fit measured cycles best: bounded least squares of the log-error.

    Robust (soft L1 beyond `TYPICAL_ERROR`), each row weighted by its utilisation (`FULL_WEIGHT`).
    Starts from the data-sheet values, moved into the bounds; deterministic.
    """
    from scipy.optimize import least_squares

    batch = Programs(programs)
    weight = np.sqrt(np.clip(utilisation / FULL_WEIGHT, 0.1, 1))
    low = np.array([bounds[name].low for name in NAMES])
    high = np.array([bounds[name].high for name in NAMES])
    start = np.clip([bounds[name].datasheet for name in NAMES], low + 1e-3, high - 1e-3)

    def errors(x: Floats) -> Floats:
        return np.asarray(weight * np.log(batch.cycles(dict(zip(NAMES, x, strict=True))) / cycles))

    fit = least_squares(errors, start, bounds=(low, high), x_scale=np.maximum(1, start),
                        loss="soft_l1", f_scale=TYPICAL_ERROR)  # fmt: skip
    return dict(zip(NAMES, (float(value) for value in fit.x), strict=True))


def cross_validate(
    programs: Sequence[Program], cycles: Floats, utilisation: Floats, layers: Sequence[str],
    bounds: Mapping[str, Parameter], folds: int = 6,
) -> Floats:  # fmt: skip
    """Cycles of each row, predicted by parameters fitted without any row of its layer.

    Layers go to folds round robin in sorted order, so no layer is in two folds.
    """
    order = sorted(set(layers))
    fold = np.array([order.index(layer) % folds for layer in layers])
    predicted = np.zeros(len(cycles))
    for index in range(folds):
        held = fold == index
        inside = [each for each, out in zip(programs, held, strict=True) if not out]
        outside = [each for each, out in zip(programs, held, strict=True) if out]
        if outside:
            p = calibrate(inside, cycles[~held], utilisation[~held], bounds)
            predicted[held] = Programs(outside).cycles(p)
    return predicted
