"""Forms of small models, and the modules that they stand for."""

import json
from typing import Any

import torch
import transformers

from rlhf import lora
from rlhf.forms import Form, facts_of
from rlhf.networks import PolicyNetwork, ValueNetwork
from rlhf.plan import Lora

LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "vocab_size": 300,
}  # fmt: skip
OPT = {
    "model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "word_embed_proj_dim": 16, "max_position_embeddings": 128,
    "vocab_size": 300, "dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip
ADAPTERS = Lora(rank=4)


def form(config: dict[str, Any], kind: str, adapters: Lora | None = None) -> Form:
    """A form in float32."""
    return Form(json.dumps(config, sort_keys=True), kind, "float32", adapters)  # type: ignore[arg-type]


def network(of: Form, *, eager: bool = False) -> PolicyNetwork | ValueNetwork:
    """The module that trains, with random weights and a plan's adapters."""
    config = transformers.AutoConfig.for_model(**of.settings)
    config._attn_implementation = "eager" if eager else "sdpa"
    torch.manual_seed(0)
    auto = transformers.AutoModelForCausalLM if of.kind == "policy" else transformers.AutoModel
    model = auto.from_config(config, dtype=torch.float32)
    if of.lora is not None:
        head = model.get_output_embeddings() if of.kind == "policy" else None
        lora.add(model, of.lora, seed=0, skip=[] if head is None else [head])
    if of.kind == "policy":
        return PolicyNetwork(model)
    return ValueNetwork(model, facts_of(of).head_inputs)


def batch(rows: int, tokens: int, padding: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens, the last few of each row not attended."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 250, (rows, tokens), generator=generator)
    attended = torch.ones_like(ids, dtype=torch.bool)
    attended[:, tokens - padding :] = False
    return ids, attended
