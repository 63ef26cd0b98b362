"""Roles of columns: every usual form gives the prompt and answers that are meant."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.columns import Message, RowError, example, plain, serves, shown, transcript
from rlhf.plan import Columns

USER, ANSWER = Message("user", "Hi"), "Hello"
HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
OTHER = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go"}]


characters = st.characters(exclude_categories=["Cs"])


def parse(row: dict[str, Any], kind: Any, **columns: str) -> Any:
    return example(row, kind, Columns(**columns), "f:1")


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": "Hi", "answer": "Hello"}, {}),
        ({"prompt": "Hi", "response": "Hello"}, {}),
        ({"prompt": "Hi", "completion": "Hello"}, {}),
        ({"prompt": [TURNS[0]], "completion": [TURNS[1]]}, {}),
        ({"question": "Hi", "answer": "Hello"}, {}),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, {}),
        ({"query": "Hi", "response": "Hello"}, {}),
        ({"messages": TURNS}, {}),
        ({"messages": '[{"role":"user","content":"Hi"},{"from":"gpt","value":"Hello"}]'}, {}),
        ({"messages": [{"role": "system", "content": " "}, *TURNS]}, {}),
        ({"messages": [*TURNS, {"role": "user", "content": "more"}]}, {}),
        ({"conversations": [{"from": "human", "value": "Hi"}, TURNS[1]]}, {}),
        ({"messages": [TURNS[0], {"role": "assistant", "content": [
            {"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]}, {}),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}, {}),
        ({"text": "Human: Hi\n\nAssistant: Hello"}, {}),
        ({"q": "Hi", "a": "Hello", "prompt": "no"}, {"prompt": "q", "answer": "a"}),
        ({"prompt": "Hi", "a": "Hello", "chosen": "no", "rejected": "no"}, {"answer": "a"}),
        ({"talk": TURNS, "prompt": "no", "answer": "no"}, {"messages": "talk"}),
    ],
)  # fmt: skip
def test_answers(row: dict[str, Any], columns: dict[str, str]) -> None:
    """A prompt and its answer."""
    found = parse(row, "answers", **columns)
    assert (found.prompt, found.answers) == ((USER,), (ANSWER,))
    assert parse(row, "answers", **columns).where == "f:1"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"},
        {"prompt": "Hi", "chosen": "Hi Hello", "rejected": "Hi\nGo"},
        {"prompt": "Hi", "chosen": [TURNS[1]], "rejected": [OTHER[1]]},
        {"prompt": "Hi", "chosen": TURNS, "rejected": OTHER, "messages": TURNS},
        {"chosen": TURNS, "rejected": OTHER},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello",
         "rejected": "\n\nHuman: Hi\n\nAssistant: Go"},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Hello", "rejected": " Go"},
        {"prompt": "Human: Hi\n\nAssistant:", "chosen": "Human: Hi\n\nAssistant: Hello",
         "rejected": "Human: Hi\n\nAssistant: Go"},
    ],
)  # fmt: skip
def test_pairs(row: dict[str, Any]) -> None:
    """Chosen and rejected beside a prompt, repeating it, as transcripts, as messages."""
    found = parse(row, "pairs")
    assert found.prompt == (USER,)
    assert [answer.strip() for answer in found.answers] == ["Hello", "Go"]
    assert parse(row, "answers").answers == found.answers[:1]
    assert (parse(row, "prompts").prompt, parse(row, "prompts").answers) == ((USER,), ())


def test_several_turns() -> None:
    """A transcript of several turns is a conversation; its last answer is learned."""
    found = parse({"chosen": HH + " Because", "rejected": HH + " No"}, "pairs")
    assert [turn.role for turn in found.prompt] == ["user", "assistant", "user"]
    assert found.answers == ("Because", "No")
    assert shown(found.prompt) == "user: Hi\n\nassistant: Hello\n\nuser: Why?"
    assert parse({"prompt": HH, "answer": "Because"}, "answers").prompt == found.prompt


def test_instruction_with_input() -> None:
    """Alpaca's input follows its instruction."""
    row = {"instruction": "Translate", "input": "Hi", "output": "Salut"}
    assert parse(row, "answers").prompt == (Message("user", "Translate\n\nHi"),)


def test_text() -> None:
    """Plain text is an answer to nothing."""
    assert parse({"text": "Once upon a time"}, "answers").prompt == ()
    with pytest.raises(RowError, match="missing column"):
        parse({"text": "Once upon a time"}, "prompts")


def test_messages_without_answer() -> None:
    """Messages that end in a question are a prompt; with an answer before, it ends there."""
    turns = [TURNS[0]]
    assert parse({"messages": turns}, "prompts").prompt == (USER,)
    for kind in ("answers", "prompts"):
        assert parse({"messages": [*TURNS, TURNS[0]]}, kind).prompt == (USER,)


def test_reference() -> None:
    """The known right answer is in the record under its own name."""
    assert parse({"prompt": "1+1", "ground_truth": 2}, "prompts").record["reference"] == 2
    row = {"prompt": "1+1", "key": "2"}
    assert parse(row, "prompts", reference="key").record == {**row, "reference": "2"}


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ({"prompt": "Hi"}, "answers", "missing column"),
        ({"prompt": "Hi", "answer": None}, "answers", "missing column"),
        ({"prompt": "Hi", "chosen": "a"}, "pairs", "missing column"),
        ({"chosen": "a", "rejected": "b"}, "pairs", "missing column"),
        ({"answer": "a"}, "prompts", "missing column"),
        ({}, "prompts", "missing column"),
        ({"prompt": 3, "answer": "a"}, "answers", "wrong type"),
        ({"prompt": "Hi", "answer": 3}, "answers", "wrong type"),
        ({"prompt": "Hi", "chosen": "a", "rejected": 3}, "pairs", "wrong type"),
        ({"prompt": " \n", "answer": "a"}, "answers", "empty"),
        ({"prompt": "Hi", "answer": ""}, "answers", "empty"),
        ({"prompt": [], "answer": "a"}, "answers", "empty"),
        ({"prompt": "\ud800", "answer": "a"}, "answers", "not Unicode"),
        ({"messages": "[[["}, "answers", "wrong type"),
        ({"messages": {"role": "user"}}, "answers", "wrong type"),
        ({"messages": ["Hi"]}, "answers", "wrong type"),
        ({"messages": [{"role": "elf", "content": "Hi"}]}, "prompts", "wrong type"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "prompts", "wrong type"),
        ({"messages": [TURNS[1]]}, "answers", "missing column"),
        ({"messages": [TURNS[1]]}, "prompts", "missing column"),
        ({"chosen": [TURNS[0]], "rejected": OTHER}, "pairs", "wrong type"),
        ({"chosen": TURNS, "rejected": [{"role": "user", "content": "x"}, OTHER[1]]}, "pairs",
         "two prompts"),
        ({"prompt": "Hi", "answer": TURNS}, "answers", "wrong type"),
    ],
)  # fmt: skip
def test_bad_rows(row: dict[str, Any], kind: Any, reason: str) -> None:
    """Each way of being unusable has its reason."""
    with pytest.raises(RowError) as error:
        parse(row, kind)
    assert error.value.reason == reason


def test_coincidence_is_no_repetition() -> None:
    """Answers that begin with the prompt's letters keep them."""
    row = {"prompt": "H", "chosen": "Hello", "rejected": "H go"}
    assert parse(row, "pairs").answers == ("Hello", "H go")


@given(st.text(characters), st.text(characters))
def test_plain_answer_is_kept(prompt: str, answer: str) -> None:
    """Whatever an answer holds, it is unchanged."""
    row = {"prompt": prompt, "answer": answer}
    if prompt.strip() and answer.strip():
        assert parse(row, "answers").answers == (answer,)
    else:
        with pytest.raises(RowError, match="empty"):
            parse(row, "answers")


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
))  # fmt: skip
def test_rows_of_anything(value: Any) -> None:
    """Any value in any column is an example or a `RowError`, and JSON can hold its record."""
    import json

    for column in ("prompt", "messages", "chosen", "text", "answer"):
        row = {"prompt": "Hi", "answer": "a", "rejected": "b", column: value}
        for kind in ("answers", "pairs", "prompts"):
            try:
                json.dumps(parse(row, kind).record, allow_nan=False)
            except RowError:
                continue


def test_serves() -> None:
    """Pairs serve all kinds; a prompt alone only prompts."""
    pair, columns = {"prompt": "a", "chosen": "b", "rejected": "c"}, Columns()
    assert all(serves(pair, kind, columns) for kind in ("pairs", "answers", "prompts"))
    assert [serves({"prompt": "a"}, k, columns) for k in ("pairs", "answers", "prompts")] == [
        False, False, True,
    ]  # fmt: skip


def test_transcript_needs_its_form() -> None:
    """Text that only mentions a speaker is text."""
    assert transcript("The Human: a history") is None
    assert transcript("Assistant: hello") is None
    assert transcript("") is None


def test_plain() -> None:
    """What JSON cannot hold becomes text."""
    assert plain({"a": (float("nan"), 1.5, b"x")}) == {"a": ["nan", 1.5, "b'x'"]}
