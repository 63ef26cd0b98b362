"""Whole sets: masks, limits, bad rows, splits, blends, and the report of every row."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data import DataReport, TokenizedSet, load_data
from rlhf.errors import DataError
from rlhf.plan import Plan

Make = Callable[..., Plan]
Write = Callable[..., Path]
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)


def load(plan: Plan, tokenizer: Any, stage: int = 0, **more: Any) -> Any:
    return load_data(plan, plan.stages[stage], tokenizer, **more)


def all_texts(data: TokenizedSet) -> list[dict[str, str]]:
    return [data.texts(i) for i in range(len(data))]


def rows_of(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"what is {i}?", "answer": f"it is {i}."} for i in range(count)]


PAIRS = [{"prompt": f"p {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(6)]


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_answers_are_trained_exactly(
    tokenizer: Any, make_plan: Make, tmp_path_factory: Any, rows: list[tuple[str, str]]
) -> None:
    """The trained tokens of a row are its answer and the end of text; prompts come before them."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in rows))
    data, _ = load(make_plan([path], answer_tokens=999, prompt_tokens=999), tokenizer)
    experience = data.experience(range(len(data)))
    for i, (prompt, answer) in enumerate(rows):
        tokens, on = experience.tokens[i], experience.trained[i]
        assert tokenizer.decode(tokens[on]) == answer + "</s>"
        assert tokens[on][-1] == tokenizer.eos_token_id
        before = tokens[experience.attended[i] & ~on]
        assert tokenizer.decode(before) == f"<s>Human:\n{prompt}\n\nAssistant:\n"
        assert data.texts(i) == {"prompt": prompt, "answer": answer}
        assert tuple(before.tolist()) == data.prompts([i])[0].tokens
        assert data.lengths[i] == experience.lengths[i]


def test_pairs(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """Rows 2i are chosen, rows 2i + 1 rejected, both after the same prompt."""
    data, _ = load(make_plan([write(PAIRS)]), tokenizer, 1)
    experience = data.experience([3, 1])
    assert (experience.rows, experience.group, data.group) == (4, 2, 2)
    decoded = [
        tokenizer.decode(row[on])
        for row, on in zip(experience.tokens, experience.trained, strict=True)
    ]
    assert decoded == ["good 3</s>", "bad 3</s>", "good 1</s>", "bad 1</s>"]
    assert data.texts(3) == {"prompt": "p 3", "chosen": "good 3", "rejected": "bad 3"}
    assert data.lengths[3] == experience.lengths[:2].max()


def test_pairs_serve_every_kind(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """The chosen answer is learned, the prompt is generated from; each once however many pairs."""
    rows = [*PAIRS, {**PAIRS[0], "rejected": "worse"}]
    plan = make_plan([write(rows)])
    answers, _ = load(plan, tokenizer, 0)
    prompts, _ = load(plan, tokenizer, 2)
    assert all_texts(answers) == [{"prompt": r["prompt"], "answer": r["chosen"]} for r in PAIRS]
    assert all_texts(prompts) == [{"prompt": r["prompt"]} for r in PAIRS]
    assert answers.report.sets[0].dropped["repeated in pairs"].count == 1
    assert not prompts.experience([0]).trained.any()
    assert len(load(plan, tokenizer, 1)[0]) == 7


def test_prompts_with_records(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """A prompt brings its text and its row, the reference under its name."""
    data, _ = load(make_plan([write([{"question": "1+1", "ground_truth": 2}])]), tokenizer, 2)
    (prompt,) = data.prompts([0])
    assert prompt.text == "1+1"
    assert prompt.record == {"question": "1+1", "ground_truth": 2, "reference": 2}
    assert tokenizer.decode(prompt.tokens) == "<s>Human:\n1+1\n\nAssistant:\n"


def test_text_rows(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """Plain text is trained on from its first token, after the beginning of text."""
    data, _ = load(make_plan([write([{"text": "once upon a time"}])]), tokenizer)
    experience = data.experience([0])
    assert tokenizer.decode(experience.tokens[0]) == "<s>once upon a time</s>"
    assert experience.trained[0].tolist() == [False] + [True] * (experience.tokens.shape[1] - 1)


def test_limits(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """Long prompts are dropped, long answers cut without an end of text, and both counted."""
    rows = [
        {"prompt": "x" * 200, "answer": "a"},
        {"prompt": "x", "answer": "yz" * 50},
        {"prompt": "x", "answer": "0123456"},
        {"prompt": "x", "answer": "01234567"},
    ]
    path = write(rows)
    data, _ = load(make_plan([path], prompt_tokens=60, answer_tokens=8), tokenizer)
    (report,) = data.report.sets
    assert (report.rows, report.used, report.train, report.truncated) == (4, 3, 3, 2)
    (example,) = report.dropped["prompt too long"].examples
    assert example.startswith(f"{path}:1 (")
    experience = data.experience(range(3))
    assert experience.response_lengths.tolist() == [8, 8, 8]
    ends = [
        row[on][-1].item() for row, on in zip(experience.tokens, experience.trained, strict=True)
    ]
    assert [end == tokenizer.eos_token_id for end in ends] == [False, True, False]
    assert report.answer_tokens == 24
    assert report.prompt_tokens == sum(len(p.tokens) for p in data.prompts(range(3)))
    assert data.where(0) == f"{path}:2"


def test_pairs_that_a_cut_makes_equal(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """A pair without a difference teaches nothing."""
    rows = [{"prompt": "p", "chosen": "0123456789 yes", "rejected": "0123456789 no"}, PAIRS[0]]
    data, _ = load(make_plan([write(rows)], answer_tokens=8), tokenizer, 1)
    assert len(data) == 1
    assert data.report.sets[0].dropped["chosen equals rejected"].count == 1


BAD = ['{"prompt": "a"}', '{"prompt": 1, "answer": "b"}', '{"prompt": "", "answer": "b"}', "{"]


@pytest.mark.parametrize("bad", BAD)
def test_bad_row_stops(tokenizer: Any, make_plan: Make, tmp_path: Path, bad: str) -> None:
    """A bad row is an error with file and line, and says how to go on."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n' + bad + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl:2: bad row(.|\n)*on_bad_row"):
        load(make_plan([path]), tokenizer)


def test_bad_rows_dropped(tokenizer: Any, make_plan: Make, tmp_path: Path) -> None:
    """Or they are counted by reason, the first of each with file and line."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*BAD, '{"prompt": "a", "answer": "b"}', *BAD * 4]))
    data, _ = load(make_plan([path], on_bad_row="drop"), tokenizer)
    (report,) = data.report.sets
    assert all_texts(data) == [{"prompt": "a", "answer": "b"}]
    assert {reason: dropped.count for reason, dropped in report.dropped.items()} == {
        "missing column": 5, "wrong type": 5, "empty": 5, "invalid JSON": 5,
    }  # fmt: skip
    assert len(report.dropped["empty"].examples) == 3
    assert report.dropped["empty"].examples[0].startswith(f"{path}:3")
    assert report.rows == report.examples == 21
    assert "dropped 5: empty" in "\n".join(data.report.lines())


def test_nothing_left(tokenizer: Any, make_plan: Make, tmp_path: Path, write: Write) -> None:
    """Empty files, files of bad rows alone and unusable sets are errors, not empty training."""
    path = tmp_path / "empty.jsonl"
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no rows"):
        load(make_plan([path]), tokenizer)
    path.write_text("nonsense\n")
    with pytest.raises(DataError, match=r"empty.jsonl:1: bad row: invalid JSON"):
        load(make_plan([path]), tokenizer)
    with pytest.raises(DataError, match="no row is left"):
        load(make_plan([path], on_bad_row="drop"), tokenizer)
    with pytest.raises(DataError, match="no set has the columns for pairs"):
        load(make_plan([write(rows_of(3))]), tokenizer, 1)
    with pytest.raises(DataError, match="no sets at all"):
        load(make_plan([]), tokenizer)


def test_template_that_fails_on_a_row(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """What a template refuses is a bad row."""
    import copy

    picky = copy.deepcopy(tokenizer)
    picky.chat_template = (
        "{% if 'x' in messages[0].content %}{{ raise_exception('no x') }}{% endif %}?"
    )
    path = write([*rows_of(2), {"prompt": "x", "answer": "y"}])
    with pytest.raises(DataError, match=r"rows.jsonl:3: bad row: template(.|\n)*no x"):
        load(make_plan([path]), picky)
    data, _ = load(make_plan([path], on_bad_row="drop"), picky)
    assert data.report.sets[0].dropped["template"].count == 1


def test_adapter_that_fails_on_a_row(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """What an adapter cannot read is a bad row."""
    path = write([{"question": "?", "answer": "no number"}])
    with pytest.raises(DataError, match=r"rows.jsonl:1: bad row: adapter(.|\n)*####"):
        load(make_plan([{"path": str(path), "adapter": "gsm8k"}]), tokenizer)


def test_sets_for_other_kinds_are_passed_over(
    tokenizer: Any, make_plan: Make, write: Write
) -> None:
    """A stage uses the sets that have its columns, and says which it did not use."""
    plan = make_plan([write(rows_of(3), "answers.jsonl"), write(PAIRS, "pairs.jsonl")])
    data, _ = load(plan, tokenizer, 1)
    assert len(data) == 6
    assert data.report.sets[0].skipped == "it has no columns for pairs"
    assert len(load(plan, tokenizer, 0)[0]) == 9


def test_named_set_must_serve(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """A set that the plan gives to a stage is not silently passed over."""
    plan = make_plan([{"path": str(write(rows_of(3))), "stages": {"reward": 1}}])
    with pytest.raises(DataError, match=r"rows.jsonl:1: bad row: missing column"):
        load(plan, tokenizer, 1)


def test_mixture(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """PPO's mixture takes its own sets' answers, else those of the supervised stage."""
    prompts = {"path": str(write([{"prompt": "q"}], "prompts.jsonl")), "stages": {"ppo": 1}}
    answers = str(write(rows_of(8), "answers.jsonl"))
    plan = make_plan([prompts, {"path": answers, "stages": {"sft": 1}}])
    assert len(load(plan, tokenizer, 2, kind="answers")[0]) == 8
    plan = make_plan([prompts, {"path": answers, "stages": {"sft": 1, "ppo": 1}}])
    own = all_texts(load(plan, tokenizer, 2, kind="answers")[0])
    other = all_texts(load(plan, tokenizer, 0)[0])
    assert sorted(map(str, own + other)) == sorted(
        str({"prompt": r["prompt"], "answer": r["answer"]}) for r in rows_of(8)
    )


def prompts_of(parts: Any) -> tuple[set[str], set[str]]:
    first, second = ({text["prompt"] for text in all_texts(part)} for part in parts)
    return first, second


def test_split_is_disjoint_and_stable(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """No prompt is in two stages, or in training here and held out there; a shuffled and longer
    file with other answers to the same prompts splits alike.
    """
    rows = [{"prompt": f"p {i}", "chosen": f"good {i}", "rejected": "bad"} for i in range(200)]
    more = [{**row, "chosen": "other"} for row in rows] + [{**PAIRS[0], "prompt": "new"}]
    random.Random(3).shuffle(more)
    shares = {"sft": 2, "reward": 4, "ppo": 4}
    seen = []
    for content in (rows, more):
        path = str(write(content))
        plan = make_plan([{"path": path, "stages": shares}], held_out=0.2)
        seen.append([prompts_of(load(plan, tokenizer, stage)) for stage in range(3)])
        parts = [part for stage in seen[-1] for part in stage]
        assert sum(map(len, parts)) == len(set.union(*parts)) == len({r["prompt"] for r in content})
    for (train, held), (train_more, held_more) in zip(*seen, strict=True):
        assert train <= train_more
        assert held <= held_more
    sizes = [len(train | held) for train, held in seen[0]]
    assert [round(size / 200, 1) for size in sizes] == pytest.approx([0.2, 0.4, 0.4], abs=0.101)


def test_held_out_is_one_for_all_sets(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """A prompt that is held out in one set is held out in all of them, in every stage."""
    rows = rows_of(100)
    plan = make_plan(
        [write(rows, "a.jsonl"), write([{**r, "answer": "no"} for r in rows], "b.jsonl")],
        held_out=0.3,
    )
    found = [prompts_of(load(plan, tokenizer, stage)) for stage in (0, 2)]
    assert found[0] == found[1]
    train, held = found[0]
    assert not train & held
    assert 10 < len(held) < 50


def test_blend(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """Rows of a set come as often as its weight says; held-out rows once."""
    one, two = write(rows_of(40), "one.jsonl"), write(PAIRS, "two.jsonl")
    plan = make_plan(
        [{"path": str(one), "weight": 0.5}, {"path": str(two), "weight": 3}], held_out=0.2
    )
    data, held = load(plan, tokenizer)
    first, second = data.report.sets
    assert (first.drawn, second.drawn) == (round(first.train / 2), 3 * second.train)
    assert len(data) == first.drawn + second.drawn
    assert len(held) == first.held_out + second.held_out
    assert len({data.where(i) for i in range(len(data))}) == first.drawn + second.train


def test_duplicates_are_counted(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """Equal rows stay, and are counted."""
    data, _ = load(make_plan([write(rows_of(2) * 3)]), tokenizer)
    assert (len(data), data.report.sets[0].duplicates) == (6, 4)


def test_report_is_plain_data(tokenizer: Any, make_plan: Make, write: Write) -> None:
    """JSON and back; every row is accounted for."""
    plan = make_plan(
        [{"path": str(write(PAIRS * 9)), "stages": {"sft": 1, "ppo": 1}}], held_out=0.3
    )
    data, held = load(plan, tokenizer)
    report = data.report
    assert DataReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    (one,) = report.sets
    dropped = sum(found.count for found in one.dropped.values())
    assert one.examples == one.used + dropped + one.other_stages == 54
    assert (one.train, one.held_out) == (len(data), len(held))
