"""Llama 2 and 3; grouped-query attention from 70b (Llama 2) and 8b (Llama 3) on."""

from hwopt.models.configuration import register

register(
    "llama.json",
    {"width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
     "kv_heads": "num_key_value_heads", "inner": "intermediate_size", "vocabulary": "vocab_size"},
)  # fmt: skip
