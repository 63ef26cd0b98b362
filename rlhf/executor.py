"""Carries out the phases of an iteration, exactly the tuple that the algorithm declares.

Rows of an iteration are shared over the processes, row i to process i modulo their number, and each
process passes its rows through a model in micro-batches of like length. Neighbouring `Train` phases
over the same rows advance together, one optimizer step of each at a time, so that an overflow of
one (fp16) can hold back the other. No pass is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from rlhf import processes
from rlhf.algorithm import Algorithm, Loss, Outputs, State
from rlhf.averaging import AveragedWeights
from rlhf.batching import micro_batches
from rlhf.data import Prompt
from rlhf.engine import RoleEngine, StepResult
from rlhf.experience import Experience
from rlhf.faults import require_finite
from rlhf.meter import Meter
from rlhf.metrics import Aggregate
from rlhf.phases import Average, Forward, Generate, Phase, Prepare, Reward, Role, Train
from rlhf.plan import Stage
from rlhf.returns import ScoreScale, score_from_heads, values_from_heads, within
from rlhf.rewards import RewardFunction
from rlhf.rollout import Rollout, uniforms


class Guard(Protocol):
    """Surrounds a phase: says where the process is, and turns what fails there into our errors."""

    def __call__(self, phase: str) -> AbstractContextManager[None]:
        """A context in which the phase runs."""


@dataclass
class Iteration:
    """What this process knows while one iteration runs: its rows (see the file's docstring).

    mixture: supervised rows for the n-th optimizer step of the iteration.
    """

    number: int
    seed: int
    prompts: Sequence[Prompt] = ()
    experience: Experience | None = None
    mixture: Callable[[int], Experience] | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> Experience:
        """The experience, which an earlier phase or the data has given."""
        if self.experience is None:
            raise RuntimeError("no phase has made the experience")  # our bug
        return self.experience


@dataclass
class Executor:
    """Everything that phases act on. `micro_groups`: groups per pass on this process."""

    stage: Stage
    engines: Mapping[Role, RoleEngine]
    guard: Guard
    meter: Meter
    rollout: Rollout | None = None
    reward_function: RewardFunction | None = None
    tokenizer: Any = None
    scale: ScoreScale = field(default_factory=ScoreScale)
    average: AveragedWeights | None = None

    @property
    def algorithm(self) -> Algorithm:
        """The stage's."""
        found: Algorithm = self.stage.algorithm
        return found

    @property
    def micro_groups(self) -> int:
        """Groups in one pass."""
        return self.stage.micro_batch or 1

    def run(self, phases: Sequence[Phase], iteration: Iteration, state: State) -> State:
        """All phases in their order; returns the algorithm's next state."""
        at = 0
        while at < len(phases):
            phase = phases[at]
            together = _together(phases, at) if isinstance(phase, Train) else [phase]
            at += len(together)
            if isinstance(phase, Train):
                self.train([p for p in together if isinstance(p, Train)], iteration)
                continue
            with self.guard(phase.name), self.meter.phase(phase.name):
                state = self._carry_out(phase, iteration, state)
        return state

    def _carry_out(self, phase: Phase, iteration: Iteration, state: State) -> State:
        match phase:
            case Generate():
                self.generate(phase, iteration)
            case Forward():
                iteration.experience = self.forward(phase, iteration.rows)
            case Reward():
                iteration.experience = self.reward(iteration)
            case Prepare():
                rows, state, metrics = self.algorithm.prepare(iteration.rows, state, processes.sum)
                iteration.experience = rows
                iteration.metrics.update({name: float(v) for name, v in metrics.items()})
            case Average():
                assert self.average is not None
                self.average.update(self.engines[phase.role], phase.decay)
            case Train():
                raise AssertionError("trained in `run`")
        return state

    # ---- rollouts and scores ------------------------------------------------------------------

    def generate(self, phase: Generate, iteration: Iteration) -> None:
        """A response to each of this process's prompts."""
        assert self.rollout is not None
        sampling = replace(self.stage.sampling, response_tokens=phase.response_tokens)
        numbers = uniforms(
            iteration.seed, iteration.number, slice(processes.rank(), None, processes.world()),
            len(iteration.prompts) * processes.world(), sampling.response_tokens,
        )  # fmt: skip
        prompts = [prompt.tokens for prompt in iteration.prompts]
        made = self.rollout.generate(prompts, sampling, numbers, self.micro_groups)
        self.meter.generated(phase.role, made)
        iteration.experience = made.experience().to(processes.device())

    def forward(self, phase: Forward, rows: Experience) -> Experience:
        """One pass over every row without gradients; its result fills a field."""
        found: Tensor | None = None
        for groups in micro_batches(rows, self.micro_groups):
            part = rows.select(groups).trimmed()
            outputs = self.infer(phase.role, part)
            value = _read(phase, outputs, part, self.scale)
            if found is None:
                shape = (rows.rows,) if value.dim() == 1 else tuple(rows.tokens.shape)
                found = torch.zeros(shape, dtype=torch.float32, device=value.device)
            index = _rows_of(groups, rows.group)
            if value.dim() == 1:
                found[index] = value.float()
            else:
                found[index, : value.shape[1]] = value.float()
        return rows.with_(**{phase.writes: found})

    def reward(self, iteration: Iteration) -> Experience:
        """Scores by the plan's function, added to those of a model."""
        assert self.reward_function is not None
        rows = iteration.rows
        score = self.reward_function.scores(iteration.prompts, self.responses(rows))
        score = score.to(rows.tokens.device)
        return rows.with_(score=score if rows.score is None else rows.score + score)

    def responses(self, rows: Experience) -> list[str]:
        """The text of each response, without special tokens."""
        tokens = [row[on].tolist() for row, on in zip(rows.tokens, rows.trained, strict=True)]
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def infer(self, role: Role, part: Experience) -> Outputs:
        """One micro-batch through a role's model, without gradients."""
        options = self._options(role, part)
        self.meter.took(role, "forward", part, options.get("first"))
        return self.engines[role].infer(part.tokens, part.attended, **options)

    def _options(self, role: Role, part: Experience, *, entropy: bool = False) -> dict[str, Any]:
        """What a policy's pass is told: which columns are wanted, how it was sampled from."""
        if role in ("critic", "reward"):
            return {}
        generated = self.algorithm.data == "prompts"
        columns = self.algorithm.learned(part).any(0).nonzero()
        return {
            "temperature": self.stage.sampling.temperature if generated else 1.0,
            "first": max(1, int(columns[0])) if len(columns) else 1,
            **({"entropy": True} if entropy else {}),
        }

    # ---- training -----------------------------------------------------------------------------

    def train(self, phases: Sequence[Train], iteration: Iteration) -> None:
        """Optimizer steps of one or more roles over the same rows, step by step together.

        A batch is a block of neighbouring rows of the iteration, whatever the number of processes;
        each epoch takes the blocks in an order of its own.
        """
        rows, first = iteration.rows, phases[0]
        blocks = first.rows // first.batch_rows
        size = rows.groups // blocks
        totals = {phase.role: Aggregate() for phase in phases}
        results: dict[Role, list[StepResult]] = {phase.role: [] for phase in phases}
        for epoch in range(first.epochs):
            order = torch.Generator().manual_seed(iteration.seed + 7919 * iteration.number + epoch)
            for at, block in enumerate(torch.randperm(blocks, generator=order).tolist()):
                part = rows.select(range(block * size, (block + 1) * size))
                for phase in phases:
                    with self.guard(phase.name), self.meter.phase(phase.name):
                        lost = self._accumulate(phase, part, totals[phase.role])
                        if phase.mixture_rows and iteration.mixture is not None:
                            mixed = iteration.mixture(epoch * blocks + at)
                            lost += self._accumulate_mixture(phase, mixed, totals[phase.role])
                        require_finite("loss", float(processes.sum(lost)))
                skip = self._held_back(phases)
                for phase in phases:
                    with self.guard(phase.name), self.meter.phase(phase.name):
                        results[phase.role].append(self.engines[phase.role].step(skip=skip))
        for phase in phases:
            means = totals[phase.role].result(processes.sum, processes.maximum)
            iteration.metrics.update(self.algorithm.summary(means))
            iteration.metrics.update(_steps(phase.role, results[phase.role]))

    def _accumulate(self, phase: Train, part: Experience, total: Aggregate) -> Tensor:
        """Forward and backward of one optimizer step's rows; this process's share of the loss."""
        engine, algorithm = self.engines[phase.role], self.algorithm
        weight = _weight(algorithm.weight(phase.role, part))
        lost = torch.zeros((), dtype=torch.float64, device=part.tokens.device)
        for groups in micro_batches(part, self.micro_groups):
            micro = part.select(groups).trimmed()
            loss = algorithm.loss(
                phase.role, self._pass(engine, micro, entropy=phase.entropy), micro
            )
            lost += _backward(engine, loss, weight, total)
        return lost

    def _accumulate_mixture(self, phase: Train, part: Experience, total: Aggregate) -> Tensor:
        """The same of the supervised rows beside them."""
        engine = self.engines[phase.role]
        weight = _weight(part.trained.sum())
        lost = torch.zeros((), dtype=torch.float64, device=part.tokens.device)
        for groups in micro_batches(part, self.micro_groups):
            micro = part.select(groups).trimmed()
            loss = self.algorithm.mixture(self._pass(engine, micro), micro)
            lost += _backward(engine, loss, weight, total)
        return lost

    def _pass(self, engine: RoleEngine, micro: Experience, *, entropy: bool = False) -> Outputs:
        options = self._options(engine.role, micro, entropy=entropy)
        self.meter.took(engine.role, "train", micro, options.get("first"))
        return engine.forward(micro.tokens, micro.attended, **options)

    def _held_back(self, phases: Sequence[Train]) -> bool:
        """Whether no role may step because one of several overflows (fp16, align_overflow)."""
        engines = [self.engines[phase.role] for phase in phases]
        if len(engines) < 2 or not all(engine.engine.align_overflow for engine in engines):
            return False
        overflowed = [engine.overflows() for engine in engines]  # every one: processes agree inside
        return any(overflowed)


def _weight(count: Tensor) -> Tensor:
    """A count over all processes, to divide by."""
    return processes.sum(count.double()).clamp(min=1)


def _backward(engine: RoleEngine, loss: Loss, weight: Tensor, total: Aggregate) -> Tensor:
    """Backward of a micro-batch's share of the batch's loss, which it returns."""
    share = loss.total / weight.to(loss.total.dtype)
    engine.accumulate(share)
    total.add(loss)
    return share.detach().double()


def _together(phases: Sequence[Phase], at: int) -> list[Phase]:
    """The `Train` phases from `at` on that take the same steps."""

    def steps(phase: Phase) -> tuple[int, int, int] | None:
        return (phase.rows, phase.batch_rows, phase.epochs) if isinstance(phase, Train) else None

    end = at
    while end < len(phases) and steps(phases[end]) == steps(phases[at]):
        end += 1
    return list(phases[at:end])


def _read(phase: Forward, outputs: Outputs, part: Experience, scale: ScoreScale) -> Tensor:
    """The field that a pass fills, from its outputs."""
    if phase.writes in ("log_probs", "reference_log_probs"):
        assert outputs.log_probs is not None
        return within(outputs.log_probs, part.trained)
    assert outputs.heads is not None
    if phase.writes == "values":
        return within(values_from_heads(outputs.heads), part.trained)
    return scale(score_from_heads(outputs.heads, part.trained))


def _rows_of(groups: Sequence[int], group: int) -> list[int]:
    return [index * group + k for index in groups for k in range(group)]


def _steps(role: Role, results: Sequence[StepResult]) -> dict[str, float]:
    """What the optimizer steps of an iteration were like."""
    norms = [result.gradient_norm for result in results if not result.overflowed]
    found = {
        f"{role}/learning_rate": results[-1].learning_rate,
        f"{role}/overflows": float(len(results) - len(norms)),
    }
    return found | ({f"{role}/gradient_norm": sum(norms) / len(norms)} if norms else {})
