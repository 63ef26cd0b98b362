"""Candidate mappings of a study: the staircase of every nest on every fan-out shape met so far.

Staircases do not depend on prices, so each is computed once and used for all designs of its shape;
`hwopt.mapping.staircase` keeps them on disk as well. When many are missing, processes help.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hwopt.cost.cost import homes_of
from hwopt.cost.tables import Request
from hwopt.dse import interrupts
from hwopt.dse.progress import say
from hwopt.errors import InfeasibleError
from hwopt.hardware.table import skeleton_key
from hwopt.mapping.priced import Weights
from hwopt.mapping.staircase import staircase

if TYPE_CHECKING:
    from rich.console import Console

    from hwopt.hardware.accelerator import Accelerator

Rows = npt.NDArray[np.float64]
Grid = dict[str, tuple[float, ...]]
"""Per finite memory, the usable bytes that a design of the study may have, ascending."""

PATIENCE_SECONDS = 2.0
"""How long one process works alone before others are started (they take about as long to start)."""
MANY = 16
"""Fewer missing staircases than this are never worth other processes."""


class Pool:
    """Rows by (request, skeleton). `processes`: how many may compute at once."""

    def __init__(self, processes: int = 1, console: Console | None = None) -> None:
        self._rows: dict[tuple[Request, int], Rows] = {}
        self._keys: dict[tuple[object, ...], int] = {}
        self.skeletons: list[Accelerator] = []
        self._grids: list[Grid] = []
        self._weights: list[Weights] = []
        self._processes = processes
        self._console = console
        self._executor: ProcessPoolExecutor | None = None

    def skeleton(self, machine: Accelerator, grid: Grid, weights: Weights) -> int:
        """The number of a fan-out shape, whose designs differ in a grid and in priced columns."""
        key = skeleton_key(machine)
        if key not in self._keys:
            self._keys[key] = len(self.skeletons)
            self.skeletons.append(machine)
            self._grids.append(grid)
            self._weights.append(weights)
        return self._keys[key]

    def rows(self, request: Request, skeleton: int) -> Rows | None:
        """The candidates, or None when they have not been computed."""
        return self._rows.get((request, skeleton))

    def compute(self, pairs: Iterable[tuple[Request, int]]) -> bool:
        """Compute what is missing; whether anything was."""
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in self._rows]
        start = time.monotonic()
        for done, (request, skeleton) in enumerate(missing):
            slow = time.monotonic() - start > PATIENCE_SECONDS or self._executor is not None
            if self._processes > 1 and slow and len(missing) - done >= MANY:
                self._compute_apart(missing[done:])
                break
            rows = candidates(request, *self._shape(skeleton))
            self._rows[request, skeleton] = rows
            interrupts.check()
        return bool(missing)

    def _compute_apart(self, missing: list[tuple[Request, int]]) -> None:
        if self._executor is None:
            say(self._console, f"mapping {len(missing)} operators in {self._processes} processes")
            # fork would copy numba's thread pool in an undefined state
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(
                self._processes, mp_context=context, initializer=_leave_interrupts_to_parent
            )
        jobs = [(request, *self._shape(skeleton)) for request, skeleton in missing]
        for pair, rows in zip(missing, self._executor.map(_job, jobs), strict=True):
            self._rows[pair] = rows
            interrupts.check()

    def _shape(self, number: int) -> tuple[Accelerator, Grid, Weights]:
        return self.skeletons[number], self._grids[number], self._weights[number]

    def close(self) -> None:
        """Stop the helping processes."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None


def _leave_interrupts_to_parent() -> None:
    """Ctrl-C reaches every process of a terminal; the parent decides what happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _job(job: tuple[Request, Accelerator, Grid, Weights]) -> Rows:
    return candidates(*job)


def candidates(request: Request, machine: Accelerator, grid: Grid, weights: Weights) -> Rows:
    """The staircase of a nest on a fan-out shape; no rows where nothing fits any design."""
    nothing: Any = np.zeros((0, 1 + 5 * len(machine.memories)))
    homes = homes_of(request, machine)
    if homes is None:
        return np.asarray(nothing)
    try:
        found = staircase(
            request.problem,
            machine,
            grid,
            constraint=request.constraint,
            resident=homes,
            weights=weights,
            factors="perfect",
        )
    except InfeasibleError:
        return np.asarray(nothing)
    return np.ascontiguousarray(found.rows, dtype=np.float64)
