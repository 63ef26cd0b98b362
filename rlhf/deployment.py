r"""The one-line form: a whole plan from an actor, a reward model, data and where it runs.

    rlhf train --actor models/opt-1.3b --reward models/opt-350m --data pairs.jsonl \
               --deployment single-node

It is DeepSpeed-Chat's `train.py`: three stages over the data split 2 : 4 : 4, with the batches,
learning rates and ZeRO stages of its scripts for one GPU, one machine and several (step1 to step3,
`opt/single_gpu/run_1.3b.sh`, `opt/single_node/run_1.3b.sh`, `opt/multi_node/run_66b.sh` and
`run_350m.sh` in DeepSpeedExamples at 45b4b715), without the adapters of the first and last, which
train beside all other weights there. A reward model that is trained already (a folder with a value
head) leaves its stage out. The plan that comes out is written into the run, to be read and edited.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rlhf.errors import PlanError
from rlhf.hosts import hosts
from rlhf.plan import ClusterPlan, DType, Plan
from rlhf.sources import find_source

Deployment: TypeAlias = Literal["single-gpu", "single-node", "multi-node"]
DEPLOYMENTS: tuple[Deployment, ...] = ("single-gpu", "single-node", "multi-node")
CPU_PROCESSES = 2
"""Of one machine without GPUs."""


@dataclass(frozen=True)
class Script:
    """What DeepSpeed-Chat's scripts for a deployment say: ZeRO stage, and groups per process and
    optimizer step for the three stages.
    """

    zero: int
    sft: int
    reward: int
    ppo: int


SCRIPTS: dict[Deployment, Script] = {
    "single-gpu": Script(zero=0, sft=128, reward=64, ppo=32),
    "single-node": Script(zero=2, sft=8, reward=4, ppo=4),
    "multi-node": Script(zero=3, sft=4, reward=2, ppo=4),
}


@dataclass(frozen=True)
class Overrides:
    """What the command line says about where and how a plan runs; None: as the plan says."""

    zero: int | None = None
    dtype: DType | None = None
    processes: int | None = None
    hostfile: str | None = None

    def apply(self, plan: Plan) -> Plan:
        """The plan with these in place of its own, checked as a plan is. Raises `PlanError`."""
        data = plan.model_dump(mode="json", exclude_unset=True)
        for part in ("zero", "dtype"):
            if getattr(self, part) is not None:
                data.setdefault("engine", {})[part] = getattr(self, part)
        for part in ("processes", "hostfile"):
            if getattr(self, part) is not None:
                data.setdefault("cluster", {})[part] = getattr(self, part)
        changed = Plan(**data) if self != Overrides() else plan
        return slotted(changed)


def slotted(plan: Plan) -> Plan:
    """The plan with `cluster.processes` as its hostfile says, where all machines have as many.

    Everything that plans by processes per machine then sees the true number. Raises `PlanError`
    where plan and hostfile disagree.
    """
    slots = {host.slots for host in hosts(plan.cluster)}
    if plan.cluster.hostfile is None or len(slots) != 1:
        return plan
    cluster = plan.cluster.model_copy(update={"processes": slots.pop()})
    return plan.model_copy(update={"cluster": cluster})


def one_line_plan(
    *, actor: str, data: str, reward: str | None = None, deployment: Deployment | None = None,
    overrides: Overrides | None = None,
) -> Plan:  # fmt: skip
    """The plan of the one-line form; see the top of this file.

    `actor`, `reward`: folders, config.json files or names of `hwopt list models`; without `reward`
    the reward model starts from the fine-tuned actor. `data`: a file of prompts with a chosen and a
    rejected answer (a name of Hugging Face works where there is a network). `deployment`: None:
    several machines where there is a hostfile, else one process.
    Raises `PlanError` or `ModelError`.
    """
    overrides = overrides or Overrides()
    given = deployment or ("multi-node" if overrides.hostfile else "single-gpu")
    cluster, processes = _cluster(given, overrides)
    script = SCRIPTS[given]
    on_gpu = _gpus() > 0
    dtype = overrides.dtype or ("bf16" if on_gpu else "fp32")
    find_source(actor)
    trained = reward is not None and find_source(reward).value_head is not None
    ppo: dict[str, Any] = {"name": "ppo"}
    if dtype != "fp32":
        ppo["old_log_probs"] = "forward"
    actor_at, critic_at = {"learning_rate": 9.65e-6}, {"learning_rate": 5e-6}
    stages: list[dict[str, Any]] = [
        {"algorithm": "sft", "batch": script.sft * processes, "optimizers": {"actor": actor_at}},
        {"algorithm": "reward", "batch": script.reward * processes,
         "optimizers": {"reward": {"learning_rate": 5e-5}}},
        {"algorithm": ppo, "batch": script.ppo * processes,
         "optimizers": {"actor": {**actor_at, "warmup_steps": 100},
                        "critic": {**critic_at, "warmup_steps": 100}}},
    ]  # fmt: skip
    shares = {"sft": 2.0, "reward": 4.0, "ppo": 4.0}
    if trained:
        del stages[1], shares["reward"]
    engine: dict[str, Any] = {
        "zero": script.zero if overrides.zero is None else overrides.zero, "dtype": dtype,
    }  # fmt: skip
    if on_gpu:
        engine["hybrid"] = {}
    roles: dict[str, Any] = {"actor": {"model": _absolute(actor)}}
    if reward is not None:
        roles["reward"] = {"model": _absolute(reward)}
    source = {"path": str(Path(data).resolve())} if Path(data).exists() else {"hub": data}
    return Plan(
        name=plan_name(actor), roles=roles, stages=stages, engine=engine, cluster=cluster,
        data={"sets": [{**source, "stages": shares}]},
    )  # fmt: skip


def plan_name(actor: str) -> str:
    """A name for the run from that of its actor."""
    path = Path(actor).resolve()
    named = path.parent if path.suffix == ".json" else path
    return re.sub(r"[^A-Za-z0-9._-]+", "-", named.name).lstrip("._-") or "run"


def _cluster(deployment: Deployment, overrides: Overrides) -> tuple[dict[str, Any], int]:
    """The plan's cluster, and its processes over all machines."""
    hostfile, processes = overrides.hostfile, overrides.processes
    if deployment == "multi-node":
        if hostfile is None:
            raise PlanError("several machines are named in a hostfile", where="--deployment",
                            value=deployment, fix="--hostfile FILE, a line `HOST slots=N` "
                            "each")  # fmt: skip
        given: dict[str, Any] = {"hostfile": str(Path(hostfile).resolve())}
        if processes is not None:
            given["processes"] = processes
        machines = hosts(ClusterPlan(**given))
        if len({host.slots for host in machines}) == 1:
            given["processes"] = machines[0].slots
        return given, sum(host.slots for host in machines)
    if hostfile is not None:
        raise PlanError("a hostfile is for several machines", where="--deployment",
                        value=deployment, allowed="multi-node")  # fmt: skip
    if deployment == "single-gpu":
        if processes not in (None, 1):
            raise PlanError("one GPU has one process", where="--processes", value=processes,
                            fix="--deployment single-node")  # fmt: skip
        return {"processes": 1}, 1
    count = processes or _gpus() or CPU_PROCESSES
    return {"processes": count}, count


def _absolute(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).exists() else model


def _gpus() -> int:
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0
