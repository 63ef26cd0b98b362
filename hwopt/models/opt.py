"""OPT: every published size, opt-125m to opt-175b (table 1 of the paper)."""

from hwopt.models.configuration import register

register(
    "opt.json",
    {"width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
     "inner": "ffn_dim", "vocabulary": "vocab_size"},
    scaled=("word_embed_proj_dim",),
)  # fmt: skip
