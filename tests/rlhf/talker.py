"""A tiny model that has learned one sentence by heart, as a Hugging Face folder."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.data.template import DEFAULT_TEMPLATE

SENTENCE = "The lantern is in the old mill — übrigens 日本語 👩‍🔬!"


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with hardly any merges, so that characters span tokens."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    words.train_from_iterator(["the lantern is in the mill"], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = DEFAULT_TEMPLATE
    return fast


def make(
    folder: Path,
    *,
    sentence: str = SENTENCE,
    questions: tuple[str, ...] = ("Where?", "Hi", "Again"),
    steps: int = 60,
) -> None:
    """Train it and write the folder; no steps leave it as it was born."""
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=4096, bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    rows = []
    for question in questions:
        prompt = words.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        tokens = words(prompt + sentence + "</s>", add_special_tokens=False)["input_ids"]
        rows.append(torch.tensor([tokens]))
    for step in range(steps):
        row = rows[step % len(rows)]
        model(input_ids=row, labels=row).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
