"""Running a search, and the directory that it leaves behind.

    study = hwopt.search(space, objectives=["latency", "energy", "area"], budget=20_000, seed=7,
                         path="runs/edge")
    study.front()                   the Pareto set, by the first objective
    study.chosen                    its knee (`front.KNEE_RULE`)
    study.accelerator("chosen")     a machine to look at, to price, to write as YAML

A directory holds `study.yaml` (what was asked), `journal.jsonl` and `checkpoint.json` (see
`journal`), and at the end `study.json`, `chosen.yaml`, `costs.json` and what the report writers
add. Killing the process at any moment loses at most the generation under way; `resume=True` goes
on to the very bytes that an uninterrupted run writes. Nothing in `study.json` depends on time,
machine or number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwopt.dse import front as pareto
from hwopt.dse import interrupts
from hwopt.dse.evaluator import Evaluator, Goal, for_optimizer
from hwopt.dse.journal import (
    CHECKPOINT,
    JOURNAL,
    History,
    Journal,
    read_checkpoint,
    read_history,
    save_checkpoint,
)
from hwopt.dse.optimizer import make_optimizer
from hwopt.dse.space import (
    DesignSpace,
    SearchOptions,
    StudyFile,
    Value,
    load_study,
    parse_study,
)
from hwopt.errors import InfeasibleError, StudyError
from hwopt.files import read_json, read_yaml, write_json, write_yaml
from hwopt.registry import Registry

if TYPE_CHECKING:
    from rich.console import Console

    from hwopt.hardware.accelerator import Accelerator

STUDY, RESULT, CHOSEN, COSTS = "study.yaml", "study.json", "chosen.yaml", "costs.json"
PREVIOUS = "previous"
"""Folder in a study directory to which the files of an unfinished run are moved when a new one
starts in its place."""


@dataclass(frozen=True)
class Design:
    """One design of a Pareto set: its number there, knobs by owner, objectives, and details (per
    model: seconds, joules, quality, parameters).
    """

    number: int
    codes: tuple[int, ...]
    knobs: dict[str, dict[str, Value]]
    values: dict[str, float]
    details: dict[str, float]


@dataclass(frozen=True)
class Study:
    """A search and its results so far, read from its directory."""

    path: Path
    file: StudyFile
    goals: tuple[Goal, ...]
    history: History

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """Read a study directory, finished or not. Raises `StudyError` when there is none."""
        path = Path(path)
        history = read_history(path)
        file = parse_study(read_yaml(path / STUDY), str(path / STUDY))
        return cls(path, file, goals_of(file), history)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.file.name

    @cached_property
    def objectives(self) -> Any:
        """Objective values of every design priced: (designs, objectives)."""
        return self.history.numbers[:, : len(self.goals)]

    @cached_property
    def feasible(self) -> Any:
        """Which designs run and hold every constraint: (designs,)."""
        return self.history.numbers[:, len(self.goals)] == 1.0

    @cached_property
    def costs(self) -> Any:
        """Objectives with less being better everywhere: (designs, objectives)."""
        return pareto.oriented(self.objectives, tuple(goal.larger_is_better for goal in self.goals))

    @cached_property
    def _front_rows(self) -> Any:
        rows = np.flatnonzero(self.feasible)
        # by codes first: of designs that cost the same, the same one stays whichever came first
        rows = rows[np.lexsort((rows, *self.history.codes[rows].T[::-1]))]
        found = rows[pareto.non_dominated(self.costs[rows])]
        # by the first objective; the others and the codes settle ties
        keys = (*self.history.codes[found].T[::-1], *self.costs[found].T[::-1])
        return found[np.lexsort(keys)] if len(found) else found

    def front(self) -> tuple[Design, ...]:
        """The feasible designs that no other feasible design beats, by the first objective."""
        return self._front

    @cached_property
    def _front(self) -> tuple[Design, ...]:
        return tuple(self._design(number, row) for number, row in enumerate(self._front_rows))

    def _design(self, number: int, row: int) -> Design:
        numbers = self.history.numbers[row].tolist()
        count = len(self.goals)
        names = [goal.name for goal in self.goals]
        details = self.history.columns[count + 1 :]
        codes = tuple(int(code) for code in self.history.codes[row])
        return Design(
            number, codes, self.file.decode(codes), dict(zip(names, numbers, strict=False)),
            dict(zip(details, numbers[count + 1 :], strict=True)),
        )  # fmt: skip

    @cached_property
    def chosen(self) -> Design:
        """The knee of the front. Raises `InfeasibleError` when the front is empty."""
        if not len(self._front_rows):
            raise self.infeasible()
        return self.front()[pareto.knee(self.costs[self._front_rows])]

    def infeasible(self) -> InfeasibleError:
        """What to say when no design holds every constraint: the nearest miss of each."""
        count = len(self.goals)
        runs = np.isfinite(self.objectives).all(axis=1)
        if not runs.any():
            return InfeasibleError(
                "no design that was priced can run every model", where=self.name,
                value=f"{len(runs)} designs", fix="allow larger buffers, or smaller models",
            )  # fmt: skip
        names = [goal.name for goal in self.goals]
        least = {
            name: float(self.costs[runs, i].min() * (-1 if self.goals[i].larger_is_better else 1))
            for i, name in enumerate(names[:count])
        }
        return InfeasibleError(
            "no design that was priced holds every constraint", where=self.name,
            value=f"best of each objective alone: {least}",
            allowed="; ".join(self.file.constraints), fix="relax a constraint or widen the knobs",
        )  # fmt: skip

    def design(self, name: str | int) -> Design:
        """A design by its number in the front, or "chosen"."""
        if str(name) == "chosen":
            return self.chosen
        designs = self.front()
        if not str(name).isdigit() or int(name) >= len(designs):
            raise StudyError("no such design", where=str(self.path), value=name,
                             allowed=f"chosen, or 0 to {len(designs) - 1}")  # fmt: skip
        return designs[int(name)]

    def accelerator(self, name: str | int = "chosen") -> Accelerator:
        """The accelerator of a design."""
        design = self.design(name)
        machine = self.file.accelerator(design.codes)
        return machine.model_copy(
            update={"name": f"{self.name}-{name}"} if self.file.hardware.template else {}
        )

    def model_costs(self) -> list[dict[str, Any]]:
        """What each model costs on the chosen design, operator by operator (`Cost.to_json`)."""
        file = self.path / COSTS
        found: list[dict[str, Any]] = read_json(file) if file.exists() else []
        return found

    def to_json(self) -> dict[str, Any]:
        """The content of `study.json`."""
        designs = self.front()
        return {
            "format": 1,
            "name": self.name,
            "study": self.file.model_dump(mode="json", exclude_defaults=True),
            "designs_in_space": self.file.size,
            "designs_priced": len(self.history.codes),
            "designs_feasible": int(self.feasible.sum()),
            "objectives": [
                {"name": goal.name, "unit": goal.unit, "larger_is_better": goal.larger_is_better}
                for goal in self.goals
            ],
            "front": [
                {
                    "design": design.number,
                    "knobs": design.knobs,
                    "objectives": design.values,
                    "models": design.details,
                }
                for design in designs
            ],
            "chosen": self.chosen.number if designs else None,
            "chosen_by": pareto.KNEE_RULE,
        }


reports: Registry[Callable[[Study], None]] = Registry("report", "hwopt.report")
"""Writers that add a file to a finished study's directory, by the name of the file they write."""


def goals_of(file: StudyFile) -> tuple[Goal, ...]:
    """The objectives of a study with unit and direction (quality's is its source's)."""
    from hwopt.dse.codesign import goals

    return goals(file)


def search(
    space: DesignSpace | StudyFile | str | Path,
    objectives: Sequence[str] | None = None,
    budget: int | None = None,
    seed: int | None = None,
    path: str | Path | None = None,
    *,
    resume: bool = False,
    workers: int = 1,
    processes: int = 1,
    console: Console | None = None,
    **options: Any,
) -> Study:
    """Search a design space and return the study.

    `space` may also be a whole study or the path of a study file; what is given here replaces what
    it says. Further `options` are keys of the study file (`constraints`, `aggregate`, ...) or of
    its `search` section (`population`, `optimizer`). `path` is the directory (default:
    `runs/<name>`). `workers`: processes that price designs, through dask. `processes`: helpers that
    map operators when many are new (a script that asks for more than one guards its main module, as
    `multiprocessing` wants). Raises `StudyError` for what cannot be run or resumed and
    `InfeasibleError` when no design holds every constraint; KeyboardInterrupt passes through with
    all saved.
    """
    file = _study_file(space, objectives, budget, seed, options)
    directory = Path(path) if path is not None else Path("runs") / file.name
    from hwopt.dse.distributed import open_evaluator

    with open_evaluator(file, workers, console, processes=processes) as evaluator:
        history = run(evaluator, file.search, directory, file, resume=resume, console=console)
        study = Study(directory, file, evaluator.goals, history)
        write_json(directory / RESULT, study.to_json())
        if not study.front():
            raise study.infeasible()
        _write_chosen(study, evaluator)
    for name in reports:
        reports[name](study)
    return study


def run_study(
    study: str | Path, path: str | Path, resume: bool, workers: int, console: Console
) -> Study:
    """What `hwopt search` does: search, then print the Pareto table on stdout."""
    from hwopt.dse.text import front_text

    helpers = min(4, os.cpu_count() or 1)
    done = search(
        study, path=path, resume=resume, workers=workers, processes=helpers, console=console
    )
    print(front_text(done))  # noqa: T201 - the result of the command
    console.print(f"wrote {', '.join(sorted(reports))}, {RESULT} and {CHOSEN} to {path}")
    return done


def _study_file(
    space: DesignSpace | StudyFile | str | Path, objectives: Sequence[str] | None,
    budget: int | None, seed: int | None, options: dict[str, Any],
) -> StudyFile:  # fmt: skip
    if isinstance(space, str | Path):
        space = load_study(space)
    content = space.model_dump(mode="json", exclude_unset=True)
    if objectives is not None:
        content["objectives"] = list(objectives)
    chosen = dict(content.get("search", {}))
    chosen |= {k: options.pop(k) for k in list(options) if k in SearchOptions.model_fields}
    chosen |= {k: v for k, v in {"budget": budget, "seed": seed}.items() if v is not None}
    return parse_study({**content, **options, "search": chosen}, content.get("name", "study"))


def identity(file: StudyFile) -> str:
    """SHA-256 of everything a study asks for, the content of files that it names included: equal
    studies have equal results.
    """
    parts = [json.dumps(file.model_dump(mode="json"))]  # in order: codes follow the order of knobs
    named = [file.hardware.accelerator, *(model.model for model in file.models)]
    named += [str((model.quality or {}).get("file", "")) for model in file.models]
    files = [Path(name) for name in named if name and Path(name).is_file()]
    parts += [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def run(
    evaluator: Evaluator,
    options: SearchOptions,
    path: Path,
    file: StudyFile,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> History:
    """The search loop: ask, price, tell, journal, checkpoint. Returns everything priced."""
    from filelock import FileLock, Timeout

    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StudyError("another search is running in this directory", where=str(path)) from error
    try:
        return _locked_run(evaluator, options, path, file, resume, console)
    finally:
        lock.release()


def _locked_run(
    evaluator: Evaluator, options: SearchOptions, path: Path, file: StudyFile, resume: bool,
    console: Console | None,
) -> History:  # fmt: skip
    from hwopt.dse.progress import progress

    key = identity(file)
    columns = (*(goal.name for goal in evaluator.goals), "feasible", *evaluator.details)
    optimizer = make_optimizer(
        options.optimizer, evaluator.counts, options.population, options.seed
    )
    journal = Journal(path, key, columns)
    checkpoint = read_checkpoint(path) if resume else None
    if resume and checkpoint is None and not (path / JOURNAL).exists():
        raise StudyError("there is nothing to resume", where=str(path), fix="leave out --resume")
    generation = priced = 0
    if checkpoint is not None:
        generation, state = checkpoint
        history = journal.resume(generation)
        optimizer.remember(history.codes)
        optimizer.restore(state)
        priced = len(history.codes)
    else:
        _make_room(path, resume)
        write_yaml(path / STUDY, file.model_dump(mode="json", exclude_unset=True))
        journal.start()
    try:
        with (
            interrupts.deferred(),
            progress(console, min(options.budget, optimizer.size), priced) as show,
        ):
            while priced < options.budget:
                interrupts.check()
                codes = optimizer.ask(options.budget - priced)
                if not len(codes):
                    break
                result = evaluator.evaluate(codes)
                optimizer.tell(codes, *for_optimizer(result, evaluator.goals))
                numbers = np.column_stack([result.objectives, result.feasible, result.details])
                journal.append(generation, codes, numbers)
                generation, priced = generation + 1, priced + len(codes)
                save_checkpoint(path, key, generation, optimizer.state())
                show(priced, result)
    except KeyboardInterrupt:
        if console is not None:
            console.print(f"saved {priced} designs; continue with --resume -o {path}")
        raise
    finally:
        journal.close()
    return read_history(path)


def _make_room(path: Path, resume: bool) -> None:
    """A new run replaces a finished one; an unfinished one's files are moved aside, not lost."""
    if resume or not (path / JOURNAL).exists():
        return
    finished = (path / RESULT).exists()
    old = path / PREVIOUS
    for name in (STUDY, JOURNAL, CHECKPOINT):
        source = path / name
        if source.exists() and finished:
            source.unlink()
        elif source.exists():
            old.mkdir(exist_ok=True)
            source.replace(old / name)
    (path / RESULT).unlink(missing_ok=True)


def _write_chosen(study: Study, evaluator: Evaluator) -> None:
    """The chosen accelerator as YAML, and what each model costs on it."""
    from hwopt.files import dump_yaml, write_text
    from hwopt.hardware.library import dump

    machine = study.accelerator("chosen")
    write_text(study.path / CHOSEN, dump_yaml(dump(machine)))
    write_json(study.path / COSTS, evaluator.costs(study.chosen.knobs, machine))
