"""What a role's model is made of, without its weights: sizes that memory and FLOPs follow from.

A *form* is the configuration, the kind of head, the element type and the adapters: all that
determines the traced graphs. The model is built on the meta device, which holds no memory, so the
counts are those of the model that trains, not of a formula.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rlhf.errors import ModelError, PlanError
from rlhf.kept import kept
from rlhf.phases import Role
from rlhf.plan import Lora, Plan
from rlhf.sources import dropouts, find_source

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
VALUE_ROLES: tuple[Role, ...] = ("critic", "reward")


@dataclass(frozen=True)
class Form:
    """`config`: canonical JSON of a config.json's content."""

    config: str
    kind: Literal["policy", "value"]
    dtype: str
    lora: Lora | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration."""
        found: dict[str, Any] = json.loads(self.config)
        return found

    @property
    def key(self) -> dict[str, Any]:
        """The form as plain data."""
        own = self.lora.model_dump(mode="json") if self.lora is not None else None
        return {"config": self.config, "kind": self.kind, "dtype": self.dtype, "lora": own}

    @property
    def bytes_per_element(self) -> int:
        """Of weights and activations."""
        return BYTES[self.dtype]

    @property
    def plain(self) -> Form:
        """Without adapters: what generates, when they are merged."""
        return Form(self.config, self.kind, self.dtype)

    @property
    def longest(self) -> int | None:
        """Tokens that every layer of the model attends to, where it says."""
        settings = self.settings
        names = ("max_position_embeddings", "n_positions", "sliding_window")
        limits = [v for name in names if isinstance(v := settings.get(name), int)]
        return min(limits, default=None)


@dataclass(frozen=True)
class Facts:
    """Counts of a form's model.

    parameters: all, tied ones once. trained: those that get gradients when the role trains.
    largest_layer: parameters of the module that owns most. head_inputs, head_outputs: of the last
    linear layer (outputs: the vocabulary, or 1). head_trained: whether its weight is trained.
    dimensions: every size that occurs, so that traces can use others.
    """

    parameters: int
    trained: int
    largest_layer: int
    head_inputs: int
    head_outputs: int
    head_trained: bool
    dimensions: tuple[int, ...]


def form_of(plan: Plan, role: Role, tokenizer_size: int | None = None) -> Form:
    """The form of a role's model. Its source is the plan's, or what it starts from: the critic from
    the reward model, the reward model and the reference from the actor; stages do not change it.

    Raises `PlanError` where the plan names no model, `ModelError` where there is none.
    """
    order: tuple[Role, ...] = (role, "reward", "actor") if role == "critic" else (role, "actor")
    named = next((m for r in order if (m := plan.roles.of(r).model) is not None), None)
    if named is None:
        raise PlanError(
            "the actor has no model", where="roles.actor.model",
            fix="name a folder, a config.json or a library model",
        )  # fmt: skip
    source = find_source(named)
    config = dict(source.config)
    if source.folder is None:
        words = tokenizer_size
        if words is None and plan.data.tokenizer.path is None and not isinstance(named, str):
            words = plan.data.tokenizer.vocabulary
        if words is not None:
            config["vocab_size"] = words
    for key in ("transformers_version", "dtype", "torch_dtype", "architectures"):
        config.pop(key, None)
    for key in dropouts(config):
        config[key] = 0.0
    kind: Literal["policy", "value"] = "value" if role in VALUE_ROLES else "policy"
    text = json.dumps(config, sort_keys=True)
    return Form(text, kind, DTYPES[plan.engine_of(role).dtype], plan.roles.of(role).lora)


def facts_of(form: Form) -> Facts:
    """Counts of a form's model; kept on disk."""
    found = kept("facts", form.key, lambda: asdict(_count(form)))
    return Facts(**{**found, "dimensions": tuple(found["dimensions"])})


def meta_model(form: Form, *, head: bool) -> Any:
    """The causal language model, or its backbone, on the meta device, with adapters."""
    import torch
    import transformers
    from transformers.initialization import no_init_weights

    auto = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    try:
        config = transformers.AutoConfig.for_model(**form.settings)
        with torch.device("meta"), no_init_weights():
            model = auto.from_config(config, dtype=getattr(torch, form.dtype))
        model.tie_weights()
    except Exception as error:  # whatever transformers' validation raises
        raise ModelError(
            "transformers cannot build this model", where=str(form.settings.get("model_type")),
            value=f"{type(error).__name__}: {str(error)[:300]}",
        ) from error  # fmt: skip
    if form.lora is not None:
        from rlhf import lora

        last = model.get_output_embeddings() if head else None
        lora.add(model, form.lora, seed=0, skip=[] if last is None else [last])
    return model


def _count(form: Form) -> Facts:
    whole = meta_model(form, head=True)
    last = whole.get_output_embeddings()
    if last is None:
        raise ModelError("the model has no vocabulary head", value=form.settings["model_type"])
    words, width = last.weight.shape
    model = whole if form.kind == "policy" else meta_model(form, head=False)
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    extra = width if form.kind == "value" else 0
    layers = [sum(p.numel() for p in m.parameters(recurse=False)) for m in model.modules()]
    sizes = {int(size) for p in whole.parameters() for size in p.shape}
    sizes |= {value for value in _integers(form.settings) if value > 1}
    return Facts(
        parameters + extra, trained + extra, max(layers), int(width),
        int(words) if form.kind == "policy" else 1,
        form.kind == "value" or bool(last.weight.requires_grad), tuple(sorted(sizes)),
    )  # fmt: skip


def _integers(value: Any) -> list[int]:
    """Whole numbers anywhere in plain data."""
    if isinstance(value, dict):
        return [n for part in value.values() for n in _integers(part)]
    if isinstance(value, list):
        return [n for part in value for n in _integers(part)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []
