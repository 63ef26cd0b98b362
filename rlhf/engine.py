"""DeepSpeed trains and holds the models of the roles, behind one small interface.

The batch's loss is the sum of all parts given to `accumulate`, over all micro-batches and all
processes, whatever their number; so 8 x 1, 1 x 8 and two processes are the same batch to rounding.
DeepSpeed's own accumulation counter is not used: gradients are reduced when `step` (or `overflows`)
says that the batch is complete. Nor are its checkpoints, which are pickles (see `rlhf.shards`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
import transformers
from torch import Tensor
from transformers.initialization import no_init_weights

from rlhf import lora, processes
from rlhf.algorithm import Outputs
from rlhf.deepspeed_behaviour import (
    allow_fp16,
    destroy,
    forced_overflow,
    linear_of,
    load_muon,
    native_generation,
    quiet,
)
from rlhf.deepspeed_config import deepspeed_config, effective_stage, tell_stage
from rlhf.errors import DivergedError
from rlhf.export import export_model, stored_buffers
from rlhf.models import DTYPES
from rlhf.networks import Policy, RoleModule, outputs_of
from rlhf.optimizers import adamw, parameter_groups, schedule
from rlhf.phases import Role
from rlhf.plan import Engine, Optimizer
from rlhf.shards import load_engine, save_engine


@dataclass(frozen=True)
class StepResult:
    """Of one optimizer step: the gradient's global norm before clipping (infinite after an
    overflow), the learning rate it used, and whether it was left out for an overflow.
    """

    gradient_norm: float
    learning_rate: float
    overflowed: bool


class RoleEngine:
    """One role: trained, or frozen (no optimizer: a plain module, at ZeRO-3 a DeepSpeed engine)."""

    def __init__(
        self, module: RoleModule, role: Role, engine: Engine, deepspeed_engine: Any | None,
        *, trains: bool,
    ) -> None:  # fmt: skip
        self.module = module
        self.role = role
        self.trains = trains
        self.engine = engine
        self.deepspeed = deepspeed_engine
        self.stage = effective_stage(engine)
        self._kind = "policy" if isinstance(module, Policy) else "value"
        self._parts = 0  # accumulated since the last step
        self._reduced = False
        self._gathers = deepspeed_engine is not None and self.stage == 3

    # ---- passes -------------------------------------------------------------------------------

    def forward(self, tokens: Tensor, attended: Tensor, **options: Any) -> Outputs:
        """The training pass, with its graph. Options as of the module's forward."""
        network = self._trained()
        network.train()
        with linear_of(self.stage):
            return outputs_of(network(tokens, attended, **options), self._kind)

    def infer(self, tokens: Tensor, attended: Tensor, **options: Any) -> Outputs:
        """A pass without gradient or dropout; leaves the mode as it was."""
        network = self.module.network
        training = network.training
        network.eval()
        try:
            with torch.no_grad(), linear_of(self.stage):
                return outputs_of(network(tokens, attended, **options), self._kind)
        finally:
            network.train(training)

    # ---- training -----------------------------------------------------------------------------

    def accumulate(self, part: Tensor) -> None:
        """Backward of one micro-batch's share (a scalar) of the batch's loss.

        DeepSpeed averages gradients over processes; the factor undoes it.
        """
        engine = self._trained()
        engine.set_gradient_accumulation_boundary(False)
        with linear_of(self.stage):  # gradient checkpointing computes forward once more here
            engine.backward(part * processes.world(), scale_wrt_gas=False)
        self._parts += 1

    def overflows(self) -> bool:
        """Whether `step` would leave the step out for an overflow, on any process (fp16)."""
        if self.engine.dtype != "fp16" or self._parts == 0:
            return False
        self._reduce()
        optimizer = self._trained().optimizer
        optimizer.check_overflow()
        return bool(optimizer.overflow)

    def step(self, *, skip: bool = False) -> StepResult:
        """One step of optimizer and schedule on what was accumulated, which is then gone.

        `skip` leaves weights, optimizer, schedule and loss scale alone (the other role's gradients
        overflowed). After an overflow of its own (fp16) the loss scale is lowered instead of a
        step. Raises `DivergedError`, with the weights untouched, where another type's gradients are
        not finite.
        """
        self._reduce()
        rate = float(self._trained().optimizer.param_groups[0]["lr"])
        norm = self._step(skip)
        self._parts, self._reduced = 0, False
        if norm is None and not skip and self.engine.dtype != "fp16":
            raise DivergedError(
                "the gradients are not finite; no step was taken with them", where=self.role,
                fix="lower the learning rate, or resume from the last checkpoint",
            )  # fmt: skip
        return StepResult(float("inf") if norm is None else norm, rate, norm is None)

    def _step(self, skip: bool) -> float | None:
        """The gradient's norm, or None where no step was taken."""
        engine = self._trained()
        if self.stage > 0:
            with forced_overflow(engine.optimizer, self.stage, skip):
                engine.step()
            return float(engine.get_global_grad_norm()) if engine.was_step_applied() else None
        norms = [p.grad.norm() for p in self.module.parameters() if p.grad is not None]
        norm = float(torch.stack(norms).norm())  # DeepSpeed does not say it without ZeRO
        if skip or not math.isfinite(norm):
            engine.zero_grad()
            return None
        engine.step()
        return norm

    def _reduce(self) -> None:
        """Sum the gradients over the processes, once per batch."""
        if self._parts == 0:
            raise RuntimeError(f"{self.role} steps without a loss")  # our bug
        if self._reduced:
            return
        engine = self._trained()
        engine.set_gradient_accumulation_boundary(True)
        if self.stage >= 2:
            engine.optimizer.finalize_gradient_accumulation_boundary()
        else:
            engine.allreduce_gradients()
        self._reduced = True

    def _trained(self) -> Any:
        if not self.trains or self.deepspeed is None:
            raise RuntimeError(f"{self.role} is frozen")  # our bug
        return self.deepspeed

    # ---- weights ------------------------------------------------------------------------------

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight by its transformers name, whole, with adapters merged; "head.weight" last.

        All processes must take part to the end. Under ZeRO-3 each is gathered by itself; a tensor
        is good until the next one: copy it to keep it.
        """
        adapted = lora.adapted_layers(self.module.model)
        for name, parameter in self.module.model.named_parameters():
            if lora.is_adapter(name):
                continue
            owner, _, last = name.rpartition(".")
            layer: Any = adapted.get(owner) if last == "weight" else None
            needed = [parameter] if layer is None else [parameter, layer.lora_a, layer.lora_b]
            with self.gathered(needed), torch.no_grad():
                value = parameter.detach()
                if layer is not None and not layer.is_merged:
                    value = layer.merged_weight(value, layer.lora_a, layer.lora_b)
                yield name, value
        yield from stored_buffers(self.module)
        if not isinstance(self.module, Policy):
            with self.gathered([self.module.head.weight]):
                yield "head.weight", self.module.head.weight.detach()

    @contextmanager
    def gathered(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Inside, parameters are whole on every process, to be read; all processes must enter."""
        with deepspeed.zero.GatheredParameters(parameters, enabled=self._gathers):
            yield

    @contextmanager
    def generation_module(self) -> Iterator[Any]:
        """The transformers model, in evaluation mode, ready to generate.

        The module itself with its adapters merged, and afterwards the very same tensors as before;
        under ZeRO-3 an unsharded copy, gathered once and dropped afterwards.
        """
        if self._gathers:
            yield self._shadow()
            return
        model = self.module.model
        training = model.training
        model.eval()
        try:
            with lora.merged(model):
                yield model
        finally:
            model.train(training)

    def _shadow(self) -> Any:
        """An unsharded model with the weights of now."""
        config = self.module.model.config
        with no_init_weights(), processes.device():
            shadow = transformers.AutoModelForCausalLM.from_config(
                config, dtype=DTYPES[self.engine.dtype]
            )
        shadow.tie_weights()
        targets = dict(shadow.named_parameters()) | dict(shadow.named_buffers())
        with torch.no_grad():
            for name, value in self.state():
                targets[name].copy_(value)
        shadow.generation_config = self.module.model.generation_config
        return shadow.eval().requires_grad_(False)

    def export(self, folder: Path | str, tokenizer: Any = None) -> None:
        """A plain Hugging Face folder of the weights of now; all processes call it."""
        if processes.rank() == 0:
            export_model(self.module, folder, tokenizer, state=self.state())
        else:
            for _ in self.state():
                pass
        processes.barrier()

    # ---- checkpoints --------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Weights, optimizer, schedule and loss scale into a folder; all processes call it."""
        save_engine(self.module.network, self._trained(), Path(folder))

    def load(self, folder: Path) -> None:
        """What `save` wrote, exactly; also of another number of processes or ZeRO stage.

        The caller has verified the files. Raises `CheckpointError` where they are of another model.
        """
        load_engine(self.module.network, self._trained(), Path(folder))

    def close(self) -> None:
        """Let go of what DeepSpeed holds; the role is of no use afterwards."""
        if self.deepspeed is not None:
            destroy(self.deepspeed)
            self.deepspeed = None


def prepare() -> None:
    """Ready DeepSpeed in this process; called wherever it is first needed."""
    processes.start()
    quiet()
    load_muon()


def start_engine(
    module: RoleModule,
    *,
    role: Role,
    engine: Engine,
    optimizer: Optimizer | None,
    total_steps: int = 1,
    micro_rows: int = 1,
    accumulation: int = 1,
) -> RoleEngine:
    """A role's model under DeepSpeed.

    Args:
        module: From `build_model` with the same engine.
        role: Its part.
        engine: How it is held.
        optimizer: None: frozen.
        total_steps: Optimizer steps until the schedule ends.
        micro_rows: Rows of a usual micro-batch (DeepSpeed only reports with it).
        accumulation: Micro-batches of a usual step (likewise).
    """
    prepare()
    if optimizer is None:
        module.requires_grad_(False)
        if effective_stage(engine) < 3:
            return RoleEngine(
                module.to(processes.device()).eval(), role, engine, None, trains=False
            )
    else:
        tell_stage(engine, role)
    config = deepspeed_config(
        engine, micro_rows=micro_rows, accumulation=accumulation, trains=optimizer is not None,
        elements=sum(getattr(p, "ds_numel", p.numel()) for p in module.parameters()),
    )  # fmt: skip
    wrapped = _initialize(module, config, engine, optimizer, total_steps)
    module.train(optimizer is not None)
    return RoleEngine(module, role, engine, wrapped, trains=optimizer is not None)


def _initialize(
    module: RoleModule, config: dict[str, Any], engine: Engine, optimizer: Optimizer | None,
    total_steps: int,
) -> Any:  # fmt: skip
    arguments: dict[str, Any] = {}
    if optimizer is not None:
        groups = parameter_groups(module.network.named_parameters(), optimizer)
        base = adamw(groups, optimizer)
        factor = schedule(optimizer, total_steps)
        arguments = {
            "optimizer": base,
            "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(base, factor),
        }
    if engine.hybrid is not None:
        native_generation()
    if engine.dtype == "fp16":
        allow_fp16()
    with linear_of(0):
        wrapped, *_ = deepspeed.initialize(
            model=module.network, config=config, dist_init_required=False, **arguments
        )
    return wrapped
