"""GSM8K: answers are found and judged, preferences are right over wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data import batches, load_data
from rlhf.data.adapters import adapters
from rlhf.data.gsm8k import extract_answer, reference, reward, without_annotations
from rlhf.errors import DataError
from rlhf.plan import Plan
from rlhf.tokenizer import load_tokenizer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 72", "72"), ("so\n#### 1,234", "1234"), ("#### -3", "-3"), ("#### $5.50", "5.5"),
        ("#### 10.00", "10"), ("####7", "7"), ("#### 7.", "7"), ("A: 18", "18"),
        ("x\nA: $18", "18"), ("#### 1\n#### 2", "1"), ("A: 3\n#### 4", "4"), ("#### 0.0", "0"),
        ("#### -0", "0"), ("72", None), ("#### none", None), ("", None), ("NBA: 3", None),
        ("#### 100", "100"), ("#### .5", "0.5"), ("#### 1.5.2", "1.5"),
    ],
)  # fmt: skip
def test_extract_answer(text: str, answer: str | None) -> None:
    """The first stated final number, in its plainest form."""
    assert extract_answer(text) == answer


@given(st.text())
def test_extract_from_anything(text: str) -> None:
    """No text is an error; what is found is a number."""
    for whole in (text, f"#### {text}"):
        found = extract_answer(whole)
        assert found is None or float(found) == float(found)


@given(st.integers(-(10**12), 10**12))
def test_forms_of_one_number(value: int) -> None:
    """A number is equal to itself with separators and decimals."""
    assert extract_answer(f"#### {value:,}") == extract_answer(f"#### {value}.00") == str(value)


def test_reward() -> None:
    """1 for the right number in any form, 0 for a wrong one, for none, and for guessing on."""
    records = [{"reference": "1200"}] * 5
    responses = ["#### 1,200", "so it is\n#### 1200.0", "#### 12", "1200", "#### 1\n#### 1200"]
    assert reward(["?"] * 5, responses, records) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert reward(["?"], ["#### 5"], [{"answer": "2+3=5\n#### 5"}]) == [1.0]
    assert reference({"reference": 7}) == "7"


def test_reward_needs_a_reference() -> None:
    """A record that no answer is known of is an error, not a score of 0."""
    with pytest.raises(DataError, match="reference"):
        reward(["?"], ["#### 5"], [{"prompt": "?"}])


def test_annotations() -> None:
    """The calculator's notes go, the text stays."""
    assert without_annotations("48/2 = <<48/2=24>>24 a<b << c") == "48/2 = 24 a<b << c"


def test_problems(few_gsm8k: Path) -> None:
    """The reference is the number after ####, as the file has it."""
    for line in (few_gsm8k / "train.jsonl").read_text().splitlines():
        row = json.loads(line)
        (found,) = adapters["gsm8k"](row)
        assert found["answer"] == row["answer"]
        assert found["reference"] == row["answer"].split("#### ")[1]
        (stripped,) = adapters["gsm8k-plain"](row)
        assert "<<" not in stripped["answer"]
        assert extract_answer(stripped["answer"]) == found["reference"]


def pairs_by_hand(row: dict[str, Any]) -> set[tuple[str, str]]:
    """Right over wrong, written out."""
    solutions = [value for value in row.values() if isinstance(value, dict)]
    return {
        (good["solution"], bad["solution"])
        for good in solutions for bad in solutions
        if good["is_correct"] and not bad["is_correct"]
    }  # fmt: skip


def test_preferences(few_gsm8k: Path) -> None:
    """All pairs of a right and a wrong solution, once each, in the form of answers."""
    counts = []
    for line in (few_gsm8k / "example_model_solutions.jsonl").read_text().splitlines():
        row = json.loads(line)
        found = list(adapters["gsm8k-preferences"](row))
        assert len(found) == len(pairs_by_hand(row))
        counts.append(len(found))
        for pair in found:
            assert reward(["", ""], [pair["chosen"], pair["rejected"]], [pair] * 2) == [1.0, 0.0]
            assert "\nA:" not in pair["chosen"] + pair["rejected"]
    assert counts[-1] == 0
    assert min(counts[:-1]) > 0


@pytest.mark.parametrize("row", [{}, {"question": "?", "answer": "no number"}, {"answer": 3}])
def test_other_rows_are_refused(row: dict[str, Any]) -> None:
    """Rows of another form are bad rows, not a crash."""
    for name in ("gsm8k", "gsm8k-preferences"):
        with pytest.raises((KeyError, ValueError, TypeError)):
            list(adapters[name](row))


def plan_of(folder: Path, make_plan: Callable[..., Plan]) -> Plan:
    return make_plan(
        [
            {"path": str(folder / "train.jsonl"), "adapter": "gsm8k",
             "stages": {"sft": 1, "ppo": 1}},
            {"path": str(folder / "example_model_solutions.jsonl"), "adapter": "gsm8k-preferences",
             "stages": {"reward": 1}},
        ],
        tokenizer={"vocabulary": 1024}, prompt_tokens=400, answer_tokens=600,
    )  # fmt: skip


def check(plan: Plan, rows: int) -> None:
    """SFT, preferences and prompts with the verifiable reward."""
    tokenizer = load_tokenizer(plan)
    sft, reward_stage, ppo = plan.stages
    answers, _ = load_data(plan, sft, tokenizer)
    pairs, _ = load_data(plan, reward_stage, tokenizer)
    prompts, _ = load_data(plan, ppo, tokenizer)
    dropped = [d for data in (answers, prompts) for d in data.report.sets[0].dropped.values()]
    assert len(answers) + len(prompts) + sum(d.count for d in dropped) == rows
    assert len(pairs) > 0
    found = prompts.prompts(range(len(prompts)))
    right = [f"#### {prompt.record['reference']}" for prompt in found]
    records = [prompt.record for prompt in found]
    assert set(reward([p.text for p in found], right, records)) == {1.0}
    text = answers.texts(0)
    row = answers.experience([0])
    assert tokenizer.decode(row.tokens[row.trained]) == text["answer"] + "</s>"
    both = pairs.experience(range(2))
    assert both.rows == 4
    assert both.group == 2


def test_few_rows(few_gsm8k: Path, make_plan: Callable[..., Plan]) -> None:
    """The whole path on the rows that are always here."""
    check(plan_of(few_gsm8k, make_plan), 8)


@pytest.mark.slow
@pytest.mark.data
def test_all_rows(gsm8k: Path, make_plan: Callable[..., Plan]) -> None:
    """The whole path on all of it; the batches of an epoch cover it once."""
    plan = plan_of(gsm8k, make_plan)
    check(plan, 3000)
    rows = [
        json.loads(line)
        for line in (gsm8k / "example_model_solutions.jsonl").read_text().splitlines()
    ]
    pairs, _ = load_data(plan, plan.stages[1], load_tokenizer(plan))
    (report,) = pairs.report.sets
    assert report.rows == len(rows)
    assert report.examples == sum(len(pairs_by_hand(row)) for row in rows)
    drawn = [i for batch in batches(len(pairs), 16, seed=1, epoch=0) for i in batch]
    assert len(set(drawn)) == len(drawn) == len(pairs) // 16 * 16
