"""DeepSpeed's configuration of one role, from a plan's engine."""

from __future__ import annotations

import logging
from typing import Any

import torch

from rlhf.plan import Engine

log = logging.getLogger("rlhf")

LARGEST_BUCKET = 500_000_000
"""Elements reduced at once (DeepSpeed's default); it is allocated, so never above the model's."""


def effective_stage(engine: Engine) -> int:
    """The ZeRO stage that runs: 16-bit training at stage 0 runs as stage 1.

    DeepSpeed's wrappers for 16 bits without ZeRO follow another trajectory than its stages 1 to 3
    do; stage 1 shards only the optimizer's state, so every process still holds the whole model.
    """
    return 1 if engine.zero == 0 and engine.dtype != "fp32" else engine.zero


def tell_stage(engine: Engine, role: str) -> None:
    """Say it where the stage that runs is not the one in the plan."""
    if (stage := effective_stage(engine)) != engine.zero:
        log.warning(
            "%s: %s with ZeRO stage %d runs as stage %d", role, engine.dtype, engine.zero, stage
        )


def deepspeed_config(
    engine: Engine, *, micro_rows: int, accumulation: int, elements: int, trains: bool
) -> dict[str, Any]:
    """The dict for `deepspeed.initialize`; `engine.deepspeed` is merged in last.

    `elements`: parameters of the model. Nothing in it makes DeepSpeed compile anything.
    """
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_rows,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": engine.gradient_clipping,
        "steps_per_print": 2**62,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": _zero(engine, elements, trains),
    }
    if engine.dtype == "bf16":
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
    if engine.dtype == "fp16":
        config["fp16"] = {
            "enabled": True,
            "loss_scale": 0,
            "initial_scale_power": engine.initial_scale_power,
            "loss_scale_window": engine.loss_scale_window,
        }
    if engine.hybrid is not None and trains:
        config["hybrid_engine"] = {"enabled": True, **engine.hybrid.model_dump()}
    return _merged(config, engine.deepspeed)


def _zero(engine: Engine, elements: int, trains: bool) -> dict[str, Any]:
    stage = effective_stage(engine)
    bucket = max(1, min(LARGEST_BUCKET, elements))
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "overlap_comm": stage >= 2 and torch.cuda.is_available(),
    }
    pinned = torch.cuda.is_available()
    if engine.offload.optimizer and trains and stage > 0:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pinned}
    if stage == 3:
        zero["stage3_prefetch_bucket_size"] = min(50_000_000, elements)
        if engine.offload.parameters:
            zero["offload_param"] = {"device": "cpu", "pin_memory": pinned}
    return zero


def _merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Nested keys of `more` over those of `base`."""
    result = dict(base)
    for key, value in more.items():
        own = result.get(key)
        both = isinstance(own, dict) and isinstance(value, dict)
        result[key] = _merged(own, value) if both else value  # type: ignore[arg-type]
    return result
