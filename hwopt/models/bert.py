"""BERT base and large with the masked-language-model head."""

from hwopt.models.configuration import register

register(
    "bert.json",
    {"width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
     "inner": "intermediate_size", "vocabulary": "vocab_size"},
    modes=("forward", "train"),
)  # fmt: skip
