"""The tokenizer: trained, given or the actor's, and always complete."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data import split
from rlhf.data.assembly import texts
from rlhf.data.cache import tokenizer_digest
from rlhf.data.columns import Example, Message
from rlhf.errors import ModelError
from rlhf.plan import Plan
from rlhf.tokenizer import load_tokenizer, train_tokenizer

LINES = ["the cat sat on the mat", "the dog ran, and the cat ran", "12 + 345 = 357"] * 3


@pytest.fixture(scope="module")
def trained() -> Any:
    return train_tokenizer(LINES, 320)


def make_plan(
    model: Any = None, sets: Sequence[Path] = (), held_out: float = 0, **tokenizer: Any
) -> Plan:
    return Plan(
        name="test",
        roles={"actor": {"model": model or {"model_type": "llama"}}},
        data={
            "sets": [{"path": str(s)} for s in sets], "tokenizer": tokenizer, "held_out": held_out,
        },
        stages=[{"algorithm": "sft"}],
    )  # fmt: skip


def rows(path: Path, lines: Sequence[str] = LINES) -> Path:
    path.write_text("".join(json.dumps({"prompt": x, "answer": x}) + "\n" for x in lines))
    return path


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_round_trip(trained: Any, text: str) -> None:
    """Any text comes back exactly."""
    assert trained.decode(trained(text, split_special_tokens=True)["input_ids"]) == text


def test_trained(trained: Any) -> None:
    """The vocabulary is bounded, control tokens are the first, digits stand alone."""
    assert len(trained) <= 320
    assert trained.convert_tokens_to_ids(["<pad>", "<s>", "</s>"]) == [0, 1, 2]
    assert len(trained("345")["input_ids"]) == 3
    assert len(trained("the")["input_ids"]) == 1
    assert len(trained("Human:\n")["input_ids"]) <= 3
    assert len(train_tokenizer(LINES, 260)) == 260


def test_training_is_deterministic(trained: Any) -> None:
    """The same lines in any order give the same tokenizer."""
    again = train_tokenizer(LINES[::-1], 320)
    assert tokenizer_digest(again) == tokenizer_digest(trained)


def test_trained_on_the_data(tmp_path: Path) -> None:
    """A configuration alone gets a tokenizer of the plan's texts; it is saved, and read again."""
    plan = make_plan(sets=[rows(tmp_path / "rows.jsonl")], vocabulary=300)
    folder = tmp_path / "run" / "tokenizer"
    tokenizer = load_tokenizer(plan, folder)
    assert len(tokenizer("the cat")["input_ids"]) < 7
    digest = tokenizer_digest(tokenizer)
    assert tokenizer_digest(load_tokenizer(plan)) == digest
    (tmp_path / "rows.jsonl").unlink()
    assert tokenizer_digest(load_tokenizer(plan, folder)) == digest
    assert (folder / "chat_template.jinja").is_file()


def test_held_out_text_is_not_trained_on(tmp_path: Path) -> None:
    """Rows kept for evaluation do not shape the tokenizer."""
    lines = ["zyx" * 20 if i == 0 else f"line {i}" for i in range(50)]
    plan = make_plan(sets=[rows(tmp_path / "rows.jsonl", lines)], held_out=0.5)
    found = set(texts(plan))
    assert 10 < len(found) < 40
    for line in lines:
        key = split.prompt_key(Example((Message("user", line),), (), {}, ""))
        assert (line in found) != split.held_out(plan, key)


def test_no_text(tmp_path: Path) -> None:
    """Without data there is nothing to train on."""
    with pytest.raises(ModelError, match="no text"):
        load_tokenizer(make_plan())
    path = tmp_path / "rows.jsonl"
    path.write_text("nonsense\n")
    with pytest.raises(ModelError, match="no text"):
        load_tokenizer(make_plan(sets=[path]))


def save(tokenizer: Any, folder: Path, **tokens: str | None) -> Path:
    """A folder like those of released models: its own control tokens, no template."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(folder)
    return folder


def bpe(*special: str) -> Any:
    """A byte-level BPE with other control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(LINES, trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))  # fmt: skip
    return inner


@pytest.mark.parametrize(
    ("special", "tokens", "pad"),
    [
        (["<|endoftext|>"], {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"},
         "<|endoftext|>"),  # GPT-2: there is no other
        (["<s>", "</s>", "<pad>"], {"eos_token": "</s>", "bos_token": "<s>"}, "<pad>"),
        (["<s>", "</s>", "<unk>"], {"eos_token": "</s>", "unk_token": "<unk>"}, "<unk>"),  # Llama 2
        (["<|endoftext|>", "<|im_end|>"], {"eos_token": "<|im_end|>"}, "<|endoftext|>"),  # Qwen
        (["<pad>", "</s>"], {"eos_token": "</s>", "pad_token": "</s>"}, "<pad>"),
        (["</s>"], {}, "</s>"),
    ],
)  # fmt: skip
def test_given(tmp_path: Path, special: list[str], tokens: dict[str, str], pad: str) -> None:
    """End, beginning and padding are set, distinct where there is a token for it; none is added."""
    inner = bpe(*special)
    folder = save(inner, tmp_path / "model", **tokens)
    plans = [make_plan(path=str(folder)), make_plan(model=str(folder))]
    for i, plan in enumerate([*plans, plans[0]]):
        tokenizer = load_tokenizer(plan, tmp_path / f"run-{i % 2}")
        assert tokenizer.pad_token == pad
        assert len(tokenizer) == inner.get_vocab_size()
        assert tokenizer.eos_token_id is not None
        assert tokenizer.bos_token_id is not None
        assert tokenizer.chat_template


def test_own_template_is_kept(tmp_path: Path) -> None:
    """The tokenizer's template counts, unless the plan names another, as text or as a file."""
    folder = save(bpe("</s>"), tmp_path / "model", eos_token="</s>")
    (folder / "chat_template.jinja").write_text("own")
    assert load_tokenizer(make_plan(path=str(folder))).chat_template == "own"
    assert load_tokenizer(make_plan(path=str(folder), template="mine")).chat_template == "mine"
    path = tmp_path / "t.jinja"
    path.write_text("from a file")
    plan = make_plan(path=str(folder), template=str(path))
    assert load_tokenizer(plan, tmp_path / "run").chat_template == "from a file"
    assert load_tokenizer(make_plan(), tmp_path / "run").chat_template == "from a file"


@pytest.mark.parametrize("template", ["{% for %}", "{{ a", "missing.jinja"])
def test_broken_template(tmp_path: Path, template: str) -> None:
    """What is no template is refused before any row."""
    folder = save(bpe("</s>"), tmp_path / "model", eos_token="</s>")
    with pytest.raises(ModelError, match=r"data\.tokenizer\.template"):
        load_tokenizer(make_plan(path=str(folder), template=template))


def test_template_that_wants_more(tmp_path: Path) -> None:
    """A template that refuses one conversation may take others: rows will tell."""
    folder = save(bpe("</s>"), tmp_path / "model", eos_token="</s>")
    plan = make_plan(path=str(folder), template="{{ raise_exception('a system turn first') }}")
    assert load_tokenizer(plan).chat_template.startswith("{{ raise")


def test_unusable_folders(tmp_path: Path) -> None:
    """Missing, empty and broken folders; weights without a tokenizer; no end of text."""
    with pytest.raises(ModelError, match="no such folder"):
        load_tokenizer(make_plan(path=str(tmp_path / "nothing")))
    broken = tmp_path / "broken"
    broken.mkdir()
    with pytest.raises(ModelError, match="no usable tokenizer"):
        load_tokenizer(make_plan(path=str(broken)))
    (broken / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ModelError, match="no usable tokenizer"):
        load_tokenizer(make_plan(model=str(broken)))
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text('{"model_type": "llama"}')
    (weights / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="weights without a tokenizer"):
        load_tokenizer(make_plan(model=str(weights)))
    endless = save(bpe("<x>"), tmp_path / "endless")
    with pytest.raises(ModelError, match="no end-of-text token"):
        load_tokenizer(make_plan(path=str(endless)))


def test_configuration_in_a_folder(tmp_path: Path) -> None:
    """A folder with a config.json alone is a configuration: its tokenizer is trained."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    plan = make_plan(model=str(folder), sets=[rows(tmp_path / "rows.jsonl")], vocabulary=280)
    assert len(load_tokenizer(plan)) == 280


def test_no_code_of_a_folder_runs(tmp_path: Path) -> None:
    """A tokenizer that brings its own Python is refused, not run."""
    folder = tmp_path / "model"
    folder.mkdir()
    mark = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: ...\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}})
    )
    with pytest.raises(ModelError):
        load_tokenizer(make_plan(path=str(folder)))
    assert not mark.exists()


def test_no_place_for_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written a tokenizer is trained all the same."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HWOPT_CACHE", str(tmp_path / "file" / "cache"))
    assert len(load_tokenizer(make_plan(sets=[rows(tmp_path / "r.jsonl")], vocabulary=270))) == 270
