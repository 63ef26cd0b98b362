"""The mappings of one nest that some design of a study could prefer.

A study varies capacities on a grid, bandwidths, energies and the clock, while the structure
(levels, what they keep, fan-outs and their sizes) stays. A price is monotone in a row's columns:
footprints rounded up to the grid, steps, and traffic per memory. So a mapping that another one
covers (less or equal in every column) is never needed. What is left is the staircase: pricing a
design is an argmin over its rows, equal to `best_mapping` over the same mapspace.

When there would be more than `most` rows, rows that another covers within a factor are dropped, and
`gap` says by how much a column may exceed what was found. Results are remembered in memory and on
disk, under a digest of everything they depend on.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Iterator, Sequence
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
from hwopt.mapping.analysis import Objective, Price, price
from hwopt.mapping.best import Numbers, freeze, skeleton, spaces_of, start
from hwopt.mapping.forest import Forest
from hwopt.mapping.mapping import Mapping, parse_mapping
from hwopt.mapping.problem import Problem
from hwopt.mapping.search import front, seed, solve, thin
from hwopt.mapping.tables import ROWS, Factors, Space
from hwopt.mapping.traffic import check_size

VERSION = 3
"""Part of the cache key: raise it when rows change for equal inputs."""
MOST, BUDGET = 300, 60_000
"""Rows of a staircase at most; boxes bounded to look for rows besides the first good ones."""
CELLS, SEEDED, DEEPENED, DEEP = 5, 4, 2, 6000
"""Imaginary machines: capacities tried, mappings kept of each, of these improved by branch and
bound, its boxes."""
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
    rows: int | None = None,
    most: int = MOST,
    budget: int = BUDGET,
    cache: bool = True,
) -> Staircase:
    """The staircase of a nest on a structure.

    `accelerator` gives levels and fan-outs; its capacities, bandwidths and energies do not matter.
    `grid[memory]` lists the *usable* bytes that a memory may have in the study (see
    `Memory.usable_bytes`); a memory that is not in it is not limited. `rows` bounds the tables of
    tile chains, `most` the result, `budget` the boxes bounded. Raises `InfeasibleError` when
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
        stays, factors, rows or 0, most, budget,
    )  # fmt: skip
    return _cached(key, cache)


Key: TypeAlias = tuple[
    Problem, str, tuple[tuple[str, tuple[float, ...]], ...], Constraint, Conventions,
    tuple[tuple[OperandRole, str], ...], Factors, int, int, int,
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


Spaces: TypeAlias = list[tuple[Space, Forest]]


class _Archive:
    """Rows that no other row covers, while they are found."""

    def __init__(
        self, spaces: Spaces, points: int, grid: npt.NDArray[np.float64],
        ends: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], most: int,
    ) -> None:  # fmt: skip
        self.spaces, self.points, self.most = spaces, float(points), most
        self.grid, self.ends, self.columns = grid, ends, columns
        parts = max((len(space.tables) for space, _ in spaces), default=0)
        self.rows, self.exact = np.zeros((2, most + 1, 1 + 5 * len(ends)))
        self.found = np.zeros((most + 1, 1 + parts), np.int64)
        self.count, self.boxes = 0, 0
        self.slack, self.turn, self.gap, self.exhausted = 1.0, 0, 1.0, True

    def seed(self, numbers: Numbers, first: int, end: int) -> None:
        """Add good mappings for one imaginary machine from the spaces `first` to `end`."""
        starts, used = start(tuple(self.spaces[first:end]), numbers, SEEDED, 1)
        self.boxes += used
        for turn, (key, place, picked) in enumerate(starts[:SEEDED]):
            number = first + place
            packed = self.spaces[number][1].packed
            if turn < DEEPENED:
                self.boxes += solve(packed, *numbers, key, picked, DEEP)[0]
            self.count = seed(
                packed, self.points, self.grid, self.ends, self.columns, self.rows, self.exact,
                self.found, self.count, number, picked,
            )  # fmt: skip

    def explore(self, number: int, share: int) -> None:
        """Search one space for rows that are not covered yet."""
        while True:
            self.count, used, done = front(
                self.spaces[number][1].packed, self.points, self.grid, self.ends, self.columns,
                self.rows, self.exact, self.found, self.count, self.slack, share,
            )  # fmt: skip
            numbers = self.found[: self.count, 0]
            numbers[numbers < 0] = number
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
            self.count = int(
                thin(self.rows, self.exact, self.found, self.count, self.columns, self.slack)
            )
        return self.count <= room

    def result(self, problem: Problem) -> Staircase:
        """The rows in order of their columns, with their mappings in words."""
        count = min(self.count, self.most)
        order = np.lexsort(self.exact[:count].T[::-1])
        texts = []
        for number, *rows in self.found[order].tolist():
            space = self.spaces[number][0]
            tiles = space.tiles(tuple(rows[: len(space.tables)]))
            texts.append(str(space.template.mapping(tiles, problem.sizes)))
        rows_ = np.ascontiguousarray(self.exact[order])
        rows_.flags.writeable = False
        return Staircase(
            rows_, tuple(texts), problem.points, self.boxes, self.gap - 1, self.exhausted
        )


def _make(key: Key) -> Staircase:
    problem, structure, steps, constraint, conventions, stays, factors, rows, most, budget = key
    accelerator = Accelerator.model_validate_json(structure)
    spaces: Spaces = []
    kinds: tuple[Factors, ...] = ("perfect",) if factors == "perfect" else ("perfect", "any")
    ranges = []
    for kind in kinds:
        own = spaces_of(
            problem, structure, constraint, conventions, stays, kind, rows or ROWS[kind]
        )
        ranges.append((len(spaces), len(spaces) + len(own)))
        spaces += own
    capacities = dict(steps)
    memories = accelerator.memories
    ends = np.array([len(capacities.get(m.name, ())) for m in memories], np.int64)
    grid = np.zeros((len(memories), max(1, int(ends.max()))))
    for number, memory in enumerate(memories):
        grid[number, : ends[number]] = capacities.get(memory.name, ())
    archive = _Archive(spaces, problem.points, grid, ends, _columns(accelerator, ends), most)
    for numbers in _scenarios(problem, accelerator, grid, ends):
        for first, end in ranges:
            archive.seed(numbers, first, end)
    for number in range(len(spaces)):
        archive.explore(number, max(1000, budget // len(spaces)))
    if archive.count == 0:
        raise InfeasibleError(
            "no mapping fits the largest capacities of the grid",
            value=", ".join(f"{name} {max(v, default=math.inf):g} B" for name, v in steps),
            fix="enlarge the memories of the study",
        )  # fmt: skip
    return archive.result(problem)


def _scenarios(
    problem: Problem, accelerator: Accelerator, grid: npt.NDArray[np.float64],
    ends: npt.NDArray[np.int64],
) -> Iterator[Numbers]:  # fmt: skip
    """Imaginary machines whose good mappings start the archive, so that a search that is cut short
    has something good for every kind of design.

    Capacities from the least to the largest of the grid, together; typical ratios of energies
    (outermost memory, single on-chip ones, those that exist many times); an outermost memory of
    unlimited, ample or scarce bandwidth; on-chip ports that are unlimited or as wide as the edge of
    a square array of the lanes below. The archive stays exact whatever these numbers are.
    """
    lanes = float(accelerator.lanes)
    cells = max(1, min(CELLS, int(ends.max())))
    energies = [
        64.0 if number == 0 else 2.0 if accelerator.instances(memory.name) == 1 else 0.2
        for number, memory in enumerate(accelerator.memories)
    ]
    ports = [
        2 * math.sqrt(lanes / accelerator.instances(memory.name)) for memory in accelerator.memories
    ]
    for cell in range(cells):
        memories = np.full((len(ends), 6), math.inf)
        for number, end in enumerate(ends):
            if end:
                place = round(cell * (end - 1) / max(1, cells - 1)) if cells > 1 else end - 1
                memories[number, 0] = grid[number, place]
            memories[number, 4:] = energies[number]
        for objective, outer, narrow in (
            (0, math.inf, False), (0, lanes / 16, True), (0, lanes / 128, False),
            (1, math.inf, False), (2, lanes / 16, True),
        ):  # fmt: skip
            machine = memories.copy()
            if narrow:
                machine[:, 3] = ports
            machine[0, 3] = outer
            yield float(problem.points), np.array([1.0, 0.0, 0.0, 0.0]), machine, objective


def _columns(accelerator: Accelerator, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Columns that tell designs apart: of a memory that exists once, busiest and total agree."""
    columns = [0]
    for number, memory in enumerate(accelerator.memories):
        base = 1 + 5 * number
        if ends[number]:
            columns.append(base)
        if accelerator.instances(memory.name) > 1:
            columns += [base + 1, base + 2]
        columns += [base + 3, base + 4]
    return np.array(columns, np.int64)
