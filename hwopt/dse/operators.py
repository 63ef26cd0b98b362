"""Genetic operators for integer codes, in pymoo's interfaces."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.mutation import Mutation


class OrderedMutation(Mutation):  # type: ignore[misc]
    """Change each code with probability 1 / knobs, at least one: half the time to a neighbouring
    value, half the time to any other value.

    Knobs are ordered (sizes, counts, rates), so small steps refine; polynomial mutation with
    rounding leaves codes of short ranges almost always unchanged.
    """

    def _do(self, problem: Any, X: Any, *_: Any, random_state: Any = None, **__: Any) -> Any:
        codes = np.array(X, dtype=np.int64)
        counts = (problem.xu - problem.xl + 1).astype(np.int64)
        shape = codes.shape
        chosen = random_state.random(shape) < 1 / shape[1]
        chosen[np.arange(shape[0]), random_state.integers(0, shape[1], shape[0])] = True
        step = np.where(random_state.random(shape) < 0.5, 1, -1)
        near = codes + step
        near = np.where((near < 0) | (near >= counts), codes - step, near)
        far = (codes + 1 + random_state.integers(0, np.maximum(counts - 1, 1), shape)) % counts
        changed = np.where(random_state.random(shape) < 0.5, near, far)
        return np.where(chosen & (counts > 1), changed, codes)


class UnseenOnly(DuplicateElimination):  # type: ignore[misc]
    """Drop offspring equal to one another, to the population, or to any design priced before.

    Rows are hashed by their bytes: linear in the population, where pymoo's default is quadratic.
    """

    def __init__(self, seen: set[bytes]) -> None:
        super().__init__()
        self._seen = seen

    def _do(self, pop: Any, other: Any, is_duplicate: Any) -> Any:
        rows = np.ascontiguousarray(pop.get("X"), dtype=np.int64)
        known: set[bytes] = set()
        if other is not None and len(other):
            known = {row.tobytes() for row in np.ascontiguousarray(other.get("X"), dtype=np.int64)}
        for index, row in enumerate(rows):
            key = row.tobytes()
            if key in known or key in self._seen:
                is_duplicate[index] = True
            known.add(key)
        return is_duplicate
