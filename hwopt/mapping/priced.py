"""Priced columns: in what a set of designs can tell two mappings apart.

A design prices steps, busiest traffic over each port, and total traffic by energy. Where its prices
leave no freedom, columns join: a memory with one port for reads and writes sees their sum, a memory
whose writes cost the same multiple of its reads in all designs sees one weighted sum, and memories
whose energies keep a fixed ratio see one sum together. Fewer columns, fewer rows of a staircase.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.hardware.accelerator import Accelerator
from hwopt.hardware.table import COLUMNS, MEMORY_COLUMNS

Weights: TypeAlias = tuple[tuple[float, ...], ...]
"""Per priced column, weights of steps and, for each memory, of busiest reads and writes and total
reads and writes. One column is steps alone."""

_SAME = 1e-12
"""Relative difference up to which ratios of prices count as equal."""


def every_column(accelerator: Accelerator) -> Weights:
    """All columns by themselves, whatever the prices: of a memory that exists once, busiest and
    total traffic agree.
    """
    count = 1 + 4 * len(accelerator.memories)
    columns = [0]
    for number, memory in enumerate(accelerator.memories):
        first = 1 + 4 * number
        columns += [first + 2, first + 3]
        if accelerator.instances(memory.name) > 1:
            columns += [first, first + 1]
    return tuple(tuple(float(at == c) for at in range(count)) for c in columns)


@dataclass
class Priced:
    """What the designs seen so far agree on; `memories` by number."""

    memories: int
    ports: npt.NDArray[np.bool_] = field(init=False)
    low: npt.NDArray[np.float64] = field(init=False)
    high: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.ports = np.zeros((self.memories, 3), np.bool_)
        self.low = np.full((self.memories, 2), np.inf)
        self.high = np.full((self.memories, 2), -np.inf)

    def add(self, rows: npt.NDArray[np.float64]) -> None:
        """See designs of a `HardwareTable` (designs, columns)."""
        width = len(MEMORY_COLUMNS)
        outer = None
        for m in range(self.memories):
            own = rows[:, len(COLUMNS) + m * width : len(COLUMNS) + (m + 1) * width]
            self.ports[m] |= (own[:, 1:4] > 0).any(axis=0)
            read, write = own[:, 4], own[:, 5]
            outer = read if outer is None else outer
            with np.errstate(divide="ignore", invalid="ignore"):
                ratios = np.stack([write / read, read / outer], axis=1)
            self.low[m] = np.minimum(self.low[m], ratios.min(axis=0))
            self.high[m] = np.maximum(self.high[m], ratios.max(axis=0))

    def weights(self, accelerator: Accelerator) -> Weights:
        """The columns in which these designs can tell mappings apart."""
        steps = np.zeros(1 + 4 * self.memories)
        steps[0] = 1.0
        found = [steps]
        together = np.zeros_like(steps)
        for m, memory in enumerate(accelerator.memories):
            once = accelerator.instances(memory.name) == 1
            for port, sides in enumerate(((0,), (1,), (0, 1))):
                if self.ports[m, port]:
                    column = np.zeros_like(steps)
                    for side in sides:
                        column[1 + 4 * m + side + (2 if once else 0)] = 1.0
                    found.append(column)
            found += self._energies(m, together)
        if together.any():
            found.append(together)
        return tuple(dict.fromkeys(tuple(map(float, column)) for column in found))

    def _energies(self, m: int, together: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
        """Energy columns of a memory by itself; what keeps its ratio to the outermost joins it."""
        fixed = (self.high[m] - self.low[m]) <= _SAME * np.abs(self.high[m])
        column = np.zeros_like(together)
        column[3 + 4 * m] = 1.0
        if not (fixed[0] and np.isfinite(self.high[m, 0])):  # writes are free of reads
            other = np.zeros_like(together)
            other[4 + 4 * m] = 1.0
            return [column, other]
        column[4 + 4 * m] = self.low[m, 0]
        if fixed[1] and np.isfinite(self.high[m, 1]):
            together += self.low[m, 1] * column
            return []
        return [column]
