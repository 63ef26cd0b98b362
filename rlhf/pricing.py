"""FLOPs, bytes, seconds and memory of one phase of a stage.

Seconds are predicted at peak rates of the device (`rlhf.traces`), so they are the least that a
phase can take, unless a calibration says otherwise. Further assumptions, each for its own part:

* every row is as long as a row can be: `tokens` columns, the longest prompt, the longest response;
* the rows of an iteration are shared equally over processes and pass in full micro-batches;
* generation is a prefill, then a decode step for each further token; steps are priced at three
  lengths of the cache and interpolated between them;
* collectives do not overlap with computation: a gradient all-reduce once per step (ZeRO 0, 1) or a
  reduce-scatter once per micro-batch (2, 3), an all-gather of weights after the step (1, 2) or of
  every pass (3; for generation once);
* the optimizer moves each of its numbers once; offloaded, gradients and weights cross to the host;
* gradient checkpointing repeats the forward pass; FLOPs count it too (utilisation does not);
* a reward function takes no time, since nothing is known of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf.device import HOST_STEP_BYTES_PER_S, Device
from rlhf.footprint import (
    Memory,
    bucket_bytes,
    gathered_bytes,
    running_stage,
    states,
    step_bytes,
)
from rlhf.forms import Facts, Form, facts_of, form_of
from rlhf.phases import Average, Forward, Generate, Phase, Prepare, Reward, Role, Train
from rlhf.plan import Engine, Plan, Stage
from rlhf.traces import CHUNK_ELEMENTS, Passes, Work, cache_bytes, decode_step, passes

LOGIT_COPIES = 6
"""Float32 copies of a decode step's logits while a token is sampled: scaled, sorted, summed."""
PREPARED_NUMBERS = 24
"""Per token, read or written while advantages are worked out."""


@dataclass(frozen=True)
class PhaseEstimate:
    """One phase of one iteration of a stage.

    `work`: FLOPs and bytes over all processes, seconds on the wall. `memory`: of one process while
    the phase runs. `passes`: micro-batches that a process passes through the model.
    """

    stage: str
    name: str
    work: Work
    memory: Memory
    passes: int = 0


@dataclass(frozen=True)
class Cast:
    """A role as it is priced."""

    role: Role
    form: Form
    facts: Facts
    engine: Engine
    trains: bool
    checkpointing: bool
    states: Memory

    @property
    def zero(self) -> int:
        """The ZeRO stage that runs."""
        return running_stage(self.engine)

    @property
    def weight_bytes(self) -> int:
        """Of the whole model."""
        return self.facts.parameters * self.form.bytes_per_element

    @property
    def bucket_bytes(self) -> int:
        """What one collective carries at most."""
        return bucket_bytes(self.facts, self.engine)


class StagePricer:
    """Prices phases of a stage of a plan on a device, for a number of groups per pass."""

    def __init__(
        self, plan: Plan, stage: Stage, device: Device, tokenizer_size: int | None = None
    ) -> None:
        self._plan, self.stage, self.device = plan, stage, device
        self._words = tokenizer_size
        sizes = plan.sizes(stage)
        self.phases: tuple[Phase, ...] = stage.algorithm.phases(sizes)
        self.roles = {role: self._cast(role) for role in stage.algorithm.roles(sizes)}

    def _cast(self, role: Role) -> Cast:
        form = form_of(self._plan, role, self._words)
        facts, engine = facts_of(form), self._plan.engine_of(role)
        trains = role in self.stage.algorithm.trains
        held = states(
            facts, engine, self.device.processes, trains=trains, is_host=self.device.is_host
        )
        checkpointing = self._plan.roles.of(role).gradient_checkpointing
        return Cast(role, form, facts, engine, trains, checkpointing, held)

    def price(self, micro_groups: int) -> tuple[PhaseEstimate, ...]:
        """Every phase of an iteration, in order."""
        rows = micro_groups * self.stage.algorithm.group
        return tuple(self._phase(at, phase, rows) for at, phase in enumerate(self.phases))

    def _phase(self, at: int, phase: Phase, rows: int) -> PhaseEstimate:
        count = 0
        match phase:
            case Generate():
                count = self._count(phase.rows, rows)
                work, memory = self._generate(phase, rows, count)
            case Forward():
                count = self._count(phase.rows, rows)
                work, memory = self._forward(phase, rows, count)
            case Train():
                more = self._count(phase.mixture_rows, rows)
                count = phase.steps * (self._count(phase.batch_rows, rows) + more)
                work, memory = self._train(phase, rows)
            case Prepare():
                tokens = self._plan.sizes(self.stage).tokens
                work, memory = self._prepare(self._local(phase.rows), tokens), Memory()
            case Average():
                work, memory = self._average(self.roles[phase.role]), Memory()
            case Reward():
                work, memory = Work(), Memory()
        role = getattr(phase, "role", None)
        memory = memory.with_(others=self._others(at, role), runtime=self.device.runtime_bytes)
        if isinstance(phase, Average):
            memory = memory.with_(weights=self.roles[phase.role].states.weights)
        n = self.device.processes
        total = Work(work.flops * n, work.moved_bytes * n, work.seconds)
        return PhaseEstimate(self.stage.title, phase.name, total, memory, count)

    # ---- phases -------------------------------------------------------------------------------

    def _generate(self, phase: Generate, rows: int, count: int) -> tuple[Work, Memory]:
        cast = self.roles[phase.role]
        form, device = cast.form.plain, self.device
        prompt, response = phase.prompt_tokens, phase.response_tokens
        prefill = self._passes(form, rows, prompt)
        once = prefill.forward + head(cast.facts, form, device, rows, 1)[0]
        once += self._decode(form, rows, prompt + 1, response - 1)
        work = once.times(count) + self._gather(cast, 1)
        cache, largest = cache_bytes(form, rows, prompt + response - 1)
        logits = rows * cast.facts.head_outputs * 4 * LOGIT_COPIES
        # While the cache grows by a token, a layer has its old and its new tensor.
        activations = max(prefill.memory.inference, logits)
        memory = cast.states.with_(
            gradients=0, buffers=cast.weight_bytes if cast.zero == 3 else 0,
            cache=cache + largest, activations=activations,
        )  # fmt: skip
        return work, memory

    def _decode(self, form: Form, rows: int, first: int, steps: int) -> Work:
        """Steps that make sequences of `first`, `first` + 1, ... tokens."""
        if steps < 1:
            return Work()
        lengths = np.arange(first, first + steps)
        at = sorted({first, first + steps // 2, first + steps - 1})
        found = [decode_step(form, rows, length, self.device.accelerator) for length in at]

        def total(values: Sequence[float]) -> float:
            return float(np.interp(lengths, at, values).sum())

        return Work(
            round(total([w.flops for w in found])), total([w.moved_bytes for w in found]),
            total([w.seconds for w in found]),
        )  # fmt: skip

    def _forward(self, phase: Forward, rows: int, count: int) -> tuple[Work, Memory]:
        cast = self.roles[phase.role]
        found = self._passes(cast.form, rows, phase.tokens)
        columns = logit_columns(cast.form, phase.tokens)
        once = found.forward + head(cast.facts, cast.form, self.device, rows, columns)[0]
        logits = rows * columns * cast.facts.head_outputs
        chunk = 8 * min(logits, CHUNK_ELEMENTS) if cast.form.kind == "policy" else 0
        activations = max(found.memory.inference, logits * cast.form.bytes_per_element + chunk)
        gathered = gathered_bytes(cast.facts, cast.engine)
        memory = cast.states.with_(gradients=0, activations=activations, buffers=gathered)
        return once.times(count) + self._gather(cast, count), memory

    def _train(self, phase: Train, rows: int) -> tuple[Work, Memory]:
        cast = self.roles[phase.role]
        count = self._count(phase.batch_rows, rows)
        step = self._both(cast, rows, phase.tokens).times(count)
        activations = self._saved(cast, rows, phase.tokens)
        if phase.mixture_rows:
            tokens = self._plan.data.prompt_tokens + self._plan.data.answer_tokens
            more = self._count(phase.mixture_rows, rows)
            step += self._both(cast, rows, tokens).times(more)
            activations = max(activations, self._saved(cast, rows, tokens))
            count += more
        step += self._reduce(cast, count) + self._update(cast)
        return step.times(phase.steps), cast.states.with_(activations=activations)

    def _both(self, cast: Cast, rows: int, tokens: int) -> Work:
        """Forward and backward of a micro-batch, the forward again where it is recomputed."""
        found = self._passes(cast.form, rows, tokens)
        ahead, back = head(
            cast.facts, cast.form, self.device, rows, logit_columns(cast.form, tokens)
        )
        work = found.forward + found.backward + ahead + back
        return work + found.forward if cast.checkpointing else work

    def _saved(self, cast: Cast, rows: int, tokens: int) -> int:
        """Bytes of activations of one micro-batch at the worst moment.

        That is either inside the backbone, or at its end, where all that is saved is alive beside
        the head's inputs, the logits, their gradient, and the chunk of them that is in float32.
        """
        memory = self._passes(cast.form, rows, tokens).memory
        saved, peak = memory.saved, memory.peak
        if cast.checkpointing:
            saved, peak = memory.checkpointed_saved, memory.checkpointed_peak
        saved += rows * tokens * cast.facts.head_inputs * cast.form.bytes_per_element
        logits = rows * logit_columns(cast.form, tokens) * cast.facts.head_outputs
        chunk = 12 * min(logits, CHUNK_ELEMENTS) if cast.form.kind == "policy" else 0
        return max(peak, saved + 2 * logits * cast.form.bytes_per_element + chunk)

    def _prepare(self, rows: int, tokens: int) -> Work:
        moved = rows * tokens * 4 * PREPARED_NUMBERS
        return Work(0, moved, self.device.seconds_of(0, moved, "fp32"))

    def _average(self, cast: Cast) -> Work:
        """Process 0 reads the weights and moves its float32 average."""
        moved = cast.facts.parameters * (cast.form.bytes_per_element + 8)
        across = cast.weight_bytes / self.device.host_bytes_per_s
        return Work(0, moved, across + moved / self.device.bytes_per_s) + self._gather(cast, 1)

    # ---- parts --------------------------------------------------------------------------------

    def _passes(self, form: Form, rows: int, tokens: int) -> Passes:
        return passes(form, rows, tokens, self.device.accelerator)

    def _gather(self, cast: Cast, count: int) -> Work:
        """All-gathers of the whole model, where it is partitioned."""
        if cast.zero < 3:
            return Work()
        seconds = self.device.all_gather(cast.weight_bytes, cast.bucket_bytes)
        return Work(0, 0.0, count * seconds)

    def _reduce(self, cast: Cast, count: int) -> Work:
        """Collectives of an optimizer step of so many micro-batches."""
        gradient = cast.facts.trained * cast.form.bytes_per_element
        once = self.device.all_gather(gradient, cast.bucket_bytes)
        if cast.zero < 2:
            return Work(0, 0.0, (2 if cast.zero == 0 else 3) * once)
        if cast.zero == 2:
            return Work(0, 0.0, (count + 1) * once)
        return self._gather(cast, 2 * count) + Work(0, 0.0, count * once)

    def _update(self, cast: Cast) -> Work:
        """The optimizer step."""
        device = self.device
        moved = step_bytes(cast.facts, cast.engine, device.processes)
        if not cast.engine.offload.optimizer or device.is_host or cast.zero == 0:
            return Work(0, moved, moved / device.bytes_per_s + device.accelerator.launch_seconds)
        own = -(-cast.facts.trained // device.processes)
        across = 2 * own * cast.form.bytes_per_element / device.host_bytes_per_s
        return Work(0, 0.0, across + moved / HOST_STEP_BYTES_PER_S)

    def _others(self, at: int, role: Role | None) -> int:
        """What the other roles hold: weights and optimizer, and the gradients of those that train
        in the same steps; the average of the weights on the host.
        """
        beside = _trained_with(self.phases, at) if isinstance(self.phases[at], Train) else ()
        total = 0
        for name, cast in self.roles.items():
            if name != role:
                total += cast.states.resident + (cast.states.gradients if name in beside else 0)
        for phase in self.phases:
            if isinstance(phase, Average) and self.device.is_host:
                total += 4 * self.roles[phase.role].facts.parameters
        return total

    def _local(self, rows: int) -> int:
        """Rows of one process."""
        return -(-rows // self.device.processes)

    def _count(self, rows: int, micro_rows: int) -> int:
        """Micro-batches of one process."""
        return math.ceil(self._local(rows) / micro_rows)


def _trained_with(phases: Sequence[Phase], at: int) -> tuple[Role, ...]:
    """Roles of the neighbouring `Train` phases, which advance together."""
    first, last = at, at
    while first > 0 and isinstance(phases[first - 1], Train):
        first -= 1
    while last + 1 < len(phases) and isinstance(phases[last + 1], Train):
        last += 1
    return tuple(p.role for p in phases[first : last + 1] if isinstance(p, Train))


def logit_columns(form: Form, tokens: int) -> int:
    """Columns whose head is computed: a policy predicts each token but the first."""
    return tokens - 1 if form.kind == "policy" else tokens


def head(
    facts: Facts, form: Form, device: Device, rows: int, columns: int
) -> tuple[Work, Work]:  # fmt: skip
    """Forward and backward of the last linear layer, with what follows it, in closed form.

    Forward: one product; a policy then reads its logits three times (largest, sum, choice).
    Backward: the products for input and (where it is trained) weight, after the logits' gradient
    has been written.
    """
    b, n = form.bytes_per_element, rows * columns
    weight, inputs, outputs = (
        facts.head_inputs * facts.head_outputs, n * facts.head_inputs, n * facts.head_outputs,
    )  # fmt: skip
    flops = 2 * n * weight
    moved = b * (weight + inputs + outputs)
    after = b * outputs * (3 if form.kind == "policy" else 0)
    forward = Work(
        flops, moved + after,
        device.seconds_of(flops, moved, form.dtype) + device.seconds_of(0, after, form.dtype),
    )  # fmt: skip
    products = 2 if facts.head_trained else 1
    before = b * outputs * 2
    backward = Work(
        products * flops, products * moved + before,
        products * device.seconds_of(flops, moved, form.dtype)
        + device.seconds_of(0, before, form.dtype),
    )  # fmt: skip
    return forward, backward
