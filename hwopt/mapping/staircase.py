"""The mappings of one nest that some design of a study could prefer.

A study varies capacities on a grid, and bandwidths, energies and the clock, while the structure
(levels, what they keep, fan-outs and their sizes) stays. A price is monotone in a mapping's
footprints, rounded up to the grid, and in its *priced columns*: steps, and what moves, joined as
the
study's prices let it (`priced`). So a mapping that another one covers (less or equal in all of
them)
is never needed. What is left is the staircase: pricing a design is an argmin over its rows, equal
to
`best_mapping` over the same mapspace.

When there would be more than `most` rows, rows that another covers within a factor are dropped, and
`gap` says by how much a column may exceed what was found. Results are remembered in memory and on
disk, under a digest of everything they depend on.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.errors import HwoptError, InfeasibleError
from hwopt.files import cache_dir, write_bytes
from hwopt.hardware.accelerator import Accelerator, OperandRole
from hwopt.hardware.conventions import NATIVE, Conventions
from hwopt.ir.program import Constraint
from hwopt.mapping.analysis import OBJECTIVES, Objective, Price, price
from hwopt.mapping.best import Grove, freeze, grove_of
from hwopt.mapping.chains import Factors
from hwopt.mapping.frontier import add, front, thin
from hwopt.mapping.mapping import Mapping, parse_mapping
from hwopt.mapping.priced import Weights, every_column
from hwopt.mapping.problem import Problem
from hwopt.mapping.search import solve
from hwopt.mapping.space import Skeleton, bare, skeleton
from hwopt.mapping.traffic import analyse, check_size

VERSION = 4
"""Part of the cache key: raise it when rows change for equal inputs."""
MOST, BUDGET = 300, 60_000
"""Rows of a staircase at most; boxes bounded to look for rows besides the first good ones."""
SEED_BUDGET = 3_000
"""Boxes bounded to find the mapping of one imaginary machine that starts the archive."""
CELLS = 4
"""Capacities of imaginary machines."""
LOOSEST = 1.3
"""Gap beyond which rows are no longer thinned out: the search for more ends instead."""
SLACKS = (1.01, 1.02, 1.03, 1.05, 1.08, 1.12, 1.2, 1.35, 1.5, 2.0)


@dataclass(frozen=True)
class Staircase:
    """`rows` (R, 1 + 5L) as `Analysis.row`; `texts[i]` is mapping `i` in words.

    `gap`: 0, or by how much more a dropped row's columns may cost than a kept one's (0.05: 5 %).
    `exhausted`: whether every mapping of the mapspace was considered within that gap.
    """

    rows: npt.NDArray[np.float64]
    texts: tuple[str, ...]
    points: int
    boxes: int
    gap: float
    exhausted: bool

    def __len__(self) -> int:
        return len(self.texts)

    def mapping(self, index: int) -> Mapping:
        """The mapping of a row."""
        return parse_mapping(self.texts[index])

    def best(self, accelerator: Accelerator, objective: Objective) -> tuple[int, Price]:
        """The row with the least objective on a machine of this structure, and its price.

        Raises `InfeasibleError` when no row fits.
        """
        prices = [price(row, accelerator, self.points) for row in self.rows]
        index = min(range(len(prices)), key=lambda i: (*prices[i].key(objective), i), default=-1)
        if index < 0 or not prices[index].feasible:
            raise InfeasibleError(
                "no mapping of the staircase fits", where=accelerator.name,
                fix="add the capacity to the study's grid, or enlarge the memories",
            )  # fmt: skip
        return index, prices[index]


def staircase(
    problem: Problem,
    accelerator: Accelerator,
    grid: MappingType[str, Sequence[float]],
    *,
    constraint: Constraint | None = None,
    conventions: Conventions = NATIVE,
    resident: MappingType[OperandRole, str] | None = None,
    factors: Factors = "any",
    weights: Weights | None = None,
    most: int = MOST,
    budget: int = BUDGET,
    cache: bool = True,
) -> Staircase:
    """The staircase of a nest on a structure.

    `accelerator` gives levels and fan-outs; its capacities, bandwidths and energies do not matter.
    `grid[memory]` lists the *usable* bytes that a memory may have in the study (see
    `Memory.usable_bytes`); a memory that is not in it is not limited. `weights`: the priced columns
    (all by themselves when left out). `most` bounds the result, `budget` the boxes bounded.
    Raises `InfeasibleError` when
    nothing fits the largest capacities.
    """
    check_size(problem)
    unknown = set(grid) - {memory.name for memory in accelerator.memories}
    if unknown:
        raise HwoptError("the grid names no such memory", value=sorted(unknown))
    steps = tuple(sorted((name, tuple(sorted(set(map(float, v))))) for name, v in grid.items()))
    stays = tuple(sorted((resident or {}).items()))
    key = (
        problem, skeleton(accelerator), steps, freeze(constraint or Constraint()), conventions,
        stays, factors, weights or every_column(accelerator), most, budget,
    )  # fmt: skip
    return _cached(key, cache)


Key: TypeAlias = tuple[
    Problem, Skeleton, tuple[tuple[str, tuple[float, ...]], ...], Constraint, Conventions,
    tuple[tuple[OperandRole, str], ...], Factors, Weights, int, int,
]  # fmt: skip


@lru_cache(maxsize=4096)
def _cached(key: Key, cache: bool) -> Staircase:
    """From memory, else from disk, else made (and written)."""
    if not cache:
        return _make(key)
    digest = hashlib.sha256(repr((VERSION, key)).encode()).hexdigest()
    path = cache_dir() / "staircases" / digest[:2] / f"{digest}.npz"
    found = _read(path)
    if found is None:
        found = _make(key)
        _write(path, found)
    return found


def _read(path: Path) -> Staircase | None:
    """A stored staircase; None when there is none, or it is torn or foreign."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            points, boxes, exhausted = (int(value) for value in data["counts"])
            texts = tuple(bytes(data["texts"]).decode().split("\f"))
            rows = np.array(data["rows"], dtype=np.float64)
            if rows.ndim != 2 or len(rows) != len(texts):
                return None
            rows.flags.writeable = False
            return Staircase(rows, texts, points, boxes, float(data["gap"]), bool(exhausted))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return None


def _write(path: Path, found: Staircase) -> None:
    """Store a staircase whole or not at all; a cache that cannot be written is no error."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, rows=found.rows, gap=np.float64(found.gap),
        counts=np.array([found.points, found.boxes, found.exhausted], np.int64),
        texts=np.frombuffer("\f".join(found.texts).encode(), np.uint8),
    )  # fmt: skip
    try:
        write_bytes(path, buffer.getvalue())
    except (HwoptError, OSError):
        return


class _Archive:
    """Rows that no other row covers, while they are found."""

    def __init__(
        self, grove: Grove, points: int, grid: npt.NDArray[np.float64],
        ends: npt.NDArray[np.int64], weights: Weights, most: int,
        analysis: Callable[[Mapping], npt.NDArray[np.float64]],
    ) -> None:  # fmt: skip
        self.analysis = analysis
        self.grove, self.forest, self.most, self.points = grove, grove.forest, most, float(points)
        self.grid, self.ends = 8.0 * grid, ends
        joined = np.array(weights)
        self.columns = np.ascontiguousarray(joined @ self.forest.forms)
        self.fixed = self.forest.fixed @ joined.T
        self.steps = int(np.flatnonzero(joined[:, 0])[0])
        self.columns[:, self.steps] /= 8.0
        self.fixed[:, self.steps] /= 8.0
        parts = self.forest.root.shape[1]
        self.rows = np.zeros((most + 1, len(ends) + len(joined)))
        self.found = np.zeros((most + 1, 1 + parts), np.int64)
        self.order = np.arange(most + 1)
        self.count, self.boxes = 0, 0
        self.slack, self.turn, self.gap, self.exhausted = 1.0, 0, 1.0, True

    def seed(self, machine: npt.NDArray[np.float64], memories: npt.NDArray[np.float64]) -> None:
        """Add a good mapping for one imaginary machine per objective."""
        for objective in range(len(OBJECTIVES)):
            best, found = np.full(3, np.inf), np.zeros(self.found.shape[1], np.int64)
            self.boxes += solve(
                self.forest, self.points, machine, memories, objective, best, found, SEED_BUDGET
            )[0]
            if np.isfinite(best[0]) and self.count < self.most:
                self.count = int(
                    add(self.forest, self.points, self.grid, self.ends, self.columns, self.fixed,
                        self.steps, self.rows, self.found, self.order, self.count, found)
                )  # fmt: skip

    def explore(self, number: int, share: int) -> None:
        """Search one space for rows that are not covered yet."""
        while True:
            self.count, used, done = front(
                self.forest, number, self.points, self.grid, self.ends, self.columns[number],
                self.fixed[number], self.steps, self.rows, self.found, self.order, self.count,
                self.slack, share,
            )  # fmt: skip
            self.boxes, share = self.boxes + used, share - used
            if done or self.count < len(self.rows) or not self.thin():
                self.exhausted = self.exhausted and done
                return

    def thin(self) -> bool:
        """Drop rows within a factor of others until there is room; False once `LOOSEST` is met."""
        room = min(self.most, (len(self.rows) * 3) // 4)
        while self.count > room and self.gap < LOOSEST:
            self.slack = SLACKS[min(self.turn, len(SLACKS) - 1)]
            self.turn, self.gap = self.turn + 1, self.gap * self.slack
            self.count = int(thin(self.rows, self.found, self.order, self.count, self.slack))
        return self.count <= room

    def result(self, problem: Problem) -> Staircase:
        """The rows in order of their columns, with their mappings in words."""
        found = self.found[: min(self.count, self.most)]
        mappings = []
        for number, *chosen in found.tolist():
            space = self.grove.spaces[number]
            mappings.append(space.mapping(tuple(chosen[: len(space.parts)]), problem.sizes))
        if self.exhausted:
            rows = np.array([self._row(one) for one in found])
        else:  # a mapping may be better than the template in which it was found says
            rows = np.array([self.analysis(mapping) for mapping in mappings])
        order = np.lexsort(rows.T[::-1])
        rows = np.ascontiguousarray(rows[order])
        rows.flags.writeable = False
        return Staircase(
            rows, tuple(str(mappings[i]) for i in order), problem.points, self.boxes, self.gap - 1,
            self.exhausted and not self.grove.thinned,
        )  # fmt: skip

    def _row(self, found: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The row of a mapping, as `Analysis.row`."""
        space = self.grove.spaces[found[0]]
        values = space.constant.copy()
        for p, table in enumerate(space.tables):
            used = space.column[:, p] >= 0
            leaf = int(np.flatnonzero(table.tree.row == found[1 + p])[0])
            values[used] *= table.tree.lo[leaf, space.column[used, p]]
        row = np.zeros(1 + 5 * len(self.ends))
        flat = (space.fixed + space.forms @ values[: space.terms]) / 8.0
        row[0] = flat[0]
        for m in range(len(self.ends)):
            own = space.memory == m
            sizes = values[space.terms : space.terms + len(space.memory)]
            row[1 + 5 * m] = (space.resident[m] + sizes[own].sum()) / 8.0
            row[2 + 5 * m : 6 + 5 * m] = flat[1 + 4 * m : 5 + 4 * m]
        return row


def _make(key: Key) -> Staircase:
    problem, structure, steps, constraint, conventions, stays, factors, weights, most, budget = key
    accelerator = bare(structure)
    capacities = dict(steps)
    memories = accelerator.memories
    ends = np.array([len(capacities.get(m.name, ())) for m in memories], np.int64)
    grid = np.zeros((len(memories), max(1, int(ends.max()))))
    for number, memory in enumerate(memories):
        grid[number, : ends[number]] = capacities.get(memory.name, ())
    grove = grove_of(problem, structure, constraint, conventions, stays, factors)
    if grove is not None:
        archive = _Archive(
            grove, problem.points, grid, ends, weights, most,
            lambda mapping: analyse(
                problem, mapping, accelerator, conventions, dict(stays)
            ).row(accelerator),
        )  # fmt: skip
        for machine, numbers in _scenarios(accelerator, grid, ends):
            archive.seed(machine, numbers)
        for number in range(len(grove.spaces)):
            archive.explore(number, max(1000, budget // len(grove.spaces)))
        if archive.count:
            return archive.result(problem)
    raise InfeasibleError(
        "no mapping fits the largest capacities of the grid",
        value=", ".join(f"{name} {max(v, default=math.inf):g} B" for name, v in steps),
        fix="enlarge the memories of the study",
    )  # fmt: skip


def _scenarios(
    accelerator: Accelerator,
    grid: npt.NDArray[np.float64],
    ends: npt.NDArray[np.int64],
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Imaginary machines whose good mappings start the archive, so that a search that is cut short
    has something good for every kind of design.

    Capacities from the least to the largest of the grid, together; typical ratios of energies
    (outermost memory, single on-chip ones, those that exist many times); an outermost memory of
    unlimited or scarce bandwidth. The archive stays exact whatever these numbers are.
    """
    lanes = float(accelerator.lanes)
    cells = max(1, min(CELLS, int(ends.max())))
    energies = [
        64.0 if number == 0 else 2.0 if accelerator.instances(memory.name) == 1 else 0.2
        for number, memory in enumerate(accelerator.memories)
    ]
    for cell in range(cells):
        memories = np.zeros((len(ends), 6))
        memories[:, 0] = np.inf
        for number, end in enumerate(ends):
            if end:
                place = round(cell * (end - 1) / max(1, cells - 1)) if cells > 1 else end - 1
                memories[number, 0] = grid[number, place]
            memories[number, 4:] = energies[number]
        for outer in (0.0, 32.0 / lanes):
            machine = memories.copy()
            machine[0, 3] = outer
            yield np.array([1.0, 0.0, 0.0, 0.0]), machine
