"""A plan: the one file that says what to train, on what, with what, where.

    name: gsm8k
    roles:
      actor: {model: models/opt-1.3b}
      reward: {model: models/opt-350m}
    data:
      sets: [{path: train.jsonl}]
    stages:
      - {algorithm: sft, batch: 64, epochs: 2}
      - {algorithm: reward, batch: 64}
      - {algorithm: {name: ppo, kl_coefficient: 0.05}, batch: 128, steps: 500}
    engine: {zero: 2, dtype: bf16}
    cluster: {device: 1xa100-80gb}

Defaults are those of DeepSpeed-Chat (github.com/deepspeedai/DeepSpeedExamples at 45b4b715)
unless a field says otherwise. Paths are relative to the plan's file. Unknown and duplicate keys are
refused with their dotted path.
"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)  # fmt: skip

from hwopt import dump_yaml, explain, read_json, read_yaml
from rlhf.algorithms import AlgorithmOptions
from rlhf.errors import PlanError
from rlhf.phases import Role, Sizes
from rlhf.sampling import Sampling

DType: TypeAlias = Literal["fp32", "bf16", "fp16"]


class Part(BaseModel):
    """Base of every part of a plan: frozen, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Lora(Part):
    """Low-rank adapters: W + (alpha / rank) B A (Hu et al., arXiv 2106.09685)."""

    rank: int = Field(default=8, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    """Scale; None: equal to the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ()
    """Parts of names of linear layers that get adapters; empty: every linear layer but the head."""
    only: bool = True
    """Train the adapters alone; false: all parameters with them."""


class Offload(Part):
    """What is kept in the host's memory."""

    optimizer: bool = False
    parameters: bool = False
    """ZeRO-3 only."""


class HybridEngine(Part):
    """DeepSpeed's hybrid engine for generation; knobs as in its configuration."""

    inference_tp_size: int = Field(default=1, ge=1)
    tp_gather_partition_size: int = Field(default=8, ge=1)
    release_inference_cache: bool = False
    pin_parameters: bool = True


class Vllm(Part):
    """vLLM for generation, beside the training engine on each process's GPU (extra `vllm`)."""

    memory: float = Field(default=0.3, gt=0, lt=1)
    """Share of the GPU's memory for its weights and KV cache."""


class Engine(Part):
    """How DeepSpeed trains a role."""

    zero: int = Field(default=2, ge=0, le=3)
    """ZeRO stage (Rajbhandari et al., arXiv 1910.02054)."""
    dtype: DType = "fp32"
    """bf16 with stage 0 runs as stage 1, and says so."""
    offload: Offload = Offload()
    gradient_clipping: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient; 0: no clipping."""
    loss_scale_window: int = Field(default=100, ge=1)
    """fp16: steps without overflow before the loss scale is doubled."""
    initial_scale_power: int = Field(default=16, ge=0)
    """fp16: the loss scale starts at 2 to this power."""
    align_overflow: bool = True
    """fp16: when the actor's or the critic's gradients overflow, neither takes the step."""
    hybrid: HybridEngine | None = None
    vllm: Vllm | None = None
    deepspeed: dict[str, Any] = {}
    """Further keys of DeepSpeed's own configuration, merged in last."""


class RoleModel(Part):
    """The model of a role."""

    model: str | dict[str, Any] | None = None
    """A Hugging Face folder, a config.json, a name of `hwopt list models`, or the content of a
    config.json. Without weights it starts at random. None: what an earlier stage trained (the
    reference is the actor at the stage's start, the critic starts from the reward model, the reward
    model from the actor)."""
    function: str | None = None
    """Reward only: `package.module:function` called with prompts, responses and records (lists),
    returns a score each. Beside a model their scores add up."""
    lora: Lora | None = None
    gradient_checkpointing: bool = False
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Sets every dropout while training; None: 0 (DeepSpeed-Chat's default for step 3 as well)."""
    engine: Engine | None = None
    """Differs from the plan's engine."""


class Roles(Part):
    """Who takes part."""

    actor: RoleModel
    reward: RoleModel = RoleModel()
    critic: RoleModel = RoleModel()
    reference: RoleModel = RoleModel()

    def of(self, role: Role) -> RoleModel:
        """The model of a role; the average has the actor's."""
        found: RoleModel = getattr(self, "actor" if role == "ema" else role)
        return found


class Columns(Part):
    """Which column holds what; None: found by its usual names (see `rlhf/data`)."""

    prompt: str | None = None
    answer: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    messages: str | None = None
    reference: str | None = None
    """The known right answer, passed on to reward functions and exact match."""


class DataSet(Part):
    """One source of rows."""

    path: str | None = None
    """A JSONL, JSON, CSV or Parquet file, or a folder saved by the datasets library."""
    hub: str | None = None
    """A Hugging Face dataset by name (needs the network)."""
    split: str = "train"
    """Of a Hugging Face dataset."""
    format: Literal["jsonl", "json", "csv", "parquet", "folder"] | None = None
    """None: by the file's ending."""
    adapter: str | None = None
    """A name of `rlhf/data/adapters.py` (gsm8k, gsm8k-preferences) or `package.module:function`,
    which turns a row into rows of the usual columns."""
    columns: Columns = Columns()
    weight: float = Field(default=1.0, gt=0)
    """Share of a blend: how often its rows are drawn relative to their number (2: twice each)."""
    stages: dict[str, float] | None = None
    """Share of its rows for each stage by name, e.g. {sft: 2, reward: 4, ppo: 4} (disjoint rows);
    None: every stage sees all rows."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of path and hub")
        return self


class TokenizerPlan(Part):
    """The tokenizer: given, or trained on the plan's data."""

    path: str | None = None
    """A folder; None: the actor's, or a new one when the actor is only a configuration."""
    vocabulary: int = Field(default=2048, ge=260)
    """Of a new byte-level BPE."""
    template: str | None = None
    """A Jinja chat template (text or .jinja file); None: the tokenizer's, else a plain one."""


class Data(Part):
    """What is trained on."""

    sets: tuple[DataSet, ...] = ()
    prompt_tokens: int = Field(default=256, ge=1)
    """Longer prompts are dropped (a cut prompt is another question), and counted."""
    answer_tokens: int = Field(default=256, ge=1)
    """Longer answers are cut, and counted."""
    held_out: float = Field(default=0.05, ge=0, lt=1)
    """Share of prompts kept for evaluation, chosen by the content of the prompt."""
    on_bad_row: Literal["stop", "drop"] = "stop"
    tokenizer: TokenizerPlan = TokenizerPlan()


class Optimizer(Part):
    """AdamW and its schedule."""

    learning_rate: float = Field(default=9.65e-6, gt=0)
    lora_learning_rate: float = Field(default=5e-4, gt=0)
    """Of adapters."""
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    """Not applied to biases and normalisation weights."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """After the warm-up, down to zero at the last step (constant: stays)."""
    warmup_steps: int = Field(default=0, ge=0)


def _named(value: object) -> object:
    """`algorithm: ppo` is `algorithm: {name: ppo}`."""
    return {"name": value} if isinstance(value, str) else value


_NAMES: Any = Literal[tuple(each.name for each in get_args(AlgorithmOptions))]
"""What `algorithm: NAME` may be, for the schema."""


class Stage(Part):
    """One training stage."""

    name: str = Field(default="", pattern=r"^[a-z0-9][a-z0-9_-]*$|^$")
    """Empty: the algorithm's name."""
    algorithm: Annotated[
        Annotated[AlgorithmOptions, Field(discriminator="name")],
        BeforeValidator(_named, json_schema_input_type=AlgorithmOptions | _NAMES),
    ]
    batch: int = Field(default=16, ge=1)
    """Groups (rows, or pairs for the reward model) per optimizer step over all processes."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Groups per process and pass; None: chosen from the traced graphs."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the data; this or `steps`. Neither: one pass."""
    steps: int | None = Field(default=None, ge=1)
    """Iterations: optimizer steps, or for PPO rounds of generation and training."""
    optimizers: dict[Literal["actor", "critic", "reward"], Optimizer] = {}
    """By trained role."""
    sampling: Sampling = Sampling()
    evaluate_every: int = Field(default=0, ge=0)
    """Steps between evaluations on held-out rows; 0: at the start and the end."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        if self.algorithm.data == "prompts" and self.sampling.greedy:
            raise ValueError("greedy rollouts never explore: a policy cannot learn from them")
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(f"batch {self.batch} is not a multiple of micro_batch")
        strangers = set(self.optimizers) - set(self.algorithm.trains)
        if strangers:
            raise ValueError(f"{self.algorithm.name} does not train {', '.join(strangers)}")
        return self

    @property
    def title(self) -> str:
        """The stage's name."""
        return self.name or self.algorithm.name

    def optimizer(self, role: Role) -> Optimizer:
        """The optimizer of a trained role."""
        return next((o for r, o in self.optimizers.items() if r == role), Optimizer())


class ClusterPlan(Part):
    """Where it runs."""

    device: str = "host"
    """A cluster or accelerator of `hwopt list`, a file of one, or "host": this machine."""
    processes: int = Field(default=1, ge=1)
    """Per machine: one per GPU, or CPU processes."""
    hostfile: str | None = None
    """DeepSpeed's hostfile (`host slots=N` a line): several machines."""
    ssh_port: int | None = Field(default=None, ge=1, le=65535)
    master_address: str | None = None
    master_port: int | None = Field(default=None, ge=1, le=65535)
    """None: a free one."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads per process; None: the cores divided by the processes."""


class CheckpointPlan(Part):
    """When and how many."""

    every: int = Field(default=100, ge=1)
    """Steps between checkpoints; one is always written at the end of a stage."""
    keep: int = Field(default=2, ge=1)
    """The last so many of a stage are kept."""


class Watch(Part):
    """What is recorded besides metrics.jsonl."""

    tensorboard: bool = True
    wandb: str | None = None
    """Project name; needs the wandb package."""
    samples: int = Field(default=4, ge=0)
    """Held-out prompts whose answers are shown and kept at each evaluation."""
    evaluation_rows: int = Field(default=64, ge=1)
    """Held-out rows used at an evaluation during training."""


class Plan(Part):
    """What `rlhf train` reads."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=1234, ge=0)
    roles: Roles
    data: Data
    stages: tuple[Stage, ...] = Field(json_schema_extra={"minItems": 1})
    engine: Engine = Engine()
    cluster: ClusterPlan = ClusterPlan()
    checkpoint: CheckpointPlan = CheckpointPlan()
    watch: Watch = Watch()

    def __init__(self, **data: Any) -> None:
        """Raises `PlanError` with the dotted path of the first field that is wrong."""
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise PlanError(**explain(error, "plan")) from error

    @field_validator("stages")
    @classmethod
    def _some(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        """Not by min_length, which also counts a stage that is wrong as missing."""
        if not stages:
            raise ValueError("give at least one stage")
        return stages

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        titles = [stage.title for stage in self.stages]
        if len(set(titles)) != len(titles):
            raise ValueError(f"two stages share a name: {', '.join(titles)}")
        for dataset in self.data.sets:
            strangers = set(dataset.stages or ()) - set(titles)
            if strangers:
                raise ValueError(f"a data set names no stage of the plan: {', '.join(strangers)}")
        for role in ("actor", "critic", "reference"):
            if self.roles.of(role).function is not None:
                raise ValueError(f"only the reward may be a function, not {role}")
        engines = [self.engine, *(r.engine for r in self._role_models if r.engine is not None)]
        if any(e.offload.parameters and e.zero != 3 for e in engines):
            raise ValueError("offload.parameters needs zero: 3")
        if any(e.hybrid is not None and e.vllm is not None for e in engines):
            raise ValueError("give hybrid or vllm, not both")
        return self

    @property
    def _role_models(self) -> tuple[RoleModel, ...]:
        return tuple(self.roles.of(role) for role in ("actor", "critic", "reward", "reference"))

    def engine_of(self, role: Role) -> Engine:
        """How a role is trained or held."""
        return self.roles.of(role).engine or self.engine

    def sizes(self, stage: Stage) -> Sizes:
        """What one iteration of a stage is made of."""
        generated = stage.algorithm.data == "prompts"
        answer = stage.sampling.response_tokens if generated else self.data.answer_tokens
        reward = self.roles.reward
        earlier = takewhile(lambda other: other.title != stage.title, self.stages)
        trained = any("reward" in other.algorithm.trains for other in earlier)
        model = trained or reward.model is not None or reward.function is None
        return Sizes(stage.batch, self.data.prompt_tokens, answer, model, reward.function)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """A plan from a YAML or JSON file, its paths made absolute.

        Raises `PlanError` with the dotted path of the first field that is wrong.
        """
        path = Path(path)
        data = read_json(path) if path.suffix == ".json" else read_yaml(path)
        if not isinstance(data, dict):
            raise PlanError("not a plan", where=str(path), allowed="a mapping of keys")
        folder = path.resolve().parent
        try:
            return located(cls(**{str(key): value for key, value in data.items()}), folder)
        except PlanError as error:
            where = f"{path}{error.where.removeprefix('plan')}"
            raise PlanError(error.what, where=where, value=error.value) from error

    def text(self) -> str:
        """YAML that `load` reads back as this plan."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        for written, stage in zip(data["stages"], self.stages, strict=True):
            written["algorithm"] = {"name": stage.algorithm.name, **written["algorithm"]}
        return dump_yaml(data)


def located(plan: Plan, folder: Path) -> Plan:
    """The plan with every relative path that exists in `folder` made absolute."""

    def found(path: str | None) -> str | None:
        return str(folder / path) if path is not None and (folder / path).exists() else path

    def model(role: RoleModel) -> RoleModel:
        return (
            role.model_copy(update={"model": found(role.model)})
            if isinstance(role.model, str)
            else role
        )

    roles = Roles(**{name: model(getattr(plan.roles, name)) for name in Roles.model_fields})
    sets = tuple(s.model_copy(update={"path": found(s.path)}) for s in plan.data.sets)
    tokenizer = plan.data.tokenizer
    tokenizer = tokenizer.model_copy(
        update={"path": found(tokenizer.path), "template": found(tokenizer.template)}
    )
    cluster = plan.cluster.model_copy(
        update={"hostfile": found(plan.cluster.hostfile), "device": found(plan.cluster.device)}
    )
    data = plan.data.model_copy(update={"sets": sets, "tokenizer": tokenizer})
    return plan.model_copy(update={"roles": roles, "data": data, "cluster": cluster})


def plan_schema() -> dict[str, Any]:
    """JSON Schema of a plan file."""
    schema = Plan.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
