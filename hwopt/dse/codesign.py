"""The evaluator of a study: hardware and model knobs to objectives, a batch at a time.

Codes of the hardware become one `HardwareTable`; models become tables of tasks (`variants`) whose
candidate mappings wait in a `pool`; the jitted kernel prices them, one call per model variant in
the batch. What a design costs does not depend on the batch it is in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hwopt.dse.constraints import parse_constraint
from hwopt.dse.evaluator import Evaluation, Evaluator, Goal
from hwopt.dse.objectives import Array, Prices, aggregate, objectives
from hwopt.dse.quality import quality_source
from hwopt.dse.space import HARDWARE, Codes, StudyFile, Value
from hwopt.errors import StudyError
from hwopt.hardware.table import COLUMNS, MEMORY_COLUMNS, HardwareTable, skeleton_key, stack
from hwopt.mapping.priced import Priced, Weights

if TYPE_CHECKING:
    from rich.console import Console

    from hwopt.cost.kernel import Packed
    from hwopt.dse.pool import Grid
    from hwopt.dse.variants import Variant
    from hwopt.hardware.accelerator import Accelerator

CHUNK = 65_536
"""Designs per table while the capacities of a space are listed."""
MOST_MACHINES = 50_000_000
"""Hardware designs of a space at most: their capacities are listed one by one."""

_DETAILS = ("seconds", "joules", "parameters", "quality", "extrapolated")


def goals(file: StudyFile) -> tuple[Goal, ...]:
    """The objectives of a study, quality in the direction of the models' sources."""
    found = []
    for name in file.objectives:
        entry = objectives[name]
        larger = entry.direction == "max"
        if entry.direction == "source":
            larger = quality_direction(file) == "max"
        found.append(Goal(name, entry.unit, larger))
    return tuple(found)


def quality_direction(file: StudyFile) -> str:
    """What the quality sources of all models agree on: "min" or "max"."""
    ways = {
        source.direction for model in file.models if (source := quality_source(model)) is not None
    }
    if not ways:
        raise StudyError("no model has a quality", where="objectives", value="quality",
                         fix="give at least one model `quality: {source: ...}`")  # fmt: skip
    if len(ways) > 1:
        raise StudyError("quality sources disagree on whether less or more is better",
                         where="models", fix="use sources of one direction")  # fmt: skip
    return ways.pop()


class CoDesign(Evaluator):
    """Prices hardware and models of a study together."""

    def __init__(
        self, file: StudyFile, *, processes: int = 1, console: Console | None = None
    ) -> None:
        from hwopt.dse.pool import Pool
        from hwopt.dse.variants import Variants

        self.file = file
        self.counts = file.counts
        self.goals = goals(file)
        labels = tuple(model.label for model in file.models)
        self.details = tuple(f"{label}.{name}" for label in labels for name in _DETAILS)
        self._constraints = [parse_constraint(text, labels) for text in file.constraints]
        self._needs_quality = "quality" in {*file.objectives, *(c.objective for c in
                                                                self._constraints)}  # fmt: skip
        self._hardware = [i for i, k in enumerate(file.knobs) if k.owner == HARDWARE]
        self._fixed = None
        if file.hardware.accelerator is not None:
            self._fixed = stack([file.accelerator([0] * len(self.counts)).resolved()])
        self._shapes = self._list_shapes()
        target = file.accelerator([0] * len(self.counts)).resolved()
        self._variants = Variants(file, target)
        self._pool = Pool(processes, console)
        self._packed: Packed | None = None
        self._tasks: dict[int, tuple[Variant, npt.NDArray[np.int64]]] = {}
        self._order: list[Variant] = []

    def close(self) -> None:
        """Stop helping processes."""
        self._pool.close()

    def hardware(self, codes: Codes) -> HardwareTable:
        """The table of the designs' accelerators, as the template gives it."""
        if self._fixed is not None:
            zeros = np.zeros(len(codes), dtype=np.int64)
            return HardwareTable(self._fixed.skeletons, zeros, self._fixed.rows[zeros])
        from hwopt.hardware.template import templates

        assert self.file.hardware.template is not None
        return templates[self.file.hardware.template].table(self.file.template_codes(codes))

    def _list_shapes(self) -> dict[tuple[object, ...], tuple[Grid, Weights]]:
        """By fan-out shape, the usable bytes that each finite memory takes in this space, and the
        columns in which its designs can tell mappings apart.
        """
        counts = self.counts[self._hardware]
        total = int(np.prod(counts.astype(object))) if len(counts) else 1
        if total > MOST_MACHINES:
            raise StudyError("too many accelerators", where=HARDWARE, value=total,
                             allowed=f"at most {MOST_MACHINES}", fix="fix some knobs")  # fmt: skip
        found: dict[tuple[object, ...], list[set[float]]] = {}
        priced: dict[tuple[object, ...], Priced] = {}
        machines: dict[tuple[object, ...], Accelerator] = {}
        names: list[str] = []
        for start in range(0, total, CHUNK):
            index = np.arange(start, min(start + CHUNK, total))
            codes = np.zeros((len(index), len(self.counts)), dtype=np.int64)
            if len(counts):
                codes[:, self._hardware] = np.stack(np.unravel_index(index, counts), axis=1)
            table = self.hardware(codes)
            names = [memory.name for memory in table.skeletons[0].memories]
            for shape, machine in enumerate(table.skeletons):
                key = skeleton_key(machine)
                levels = found.setdefault(key, [set() for _ in names])
                rows = table.rows[table.skeleton == shape]
                machines[key] = machine
                priced.setdefault(key, Priced(len(names))).add(rows)
                for memory, values in enumerate(levels):
                    column = len(COLUMNS) + memory * len(MEMORY_COLUMNS)
                    values.update(np.unique(rows[:, column]).tolist())
        return {
            key: (
                {
                    name: tuple(sorted(values))
                    for name, values in zip(names, levels, strict=True)
                    if all(np.isfinite(value) for value in values)
                },
                priced[key].weights(machines[key]),
            )
            for key, levels in found.items()
        }

    def evaluate(self, codes: Codes) -> Evaluation:
        """Prices of a batch of designs."""
        designs = [self.file.decode(row) for row in codes]
        table = self._global(self.hardware(codes))
        variants = [
            [self._variants.get(model.label, design[model.label]) for design in designs]
            for model in self.file.models
        ]
        self._prepare(variants, table)
        prices = self._price(variants, table)
        values, violations = self._judge(prices)
        columns = []
        for index, row in enumerate(variants):
            columns += [
                prices.seconds[index], prices.joules[index],
                np.array([variant.parameters for variant in row], dtype=np.float64),
                np.nan_to_num(prices.quality[index], nan=0.0),
                np.array([bool(v.quality and v.quality.extrapolated) for v in row], dtype=float),
            ]  # fmt: skip
        return Evaluation(values, violations, np.stack(columns, axis=1))

    def _global(self, table: HardwareTable) -> HardwareTable:
        """The table with skeletons numbered as in the pool."""
        numbers = np.array(
            [
                self._pool.skeleton(machine.resolved(), *self._shapes[skeleton_key(machine)])
                for machine in table.skeletons
            ],
            dtype=np.int64,
        )
        return HardwareTable(tuple(self._pool.skeletons), numbers[table.skeleton], table.rows)

    def _prepare(self, variants: list[list[Variant]], table: HardwareTable) -> None:
        """Compute missing candidates and pack all tasks known into the kernel's arrays."""
        from hwopt.cost.kernel import pack
        from hwopt.cost.tables import OpTable

        wanted: dict[tuple[int, int], Variant] = {}
        for row in variants:
            for variant, shape in zip(row, table.skeleton.tolist(), strict=True):
                wanted[id(variant), shape] = variant
        new = self._pool.compute(
            (request, shape)
            for (_, shape), variant in wanted.items()
            for request in variant.table.requests
        )
        fresh = [v for v in dict.fromkeys(wanted.values()) if id(v) not in self._tasks]
        if not new and not fresh and self._packed is not None:
            return
        self._order += fresh
        start = 0
        for variant in self._order:
            end = start + len(variant.table.tasks)
            self._tasks[id(variant)] = (variant, np.arange(start, end))
            start = end
        every = OpTable("study", tuple(t for v in self._order for t in v.table.tasks), {})
        skeletons = {id(machine): i for i, machine in enumerate(self._pool.skeletons)}
        nothing = np.zeros((0, 1 + 5 * len(table.skeletons[0].memories)))

        def rows(request: Any, machine: Accelerator) -> Array:
            found = self._pool.rows(request, skeletons[id(machine)])
            return nothing if found is None else found

        self._packed = pack(every, table, rows)

    def _price(self, variants: list[list[Variant]], table: HardwareTable) -> Prices:
        from hwopt.cost.kernel import price

        assert self._packed is not None, "candidates are packed"
        shape = len(variants), len(table)
        seconds, joules = np.empty(shape), np.empty(shape)
        quality, samples = np.full(shape, np.nan), np.empty(shape)
        for index, row in enumerate(variants):
            for key in dict.fromkeys(map(id, row)):
                variant, tasks = self._tasks[key]
                chosen = np.array([i for i, other in enumerate(row) if id(other) == key])
                part = HardwareTable(table.skeletons, table.skeleton[chosen], table.rows[chosen])
                packed = replace(self._packed, tasks=self._packed.tasks[tasks])
                result = price(packed, part, self.file.mapping)
                seconds[index, chosen], joules[index, chosen] = result.seconds, result.joules
                samples[index, chosen] = variant.samples
                if variant.quality is not None:
                    quality[index, chosen] = variant.quality.value
        area = table.rows[:, COLUMNS.index("area_m2")].copy()
        return Prices(seconds, joules, quality, area, samples)

    def _judge(self, prices: Prices) -> tuple[Array, Array]:
        """Objective columns and constraint violations; infinite where a design does not run."""
        runs = prices.feasible
        # numbers that stand in where a model does not run, so that no inf - inf or log(inf) arises
        safe = Prices(
            np.where(runs, prices.seconds, 1.0), np.where(runs, prices.joules, 1.0),
            prices.quality, prices.area_m2, prices.samples,
        )  # fmt: skip
        values = np.stack(
            [self._column(goal.name, None, safe, goal.larger_is_better) for goal in self.goals],
            axis=1,
        )
        values[~runs] = np.inf
        violations = np.empty((len(runs), len(self._constraints)))
        for index, constraint in enumerate(self._constraints):
            larger = constraint.sense == ">="
            column = self._column(constraint.objective, constraint.model, safe, larger)
            violations[:, index] = np.where(runs, constraint.violation(column), np.inf)
        return values, violations

    def _column(self, name: str, model: str | None, prices: Prices, larger: bool) -> Array:
        """One objective of every design, of one model or joined over all."""
        column = objectives[name].column(prices)
        if column.ndim == 1:
            return column
        if model is not None:
            labels = [choice.label for choice in self.file.models]
            own: Array = column[labels.index(model)]
            if np.isnan(own).any():
                raise StudyError("this model has no quality", where="constraints", value=model)
            return own
        weights = np.array([choice.weight for choice in self.file.models])
        return aggregate(column, weights, self.file.aggregate, larger)

    def notes(self) -> dict[str, str]:
        """By model, where its quality comes from."""
        found = {}
        for model in self.file.models:
            if (source := self._variants.source(model.label)) is not None:
                found[model.label] = source.note()
        return found

    def costs(
        self, knobs: Mapping[str, Mapping[str, Value]], machine: Accelerator
    ) -> list[dict[str, Any]]:
        """Every model on one design, operator by operator, with each nest's best mapping."""
        from hwopt.cost.cost import evaluate

        results = []
        for model in self.file.models:
            program = self._variants.program(model.label, knobs[model.label])
            cost = evaluate(program, machine, fusion=self.file.fusion, objective=self.file.mapping)
            results.append({"model": model.label, **cost.to_json()})
        return results
