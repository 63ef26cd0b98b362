"""Memory of a role in one process: weights, gradients, optimizer, by ZeRO stage and element type.

With P parameters, G of them trained, n processes and b bytes per element (Rajbhandari et al., arXiv
1910.02054, and what DeepSpeed 0.19 allocates):

                     weights     gradients               optimizer
    fp32    stage 0  4 P         4 G                     8 G     first and second moment
            1        4 P         4 G                     12 G/n  and its own copy of the weights
            2        4 P         4 G/n                   12 G/n
            3        4 P/n       4 G/n                   12 G/n
    16 bit  1 (0)    2 P         2 G + 4 G/n             12 G/n  master weights, two moments
            2        2 P         4 G/n (as the step      12 G/n
            3        2 P/n       needs them, in fp32)    12 G/n

Beside them buffers: a reduction bucket (as large as the model, at most 500 M elements; two on a GPU
from stage 2 on, where communication overlaps), at stage 3 what is gathered at a time (DeepSpeed
keeps up to 10^9 parameters that it will need again). Offload puts the optimizer and the gradients
of its part, or the weights, in the host's memory.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from rlhf.deepspeed_config import LARGEST_BUCKET, effective_stage
from rlhf.forms import Facts
from rlhf.plan import Engine

LIVE_PARAMETERS = 1_000_000_000
"""DeepSpeed's stage3_max_live_parameters."""
WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Memory:
    """Bytes in one process. `others`: what other roles hold meanwhile. `runtime`: what a process
    holds before any model. `host`: in the host's memory by offload, not part of the total.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    cache: int = 0
    buffers: int = 0
    others: int = 0
    runtime: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        """On the device."""
        parts: dict[str, int] = asdict(self)
        return sum(parts.values()) - self.host

    @property
    def resident(self) -> int:
        """What a role holds while others work: weights and optimizer."""
        return self.weights + self.optimizer

    def with_(self, **values: int) -> Memory:
        """The same with other values."""
        return replace(self, **values)


def states(
    facts: Facts, engine: Engine, processes: int, *, trains: bool, is_host: bool = False
) -> Memory:
    """Weights, gradients, optimizer and buffers of a role.

    `is_host`: the device's memory is the host's, so that offload moves nothing away.
    """
    stage, b = effective_stage(engine), WIDTH[engine.dtype]
    P, G = facts.parameters, facts.trained if trains else 0
    part, own = _share(P, processes), _share(G, processes)
    weights = b * (part if stage == 3 else P)
    gradients, optimizer = _training(engine, stage, G, own)
    buffers = gathered_bytes(facts, engine)
    if trains:
        overlapping = 2 if stage >= 2 and not is_host else 1
        buffers += overlapping * bucket_bytes(facts, engine)
    found = Memory(weights, gradients, optimizer, buffers=buffers)
    return found if is_host else _offloaded(found, engine, stage)


def running_stage(engine: Engine) -> int:
    """The ZeRO stage that runs: 16 bits at stage 0 run as stage 1."""
    return effective_stage(engine)


def bucket_bytes(facts: Facts, engine: Engine) -> int:
    """What one collective carries at most, and a buffer for it holds."""
    return WIDTH[engine.dtype] * min(LARGEST_BUCKET, facts.parameters)


def gathered_bytes(facts: Facts, engine: Engine) -> int:
    """Partitioned weights that are whole at a time while a pass runs (ZeRO-3)."""
    if effective_stage(engine) < 3:
        return 0
    live = max(2 * facts.largest_layer, LIVE_PARAMETERS)
    return WIDTH[engine.dtype] * min(facts.parameters, live)


def _training(engine: Engine, stage: int, trained: int, own: int) -> tuple[int, int]:
    """Gradients and optimizer of so many trained parameters, `own` of them in this process."""
    if engine.dtype == "fp32":
        gradients = 4 * (own if stage >= 2 else trained)
        return gradients, 8 * trained if stage == 0 else 12 * own
    return 4 * own + (0 if stage >= 2 else 2 * trained), 12 * own


def _offloaded(memory: Memory, engine: Engine, stage: int) -> Memory:
    """What offload leaves on the device."""
    if engine.offload.optimizer and stage > 0:
        away = memory.optimizer + (memory.gradients if stage >= 2 else 0)
        memory = memory.with_(
            optimizer=0, gradients=0 if stage >= 2 else memory.gradients, host=memory.host + away
        )
    if engine.offload.parameters and stage == 3:
        memory = memory.with_(weights=0, host=memory.host + memory.weights)
    return memory


def _share(count: int, processes: int) -> int:
    """An equal part, rounded up: DeepSpeed pads."""
    return -(-count // processes)


def step_bytes(facts: Facts, engine: Engine, processes: int) -> int:
    """Bytes that one optimizer step reads and writes in one process: gradient, weight and moments
    in float32, the three written back, and the weights that the passes read where they are others.
    """
    stage = effective_stage(engine)
    own = facts.trained if stage == 0 else _share(facts.trained, processes)
    copy = 0 if stage == 0 else WIDTH[engine.dtype]
    return own * (28 + copy)
