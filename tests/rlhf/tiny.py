"""Tiny models of several families, and rows of tokens for them."""

from typing import Any

import torch
from torch import Tensor

WORDS = 97
SHARED: dict[str, Any] = {
    "vocab_size": WORDS, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, **SHARED,
}  # fmt: skip
TINY: dict[str, dict[str, Any]] = {
    "opt": {
        "model_type": "opt", "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "word_embed_proj_dim": 32, "max_position_embeddings": 64,
        **SHARED,
    },
    "opt-projected": {
        "model_type": "opt", "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "word_embed_proj_dim": 16, "max_position_embeddings": 64,
        "do_layer_norm_before": False, **SHARED,
    },
    "llama": {"model_type": "llama", **LLAMA_LIKE},
    "qwen2": {"model_type": "qwen2", **LLAMA_LIKE, "tie_word_embeddings": True},
    "gpt2": {
        "model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **SHARED,
    },
    "bloom": {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4, **SHARED},
    "gpt_neox": {
        "model_type": "gpt_neox", "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64, **SHARED,
    },
}  # fmt: skip


def rows(count: int = 4, time: int = 9, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Tokens and masks of rows of several lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, WORDS, (count, time), generator=generator)
    lengths = torch.tensor([time - 2 * (i % 3) for i in range(count)])
    return tokens, torch.arange(time) < lengths[:, None]


def shifted(tokens: Tensor, attended: Tensor, left: int, right: int, pad: int) -> tuple[Any, ...]:
    """The same rows with more columns on either side, the unattended ones holding `pad`."""
    moved = torch.nn.functional.pad(tokens.masked_fill(~attended, pad), (left, right), value=pad)
    return moved, torch.nn.functional.pad(attended, (left, right), value=False)
