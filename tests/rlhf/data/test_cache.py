"""The cache: hits by content, misses by any change, safe with several processes."""

import copy
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.data import DataReport, SetReport, load_data
from rlhf.data.cache import cached, data_key, tokenizer_digest
from rlhf.data.tokenized import TokenStore
from rlhf.plan import Plan

ROWS = [{"prompt": f"p {i}", "answer": f"a {i}"} for i in range(5)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HWOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rlhf" / "tokens"


def built(value: int = 7) -> tuple[TokenStore, DataReport]:
    one = np.array([value], np.int64)
    store = TokenStore(one.astype(np.int32), one, one.astype(np.uint8), one, one, one)
    return store, DataReport("sft", "answers", (SetReport("x", used=1),))


def test_built_once(cache: Path) -> None:
    """The second time it is read, equal in every array and in the report."""
    calls = []
    first = cached("k", lambda: (calls.append(1), built())[1])
    store, report = cached("k", lambda: pytest.fail("built again"))
    assert report == first[1]
    assert len(calls) == 1
    for name, value in vars(first[0]).items():
        found = getattr(store, name)
        assert (found.dtype, found.tolist()) == (value.dtype, value.tolist())


@pytest.mark.parametrize("where", [0, 5, -1])
def test_damaged_entry(cache: Path, where: int) -> None:
    """A flipped byte anywhere is found and the entry built again; so is a cut file."""
    cached("k", built)
    path = cache / "k.safetensors"
    data = bytearray(path.read_bytes())
    data[where] ^= 0x20
    path.write_bytes(data)
    assert cached("k", lambda: built(8))[0].train.tolist() == [8]
    path.write_bytes(path.read_bytes()[:40])
    assert cached("k", lambda: built(9))[0].train.tolist() == [9]
    assert cached("k", built)[0].train.tolist() == [9]


def test_no_place_for_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written the set is built all the same."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HWOPT_CACHE", str(tmp_path / "file" / "cache"))
    assert cached("k", built)[0].train.tolist() == [7]


def test_failed_build_leaves_nothing(cache: Path) -> None:
    """An error on the way is passed on, and the next one builds."""
    with pytest.raises(ZeroDivisionError):
        cached("k", lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    assert cached("k", built)[0].train.tolist() == [7]


def test_together(cache: Path) -> None:
    """Several that start at once build it once."""
    calls: list[int] = []
    barrier = threading.Barrier(4)

    def build() -> tuple[TokenStore, DataReport]:
        calls.append(1)
        return built()

    def start() -> None:
        barrier.wait()
        assert cached("k", build)[0].train.tolist() == [7]

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert {path.suffix for path in cache.iterdir()} <= {".safetensors", ".lock"}


def test_key(tokenizer: Any, make_plan: Callable[..., Plan], write: Callable[..., Path]) -> None:
    """The key follows file, limits, seed, stage, kind, template and tokenizer, and nothing else."""
    path = write(ROWS)
    plan = make_plan([path])

    def key(
        plan: Plan = plan, stage: int = 0, tokenizer: Any = tokenizer, kind: Any = "answers"
    ) -> str:
        return data_key(plan, plan.stages[stage], plan.data.sets, tokenizer, kind)

    template = copy.deepcopy(tokenizer)
    template.chat_template = "{{ messages }}"
    weighted = {"path": str(path), "weight": 2}
    keys = [
        key(), key(make_plan([path], prompt_tokens=9)), key(make_plan([path], answer_tokens=9)),
        key(make_plan([path], held_out=0.5)), key(make_plan([path], on_bad_row="drop")),
        key(make_plan([weighted])), key(make_plan([path], stages=["reward", "sft"]), 1),
        key(stage=2), key(kind="prompts"), key(tokenizer=template),
        key(plan.model_copy(update={"seed": 1})),
    ]  # fmt: skip
    path.write_text(path.read_text().replace("a 3", "a three"))
    keys.append(key())
    assert len(set(keys)) == len(keys)
    write(ROWS)
    assert key() == keys[0]
    tokenizer(
        ["x", "longer"], padding=True, truncation=True, max_length=5
    )  # leaves settings behind
    assert key() == keys[0]
    assert tokenizer_digest(tokenizer) != tokenizer_digest(template)


def test_changed_file(
    cache: Path, tokenizer: Any, make_plan: Callable[..., Plan], write: Callable[..., Path]
) -> None:
    """A changed file is read again, an unchanged one is not."""
    path = write(ROWS)
    plan = make_plan([path])
    first, _ = load_data(plan, plan.stages[0], tokenizer)
    again, _ = load_data(plan, plan.stages[0], tokenizer)
    assert len(list(cache.glob("*.safetensors"))) == 1
    assert first.experience([2]).tokens.tolist() == again.experience([2]).tokens.tolist()
    write([*ROWS, {"prompt": "new", "answer": "row"}])
    assert len(load_data(plan, plan.stages[0], tokenizer)[0]) == 6
    assert len(list(cache.glob("*.safetensors"))) == 2


SCRIPT = """
import sys
from pathlib import Path
from rlhf.data import load_data
from rlhf.plan import Plan
from rlhf.tokenizer import load_tokenizer
plan = Plan(name="x", roles={"actor": {"model": {"model_type": "llama"}}},
            data={"sets": [{"path": sys.argv[1]}]}, stages=[{"algorithm": "sft"}])
tokenizer = load_tokenizer(plan, Path(sys.argv[2]))
data, held = load_data(plan, plan.stages[0], tokenizer)
print(len(tokenizer), data.store.tokens.tolist(), data.entries.tolist())
"""


@pytest.mark.slow
def test_real_processes(cache: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    """Three processes start at once on an empty cache and an empty run: one tokenizer, one set."""
    path = write(ROWS * 40)
    command = [sys.executable, "-c", SCRIPT, str(path), str(tmp_path / "run" / "tokenizer")]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(3)
    ]
    outputs = {process.communicate(timeout=300)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    assert len(list(cache.glob("*.safetensors"))) == 1
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["tokenizer"]
