"""Vision Transformer, base size with patches of 16."""

from hwopt.models.configuration import register

register(
    "vit.json",
    {"width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
     "inner": "intermediate_size"},
    modes=("forward", "train"), loss="cross_entropy",
    inputs={"pixel_values": ((3, 224, 224), "float32")},
)  # fmt: skip
