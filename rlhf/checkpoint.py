"""Checkpoints of a stage: whole or absent, verified before use, the last few kept.

    step-00000010/manifest.json         step, processes, plan, and every file with size and hash
    step-00000010/state.json            what the trainer carries from step to step
    step-00000010/tensors.safetensors   averaged weights, normalisers
    step-00000010/actor/ ...            a trained role (`rlhf.shards`)
    .step-00000020.partial/             being written, or left by a process that was killed
    .trash-step-00000005/               being deleted

All processes write into the partial folder. When every file is on the disk the first process writes
the manifest and renames the folder: killed at any moment, what was there stays, untouched. All
processes call `save`, `latest` and `load` together; an error of one is raised by all.
"""

from __future__ import annotations

import errno
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hwopt import HwoptError, read_json, show_bytes, write_json
from rlhf import processes
from rlhf.errors import CheckpointError
from rlhf.identity import differences, plan_digest
from rlhf.manifest import (
    MANIFEST,
    Damage,
    damage_of,
    entries_of,
    files_in,
    flush_folders,
    read_manifest,
    share_of,
    strangers,
    write_manifest,
)
from rlhf.phases import Role

__all__ = ["Checkpoint", "Checkpoints", "Saved", "differences", "errno_of", "plan_digest"]

log = logging.getLogger("rlhf")

NAME = re.compile(r"step-(\d{8,})")
STATE, TENSORS = "state.json", "tensors.safetensors"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No room: on the disk, in the quota, within the largest size of a file."""
VISIBLE_S = 20.0
"""How long another machine may take to see a folder that the first process made."""


class Saved(Protocol):
    """What a checkpoint holds of a role (`rlhf.engine.RoleEngine`)."""

    module: Any

    def save(self, folder: Path) -> None:
        """Write this process's part of the role into a folder."""

    def load(self, folder: Path) -> None:
        """Read it back."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole, verified checkpoint. `world`: the processes that wrote it."""

    path: Path
    step: int
    world: int
    plan_digest: str
    roles: tuple[str, ...]


class Checkpoints:
    """The checkpoints in a folder, which belongs to one run at a time; `keep` newest are kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """Steps that were saved, ascending; not verified."""
        if not self.folder.is_dir():
            return []
        names = (NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def newest(self) -> Path | None:
        """The folder of the newest one, not verified."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    # ---- saving -------------------------------------------------------------------------------

    def save(
        self, step: int, engines: Mapping[Role, Saved], state: dict[str, Any],
        tensors: Mapping[str, Tensor], plan_digest: str,
    ) -> None:  # fmt: skip
        """Write a checkpoint and delete those that are too many.

        Args:
            step: Steps done; a checkpoint of the same step is replaced.
            engines: The trained roles.
            state: JSON data, equal on all processes.
            tensors: Of the first process; what others give is ignored.
            plan_digest: Of the plan that trains, from `plan_digest`.

        Raises `CheckpointError` where it cannot be written, for want of room above all: then the
        partial folder is gone and earlier checkpoints are as they were.
        """
        final = self.path(step)
        partial = self.folder / f".{final.name}.partial"
        first = processes.rank() == 0
        try:
            self._together(lambda: self._begin(partial), first)
            self._together(lambda: _await_folder(partial))
            self._together(lambda: _write(partial, engines, state, tensors, first))
            files: list[str] = processes.broadcast(files_in(partial) if first else None)
            mine: dict[str, Any] = {}
            share = share_of(files, processes.rank(), processes.world())
            self._together(lambda: mine.update(entries_of(partial, share, flush=True)))
            entries = {name: one for part in processes.gather(mine) for name, one in part.items()}
            facts = {"step": step, "world": processes.world(), "plan": plan_digest,
                     "roles": sorted(engines)}  # fmt: skip
            self._together(lambda: self._finish(partial, final, entries, facts), first)
        except _FailedError as failure:
            raise self._failed(partial, engines, tensors, failure) from failure.__cause__
        if first:
            self._trim()
        processes.barrier()

    def _begin(self, partial: Path) -> None:
        self._sweep()
        partial.mkdir(parents=True)

    def _finish(self, partial: Path, final: Path, entries: Any, facts: dict[str, Any]) -> None:
        write_manifest(partial, entries, facts)
        flush_folders(partial)
        if final.exists():
            self._discard(final)
        partial.rename(final)
        flush_folders(self.folder)

    def _together(self, action: Callable[[], object], takes_part: bool = True) -> None:
        """Do a part of the work; `_FailedError` on every process where it failed on any."""
        cause: Exception | None = None
        try:
            if takes_part:
                action()
        except Exception as error:  # noqa: BLE001 - the others wait: they must hear of it
            cause = error
        told = None
        if cause is not None:
            told = {"rank": processes.rank(), "number": errno_of(cause), "said": str(cause)}
        failure = next(filter(None, processes.gather(told)), None)
        if cause is not None and not isinstance(cause, (OSError, HwoptError, SafetensorError)):
            raise cause  # our bug
        if failure is not None:
            raise _FailedError(failure["rank"], failure["number"], failure["said"]) from cause

    def _failed(
        self, partial: Path, engines: Mapping[Role, Saved], tensors: Mapping[str, Tensor],
        failure: _FailedError,
    ) -> CheckpointError:  # fmt: skip
        """Remove what was written; the error to raise."""
        if processes.rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        processes.barrier()
        if failure.number not in FULL:
            return CheckpointError(
                "the checkpoint cannot be written", where=f"{partial}, rank {failure.rank}",
                value=failure.said, fix="earlier checkpoints are as they were",
            )  # fmt: skip
        needed = _bytes_needed(engines, tensors)
        return CheckpointError(
            "no room to write the checkpoint", where=f"{self.folder}, rank {failure.rank}",
            value=f"about {show_bytes(needed)} needed, {_free(self.folder)} free: {failure.said}",
            fix="make room, or keep fewer (checkpoint.keep), then go on with --resume: "
            + self._kept(),
        )  # fmt: skip

    def _kept(self) -> str:
        newest = self.newest()
        return f"{newest.name} is kept" if newest else "there is no earlier checkpoint"

    def _trim(self) -> None:
        """Delete the oldest; a failure is told, not raised: the new checkpoint is in place."""
        try:
            for step in self.steps()[: -self.keep]:
                self._discard(self.path(step))
        except OSError as error:
            log.warning("old checkpoints cannot be deleted: %s", error)

    def _discard(self, path: Path) -> None:
        """Take a checkpoint out of sight by one rename, then delete it."""
        trash = self.folder / f".trash-{path.name}"
        if trash.exists():
            shutil.rmtree(trash)
        path.rename(trash)
        shutil.rmtree(trash)

    def _sweep(self) -> None:
        """Remove what a killed process left."""
        for pattern in (".step-*.partial", ".trash-*"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path)

    # ---- loading ------------------------------------------------------------------------------

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, every file of it verified; None where there is none.

        For the run that trains: leftovers of a killed process are removed. Raises `CheckpointError`
        where a file is damaged: which, and what earlier checkpoint is intact.
        """
        steps: list[int] | None = None
        if processes.rank() == 0:
            try:
                self._sweep()
            except OSError as error:
                log.warning("leftovers of a killed process cannot be removed: %s", error)
            steps = self.steps()
        steps = processes.broadcast(steps)
        return self.verified(steps[-1]) if steps else None

    def verified(self, step: int) -> Checkpoint:
        """The checkpoint of a step, verified. The processes share the work."""
        path = self.path(step)
        manifest, found = self._inspect(step, processes.rank(), processes.world())
        told = [one for part in processes.gather([asdict(each) for each in found]) for one in part]
        if told:
            raise self._damaged(step, Damage(**told[0]), len(told))
        assert manifest is not None  # its absence is damage
        return Checkpoint(
            path, int(manifest["step"]), int(manifest["world"]), str(manifest["plan"]),
            tuple(manifest["roles"]),
        )  # fmt: skip

    def _inspect(
        self, step: int, rank: int, world: int
    ) -> tuple[dict[str, Any] | None, list[Damage]]:
        """The manifest, and the damage in one process's share of the files."""
        path = self.path(step)
        try:
            manifest = read_manifest(path)
        except CheckpointError as error:
            allowed = error.allowed or "as it was written"
            return None, [Damage(MANIFEST, error.what, allowed, str(error.value or "damaged"))]
        if manifest["step"] != step:
            renamed = Damage("", "the folder was renamed", f"step {manifest['step']}", path.name)
            return manifest, [renamed]
        files = manifest["files"]
        found = damage_of(path, files, share_of(sorted(files), rank, world))
        return manifest, found + (strangers(path, files) if rank == 0 else [])

    def _damaged(self, step: int, first: Damage, count: int) -> CheckpointError:
        """The error about a damaged checkpoint; looks for the newest one that is intact."""
        path = self.path(step)
        older: int | None = None
        if processes.rank() == 0:
            earlier = (one for one in reversed(self.steps()) if one < step)
            older = next((one for one in earlier if not self._inspect(one, 0, 1)[1]), None)
        older = processes.broadcast(older)
        goes_on = f"resume from step {older}, which is intact" if older is not None else (
            "start this stage anew: no earlier checkpoint is intact"
        )  # fmt: skip
        more = f" (and {count - 1} more)" if count > 1 else ""
        return CheckpointError(
            first.what + more, where=str(path / first.file), value=first.found,
            allowed=first.expected, fix=f"delete {path} to {goes_on}",
        )  # fmt: skip

    def load(
        self, checkpoint: Checkpoint, engines: Mapping[Role, Saved], plan_digest: str | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Restore the roles; returns the state, and on the first process the saved tensors.

        Raises `CheckpointError` where it is of other roles, or of another plan than `plan_digest`.
        """
        if plan_digest is not None and plan_digest != checkpoint.plan_digest:
            raise CheckpointError(
                "a checkpoint of another plan", where=str(checkpoint.path),
                value=f"plan {checkpoint.plan_digest[:12]}", allowed=f"plan {plan_digest[:12]}",
                fix="resume with the plan that the run began with (plan.yaml in its folder)",
            )  # fmt: skip
        if sorted(engines) != list(checkpoint.roles):
            raise CheckpointError(
                "a checkpoint of other roles", where=str(checkpoint.path),
                value=", ".join(checkpoint.roles), allowed=", ".join(sorted(engines)),
            )  # fmt: skip
        for role, engine in engines.items():
            engine.load(checkpoint.path / role)
        state: dict[str, Any] = read_json(checkpoint.path / STATE)
        first = processes.rank() == 0
        return state, load_file(checkpoint.path / TENSORS) if first else {}


class _FailedError(Exception):
    """A step of saving failed on a process; `number`: the system's error, if it was one."""

    def __init__(self, rank: int, number: int | None, said: str) -> None:
        super().__init__(said)
        self.rank, self.number, self.said = rank, number, said


def errno_of(error: BaseException | None) -> int | None:
    """The system's number of an error, also of one that wraps it or only quotes it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if isinstance(error, SafetensorError) and (
            found := re.search(r"os error (\d+)", str(error))
        ):
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None


def _await_folder(folder: Path) -> None:
    """Every machine must see what the first process made."""
    until = time.monotonic() + VISIBLE_S
    while not folder.is_dir():
        if time.monotonic() > until:
            raise CheckpointError(
                "this machine does not see the run's folder", where=str(folder),
                fix="put the run on a file system that all machines share",
            )  # fmt: skip
        time.sleep(0.1)


def _write(
    folder: Path, engines: Mapping[Role, Saved], state: dict[str, Any],
    tensors: Mapping[str, Tensor], first: bool,
) -> None:  # fmt: skip
    """This process's files."""
    for role, engine in engines.items():
        engine.save(folder / role)
    if not first:
        return
    try:
        json.dumps(state, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            "the state is not plain data of finite numbers", where=str(folder / STATE),
            value=f"{type(error).__name__}: {error}",
        ) from error  # fmt: skip
    write_json(folder / STATE, state)
    save_file({name: _plain(value) for name, value in tensors.items()}, folder / TENSORS)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _bytes_needed(engines: Mapping[Role, Saved], tensors: Mapping[str, Tensor]) -> int:
    """About what a checkpoint takes: trained weights in float32 with two moments, and the rest."""
    adam_bytes = 12
    total = sum(value.nbytes for value in tensors.values())
    for parameter in _parameters(engine.module for engine in engines.values()):
        elements = getattr(parameter, "ds_numel", parameter.numel())
        total += elements * (adam_bytes if parameter.requires_grad else parameter.element_size())
    return total


def _parameters(modules: Iterable[nn.Module]) -> Iterable[torch.nn.Parameter]:
    return (parameter for module in modules for parameter in module.parameters())


def _free(folder: Path) -> str:
    try:
        return show_bytes(shutil.disk_usage(folder).free)
    except OSError:
        return "an unknown amount"
