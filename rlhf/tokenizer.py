"""The tokenizer of a run: given, the actor's, or a byte-level BPE trained on the plan's data.

Whatever it comes from, it leaves here with an end of text, a beginning of text, a padding token and
a chat template. The vocabulary never grows. Where a given one has no padding token of its own,
another control token than the end of text serves, and only where there is none the end of text
itself: masks come from lengths, so the id means nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from hwopt import HwoptError, cache_dir, read_text
from rlhf.data.adapters import adapter_source, find_adapter
from rlhf.data.assembly import texts
from rlhf.data.cache import code_digest
from rlhf.data.columns import Message, RowError
from rlhf.data.sources import source_digest, source_name
from rlhf.data.template import DEFAULT_TEMPLATE, render
from rlhf.errors import ModelError
from rlhf.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BEGIN, END = "<pad>", "<s>", "</s>"
"""Control tokens of a new tokenizer, ids 0, 1, 2."""

ENDS = ("</s>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<eos>", "[SEP]")
PADS = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>", "<|endoftext|>")
"""Names that end and padding of text go by, where a folder does not say."""

FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


def load_tokenizer(plan: Plan, folder: Path | None = None) -> PreTrainedTokenizerFast:
    """The plan's tokenizer: from `folder` if it lies there, else made and saved there.

    The same for every process and every start: training is deterministic, and a trained one is kept
    in the cache by the content of its data. Raises `ModelError` for a folder that holds no usable
    tokenizer, or weights without one, and `DataError` as `rlhf.data` does.
    """
    if folder is not None and (folder / "tokenizer.json").exists():
        return _prepared(_given(folder, "run"), plan)
    source = _source(plan)
    tokenizer = _trained(plan) if source is None else _given(*source)
    tokenizer = _prepared(tokenizer, plan)
    if folder is not None:
        save_tokenizer(tokenizer, folder)
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a Hugging Face tokenizer folder, whole or not at all; one that is there stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        tokenizer.save_pretrained(temporary)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError:
        if not (folder / "tokenizer.json").exists():  # else another process was first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def train_tokenizer(lines: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE (Sennrich et al., arXiv 1508.07909; bytes as in GPT-2) of the lines.

    Any text has tokens and comes back exactly. Digits are tokens by themselves, so that numbers are
    read and written place by place. `vocabulary` bounds the number of tokens, control tokens and
    256 bytes included; little text gives fewer. The order of the lines does not matter.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BEGIN, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The template's own words are in every row: they become whole tokens.
    labels = ["Human:\n\n\nAssistant:\n"] * max(2, len(lines))
    bpe.train_from_iterator(sorted(lines) + labels, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, bos_token=BEGIN, eos_token=END,
        clean_up_tokenization_spaces=False, padding_side="left",
    )  # fmt: skip


def _source(plan: Plan) -> tuple[Path, str] | None:
    """The folder to load from and the field that names it; None: train one."""
    given = plan.data.tokenizer.path
    if given is not None:
        if not Path(given).is_dir():
            raise ModelError("no such folder", where="data.tokenizer.path", value=given)
        return Path(given), "data.tokenizer.path"
    model = plan.roles.actor.model
    if not isinstance(model, str) or not Path(model).is_dir():
        return None
    folder = Path(model)
    if any((folder / name).exists() for name in FILES):
        return folder, "roles.actor.model"
    if any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        raise ModelError(
            "weights without a tokenizer", where="roles.actor.model", value=model,
            fix="give data: {tokenizer: {path: FOLDER}}: weights mean nothing to a new vocabulary",
        )  # fmt: skip
    return None


def _given(folder: Path, where: str) -> Any:
    """A Hugging Face tokenizer from a folder; code that a folder brings along is never run."""
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise ModelError(
            f"no usable tokenizer: {type(error).__name__}: {error}", where=where, value=str(folder),
            fix="the folder needs a tokenizer.json that transformers' AutoTokenizer reads",
        ) from error  # fmt: skip
    if not getattr(found, "is_fast", False):
        raise ModelError("no fast tokenizer (tokenizer.json)", where=where, value=str(folder))
    return found


def _trained(plan: Plan) -> Any:
    """A tokenizer of the plan's data, from the cache if it was made before."""
    parts = {
        "sources": [source_digest(dataset) for dataset in plan.data.sets],
        "sets": [dataset.model_dump(mode="json") for dataset in plan.data.sets],
        "adapters": [
            adapter_source(find_adapter(d.adapter, source_name(d))) if d.adapter else ""
            for d in plan.data.sets
        ],
        "settings": [plan.data.tokenizer.vocabulary, plan.data.held_out, plan.seed],
        "code": [code_digest(), hashlib.sha256(Path(__file__).read_bytes()).hexdigest()],
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    folder = cache_dir() / "rlhf" / "tokenizers" / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / "tokenizer.json").exists():
                save_tokenizer(_train(plan), folder)
        return _given(folder, "cache")
    except OSError:  # no place to write to: the cache only saves time
        return _train(plan)


def _train(plan: Plan) -> Any:
    lines = list(texts(plan))
    if not lines:
        raise ModelError(
            "no text to train a tokenizer on", where="data.sets",
            fix="add data, or give data: {tokenizer: {path: FOLDER}}",
        )  # fmt: skip
    return train_tokenizer(lines, plan.data.tokenizer.vocabulary)


def _prepared(tokenizer: Any, plan: Plan) -> Any:
    """With control tokens and template, and without settings of truncation and padding."""
    names = tokenizer.get_vocab()
    if tokenizer.eos_token_id is None:
        known = [name for name in ENDS if name in names]
        if not known:
            raise ModelError(
                "the tokenizer has no end-of-text token", where="data.tokenizer",
                fix="name its eos_token in tokenizer_config.json",
            )  # fmt: skip
        tokenizer.eos_token = known[0]
    if tokenizer.bos_token_id is None:
        tokenizer.bos_token = tokenizer.eos_token
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        spare = [name for name in (*PADS, tokenizer.unk_token) if name in names]
        spare = [name for name in spare if names[name] != tokenizer.eos_token_id]
        tokenizer.pad_token = (*spare, tokenizer.eos_token)[0]
    tokenizer.chat_template = _template(tokenizer.chat_template, plan.data.tokenizer.template)
    _check_template(tokenizer)
    return tokenizer


def _template(own: Any, asked: str | None) -> str:
    """The plan's template (text or file), else the tokenizer's own, else the plain one."""
    if asked is None:
        if isinstance(own, dict):
            own = own.get("default")
        return str(own or DEFAULT_TEMPLATE)
    try:
        return read_text(asked) if asked.endswith(".jinja") else asked
    except HwoptError as error:
        raise ModelError(error.what, where="data.tokenizer.template", value=asked) from error


def _check_template(tokenizer: Any) -> None:
    """Refuse what is no Jinja at all; what it refuses of a conversation is the row's matter."""
    from jinja2 import TemplateSyntaxError

    try:
        render(tokenizer, (Message("user", "?"),))
    except RowError as error:
        if isinstance(error.__cause__, TemplateSyntaxError):
            raise ModelError(
                f"not a Jinja template: {error.found}", where="data.tokenizer.template"
            ) from error
