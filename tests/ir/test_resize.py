"""Graphs at other sizes than they were traced at equal traces at those sizes."""

import json

import pytest

import hwopt
from hwopt import Graph, Marks, marks, resized
from hwopt.errors import SizeError
from hwopt.ir.resize import ROWS, TOKENS

SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": 300, "max_position_embeddings": 128,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 1, **SMALL}
MODELS = {
    "llama": {"model_type": "llama", **GROUPED},
    "opt": {
        "model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "word_embed_proj_dim": 16, "vocab_size": 300,
        "max_position_embeddings": 128,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 300,
             "n_positions": 128},
    "bloom": {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 2,
              "vocab_size": 300},
    "gpt_neox": {"model_type": "gpt_neox", **SMALL},
    "qwen2": {"model_type": "qwen2", **GROUPED},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, **GROUPED},
    "gemma2": {"model_type": "gemma2", "head_dim": 16, **GROUPED, "sliding_window": 128},
    "phi": {"model_type": "phi", **SMALL},
    "falcon": {"model_type": "falcon", "hidden_size": 32, "num_hidden_layers": 2,
               "num_attention_heads": 2, "vocab_size": 300},
}  # fmt: skip
SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name not in ("llama", "opt")
]


def traced(path, mode: str, rows: int, tokens: int) -> Graph:
    """A graph of a model in a file, `tokens` being the length with the decoded one."""
    seq = tokens - 1 if mode == "decode" else tokens
    return hwopt.trace(str(path), mode=mode, batch=rows, seq=seq, optimizer="none")


def assert_resizes(tmp_path, name: str, mode: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MODELS[name]))
    at = marks({32, 64, 300, 16, 2, 128}, 128)
    graph = resized(traced(path, mode, at.rows, at.tokens), at, rows=3, tokens=20)
    direct = traced(path, mode, 3, 20)
    hwopt.verify(graph)
    assert graph.tensors == direct.tensors
    assert [(op.name, op.macs, op.work) for op in graph.ops] == [
        (op.name, op.macs, op.work) for op in direct.ops
    ]
    assert graph.moved_bytes == direct.moved_bytes


@pytest.mark.parametrize("name", ["llama", *SLOW])
def test_training_graphs_equal_a_trace(tmp_path, name):
    """Tensors, work and bytes of forward and backward are those of a trace at that size."""
    assert_resizes(tmp_path, name, "train")


@pytest.mark.parametrize("name", ["opt", *SLOW])
def test_decoding_graphs_equal_a_trace(tmp_path, name):
    """The same of one token against a cache: its length is one less than the sequence's."""
    assert_resizes(tmp_path, name, "decode")


def test_marks_avoid_the_dimensions():
    """A prime that divides a dimension, or the positions that there are, is not taken."""
    assert marks({64, 300}) == Marks(ROWS[0], TOKENS[0])
    assert marks({64, 2 * ROWS[0]}).rows == ROWS[1]
    assert marks({64, 3 * 53}).tokens == TOKENS[1]  # 53 = (107 - 1) / 2
    assert marks({64}, longest=90).tokens == 83


def test_every_candidate_marks_two_primes():
    """Tokens K and (K - 1) / 2 are primes, and so are rows."""

    def is_prime(n: int) -> bool:
        return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))

    assert all(is_prime(k) and is_prime((k - 1) // 2) for k in TOKENS)
    assert all(is_prime(r) for r in ROWS)


def test_no_marks_are_said_aloud():
    """A model with hardly any positions cannot be marked."""
    with pytest.raises(SizeError, match="no sizes tell"):
        marks({64}, longest=8)


def test_a_size_that_is_no_product_is_refused():
    """A number that only half of (tokens - 1) divides cannot be told."""
    at = Marks(61, 107)
    tensor = hwopt.Tensor("x", (53, 8), role="input")
    graph = Graph("toy", (tensor,), (), ("x",))
    with pytest.raises(SizeError, match="no product"):
        resized(graph, at, rows=2, tokens=9)
    with pytest.raises(SizeError, match="not a size"):
        resized(graph, at, rows=0, tokens=9)


def test_sizes_are_products_of_marks():
    """Rows x tokens x 8, the cache's tokens - 1, a padded tokens + 1, and what is neither."""
    at = Marks(61, 107)
    tensor = hwopt.Tensor("x", (61 * 107 * 8, 106, 61 * 106 * 4, 108, 61 * 108, 12), role="input")
    graph = Graph("toy", (tensor,), (), ("x",))
    (found,) = resized(graph, at, rows=3, tokens=20).tensors
    assert found.shape == (3 * 20 * 8, 19, 3 * 19 * 4, 21, 3 * 21, 12)
