"""Runs a plan: its stages one after another, in a run folder.

    runs/x/plan.yaml        the plan, complete: what was left open has been chosen
    runs/x/estimate.json    what each phase was predicted to take
    runs/x/data.json        what was read, dropped and cut, by stage
    runs/x/metrics.jsonl, samples.jsonl, tensorboard/, status/
    runs/x/stages/TITLE/    checkpoints, and what the stage trained as Hugging Face folders

A run that ended for whatever reason goes on with `fit(resume=True)`: finished stages are left
alone, the one that was under way continues from its last checkpoint.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hwopt import read_json, write_json, write_text
from rlhf import processes
from rlhf.casting import stage_folder
from rlhf.checkpoint import differences
from rlhf.console import Console
from rlhf.errors import CheckpointError, RunError
from rlhf.forecast import forecast
from rlhf.interrupts import Interrupts
from rlhf.metrics import MetricsWriter, Throughput
from rlhf.plan import Plan
from rlhf.runs import PLAN, STAGES, TOKENIZER
from rlhf.stage import StageRun, Watching, is_finished
from rlhf.status import Status
from rlhf.tokenizer import load_tokenizer


class Trainer:
    """A plan and the folder of its run. All processes of the run make one and call `fit`."""

    def __init__(self, plan: Plan, path: str | Path) -> None:
        self.plan = plan
        self.path = Path(path)

    def fit(self, *, resume: bool = False) -> None:
        """Train what has not been trained.

        Raises `RunError` for a folder that holds a run already (without `resume`), and the errors
        of whatever part fails; `KeyboardInterrupt` after Ctrl-C, when a checkpoint has been saved.
        """
        processes.start(threads=self.plan.cluster.threads)
        first = processes.rank() == 0
        self._check_folder(resume)
        console = Console(active=first)
        with _notices(console), Interrupts() as interrupts:
            tokenizer = self._tokenizer()
            known = forecast(self.plan, len(tokenizer))
            if first:
                write_text(self.path / PLAN, known.plan.text())
                write_json(self.path / "estimate.json", known.to_json())
            watching = Watching(
                MetricsWriter(self.path, self.plan.watch, active=first), console,
                Status(self.path, processes.rank()),
                Throughput(processes.world(), known.peak_flops_per_s), interrupts,
            )  # fmt: skip
            with watching.metrics, console:
                for stage in known.plan.stages:
                    if interrupts.anywhere():  # between stages everything is on the disk
                        raise KeyboardInterrupt
                    if is_finished(stage_folder(self.path, stage)):
                        continue
                    run = StageRun(known, self.path, stage, tokenizer, watching)
                    self._report_data(run)
                    run.fit(resume=resume)
                    run.close()

    def _check_folder(self, resume: bool) -> None:
        """A run is never overwritten; one that goes on goes on with the same plan."""
        begun = (self.path / STAGES).is_dir()
        if begun and not resume:
            raise RunError(
                "this folder holds a run already", where=str(self.path),
                fix="go on with --resume, or choose another folder with -o",
            )  # fmt: skip
        if begun and (changed := differences(Plan.load(self.path / PLAN), self.plan)):
            raise CheckpointError(
                "the plan differs from the one that this run began with",
                where=str(self.path / PLAN), value=", ".join(changed),
                fix="resume with the same plan, or start another run",
            )  # fmt: skip
        processes.barrier()

    def _tokenizer(self) -> Any:
        """Made by the first process, then read by all."""
        folder = self.path / TOKENIZER
        if processes.rank() == 0:
            load_tokenizer(self.plan, folder)
        processes.barrier()
        return load_tokenizer(self.plan, folder)

    def _report_data(self, run: StageRun) -> None:
        if processes.rank() == 0:
            path = self.path / "data.json"
            known = read_json(path) if path.is_file() else {}
            write_json(path, {**known, run.stage.title: run.train.report.to_json()})


class _notices:  # noqa: N801 - used like a function
    """Warnings of our own parts (a fallback, another stage than asked) reach the person."""

    def __init__(self, console: Console) -> None:
        self._handler = _Handler(console)

    def __enter__(self) -> None:
        logging.getLogger("rlhf").addHandler(self._handler)

    def __exit__(self, *error: object) -> None:
        logging.getLogger("rlhf").removeHandler(self._handler)


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.notice(record.getMessage())
