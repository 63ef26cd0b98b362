"""What a plan will take: every phase that the trainer will execute, priced from traced graphs.

    estimate = profile(plan)      per phase: FLOPs, bytes, seconds, memory of a process
    plan = choose(plan)           every stage with a micro-batch

The phases are those of each stage's algorithm for the plan's sizes, the very tuple that the trainer
executes. What the figures assume is said where they are made: `rlhf.pricing` (time),
`rlhf.footprint` (weights, gradients, optimizer), `rlhf.activations`, `rlhf.device`, `rlhf.traces`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hwopt import show, show_bytes
from rlhf.device import Device, device_of
from rlhf.errors import OutOfMemoryError
from rlhf.plan import Plan, Stage
from rlhf.pricing import PhaseEstimate, StagePricer

GOOD_ENOUGH = 1.05
"""A micro-batch is no larger than what comes within 5 % of the least time."""


@dataclass(frozen=True)
class StageEstimate:
    """One iteration of a stage. `levers`: what would take less memory, the gentlest first."""

    name: str
    micro_batch: int
    phases: tuple[PhaseEstimate, ...]
    levers: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of an iteration."""
        return sum(phase.work.seconds for phase in self.phases)

    @property
    def largest(self) -> PhaseEstimate:
        """The phase that needs most memory."""
        return max(self.phases, key=lambda phase: phase.memory.total)


@dataclass(frozen=True)
class Estimate:
    """What a plan will take. `capacity_bytes`: what a process may use (infinite: unknown).
    `peak_flops_per_s`: of one process in the actor's element type.
    """

    plan: str
    device: str
    processes: int
    capacity_bytes: float
    peak_flops_per_s: float
    stages: tuple[StageEstimate, ...]

    def stage(self, title: str) -> StageEstimate:
        """A stage by its title."""
        return next(stage for stage in self.stages if stage.name == title)

    def phase(self, stage: str, name: str) -> PhaseEstimate:
        """A phase by the title of its stage and its name."""
        return next(phase for phase in self.stage(stage).phases if phase.name == name)

    @property
    def levers(self) -> dict[str, tuple[str, ...]]:
        """By stage, what would take less memory."""
        return {stage.name: stage.levers for stage in self.stages}

    @property
    def fits(self) -> bool:
        """Whether every phase is predicted to fit."""
        return all(s.largest.memory.total <= self.capacity_bytes for s in self.stages)

    def metrics(self, stage: Stage) -> dict[str, float]:
        """predicted_seconds/PHASE and predicted_memory/PHASE of an iteration of a stage."""
        found: dict[str, float] = {}
        for phase in self.stage(stage.title).phases:
            found[f"predicted_seconds/{phase.name}"] = phase.work.seconds
            found[f"predicted_memory/{phase.name}"] = float(phase.memory.total)
        return found

    def advice(self, stage: Stage, phase: str) -> str:
        """For a phase that ran out of memory: what it was predicted to need, and what to change."""
        known = self.stage(stage.title)
        found = next((p for p in known.phases if p.name == phase), None)
        need = "" if found is None else f"{phase} was predicted to need {_parts(found)}; "
        smaller = [f"micro_batch below {known.micro_batch}"] if known.micro_batch > 1 else []
        return need + "to need less, in this order: " + ", ".join([*smaller, *known.levers])

    def to_json(self) -> dict[str, Any]:
        """Plain data; an unknown capacity is null."""
        bounded = math.isfinite(self.capacity_bytes)
        return {
            "plan": self.plan,
            "device": self.device,
            "processes": self.processes,
            "capacity_bytes": self.capacity_bytes if bounded else None,
            "peak_flops_per_s": self.peak_flops_per_s,
            "fits": self.fits,
            "stages": [
                {
                    "name": stage.name,
                    "micro_batch": stage.micro_batch,
                    "seconds": stage.seconds,
                    "peak_bytes": stage.largest.memory.total,
                    "peak_phase": stage.largest.name,
                    "levers": list(stage.levers),
                    "phases": [
                        {
                            "name": phase.name,
                            **asdict(phase.work),
                            "passes": phase.passes,
                            "memory": {**asdict(phase.memory), "total": phase.memory.total},
                        }
                        for phase in stage.phases
                    ],
                }
                for stage in self.stages
            ],
        }

    def table(self) -> str:
        """For people: one line per phase, memory of a process."""
        bounded = math.isfinite(self.capacity_bytes)
        room = show_bytes(self.capacity_bytes) if bounded else "unknown"
        count = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        peak = show(self.peak_flops_per_s, "FLOP/s")
        lines = [f"{self.plan} on {self.device}: {count}, each with {room} of memory and {peak}"]
        for stage in self.stages:
            lines += ["", f"{stage.name}: micro-batch {stage.micro_batch}"]
            lines += _aligned([_HEADINGS, *(_row(phase) for phase in stage.phases)])
            largest = stage.largest
            over = largest.memory.total > self.capacity_bytes
            lines.append(
                f"  {show(stage.seconds, 's')} an iteration, at most "
                f"{show_bytes(largest.memory.total)} ({largest.name})"
                + (f": does not fit; {', '.join(stage.levers)}" if over else "")
            )
        return "\n".join(lines)


def profile(plan: Plan, *, tokenizer_size: int | None = None) -> Estimate:
    """Price every phase of every stage of a plan.

    A stage without a micro-batch gets the one that `choose` takes, or 1 if none fits.
    `tokenizer_size`: words of the tokenizer, for models without weights (None: what their
    configuration says, or the vocabulary that the plan trains).

    Raises `PlanError`, `ModelError`, and the errors of `hwopt.trace` and of loading the device.
    """
    device = device_of(plan)
    stages = []
    for stage in plan.stages:
        pricer = StagePricer(plan, stage, device, tokenizer_size)
        size = stage.micro_batch or _best(pricer, plan) or 1
        stages.append(
            StageEstimate(stage.title, size, pricer.price(size), levers(plan, stage, pricer))
        )
    return Estimate(
        plan.name, device.name, device.processes, device.capacity_bytes,
        device.peak_flops_per_s(plan.engine_of("actor").dtype), tuple(stages),
    )  # fmt: skip


def choose(plan: Plan, *, tokenizer_size: int | None = None) -> Plan:
    """The plan with a micro-batch in every stage; those it has are kept.

    Chosen is the smallest divisor of a process's share of the batch whose predicted time is within
    5 % of the best, among those that fit. Raises `OutOfMemoryError` when not even one group fits,
    and the errors of `profile`.
    """
    if all(stage.micro_batch is not None for stage in plan.stages):
        return plan
    device = device_of(plan)
    stages = []
    for stage in plan.stages:
        if stage.micro_batch is None:
            pricer = StagePricer(plan, stage, device, tokenizer_size)
            size = _best(pricer, plan)
            if size is None:
                raise _does_not_fit(plan, pricer, tokenizer_size)
            stage = stage.model_copy(update={"micro_batch": size})
        stages.append(stage)
    return plan.model_copy(update={"stages": tuple(stages)})


def candidates(stage: Stage, processes: int) -> list[int]:
    """Micro-batches that divide a process's share of the batch, and the batch."""
    local = max(1, stage.batch // processes)
    return [d for d in range(1, local + 1) if local % d == 0 and stage.batch % d == 0]


def _best(pricer: StagePricer, plan: Plan) -> int | None:
    """The micro-batch of a stage; None if none fits.

    More rows never take less memory, nor more time per row, so both ends are found by bisection.
    """
    del plan
    sizes = candidates(pricer.stage, pricer.device.processes)
    known: dict[int, tuple[PhaseEstimate, ...]] = {}

    def priced(size: int) -> tuple[PhaseEstimate, ...]:
        if size not in known:
            known[size] = pricer.price(size)
        return known[size]

    fitting = bisect_left(sizes, True, key=lambda size: not fits(priced(size), pricer.device))
    if fitting == 0:
        return None
    enough = GOOD_ENOUGH * _seconds(priced(sizes[fitting - 1]))
    sizes = sizes[:fitting]
    at = bisect_left(sizes, True, key=lambda size: _seconds(priced(size)) <= enough)
    return sizes[min(at, fitting - 1)]


def fits(phases: Sequence[PhaseEstimate], device: Device) -> bool:
    """Whether every phase is within the device's memory, and what is offloaded in the host's."""
    return all(
        phase.memory.total <= device.capacity_bytes and phase.memory.host <= device.host_bytes
        for phase in phases
    )


def _seconds(phases: Sequence[PhaseEstimate]) -> float:
    return sum(phase.work.seconds for phase in phases)


# ---- when it does not fit -------------------------------------------------------------------

Change = tuple[str, Callable[[Plan], Plan]]


def levers(plan: Plan, stage: Stage, pricer: StagePricer) -> tuple[str, ...]:
    """What would make a stage need less memory and is not done yet, the gentlest first."""
    names = [text for text, _ in _changes(plan, stage, pricer)]
    trained = [f"roles.{role}.lora" for role in _bare(plan, stage)]
    return (*names, *trained, "fewer tokens (data.prompt_tokens, answer or response_tokens)")


def what_would_fit(
    plan: Plan, stage: Stage, *, tokenizer_size: int | None = None
) -> tuple[str, ...]:  # fmt: skip
    """The levers of a stage that help, each with what the stage would need, with micro-batches of
    one group, after it and those before it; then those that are not priced.
    """

    def need(of: Plan) -> int:
        priced = StagePricer(of, stage, pricer.device, tokenizer_size).price(1)
        return max(phase.memory.total for phase in priced)

    pricer = StagePricer(plan, stage, device_of(plan), tokenizer_size)
    found, least = [], need(plan)
    for text, change in _changes(plan, stage, pricer):
        if (after := need(change(plan))) < least:
            plan, least = change(plan), after
            found.append(f"{text}: {show_bytes(after)}")
    rest = levers(plan, stage, pricer)
    return (*found, *rest[-1 - len(_bare(plan, stage)) :])


def _changes(plan: Plan, stage: Stage, pricer: StagePricer) -> list[Change]:
    """Changes of a plan that can be priced, in order."""
    device, found = pricer.device, list[Change]()
    engines = [plan.engine_of(role) for role in stage.algorithm.trains]
    if not device.is_host and not all(engine.offload.optimizer for engine in engines):
        found.append(("engine.offload.optimizer", lambda p: _engines(p, offload=("optimizer",))))
    lowest = min(engine.zero for engine in engines)
    if device.processes > 1 and lowest < 3:
        found.append(("engine.zero: 3", lambda p: _engines(p, zero=3)))
    if not device.is_host and not all(engine.offload.parameters for engine in engines):
        away = ("engine.offload.parameters, with engine.zero: 3",
                lambda p: _engines(p, zero=3, offload=("parameters",)))  # fmt: skip
        found.append(away)
    plain = [r for r in stage.algorithm.trains if not plan.roles.of(r).gradient_checkpointing]
    if plain:
        found.append(("gradient_checkpointing", lambda p: _checkpointed(p, plain)))
    return found


def _bare(plan: Plan, stage: Stage) -> list[str]:
    """Trained roles without adapters."""
    return [role for role in stage.algorithm.trains if plan.roles.of(role).lora is None]


def _engines(plan: Plan, *, zero: int | None = None, offload: tuple[str, ...] = ()) -> Plan:
    """The plan with every engine changed."""

    def change(engine: Any) -> Any:
        if engine is None:
            return None
        away = engine.offload.model_copy(update=dict.fromkeys(offload, True))
        stage = engine.zero if zero is None else zero
        return engine.model_copy(update={"offload": away, "zero": stage})

    names = type(plan.roles).model_fields
    models = {name: getattr(plan.roles, name) for name in names}
    roles = {n: m.model_copy(update={"engine": change(m.engine)}) for n, m in models.items()}
    return plan.model_copy(
        update={"engine": change(plan.engine), "roles": plan.roles.model_copy(update=roles)}
    )


def _checkpointed(plan: Plan, roles: Sequence[str]) -> Plan:
    """The plan with gradient checkpointing of some roles."""
    on = {"gradient_checkpointing": True}
    changed = {role: getattr(plan.roles, role).model_copy(update=on) for role in roles}
    return plan.model_copy(update={"roles": plan.roles.model_copy(update=changed)})


def _does_not_fit(
    plan: Plan, pricer: StagePricer, tokenizer_size: int | None
) -> OutOfMemoryError:  # fmt: skip
    phases = pricer.price(1)
    worst = max(phases, key=lambda phase: phase.memory.total)
    offers = what_would_fit(plan, pricer.stage, tokenizer_size=tokenizer_size)
    return OutOfMemoryError(
        "not even a micro-batch of one group fits", where=f"stage {worst.stage}, {worst.name}",
        value=_parts(worst),
        allowed=f"{show_bytes(pricer.device.capacity_bytes)} per process on {pricer.device.name}",
        fix="in this order: " + "; ".join(offers),
    )  # fmt: skip


def _parts(phase: PhaseEstimate) -> str:
    """A phase's memory and what it is made of."""
    parts = ", ".join(
        f"{name} {show_bytes(size)}"
        for name, size in asdict(phase.memory).items()
        if size and name != "host"
    )
    return f"{show_bytes(phase.memory.total)} ({parts})"


# ---- text -----------------------------------------------------------------------------------

_HEADINGS = (
    "phase", "seconds", "FLOPs", "moved", "weights", "gradients", "optimizer", "activations",
    "cache", "other", "total",
)  # fmt: skip


def _row(phase: PhaseEstimate) -> tuple[str, ...]:
    memory = phase.memory
    other = memory.buffers + memory.others + memory.runtime
    sizes = (
        memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.cache,
        other, memory.total,
    )  # fmt: skip
    return (
        phase.name, show(phase.work.seconds, "s"), show(phase.work.flops, ""),
        show_bytes(phase.work.moved_bytes), *(show_bytes(s) if s else "" for s in sizes),
    )  # fmt: skip


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]  # fmt: skip
