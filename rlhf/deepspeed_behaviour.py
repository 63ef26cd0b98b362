"""What DeepSpeed does that we cannot have, undone without a change to it (checked with 0.19.8)."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import deepspeed.ops
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime import compiler
from deepspeed.runtime.zero.linear import zero3_linear_wrap
from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator
from torch.nn import functional

log = logging.getLogger("rlhf")


def quiet() -> None:
    """Only its errors are shown, and nothing is compiled on a CPU: its exchange through shared
    memory is optional, gloo serves, and probing what could be compiled already runs a compiler.
    """
    deepspeed.utils.logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__ = {}


def native_generation() -> None:
    """The hybrid engine's kernels are CUDA's; on a CPU it must not try to build them."""
    if not torch.cuda.is_available():
        import deepspeed.runtime.hybrid_engine as hybrid

        hybrid.replace_policies = []


def allow_fp16() -> None:
    """It refuses fp16 on a CPU without instructions for it; torch computes it all the same, slowly,
    so that a run meant for a GPU can be tried here.
    """
    accelerator = get_accelerator()
    if not accelerator.is_fp16_supported():
        log.warning("fp16 without hardware for it: slow")
        accelerator.is_fp16_supported = lambda: True


@contextmanager
def linear_of(stage: int) -> Iterator[None]:
    """Inside, linear layers compute as a ZeRO stage needs; outside, as torch does.

    Its own function for stage 3 keeps no gathered weight for the backward pass. It replaces torch's
    for the whole process and for good, which would change the rounding of other models.
    """
    kept = functional.linear
    if stage == 3:
        functional.linear = zero3_linear_wrap
    try:
        yield
    finally:
        functional.linear = kept


def load_muon() -> None:
    """Import its Muon optimizer without torch's compiler. It does so by itself in each process,
    only to compare types with, and has two functions compiled by it, which takes seconds to load.
    """
    kept = compiler.compile
    compiler.compile = lambda *_, **__: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = kept


def destroy(engine: Any) -> None:
    """End an engine, so that its memory is free once nobody refers to it: under ZeRO-3 a list and
    caches of DeepSpeed's keep each model that has ever been run.
    """
    engine.destroy()
    own = {id(part) for part in engine.module.modules()}
    FWD_MODULE_STACK[:] = [part for part in FWD_MODULE_STACK if id(part) not in own]
    for method in vars(PartitionedParameterCoordinator).values():
        for cell in getattr(method, "__closure__", None) or ():
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()


@contextmanager
def forced_overflow(optimizer: Any, stage: int, enabled: bool) -> Iterator[None]:
    """Inside, the step of a ZeRO optimizer (stage 1 to 3) finds an overflow and keeps its loss
    scale: it drops the gradients, by its own path, and does nothing else.
    """
    if not enabled:
        yield
        return

    def found(*_: Any, **__: Any) -> bool:
        optimizer.overflow = True
        return True

    checked = getattr(optimizer, "check_grad_overflow", None)
    check = "_overflow_check_and_loss_scale_update" if stage == 3 else "check_overflow"
    setattr(optimizer, check, found)
    optimizer._update_scale = lambda *_, **__: None  # noqa: SLF001 - on this instance alone
    if checked is not None:
        optimizer.check_grad_overflow = True
    try:
        yield
    finally:
        delattr(optimizer, check)
        del optimizer._update_scale  # noqa: SLF001
        if checked is not None:
            optimizer.check_grad_overflow = checked
