"""A small tokenizer, plans around given sets, and GSM8K: eight rows always, all of it if given."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf.plan import Plan
from rlhf.tokenizer import load_tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def gsm8k() -> Path:
    """The folder of GSM8K given in place (RLHF_GSM8K); the test is skipped without."""
    root = Path(os.environ.get("RLHF_GSM8K", "../shared/data/gsm8k"))
    if not (root / "train.jsonl").is_file():
        pytest.skip("GSM8K not given (set RLHF_GSM8K)")
    return root.resolve()


@pytest.fixture(scope="session")
def few_gsm8k() -> Path:
    """The first rows of GSM8K (MIT licence, beside them)."""
    return Path(__file__).with_name("gsm8k")


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    """A plan with the given sets, data settings and stages."""

    def make(
        sets: Sequence[Any], stages: Sequence[Any] = ("sft", "reward", "ppo"), **data: Any
    ) -> Plan:
        sets = [{"path": str(s)} if isinstance(s, str | Path) else s for s in sets]
        return Plan(
            name="test",
            roles={"actor": {"model": {"model_type": "llama"}}},
            data={"held_out": 0.0, **data, "sets": sets},
            stages=[{"algorithm": s} if isinstance(s, str) else s for s in stages],
        )

    return make


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, make_plan: Callable[..., Plan]) -> Any:
    """A byte-level BPE of 300 tokens with the plain template."""
    folder = tmp_path_factory.mktemp("tokenizer") / "t"
    train_tokenizer(["the cat sat on the mat. 2 + 2 = 4"] * 4, 300).save_pretrained(folder)
    return load_tokenizer(make_plan([], tokenizer={"path": str(folder)}))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Rows as a JSONL file."""

    def write_rows(rows: Sequence[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write_rows
