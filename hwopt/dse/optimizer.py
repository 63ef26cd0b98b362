"""Optimisers on integer codes behind ask/tell: NSGA-II, random search, enumeration.

    optimizer.ask() -> codes (designs, knobs), never one that was asked before; none when exhausted
    optimizer.tell(codes, objectives, violations)
    optimizer.state() -> plain data; restore(state, seen) continues exactly, bit for bit

Objectives are minimised, (designs, objectives); violations hold where they are at most 0.
NSGA-II (Deb et al. 2002) is pymoo's, with constrained domination, uniform crossover, and a mutation
made for ordered integers. Offspring that were priced before, in any generation, are dropped by
hash: the budget buys different designs only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hwopt.dse.space import Codes
from hwopt.errors import StudyError

if TYPE_CHECKING:
    from pymoo.algorithms.moo.nsga2 import NSGA2

Array = npt.NDArray[np.float64]


class Optimizer(ABC):
    """Base: remembers what was asked for, and holds the random generator."""

    def __init__(self, counts: npt.NDArray[np.int64], population: int, seed: int) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.size = int(np.prod(self.counts.astype(object))) if len(counts) else 1
        self.population = min(population, self.size)
        self.seed = seed
        self.seen: set[bytes] = set()

    def ask(self, limit: int | None = None) -> Codes:
        """The next designs to price, at most `limit`; an empty array when there are none left."""
        wanted = self.population if limit is None else min(self.population, limit)
        codes = self._ask(wanted) if len(self.seen) < self.size else self._none()
        self.seen.update(row.tobytes() for row in codes)
        return codes

    @abstractmethod
    def tell(self, codes: Codes, objectives: Array, violations: Array) -> None:
        """The prices of what was asked for."""

    @abstractmethod
    def _ask(self, wanted: int) -> Codes: ...

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that is needed to go on, as plain data."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state."""

    def remember(self, codes: Codes) -> None:
        """Mark designs as already asked for (they are in the journal)."""
        self.seen.update(row.tobytes() for row in np.ascontiguousarray(codes, dtype=np.int64))

    def _none(self) -> Codes:
        return np.empty((0, len(self.counts)), dtype=np.int64)

    def _fresh(self, generator: np.random.Generator, wanted: int) -> Codes:
        """Random designs not seen before; the space is walked in order when few are left."""
        taken: dict[bytes, Codes] = {}
        wanted = min(wanted, self.size - len(self.seen))
        for _ in range(20):
            rows = generator.integers(0, self.counts, size=(2 * wanted, len(self.counts)))
            for row in np.ascontiguousarray(rows, dtype=np.int64):
                if len(taken) < wanted and (key := row.tobytes()) not in self.seen:
                    taken.setdefault(key, row)
        index = 0
        while len(taken) < wanted:
            row = unrank(index, self.counts)
            index += 1
            if (key := row.tobytes()) not in self.seen:
                taken.setdefault(key, row)
        return np.array(list(taken.values()), dtype=np.int64).reshape(wanted, len(self.counts))


def unrank(index: int, counts: npt.NDArray[np.int64]) -> Codes:
    """The design at a position of the order in which the last knob changes fastest."""
    row = np.zeros(len(counts), dtype=np.int64)
    for position in range(len(counts) - 1, -1, -1):
        index, row[position] = divmod(index, int(counts[position]))
    return row


class Enumerate(Optimizer):
    """Every design in order, the last knob fastest."""

    def __init__(self, counts: npt.NDArray[np.int64], population: int, seed: int) -> None:
        super().__init__(counts, population, seed)
        self._next = 0

    def _ask(self, wanted: int) -> Codes:
        end = min(self._next + wanted, self.size)
        rows = [unrank(index, self.counts) for index in range(self._next, end)]
        self._next = end
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self.counts))

    def tell(self, codes: Codes, objectives: Array, violations: Array) -> None:
        """Prices change nothing."""

    def state(self) -> dict[str, Any]:
        """The position."""
        return {"next": self._next}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the position."""
        self._next = int(state["next"])


class RandomSearch(Optimizer):
    """Designs drawn uniformly, each at most once: the baseline of every search."""

    def __init__(self, counts: npt.NDArray[np.int64], population: int, seed: int) -> None:
        super().__init__(counts, population, seed)
        self._generator = np.random.default_rng(seed)

    def _ask(self, wanted: int) -> Codes:
        return self._fresh(self._generator, wanted)

    def tell(self, codes: Codes, objectives: Array, violations: Array) -> None:
        """Prices change nothing."""

    def state(self) -> dict[str, Any]:
        """The generator's state."""
        return {"generator": generator_state(self._generator)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the generator's state."""
        self._generator.bit_generator.state = state["generator"]


class Nsga2(Optimizer):
    """NSGA-II of pymoo. Its whole state: codes, objectives, violations, rank, crowding, RNG."""

    def __init__(self, counts: npt.NDArray[np.int64], population: int, seed: int) -> None:
        super().__init__(counts, population, seed)
        self._algorithm: NSGA2 | None = None
        self._restored: dict[str, Any] | None = None
        self._asked: Any = None

    def _ask(self, wanted: int) -> Codes:
        from pymoo.core.population import Population

        algorithm = self._algorithm
        if algorithm is None:
            self._sampler = np.random.default_rng([self.seed, 1])
            codes = self._fresh(self._sampler, wanted)
            self._asked = Population.new(X=codes)
            return codes
        offspring = algorithm.ask()
        made = self._none()
        if offspring is not None and len(offspring):
            made = np.ascontiguousarray(offspring.get("X"), dtype=np.int64)[:wanted]
        if len(made) < wanted:
            known = {row.tobytes() for row in made}
            self.seen |= known
            more = self._fresh(algorithm.random_state, wanted - len(made))
            self.seen -= known
            made = np.concatenate([made, more])
        self._asked = Population.new(X=made)
        return made

    def tell(self, codes: Codes, objectives: Array, violations: Array) -> None:
        """Survival: constrained domination, then crowding."""
        assert np.array_equal(self._asked.get("X"), codes), "tell answers the last ask"
        if self._algorithm is None:
            self._algorithm = self._new(objectives.shape[1], violations.shape[1])
        self._asked.set("F", objectives, "G", violations, "H", np.zeros((len(codes), 0)))
        for individual in self._asked:
            individual.evaluated.update(("F", "G", "H"))
        self._algorithm.tell(infills=self._asked)

    def state(self) -> dict[str, Any]:
        """Population and random state as lists and numbers; floats survive JSON exactly."""
        algorithm = self._algorithm
        if algorithm is None:
            return {}
        population = algorithm.pop
        return {
            "X": population.get("X").tolist(),
            "F": population.get("F").tolist(),
            "G": population.get("G").tolist(),
            # infeasible designs have neither; JSON has no infinity, which marks a front's ends
            "rank": [None if rank is None else int(rank) for rank in population.get("rank")],
            "crowding": [_to_json(crowding) for crowding in population.get("crowding")],
            "iteration": int(algorithm.n_iter),
            "generator": generator_state(algorithm.random_state),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Rebuild pymoo's algorithm around a stored population."""
        if not state:
            return
        from pymoo.core.population import Population

        objectives = np.array(state["F"], dtype=np.float64)
        violations = np.array(state["G"], dtype=np.float64).reshape(len(objectives), -1)
        population = Population.new(
            X=np.array(state["X"], dtype=np.int64), F=objectives, G=violations,
            H=np.zeros((len(objectives), 0)),
        )  # fmt: skip
        for individual, rank, crowding in zip(
            population, state["rank"], state["crowding"], strict=True
        ):
            individual.evaluated.update(("F", "G", "H"))
            individual.set("rank", rank)
            individual.set("crowding", np.inf if crowding == "inf" else crowding)
        algorithm = self._new(objectives.shape[1], violations.shape[1])
        algorithm.pop = population
        algorithm.n_iter = algorithm.n_gen = state["iteration"]
        algorithm.is_initialized = True
        algorithm.start_time = 0.0
        algorithm.random_state.bit_generator.state = state["generator"]
        self._algorithm = algorithm

    def _new(self, objectives: int, violations: int) -> NSGA2:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination
        from pymoo.operators.crossover.ux import UX

        from hwopt.dse.operators import OrderedMutation, UnseenOnly

        problem = Problem(
            n_var=len(self.counts), n_obj=objectives, n_ieq_constr=violations,
            xl=np.zeros(len(self.counts), dtype=np.int64), xu=self.counts - 1, vtype=int,
        )  # fmt: skip
        algorithm = NSGA2(
            pop_size=self.population, sampling=np.zeros((1, len(self.counts)), dtype=np.int64),
            crossover=UX(prob=0.9), mutation=OrderedMutation(),
            eliminate_duplicates=UnseenOnly(self.seen), termination=NoTermination(),
            seed=self.seed,
        )  # fmt: skip
        algorithm.setup(problem, seed=self.seed)
        algorithm.termination = NoTermination()
        return algorithm


def _to_json(crowding: float | None) -> float | str | None:
    if crowding is None:
        return None
    return float(crowding) if np.isfinite(crowding) else "inf"


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """The state of numpy's PCG64 as plain data (its 128-bit numbers are Python integers)."""
    state: dict[str, Any] = dict(generator.bit_generator.state)
    return state


_KINDS: dict[str, type[Optimizer]] = {
    "nsga2": Nsga2,
    "random": RandomSearch,
    "enumerate": Enumerate,
}


def make_optimizer(
    kind: str, counts: npt.NDArray[np.int64], population: int, seed: int
) -> Optimizer:
    """An optimiser by name."""
    if kind not in _KINDS:
        raise StudyError("unknown optimizer", value=kind, allowed=", ".join(_KINDS))
    return _KINDS[kind](counts, population, seed)
