"""A trained role on disk: weights, optimizer, schedule and loss scale, without a pickle.

    engine.json                       shapes, counters, schedule, loss scale
    rank-00000-000.safetensors ...    of each process, what it keeps:
        weight/NAME, exp_avg/NAME, exp_avg_sq/NAME      flat ranges of the parameter NAME
        metadata "pieces": {NAME: {"start", "numel", "step"}}

Ranges are by parameter and offset (see `rlhf.partitions`), so another number of processes or
another ZeRO stage reads what it needs from the same files, exactly. Saving needs no communication.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hwopt import HwoptError, read_json, write_json
from rlhf import partitions, processes
from rlhf.errors import CheckpointError

FORMAT = 1
ENGINE = "engine.json"
PART_BYTES = 2**30
"""A file is closed when it has so many bytes: what a GPU's process copies to the host at once."""
COUNTERS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")
SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def save_engine(network: nn.Module, engine: Any, folder: Path) -> None:
    """Write what this process keeps of a role; process 0 also what all have in common.

    Args:
        network: The module that DeepSpeed wraps.
        engine: DeepSpeed's engine around it.
        folder: Made if it is missing; every process writes other files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank, world = processes.rank(), processes.world()
    keys: set[str] = set()
    with torch.no_grad():
        part = _Part(folder, rank)
        for index, piece in enumerate(partitions.pieces(network, engine)):
            values, step = partitions.moments(piece, engine)
            keys |= set(values)
            if piece.shared and index % world != rank:
                continue
            part.add(piece.name, piece.start, step, {"weight": piece.weight, **values})
        for name, value in _buffers(network) if rank == 0 else ():
            part.add(name, 0, None, {"buffer": value.detach().reshape(-1)})
        part.close()
    if rank == 0:
        shapes = {name: list(shape) for name, shape in partitions.shapes(network).items()}
        common = {"format": FORMAT, "shapes": shapes, "moments": sorted(keys), **_common(engine)}
        write_json(folder / ENGINE, common)


def load_engine(network: nn.Module, engine: Any, folder: Path) -> None:
    """Read what `save_engine` wrote, with any number of processes and at any ZeRO stage.

    All processes call it, with files that have been verified. Raises `CheckpointError` where they
    are of another model; then nothing has been changed.
    """
    stored = Shards(folder)
    stored.check(partitions.shapes(network), trained_names(network))
    with torch.no_grad():
        if hasattr(engine.optimizer, "persistent_parameters"):
            engine.optimizer.checkpoint_event_prologue()
        for piece in partitions.pieces(network, engine):
            count = piece.weight.numel()
            piece.weight.copy_(stored.read("weight", piece.name, piece.start, count))
            if piece.copy is not None:
                piece.copy.copy_(piece.weight)
            if piece.flat is not None:
                step = stored.steps.get(piece.name)
                kinds = stored.moments if step is not None else ()
                values = {k: stored.read(k, piece.name, piece.start, count) for k in kinds}
                partitions.set_moments(piece, engine, values, step)
        for name, value in _buffers(network):
            value.copy_(stored.read("buffer", name, 0, value.numel()).view(value.shape))
        partitions.refresh(engine)
    _set_common(engine, stored.common)


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every weight of a saved role, whole, by its name in the network (adapters apart)."""
    stored = Shards(folder)
    for name, shape in stored.shapes.items():
        count = torch.Size(shape).numel()
        yield name, stored.read("weight", name, 0, count).view(shape)


def trained_names(network: nn.Module) -> set[str]:
    """Names of the parameters that an optimizer changes."""
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


class _Part:
    """Files of this process, one after another."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.count = self.size = 0
        self.tensors: dict[str, Tensor] = {}
        self.pieces: dict[str, dict[str, int | None]] = {}

    def add(self, name: str, start: int, step: int | None, values: dict[str, Tensor]) -> None:
        for kind, value in values.items():
            self.tensors[f"{kind}/{name}"] = value.cpu()
            self.size += value.nbytes
        numel = next(iter(values.values())).numel()
        self.pieces[name] = {"start": start, "numel": numel, "step": step}
        if self.size >= PART_BYTES:
            self.close()

    def close(self) -> None:
        """Write the file, if there is anything for it."""
        if not self.tensors:
            return
        path = self.folder / f"rank-{self.rank:05d}-{self.count:03d}.safetensors"
        save_file(self.tensors, path, metadata={"pieces": json.dumps(self.pieces)})
        self.tensors, self.pieces = {}, {}
        self.count, self.size = self.count + 1, 0


@dataclass(frozen=True)
class _Range:
    """Where elements from `start` on of a parameter lie."""

    start: int
    numel: int
    file: Any


class Shards:
    """The files of a role, opened; ranges of any parameter can be read from them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.common: dict[str, Any] = read_json(folder / ENGINE)
            self.shapes = {name: tuple(shape) for name, shape in self.common["shapes"].items()}
            self.moments: tuple[str, ...] = tuple(self.common["moments"])
            if self.common["format"] != FORMAT:
                raise CheckpointError(
                    "written by another version", where=str(folder),
                    value=self.common["format"], allowed=str(FORMAT),
                )  # fmt: skip
            self.steps: dict[str, int] = {}
            self._ranges: dict[str, list[_Range]] = {}
            for path in sorted(folder.glob("rank-*.safetensors")):
                self._open(path)
        except (HwoptError, SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                "not the saved state of a role", where=str(folder),
                value=f"{type(error).__name__}: {str(error)[:300]}",
            ) from error  # fmt: skip

    def _open(self, path: Path) -> None:
        file: Any = safe_open(path, framework="pt")
        for name, piece in json.loads((file.metadata() or {})["pieces"]).items():
            self._ranges.setdefault(name, []).append(
                _Range(int(piece["start"]), int(piece["numel"]), file)
            )
            if piece["step"] is not None:
                self.steps[name] = max(self.steps.get(name, 0), int(piece["step"]))

    def check(self, shapes: dict[str, tuple[int, ...]], trained: set[str]) -> None:
        """Raise `CheckpointError` unless these are whole parameters of such a network."""
        for name in sorted(set(shapes) | set(self.shapes)):
            if shapes.get(name) != self.shapes.get(name):
                raise CheckpointError(
                    "saved from another model", where=f"{self.folder}: {name}",
                    value=self.shapes.get(name, "missing"),
                    allowed=str(shapes.get(name, "no such parameter")),
                    fix="resume with the plan that wrote it",
                )  # fmt: skip
            self._covering(name, 0, torch.Size(shapes[name]).numel())
        if self.steps and (strangers := set(self.steps) - trained):
            raise CheckpointError(
                "saved with other parameters trained", where=str(self.folder),
                value=min(strangers), fix="resume with the plan that wrote it",
            )  # fmt: skip

    def read(self, kind: str, name: str, start: int, numel: int) -> Tensor:
        """Elements `start : start + numel` of "weight", a moment or a "buffer" of `name`."""
        parts = [
            held.file.get_slice(f"{kind}/{name}")[first - held.start : last - held.start]
            for held, first, last in self._covering(name, start, numel)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _covering(self, name: str, start: int, numel: int) -> list[tuple[_Range, int, int]]:
        """The stored ranges that make up one, with the first and last element taken of each."""
        found, at, end = [], start, start + numel
        for held in sorted(self._ranges.get(name, []), key=lambda one: one.start):
            if held.start <= at < min(end, held.start + held.numel):
                last = min(end, held.start + held.numel)
                found.append((held, at, last))
                at = last
        if at < end:
            raise CheckpointError(
                "elements of a parameter are missing", where=f"{self.folder}: {name}",
                value=f"nothing from {at}", allowed=f"elements {start} to {end}",
            )  # fmt: skip
        return found


def _buffers(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers that belong to the state of a module."""
    for prefix, module in network.named_modules():
        for name, value in module.named_buffers(prefix=prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:  # noqa: SLF001 - torch names no other way
                yield name, value


def _common(engine: Any) -> dict[str, Any]:
    """Numbers of an engine that all processes share."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    schedule = engine.lr_scheduler
    return {
        "counters": {name: int(getattr(engine, name)) for name in COUNTERS},
        "learning_rates": [float(group["lr"]) for group in engine.optimizer.param_groups],
        "schedule": None if schedule is None else schedule.state_dict(),
        "scaler": {name: getattr(scaler, name) for name in SCALER if hasattr(scaler, name)},
    }


def _set_common(engine: Any, common: dict[str, Any]) -> None:
    """Write what `_common` gave."""
    for name, value in common["counters"].items():
        setattr(engine, name, value)
    if engine.lr_scheduler is not None and common["schedule"] is not None:
        engine.lr_scheduler.load_state_dict(common["schedule"])
    for group, rate in zip(engine.optimizer.param_groups, common["learning_rates"], strict=True):
        group["lr"] = rate
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    for name, value in common["scaler"].items():
        if hasattr(scaler, name):
            setattr(scaler, name, value)
