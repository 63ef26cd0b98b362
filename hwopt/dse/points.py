"""Quality from the user's own measurements: a CSV of points, interpolated or fitted.

The file has a header, one column per feature ("parameters", "macs" or a knob's name) and a column
of values ("quality" unless told otherwise):

    width,depth,quality
    256,4,3.91
    ...

`method: grid` interpolates linearly in the logarithms of the features between the points of a full
grid (exact at every point). `method: power-law` fits `log q = c + sum_i b_i log x_i` by least
squares and states its residual. A model outside the range of the points is refused, or, with
`outside: mark`, held at the nearest edge and marked as extrapolated.
"""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from hwopt.dse.quality import Quality, Shape, Source, qualities
from hwopt.errors import FileFormatError, StudyError
from hwopt.files import read_text

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """The content of the file: `features` names the columns of `x` (points, features)."""

    features: tuple[str, ...]
    x: Array
    y: Array

    @cached_property
    def log_x(self) -> Array:
        """Logarithms of the features."""
        return np.log(self.x)

    @cached_property
    def coefficients(self) -> Array:
        """Least squares of `log y` on 1 and the `log x`: (1 + features,)."""
        design = np.column_stack([np.ones(len(self.y)), self.log_x])
        solution, _, rank, _ = np.linalg.lstsq(design, np.log(self.y), rcond=None)
        if rank < design.shape[1]:
            raise StudyError(
                "too few different points for a power law", where="quality",
                value=f"{len(self.y)} points, {len(self.features)} features",
                fix="add points in which every feature varies",
            )  # fmt: skip
        return np.asarray(solution)

    def fitted(self, at: Array) -> float:
        """The power law at one point of features."""
        return float(np.exp(self.coefficients[0] + np.log(at) @ self.coefficients[1:]))

    @cached_property
    def residual(self) -> float:
        """Largest relative error of the power law at its own points."""
        guesses = np.array([self.fitted(row) for row in self.x])
        return float(np.max(np.abs(guesses / self.y - 1)))

    @cached_property
    def axes(self) -> tuple[Array, ...]:
        """Distinct values of each feature."""
        return tuple(np.unique(self.x[:, i]) for i in range(len(self.features)))

    @cached_property
    def grid(self) -> dict[tuple[float, ...], float]:
        """Value by point; every combination of `axes` must be there."""
        table = {tuple(map(float, row)): float(y) for row, y in zip(self.x, self.y, strict=True)}
        if len(table) != len(self.y):
            raise StudyError("a point is listed twice", where="quality")
        for point in itertools.product(*(map(float, axis) for axis in self.axes)):
            if point not in table:
                missing = dict(zip(self.features, point, strict=True))
                raise StudyError(
                    "the points are not a full grid", where="quality", value=missing,
                    fix="add that point, or use `method: power-law`",
                )  # fmt: skip
        return table

    def interpolated(self, at: Array) -> float:
        """Multilinear in the logarithms of the features."""
        spans = []
        for axis, value in zip(self.axes, at, strict=True):
            high = min(int(np.searchsorted(axis, value)), len(axis) - 1)
            low = high if axis[high] == value else max(high - 1, 0)
            share = 0.0
            if high != low:
                share = math.log(value / axis[low]) / math.log(axis[high] / axis[low])
            spans.append(((float(axis[low]), 1 - share), (float(axis[high]), share)))
        total = 0.0
        for corner in itertools.product(*spans):
            weight = math.prod(share for _, share in corner)
            if weight:
                total += weight * self.grid[tuple(point for point, _ in corner)]
        return total


@qualities.register("csv")
class Measured(Source):
    """The user's own points in a CSV file, interpolated on a grid or fitted by a power law."""

    file: str
    value: str = "quality"
    method: Literal["grid", "power-law"] = "grid"
    outside: Literal["error", "mark"] = "error"

    @cached_property
    def points(self) -> Points:
        """The file, read and checked once."""
        return read_points(self.file, self.value)

    def predict(self, shape: Shape) -> Quality:
        """The value at the model's features."""
        points = self.points
        at = np.array([shape.feature(name, self.file) for name in points.features])
        low, high = points.x.min(axis=0), points.x.max(axis=0)
        outside = bool((at < low).any() or (at > high).any())
        if outside and self.outside == "error":
            which = int(np.argmax((at < low) | (at > high)))
            raise StudyError(
                "a model outside the range of the points", where=self.file,
                value=f"{points.features[which]} = {at[which]:g}",
                allowed=f"{low[which]:g} to {high[which]:g}",
                fix="add points, narrow the knobs, or say `outside: mark`",
            )  # fmt: skip
        if self.method == "power-law":
            return Quality(points.fitted(at), outside)
        return Quality(points.interpolated(np.clip(at, low, high)), outside)

    def note(self) -> str:
        """File, method and, for a fit, its largest residual."""
        kind = f"{len(self.points.y)} points of {self.file}"
        if self.method == "grid":
            return f"{kind}, interpolated (exact at the points)"
        return f"{kind}, power law, largest residual {100 * self.points.residual:.2g} %"


def read_points(path: str, value: str) -> Points:
    """Read and check the CSV; every cell a positive finite number."""
    rows = [row for row in csv.reader(read_text(path).splitlines()) if row]
    if len(rows) < 2:
        raise FileFormatError("no points", where=path, fix="a header line, then one line a point")
    header = [cell.strip() for cell in rows[0]]
    if value not in header or len(set(header)) != len(header) or len(header) < 2:
        raise FileFormatError("bad header", where=f"{path}:1", value=rows[0],
                              allowed=f"different names, one of them {value!r}")  # fmt: skip
    numbers = np.empty((len(rows) - 1, len(header)))
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise FileFormatError("wrong number of cells", where=f"{path}:{line}", value=row,
                                  allowed=f"{len(header)} cells")  # fmt: skip
        for column, cell in enumerate(row):
            numbers[line - 2, column] = _positive(cell, f"{path}:{line}")
    at = header.index(value)
    features = tuple(name for name in header if name != value)
    return Points(features, np.delete(numbers, at, axis=1), numbers[:, at])


def _positive(cell: str, where: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise FileFormatError("not a positive number", where=where, value=cell)
    return number
