"""Mixtral: a Llama-like decoder whose feed-forward part is eight experts, two per token."""

from hwopt.models.configuration import register

register(
    "mixtral.json",
    {"width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
     "kv_heads": "num_key_value_heads", "inner": "intermediate_size", "vocabulary": "vocab_size"},
)  # fmt: skip
