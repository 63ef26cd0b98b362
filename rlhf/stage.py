"""One stage of a run: its roles, its rows, its loop, its checkpoints, and what it exports.

An iteration depends on the seed, its number and the state before it, on nothing else: batches,
samples and dropout are drawn anew from (seed, iteration). So a run that was killed goes on from its
last checkpoint to exactly the curve of a run that was not.
"""

from __future__ import annotations

import gc
import math
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hwopt import write_json
from rlhf import processes
from rlhf.algorithm import Algorithm, State
from rlhf.averaging import AveragedWeights
from rlhf.casting import cast_roles, role_source, save_scale, stage_folder
from rlhf.checkpoint import Checkpoints, plan_digest
from rlhf.console import Console
from rlhf.data import TokenizedSet, batch_at, batches_per_epoch, load_data, share
from rlhf.executor import Executor, Iteration
from rlhf.faults import phase_guard
from rlhf.forecast import Forecast
from rlhf.heldout import evaluate, losses, samples
from rlhf.interrupts import Interrupts
from rlhf.meter import Meter
from rlhf.metrics import MetricsWriter, Throughput
from rlhf.phases import Average, Generate, Phase, Role, Train
from rlhf.plan import Stage
from rlhf.returns import Moments, ScoreScale, score_scale
from rlhf.rewards import load_function
from rlhf.rollout import choose_rollout
from rlhf.runs import load_scale
from rlhf.status import Status

FINISHED = "finished.json"
SCALED_GROUPS = 512
"""Pairs whose scores set the scale of a reward model."""


@dataclass
class Watching:
    """Where a run says what it does."""

    metrics: MetricsWriter
    console: Console
    status: Status
    throughput: Throughput
    interrupts: Interrupts


class StageRun:
    """A stage that is being trained."""

    def __init__(
        self, known: Forecast, run: Path, stage: Stage, tokenizer: Any, watching: Watching
    ) -> None:
        self.known, self.plan = known, known.plan
        self.run, self.stage = run, stage
        self.tokenizer, self.watching = tokenizer, watching
        self.seed = (self.plan.seed * 1_000_003 + zlib.crc32(stage.title.encode())) % 2**31
        self.folder = stage_folder(run, stage)
        self.sizes = self.plan.sizes(stage)
        self.phases: tuple[Phase, ...] = stage.algorithm.phases(self.sizes)
        self.train, self.held_out = load_data(self.plan, stage, tokenizer)
        self.iterations = self._iterations()
        self.mixture = self._mixture()
        self.meter = Meter(processes.device())
        self.executor = self._executor()
        self.checkpoints = Checkpoints(self.folder / "checkpoints", self.plan.checkpoint.keep)

    @property
    def algorithm(self) -> Algorithm:
        """The stage's."""
        found: Algorithm = self.stage.algorithm
        return found

    # ---- what a stage is made of --------------------------------------------------------------

    @property
    def groups(self) -> int:
        """Groups of one iteration over all processes."""
        rows = next(p.rows for p in self.phases if isinstance(p, Generate | Train))
        return rows // self.algorithm.group

    def _iterations(self) -> int:
        if self.stage.steps is not None:
            return self.stage.steps
        per_epoch = batches_per_epoch(len(self.train), self.groups)
        return max(1, math.floor((self.stage.epochs or 1.0) * per_epoch))

    def _mixture(self) -> TokenizedSet | None:
        """Supervised rows, where a phase trains on some beside its own."""
        if not any(isinstance(p, Train) and p.mixture_rows for p in self.phases):
            return None
        return load_data(self.plan, self.stage, self.tokenizer, kind="answers")[0]

    def _executor(self) -> Executor:
        plan, stage = self.plan, self.stage
        steps: dict[Role, int] = {
            p.role: p.steps * self.iterations for p in self.phases if isinstance(p, Train)
        }
        with self._guard("start"):
            engines = cast_roles(plan, self.run, stage, self.tokenizer, steps)
            rollout = None
            if "actor" in engines:
                rollout = choose_rollout(
                    engines["actor"], plan, self.tokenizer, sampling=stage.sampling
                )
                if rollout.reason:
                    self.watching.console.notice(rollout.reason)
            averaged = any(isinstance(p, Average) for p in self.phases)
            function = plan.roles.reward.function
            scale = ScoreScale()
            if "reward" in engines and "reward" not in self.algorithm.trains:
                scale = load_scale(role_source(plan, self.run, stage, "reward"))
            return Executor(
                stage, engines, self._guard, self.meter, rollout,
                load_function(function) if function is not None and rollout is not None else None,
                self.tokenizer,
                scale,
                AveragedWeights(engines["actor"]) if averaged else None,
            )  # fmt: skip

    @contextmanager
    def _guard(self, phase: str) -> Iterator[None]:
        """Where the process is, and what to say when memory, disk or numbers run out there."""
        with phase_guard(
            phase, self.watching.status, stage=self.stage.title,
            need=lambda: self.known.advice(self.stage, phase), kept=self._kept,
        ):  # fmt: skip
            yield

    def _kept(self) -> Path | None:
        """The checkpoint that training can go back to."""
        steps = self.checkpoints.steps()
        return self.checkpoints.path(steps[-1]) if steps else None

    # ---- the loop -----------------------------------------------------------------------------

    def fit(self, *, resume: bool) -> None:
        """From the last checkpoint, or the start, to the exported models."""
        start, state = self._resumed() if resume else (0, self.algorithm.start())
        console = self.watching.console
        console.stage_started(self.stage.title, self.iterations, start)
        last: dict[str, float] = {}
        with ExitStack() as stack:
            stack.callback(console.close)
            if start == 0:
                self._look(0)
            for number in range(start, self.iterations):
                state, last = self._iterate(number, state)
                done = number + 1
                if self._is_time(self.stage.evaluate_every, done) or done == self.iterations:
                    self._look(done)
                stop, over = self.watching.interrupts.anywhere(), done == self.iterations
                if stop or over or self._is_time(self.plan.checkpoint.every, done):
                    self._save(done, state)
                if stop and not over:
                    raise KeyboardInterrupt
            self._export()
        console.stage_finished(last)

    def _is_time(self, every: int, step: int) -> bool:
        return every > 0 and step % every == 0

    def _iterate(self, number: int, state: State) -> tuple[State, dict[str, float]]:
        """One iteration, its metrics written."""
        torch.manual_seed(self.seed + 1_000 * number + processes.rank())
        began = time.perf_counter()
        self.meter.reset()
        self.watching.status.enter("data", stage=self.stage.title, step=number)
        iteration = self._rows(number)
        state = self.executor.run(self.phases, iteration, state)
        seconds = time.perf_counter() - began
        metrics = {**iteration.metrics, **self._cost(seconds)}
        self.watching.metrics.write(self.stage.title, number + 1, metrics)
        self.watching.console.step(number + 1, metrics)
        return state, metrics

    def _rows(self, number: int) -> Iteration:
        """This process's rows of an iteration."""
        mine = self._mine(self.train, self.groups, number)
        iteration = Iteration(number, self.seed)
        if self.algorithm.data == "prompts":
            iteration.prompts = self.train.prompts(mine)
        else:
            iteration.experience = self.train.experience(mine).to(processes.device())
        if self.mixture is not None:
            iteration.mixture = lambda step: self._mixture_rows(number, step)
        return iteration

    def _mixture_rows(self, number: int, step: int) -> Any:
        assert self.mixture is not None
        steps = next(p.steps for p in self.phases if isinstance(p, Train) and p.mixture_rows)
        rows = next(p.mixture_rows for p in self.phases if isinstance(p, Train) and p.mixture_rows)
        mine = self._mine(self.mixture, rows, number * steps + step)
        return self.mixture.experience(mine).to(processes.device())

    def _mine(self, rows: TokenizedSet, groups: int, index: int) -> list[int]:
        batch = batch_at(len(rows), groups, index, seed=self.seed)
        return share(batch, processes.rank(), processes.world())

    def _cost(self, seconds: float) -> dict[str, float]:
        """What the iteration took, over all processes, beside what was predicted."""
        meter = self.meter
        own = torch.tensor(
            [
                meter.computed_tokens,
                meter.needed_tokens,
                self.known.flops(self.stage, meter.passes),
            ],
            dtype=torch.float64,
        )
        computed, needed, flops = processes.sum(own).tolist()
        found = self.watching.throughput.metrics(needed, seconds, flops)
        if needed:
            found["tokens_computed_over_needed"] = computed / needed
        found["seconds"] = seconds
        return found | meter.metrics() | self.known.metrics(self.stage)

    def _look(self, step: int) -> None:
        """Evaluate on held-out rows and show samples."""
        with self._guard("evaluate"):
            metrics = evaluate(self.executor, self.plan, self.held_out)
            rows = samples(self.executor, self.plan, self.held_out)
        if metrics:
            self.watching.metrics.write(self.stage.title, step, metrics)
            self.watching.console.evaluation(step, metrics)
        if rows:
            self.watching.metrics.sample(self.stage.title, step, rows)
            self.watching.console.samples(rows)

    def close(self) -> None:
        """Give the models' memory back before the next stage builds its own."""
        for engine in self.executor.engines.values():
            engine.close()
        del self.executor
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # ---- checkpoints and exports --------------------------------------------------------------

    def _save(self, step: int, state: State) -> None:
        average = self.executor.average
        with self._guard("checkpoint"):
            self.checkpoints.save(
                step, self._trained(), {"step": step, "algorithm": state},
                average.tensors() if average is not None else {}, plan_digest(self.plan),
            )  # fmt: skip

    def _resumed(self) -> tuple[int, State]:
        """The step and state of the last checkpoint; the start where there is none."""
        with self._guard("resume"):
            found = self.checkpoints.latest()
            if found is None:
                self.watching.metrics.rewind(self.stage.title, -1)
                return 0, self.algorithm.start()
            state, tensors = self.checkpoints.load(found, self._trained(), plan_digest(self.plan))
            if self.executor.average is not None:
                self.executor.average.load(tensors)
            step = int(state["step"])
            self.watching.metrics.rewind(self.stage.title, step)
            return step, state["algorithm"]

    def _trained(self) -> dict[Role, Any]:
        return {role: self.executor.engines[role] for role in self.algorithm.trains}

    def _export(self) -> None:
        """Plain Hugging Face folders of what was trained, then the mark of a finished stage."""
        with self._guard("export"):
            for role, engine in self._trained().items():
                engine.export(self.folder / role, self.tokenizer)
                if getattr(self.algorithm, "normalise", False):
                    save_scale(self.folder / role, self._scale())
            average = self.executor.average
            if average is not None:
                average.export(self.folder / "ema", self.tokenizer)
            finish(self.folder, self.iterations)

    def _scale(self) -> ScoreScale:
        """Gives the scores of the answers that it was trained on mean 0 and deviation 1."""
        count = min(SCALED_GROUPS, len(self.train))
        count -= count % processes.world()
        mine = list(range(count))[processes.rank() :: processes.world()]
        found = losses(self.executor, self.train.experience(mine).to(processes.device()))
        mean, std = found["score/mean"], found["score/std"]
        return score_scale(Moments(2 * count, mean, 2 * count * std**2))


def is_finished(folder: Path) -> bool:
    """Whether a stage is done and exported."""
    return (folder / FINISHED).is_file()


def finish(folder: Path, steps: int) -> None:
    """Mark a stage as done, when every process is."""
    processes.barrier()
    if processes.rank() == 0:
        write_json(folder / FINISHED, {"steps": steps})
    processes.barrier()
