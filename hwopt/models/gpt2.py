"""GPT-2 small; the inner size is four times the width."""

from hwopt.models.configuration import register

register(
    "gpt2.json",
    {"width": "n_embd", "depth": "n_layer", "heads": "n_head", "vocabulary": "vocab_size"},
)
