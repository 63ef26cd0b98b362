"""Transformers models that the library does not name: traced from small configurations."""

import json

import pytest
import torch
import transformers

from hwopt import trace

L = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
F = {**L, "intermediate_size": 48}
G = {**F, "num_key_value_heads": 2}
SPEECH = {"conv_dim": (16,) * 3, "conv_kernel": (10, 3, 3), "conv_stride": (5, 2, 2),
          "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16,
          "num_conv_pos_embedding_groups": 4}  # fmt: skip

CAUSAL = {
    "Qwen2ForCausalLM": G,
    "Qwen3ForCausalLM": {**G, "head_dim": 16},
    "MistralForCausalLM": {**G, "sliding_window": 8},
    "Phi3ForCausalLM": {**G, "pad_token_id": 0},
    "Gemma2ForCausalLM": {**G, "head_dim": 8, "sliding_window": 8},
    "GPTNeoXForCausalLM": F,
    "BloomForCausalLM": {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "FalconForCausalLM": L,
    "Qwen2MoeForCausalLM": {
        **G, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40, "num_experts": 6,
        "num_experts_per_tok": 2,
    },
    "DeepseekV3ForCausalLM": {
        **F, "moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "num_key_value_heads": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
    },
    "OlmoForCausalLM": F,
    "StableLmForCausalLM": G,
    "GPTJForCausalLM": {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "CohereForCausalLM": G,
    "Starcoder2ForCausalLM": G,
    "OlmoeForCausalLM": {**G, "num_experts": 4, "num_experts_per_tok": 2},
    "GraniteForCausalLM": G,
}  # fmt: skip

OTHERS = {
    "RobertaForMaskedLM": F,
    "DistilBertForMaskedLM": {
        "vocab_size": 96, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48
    },
    "AlbertForMaskedLM": {**F, "embedding_size": 16},
    "DebertaV2ForMaskedLM": {
        **F, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]
    },
    "ElectraForMaskedLM": {**F, "embedding_size": 16},
    "T5ForConditionalGeneration": {
        "vocab_size": 96, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4
    },
    "BartForConditionalGeneration": {
        "vocab_size": 96, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    },
    "WhisperForConditionalGeneration": {
        "vocab_size": 96, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "max_source_positions": 20, "num_mel_bins": 8,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    },
    "Wav2Vec2ForCTC": {**F, **SPEECH},
    "CLIPModel": {
        "text_config": {**F, "max_position_embeddings": 16},
        "vision_config": {**F, "image_size": 32, "patch_size": 8}, "projection_dim": 16,
    },
    "ConvNextForImageClassification": {
        "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "image_size": 64
    },
    "SwinForImageClassification": {
        "image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4],
        "window_size": 4,
    },
    "ResNetForImageClassification": {
        "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "image_size": 64
    },
    "MobileNetV2ForImageClassification": {"image_size": 64, "depth_multiplier": 0.35},
    "DeiTForImageClassification": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "image_size": 32, "patch_size": 8,
    },
    "Mamba2ForCausalLM": {
        "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8,
        "n_groups": 2, "state_size": 8, "chunk_size": 8,
    },
}  # fmt: skip
ALL = {**CAUSAL, **OTHERS}
SLOW = (
    "OlmoForCausalLM", "StableLmForCausalLM", "GPTJForCausalLM", "CohereForCausalLM",
    "Starcoder2ForCausalLM", "OlmoeForCausalLM", "GraniteForCausalLM", "ElectraForMaskedLM",
    "BartForConditionalGeneration", "ResNetForImageClassification", "DeiTForImageClassification",
    "MobileNetV2ForImageClassification", "AlbertForMaskedLM",
)  # fmt: skip


def chosen(names, *quick):
    """Parameters of a test, those that take long or are not `quick` marked."""
    return [
        pytest.param(n, marks=pytest.mark.slow if n in SLOW or (quick and n not in quick) else ())
        for n in names
    ]


def write(tmp_path, name):
    """A config.json as a model folder has it."""
    settings = getattr(transformers, name).config_class(**ALL[name])
    data = {**settings.to_dict(), "architectures": [name]}
    (tmp_path / "config.json").write_text(json.dumps(data))
    again = transformers.AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        return tmp_path, getattr(transformers, name)(again)


def seq_of(name):
    """Tokens, or samples of sound."""
    return 800 if name.startswith("Wav2Vec2") else 12


def inputs_of(graph):
    """Tensors as the graph takes them."""
    return {
        t.name: torch.empty(t.shape, dtype=getattr(torch, t.dtype))
        for t in graph.inputs
        if t.name != "target"
    }


@pytest.mark.parametrize("name", chosen(ALL))
def test_forward(name, tmp_path, count_flops):
    """A folder with a config.json is enough; FLOPs and parameters are torch's."""
    folder, model = write(tmp_path, name)
    graph = trace(str(folder), batch=2, seq=seq_of(name), cache=False)
    assert graph.flops == count_flops(model, inputs_of(graph))
    assert graph.parameter_count == sum(p.numel() for p in model.parameters())


TRAINED = (
    "Qwen3ForCausalLM", "Gemma2ForCausalLM", "BloomForCausalLM", "T5ForConditionalGeneration",
    "ConvNextForImageClassification", "DeepseekV3ForCausalLM",
)  # fmt: skip


@pytest.mark.parametrize("name", chosen(ALL, *TRAINED))
def test_train(name, tmp_path, count_flops):
    """The same for forward and backward."""
    folder, model = write(tmp_path, name)
    graph = trace(str(folder), mode="train", batch=2, seq=seq_of(name), cache=False)

    def loss(output):
        names = ("loss", "logits", "logits_per_image")
        return next(output[n] for n in names if output.get(n) is not None).mean()

    training = not name.startswith("Wav2Vec2")  # drops layers at random: traced as in inference
    assert graph.flops == count_flops(model, inputs_of(graph), loss, training)


DECODED = ("MistralForCausalLM", "Gemma2ForCausalLM", "BloomForCausalLM", "DeepseekV3ForCausalLM")


@pytest.mark.parametrize("name", chosen(CAUSAL, *DECODED))
def test_decode(name, tmp_path):
    """One token against a cache: the new rows are appended, the cached ones are not copied."""
    folder, _ = write(tmp_path, name)
    graph = trace(str(folder), mode="decode", batch=2, seq=30, cache=False)
    cached = [t for t in graph.inputs if t.role == "cache"]
    assert {t.name.split(".")[1] for t in cached} == {"0", "1"}
    assert all(f"{t.name}.next" in graph.tensor for t in cached)
    appended = [op for op in graph.ops if op.kind == "append"]
    assert len(appended) == len(cached)
    for op in appended:
        assert op.body.read_elements[0] == 0
        new = sum(graph.tensor[name].elements for name in op.reads[1:])
        assert op.body.write_elements == (new,)
    if name in ("MistralForCausalLM", "Gemma2ForCausalLM"):
        assert cached[0].shape[2] == 7  # a window of 8 needs the last 7 and the new one
