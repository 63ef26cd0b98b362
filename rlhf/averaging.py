"""Exponential moving average of a role's weights: ema = decay ema + (1 - decay) role.

Kept in float32 in the host's memory of process 0; under ZeRO-3 the role's weights pass by one at a
time. Adapters are merged first, so the average is of plain models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf import processes
from rlhf.engine import RoleEngine
from rlhf.errors import CheckpointError
from rlhf.export import export_model


class AveragedWeights:
    """Begins as the role is now. All processes call every method."""

    def __init__(self, engine: RoleEngine) -> None:
        self._engine = engine
        self._weights: dict[str, Tensor] = {}
        for name, value in engine.state():
            if processes.rank() == 0:
                self._weights[name] = value.to("cpu", torch.float32, copy=True)

    @torch.no_grad()
    def update(self, engine: RoleEngine, decay: float) -> None:
        """One step of the average towards the role's weights of now."""
        for name, value in engine.state():
            if processes.rank() == 0:
                self._weights[name].lerp_(value.to("cpu", torch.float32), 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """The averages by name, to be saved; empty but on process 0."""
        return self._weights

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """What `tensors` gave. Raises `CheckpointError` where they are of another model."""
        for name, own in self._weights.items():
            stored = tensors.get(name)
            if stored is None or stored.shape != own.shape:
                raise CheckpointError(
                    "the average is of another model", where=name,
                    value=None if stored is None else tuple(stored.shape),
                    allowed=str(tuple(own.shape)), fix="resume with the plan that wrote it",
                )  # fmt: skip
            own.copy_(stored)

    def export(self, folder: Path | str, tokenizer: Any = None) -> None:
        """A plain Hugging Face folder of the averages, in the role's element type."""
        if processes.rank() == 0:
            module = self._engine.module
            dtype = next(module.parameters()).dtype
            state = ((name, value.to(dtype)) for name, value in self._weights.items())
            export_model(module, folder, tokenizer, state=state)
        processes.barrier()
