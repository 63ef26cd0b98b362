"""Model variants: from a model's knobs to its table of tasks, parameters and quality.

Each variant is traced and compiled once. Depth is a count: where a model is a stack of identical
blocks, three shallow variants give the tasks of any depth exactly (each task's count grows by the
same number per block); where their tasks do not line up, every depth is traced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hwopt.cost.tables import OpTable, Task
from hwopt.cost.tasks import op_table
from hwopt.dse.quality import Quality, Shape, Source, quality_source
from hwopt.dse.space import ModelChoice, StudyFile, Value
from hwopt.errors import StudyError

if TYPE_CHECKING:
    from hwopt.hardware.accelerator import Accelerator
    from hwopt.ir.program import Program

SHALLOW = 2
"""The shallowest depth that is traced for expansion: at depth 1 the first block is the last."""


@dataclass(frozen=True, eq=False)
class Variant:
    """One shape of one model. `samples`: inputs per execution."""

    table: OpTable
    parameters: int
    macs: int
    samples: int
    quality: Quality | None


@dataclass(frozen=True)
class _Traced:
    table: OpTable
    parameters: int
    macs: int


class Variants:
    """The variants of a study's models, each built when first asked for."""

    def __init__(self, file: StudyFile, target: Accelerator) -> None:
        self._file = file
        self._target = target
        self._models = {model.label: model for model in file.models}
        self._sources: dict[str, Source | None] = {
            model.label: quality_source(model) for model in file.models
        }
        self._traced: dict[tuple[object, ...], _Traced] = {}
        self._known: dict[tuple[object, ...], Variant] = {}

    def source(self, label: str) -> Source | None:
        """A model's quality source."""
        return self._sources[label]

    def get(self, label: str, knobs: Mapping[str, Value]) -> Variant:
        """The variant of a model for knob values."""
        key = (label, *sorted(knobs.items()))
        if key not in self._known:
            self._known[key] = self._make(label, knobs)
        return self._known[key]

    def program(self, label: str, knobs: Mapping[str, Value]) -> Program:
        """The compiled program of a variant, traced at its full depth."""
        from hwopt.frontend.capture import trace
        from hwopt.passes.manager import PassManager, parse_pipeline

        model = self._models[label]
        overrides = _integers(model, {k: v for k, v in knobs.items() if k not in ("batch", "seq")})
        sizes = _integers(model, {k: v for k, v in knobs.items() if k in ("batch", "seq")})
        graph = trace(
            model.model, mode=model.mode, batch=sizes.get("batch", model.batch),
            seq=sizes.get("seq", model.seq), dtype=model.dtype, unsupported=model.unsupported,
            overrides=overrides or None,
        )  # fmt: skip
        program, _ = PassManager(parse_pipeline(self._file.passes)).run(graph, target=self._target)
        return program

    def _make(self, label: str, knobs: Mapping[str, Value]) -> Variant:
        traced = self._expanded(label, knobs)
        samples = knobs.get("batch", self._models[label].batch)
        source = self._sources[label]
        quality = None
        if source is not None:
            quality = source.predict(Shape(dict(knobs), traced.parameters, traced.macs))
        return Variant(traced.table, traced.parameters, traced.macs, int(samples), quality)

    def _expanded(self, label: str, knobs: Mapping[str, Value]) -> _Traced:
        depth = knobs.get("depth")
        if not isinstance(depth, int) or depth <= SHALLOW + 2:
            return self._trace(label, knobs)
        shallow = [self._trace(label, {**knobs, "depth": SHALLOW + i}) for i in range(3)]
        expanded = extrapolate(shallow, depth - SHALLOW)
        return self._trace(label, knobs) if expanded is None else expanded

    def _trace(self, label: str, knobs: Mapping[str, Value]) -> _Traced:
        key = (label, *sorted(knobs.items()))
        if key not in self._traced:
            program = self.program(label, knobs)
            table = op_table(program, self._target.bits, self._file.fusion)
            graph = program.graph
            self._traced[key] = _Traced(table, graph.parameter_count, graph.macs)
        return self._traced[key]


def extrapolate(shallow: list[_Traced], blocks: int) -> _Traced | None:
    """The table `blocks` blocks deeper than the first of three consecutive depths.

    None when the three do not have the same tasks, or their counts do not grow evenly.
    """
    rows = [_contents(traced.table) for traced in shallow]
    if not (list(rows[0]) == list(rows[1]) == list(rows[2])):
        return None
    tasks: list[Task] = []
    for content, first in rows[0].items():
        counts = [row[content].count for row in rows]
        count = _even(counts, blocks)
        if count is None:
            return None
        tasks.append(replace(first, count=count))
    parameters = _even([traced.parameters for traced in shallow], blocks)
    macs = _even([traced.macs for traced in shallow], blocks)
    if parameters is None or macs is None:
        return None
    table = shallow[0].table
    return _Traced(OpTable(table.name, tuple(tasks), {}, table.is_bound), parameters, macs)


def _even(values: list[int], steps: int) -> int | None:
    first, second, third = values
    step = second - first
    return first + steps * step if third - second == step else None


def _contents(table: OpTable) -> dict[tuple[object, ...], Task]:
    """Tasks by what they cost, whatever their operators are called."""
    result: dict[tuple[object, ...], Task] = {}
    for task in table.tasks:
        ways = tuple(
            (a.tier, a.span, tuple(replace(stage, name="") for stage in a.stages))
            for a in task.alternatives
        )
        content = (task.kind, task.macs, ways)
        known = result.get(content)
        result[content] = replace(task, count=task.count + (known.count if known else 0))
    return result


def _integers(model: ModelChoice, knobs: Mapping[str, Value]) -> dict[str, int]:
    for name, value in knobs.items():
        if not isinstance(value, int):
            raise StudyError("a model knob must be an integer", value=value,
                             where=f"models.{model.label}.knobs.{name}")  # fmt: skip
    return {name: int(value) for name, value in knobs.items()}
