"""AdamW over the trained weights of a role, and the schedule of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from rlhf import lora
from rlhf.plan import Optimizer


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], optimizer: Optimizer
) -> list[dict[str, Any]]:
    """Trained weights by what applies to them; empty groups are left out.

    Adapters learn at their own rate. Biases and normalisation weights, which are the vectors among
    the weights, are not decayed.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            dimensions = len(getattr(parameter, "ds_shape", parameter.shape))
            groups.setdefault((lora.is_adapter(name), dimensions > 1), []).append(parameter)
    return [
        {
            "params": members,
            "lr": optimizer.lora_learning_rate if adapter else optimizer.learning_rate,
            "weight_decay": optimizer.weight_decay if decays else 0.0,
        }
        for (adapter, decays), members in groups.items()
    ]


def adamw(groups: list[dict[str, Any]], optimizer: Optimizer) -> Any:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101): torch's own, in one fused pass over the
    weights on GPU and CPU alike, so nothing has to be compiled for offloaded state either.
    """
    return torch.optim.AdamW(
        groups, lr=optimizer.learning_rate, betas=optimizer.betas, eps=optimizer.epsilon,
        weight_decay=optimizer.weight_decay, fused=True,
    )  # fmt: skip


def schedule(optimizer: Optimizer, total_steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at each step from 0.

    Linear from 1 / warmup up to 1 over the warm-up, then constant, or down by a line or half a
    cosine so that it is 0 after `total_steps`.
    """

    def factor(step: int) -> float:
        if step < optimizer.warmup_steps:
            return (step + 1) / optimizer.warmup_steps
        if optimizer.schedule == "constant":
            return 1.0
        span = max(1, total_steps - optimizer.warmup_steps)
        done = min(1.0, (step - optimizer.warmup_steps) / span)
        return 1.0 - done if optimizer.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2

    return factor
