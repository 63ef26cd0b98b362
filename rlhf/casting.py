"""Who plays which role in a stage: where its model comes from, and the engine that holds it.

trained by an earlier stage      that stage's folder
named in the plan                its model
reference                        what the actor starts from
critic                           what the reward model is, else what the actor starts from
reward                           what the actor starts from (its backbone; a new head)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hwopt import write_json
from rlhf import processes
from rlhf.engine import RoleEngine, start_engine
from rlhf.errors import PlanError
from rlhf.models import build_model
from rlhf.phases import Role
from rlhf.plan import Plan, Stage
from rlhf.returns import ScoreScale
from rlhf.runs import SCORE_SCALE, STAGES

ModelSource: TypeAlias = Path | str | dict[str, Any]

KIND: dict[Role, Literal["policy", "value"]] = {
    "actor": "policy", "reference": "policy", "ema": "policy", "critic": "value", "reward": "value",
}  # fmt: skip


def stage_folder(run: Path, stage: Stage) -> Path:
    """Where a stage keeps its checkpoints and what it trained."""
    return run / STAGES / stage.title


def role_source(plan: Plan, run: Path, stage: Stage, role: Role) -> ModelSource:
    """Where the model of a role starts from in a stage.

    Raises `PlanError` where neither the plan nor an earlier stage gives one.
    """
    for earlier in reversed(plan.stages[: plan.stages.index(stage)]):
        if role in earlier.algorithm.trains:
            return stage_folder(run, earlier) / role
    named = plan.roles.of(role).model
    if named is not None:
        return named
    if role == "critic" and _has(plan, stage, "reward"):
        return role_source(plan, run, stage, "reward")
    if role != "actor":
        return role_source(plan, run, stage, "actor")
    raise PlanError(
        "the actor has no model", where="roles.actor.model",
        fix="name a folder, a config.json or a library model",
    )  # fmt: skip


def _has(plan: Plan, stage: Stage, role: Role) -> bool:
    """Whether a role has a model of its own by this stage."""
    earlier = plan.stages[: plan.stages.index(stage)]
    return plan.roles.of(role).model is not None or any(
        role in other.algorithm.trains for other in earlier
    )


def cast_roles(
    plan: Plan, run: Path, stage: Stage, tokenizer: Any, total_steps: Mapping[Role, int]
) -> dict[Role, RoleEngine]:
    """An engine for every role of the stage's phases, in their order."""
    engines: dict[Role, RoleEngine] = {}
    group = stage.algorithm.group
    micro_rows = (stage.micro_batch or 1) * group
    for role in stage.algorithm.roles(plan.sizes(stage)):
        trains = role in stage.algorithm.trains
        settings, model = plan.engine_of(role), plan.roles.of(role)
        module = build_model(
            role_source(plan, run, stage, role), KIND[role], engine=settings, role=model,
            seed=plan.seed, device=processes.device(), tokenizer=tokenizer,
        )  # fmt: skip
        engines[role] = start_engine(
            module, role=role, engine=settings,
            optimizer=stage.optimizer(role) if trains else None,
            total_steps=total_steps.get(role, 1), micro_rows=micro_rows,
            accumulation=max(1, stage.batch * group // (processes.world() * micro_rows)),
        )  # fmt: skip
    return engines


def save_scale(folder: Path, scale: ScoreScale) -> None:
    """Keep the scale of a reward model's scores in its folder; all processes call it."""
    if processes.rank() == 0:
        write_json(folder / SCORE_SCALE, asdict(scale))
    processes.barrier()
