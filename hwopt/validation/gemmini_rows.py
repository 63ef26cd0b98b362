"""Rows of the Gemmini files: a mapping, a layer, and the cycles that the RTL took (FireSim).

Columns of the row's own tiler (`target.gemmini_auto_cycle`, `dse.auto_tiling`) belong to another
mapping and are never read; Timeloop's prediction (`target.cycle`) is read as a peer's, never as a
feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwopt.errors import FileFormatError
from hwopt.validation.gemmini_program import Factors, Layer, Program, parse_mapping, program
from hwopt.validation.gemmini_rtl import Floats
from hwopt.validation.harness import count, number, read_rows

_SIZES = "CRSKPQN"
COLUMNS = (
    "target.gemmini_cycle", "mapping.mapping", "arch.meshX",
    "prob.Wstride", "prob.Hstride", "prob.Wdilation", "prob.Hdilation",
    *(f"prob.{axis}" for axis in _SIZES),
)  # fmt: skip
PEER = "target.cycle"


@dataclass(frozen=True, slots=True)
class RtlRow:
    """One measured mapping."""

    mapping: str
    layer: Layer
    factors: Factors
    program: Program
    cycles: float
    peer: float | None
    """Timeloop's cycles, where the file has the column."""

    @property
    def layer_text(self) -> str:
        """Sizes and stride, as a name."""
        sizes = " ".join(f"{axis}{size}" for axis, size in self.layer.sizes.items() if size > 1)
        return f"{sizes} stride {self.layer.stride}"

    @property
    def utilisation(self) -> float:
        """Stated MACs per lane of the array and cycle; above one if the program did fewer."""
        return self.layer.macs / self.program.side**2 / self.cycles


def read_rtl(path: Path) -> list[RtlRow]:
    """Read a file of the columns `COLUMNS`; one `FileFormatError` for what is not understood."""
    rows = []
    for line, cells in enumerate(read_rows(path, COLUMNS), 2):
        where = f"{path}, row {line}"
        layer, factors = _layer(cells, where), parse_mapping(cells["mapping.mapping"], where)
        _check(layer, factors, where)
        asked = program(layer, factors, count(cells, "arch.meshX", where))
        measured = number(cells, "target.gemmini_cycle", where, least=1)
        peer = number(cells, PEER, where, least=0) if cells.get(PEER) else None
        rows.append(RtlRow(cells["mapping.mapping"], layer, factors, asked, measured, peer))
    return rows


def _layer(cells: Mapping[str, str], where: str) -> Layer:
    """The operator; strides and dilations must be the same in both directions."""
    row = dict(cells)
    sizes = {axis: count(row, f"prob.{axis}", where) for axis in _SIZES}
    pair = [[count(row, f"prob.{axis}{what}", where) for axis in "WH"]
            for what in ("stride", "dilation")]  # fmt: skip
    for what, (across, down) in zip(("stride", "dilation"), pair, strict=True):
        if across != down:
            raise FileFormatError(f"one {what} for both directions", where=where,
                                  value=f"{across} x {down}")  # fmt: skip
    return Layer(sizes, pair[0][0], pair[1][0])


def _check(layer: Layer, factors: Factors, where: str) -> None:
    """The factors of each axis multiply up to its size."""
    for axis, size in layer.sizes.items():
        product = factors.tile[axis] * factors.outer[axis]
        if product != size:
            raise FileFormatError("factors do not multiply up to the size", where=where,
                                  value=f"{axis}: {product}", allowed=str(size))  # fmt: skip


def utilisations(rows: Sequence[RtlRow]) -> Floats:
    """Of all rows: shape (rows,)."""
    return np.array([row.utilisation for row in rows])


def measured(rows: Sequence[RtlRow]) -> Floats:
    """Cycles of all rows: shape (rows,)."""
    return np.array([row.cycles for row in rows])


def trivial_factor(rows: Sequence[RtlRow], least: float = 0.3) -> float:
    """The one constant c of the trivial model, cycles = c x MACs / lanes.

    The geometric mean of the rows of at least that utilisation, for mappings that are chosen use
    the array well (the mean over all training rows would be 25: most of their mappings are random).
    """
    used = utilisations(rows)
    return math.exp(float(np.mean(-np.log(used[used > least]))))
