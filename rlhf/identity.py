"""Whether two plans are the same run: whether one may go on from what the other has trained.

What only says where and how fast a run goes may change: machines and processes, the ZeRO stage and
offloading, micro-batches and gradient checkpointing (so that a run that was out of memory goes on
with less), evaluation, checkpoints, watching. Everything else decides what is trained.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rlhf.plan import Plan

FREE = frozenset({"name", "cluster", "checkpoint", "watch"})
"""Keys of a plan that may change."""
FREE_OF_ENGINE = frozenset({"zero", "offload", "hybrid"})
FREE_OF_STAGE = frozenset({"micro_batch", "evaluate_every"})


def plan_digest(plan: Plan) -> str:
    """A hash (sha256) of what decides what is trained; equal where `differences` finds none."""
    # Options of a later version, left at their defaults, must not tell old runs from new ones.
    data = _deciding(plan, exclude_defaults=True)
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def differences(old: Plan, new: Plan) -> list[str]:
    """Dotted keys that decide what is trained and differ, with both values: "seed: 1 -> 2"."""
    before, after = (_flat(_deciding(plan, exclude_defaults=False)) for plan in (old, new))
    missing = object()

    def show(value: object) -> str:
        return "absent" if value is missing else json.dumps(value)

    changed = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key, missing), after.get(key, missing)
        if was is missing or now is missing or was != now:
            changed.append(f"{key}: {show(was)} -> {show(now)}")
    return changed


def _deciding(plan: Plan, *, exclude_defaults: bool) -> dict[str, Any]:
    """The plan as data without what may change."""
    data = plan.model_dump(mode="json", exclude=set(FREE), exclude_defaults=exclude_defaults)
    for stage, written in zip(plan.stages, data["stages"], strict=True):
        written["algorithm"] = {"name": stage.algorithm.name, **written["algorithm"]}
        written["name"] = stage.title
        for key in FREE_OF_STAGE:
            written.pop(key, None)
    data.pop("engine", None)
    for role in type(plan.roles).model_fields:
        engine = plan.engine_of(role)  # type: ignore[arg-type]
        written = data["roles"].setdefault(role, {})
        written.pop("gradient_checkpointing", None)
        written["engine"] = engine.model_dump(
            mode="json", exclude=set(FREE_OF_ENGINE), exclude_defaults=exclude_defaults
        )
    return data


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Dotted paths to the leaves of nested data; an empty mapping or list is a leaf."""
    if isinstance(value, dict) and value:
        items = [(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and value:
        items = [(f"{path}[{index}]", inner) for index, inner in enumerate(value)]
    else:
        return {path: value}
    return {key: leaf for at, inner in items for key, leaf in _flat(inner, at).items()}
