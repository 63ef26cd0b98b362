"""From the columns of a row to a prompt and its answers.

A row has one of these forms, tried in this order; `Columns` of the plan names other columns:

    chosen, rejected   texts beside a prompt column, whole transcripts, or lists of messages
    messages           list of {role, content}: the last assistant turn is the answer, turns before
                       it the prompt; also {from, value} pairs, and JSON text of either
    prompt, answer     prompt, question, instruction (+ input) or query; answer, response,
                       completion or output
    text               all of it is the answer, to an empty prompt

The form does not depend on what a stage needs, so that a row has the same prompt in every stage.
A row of pairs serves as an answer (the chosen one) and as a prompt, every row but text as a prompt.

A *transcript* is text in the manner of Anthropic's HH data, "Human: ... Assistant: ...", its turns
set apart by blank lines; it is read as messages. Where both chosen and rejected repeat the prompt
and go on after white space, the repetition is taken away. Nothing else of a text is changed, except
that an empty system turn is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from hwopt import HwoptError, parse_json
from rlhf.algorithm import Data
from rlhf.plan import Columns

USUAL: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "instruction", "query"),
    "answer": ("answer", "response", "completion", "output"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "messages": ("messages", "conversations", "conversation"),
    "reference": ("reference", "reference_answer", "ground_truth"),
    "text": ("text",),
}
"""Columns by role, the first that a row has."""

ROLES = {
    "system": "system", "user": "user", "assistant": "assistant", "tool": "tool",
    "developer": "developer", "human": "user", "prompter": "user", "gpt": "assistant",
    "bot": "assistant", "chosen": "assistant", "model": "assistant",
}  # fmt: skip

TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


Conversation: TypeAlias = tuple[Message, ...]


@dataclass(frozen=True)
class Example:
    """What a row says: a prompt, its answers (none, one, or chosen and rejected), and its origin.

    `record` holds the row's columns, with "reference" (the known right answer) where it has one.
    """

    prompt: Conversation
    answers: tuple[str, ...]
    record: dict[str, Any]
    where: str


class RowError(Exception):
    """A row that cannot be used; `reason` is one of few, `found` is of this row."""

    def __init__(self, reason: str, found: str = "") -> None:
        self.reason = reason
        self.found = found
        super().__init__(f"{reason}: {found}" if found else reason)


def serves(values: Mapping[str, Any], kind: Data, columns: Columns) -> bool:
    """Whether a row has the columns for a kind of data, whatever is in them."""
    form = _form(values, columns)
    if form == "pairs":
        return kind != "pairs" or _column(values, "rejected", columns) is not None
    if form == "prompt":
        answered = _column(values, "answer", columns) is not None
        return kind == "prompts" or (kind == "answers" and answered)
    return (form == "messages" and kind != "pairs") or (form == "text" and kind == "answers")


def example(values: dict[str, Any], kind: Data, columns: Columns, where: str) -> Example:
    """Prompt and answers of a row. Raises `RowError`."""
    form = _form(values, columns)
    if form is None or not serves(values, kind, columns):
        raise RowError("missing column", f"no {kind} in columns {', '.join(map(str, values))}")
    if form == "pairs":
        prompt, answers = _pair(values, kind, columns)
    elif form == "messages":
        prompt, answers = _conversation(values, kind, columns)
    elif form == "prompt":
        prompt, answers = _prompted(values, kind, columns)
    else:
        prompt, answers = _text(values, columns)
    for answer in answers:
        _check(answer, "answer")
    for message in prompt:
        _check(message.content, message.role)
    record = {str(name): plain(value) for name, value in values.items()}
    reference = _column(values, "reference", columns)
    if reference is not None:
        record["reference"] = plain(values[reference])
    return Example(prompt, answers, record, where)


def transcript(text: str) -> Conversation | None:
    """The turns of an HH transcript, white space around them taken away; None: plain text."""
    stripped = text.strip()
    turns = list(TURN.finditer(stripped))
    if not turns or turns[0].start() != 0 or turns[0][1] != "Human":
        return None
    ends = [turn.start() for turn in turns[1:]] + [len(stripped)]
    return tuple(
        Message(ROLES[turn[1].lower()], stripped[turn.end() : end].strip())
        for turn, end in zip(turns, ends, strict=True)
    )


def shown(prompt: Sequence[Message]) -> str:
    """A prompt for people and for reward functions: the user's text, or turns with their roles."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt)


def plain(value: Any) -> Any:
    """The value as JSON can hold it; what it cannot hold as text."""
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return str(value).encode(errors="backslashreplace").decode()


def _form(values: Mapping[str, Any], columns: Columns) -> str | None:
    """Which of the forms a row has; a column that the plan names settles it."""
    forms: tuple[str, ...]
    if columns.chosen is not None or columns.rejected is not None:
        forms = ("chosen",)
    elif columns.messages is not None:
        forms = ("messages",)
    elif columns.answer is not None:
        forms = ("prompt",)
    elif columns.prompt is not None:
        forms = ("chosen", "prompt")
    else:
        forms = ("chosen", "messages", "prompt", "text")
    found = next((role for role in forms if _column(values, role, columns) is not None), None)
    return "pairs" if found == "chosen" else found


def _column(values: Mapping[str, Any], role: str, columns: Columns) -> str | None:
    """The row's column of a role, if it has one."""
    named = getattr(columns, role, None)
    names = USUAL[role] if named is None else (named,)
    return next((name for name in names if values.get(name) is not None), None)


def _value(values: Mapping[str, Any], role: str, columns: Columns) -> Any:
    name = _column(values, role, columns)
    if name is None:
        raise RowError("missing column", getattr(columns, role, None) or role)
    return values[name]


def _pair(
    values: dict[str, Any], kind: Data, columns: Columns
) -> tuple[Conversation, tuple[str, ...]]:
    chosen = _value(values, "chosen", columns)
    second = _column(values, "rejected", columns)
    rejected = None if second is None else values[second]
    given = _column(values, "prompt", columns)
    prompt = None if given is None else _as_prompt(values[given], given)
    first, answer = _answer(chosen, prompt, rejected, values.get(given or ""), "chosen")
    if kind != "pairs":
        return first, (answer,) if kind == "answers" else ()
    other, worse = _answer(rejected, prompt, chosen, values.get(given or ""), "rejected")
    if other != first:
        raise RowError("two prompts", "chosen and rejected answer different prompts")
    return first, (answer, worse)


def _answer(
    value: Any, prompt: Conversation | None, sibling: Any, given: Any, role: str
) -> tuple[Conversation, str]:
    """Prompt and answer of one side of a pair; `given` is the prompt column's own value."""
    if isinstance(value, list):
        turns = _as_messages(value, role)
        if not turns or turns[-1].role != "assistant":
            raise RowError("wrong type", f"{role} ends without an assistant turn")
        before = turns[:-1] or prompt
        if not before:
            raise RowError("missing column", "prompt")
        return before, turns[-1].content
    if not isinstance(value, str):
        raise RowError("wrong type", f"{role} is {type(value).__name__}, not text")
    if isinstance(given, str) and _repeats(value, given) and _repeats(sibling, given):
        value = value[len(given) :].strip()
    elif whole := _whole(value):
        return whole
    if prompt is None:
        raise RowError("missing column", f"prompt ({role} is no transcript)")
    return prompt, value


def _whole(text: str) -> tuple[Conversation, str] | None:
    """The last answer of a transcript and the turns before it; None: no such text."""
    turns = transcript(text) or ()
    if len(turns) < 2 or turns[-1].role != "assistant":
        return None
    return turns[:-1], turns[-1].content


def _repeats(answer: Any, prompt: str) -> bool:
    """Whether an answer begins with the prompt and goes on after white space."""
    if not isinstance(answer, str) or not prompt.strip() or not answer.startswith(prompt):
        return False
    rest = answer[len(prompt) :]
    return bool(rest.strip()) and (rest[0].isspace() or prompt[-1].isspace())


def _conversation(
    values: dict[str, Any], kind: Data, columns: Columns
) -> tuple[Conversation, tuple[str, ...]]:
    turns = _as_messages(_value(values, "messages", columns), "messages")
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    last = answers[-1] if answers else 0
    if last == 0:  # no answer, or an answer to nothing
        if kind == "answers" or not turns or turns[-1].role == "assistant":
            raise RowError("missing column", "no assistant turn after another in messages")
        return turns, ()
    return turns[:last], (turns[last].content,) if kind == "answers" else ()


def _prompted(
    values: dict[str, Any], kind: Data, columns: Columns
) -> tuple[Conversation, tuple[str, ...]]:
    name = str(_column(values, "prompt", columns))
    prompt = _as_prompt(values[name], name)
    extra = values.get("input")
    if name == "instruction" and isinstance(extra, str) and extra.strip():
        prompt = (*prompt[:-1], Message("user", f"{prompt[-1].content}\n\n{extra}"))
    if kind == "prompts":
        return prompt, ()
    answer = _value(values, "answer", columns)
    if isinstance(answer, list):
        turns = _as_messages(answer, "answer")
        if len(turns) != 1 or turns[0].role != "assistant":
            raise RowError("wrong type", "answer is not one assistant turn")
        answer = turns[0].content
    return prompt, (answer,)


def _text(values: dict[str, Any], columns: Columns) -> tuple[Conversation, tuple[str, ...]]:
    text = _value(values, "text", columns)
    whole = _whole(text) if isinstance(text, str) else None
    return (whole[0], (whole[1],)) if whole else ((), (text,))


def _as_prompt(value: Any, name: str) -> Conversation:
    """A prompt column: text, a transcript that ends in "Assistant:", or messages."""
    if isinstance(value, list):
        turns = _as_messages(value, name)
        if not turns:
            raise RowError("empty", name)
        return turns
    if not isinstance(value, str):
        raise RowError("wrong type", f"{name} is {type(value).__name__}, not text")
    turns = transcript(value) or ()
    if len(turns) > 1 and turns[-1] == Message("assistant", ""):
        return turns[:-1]
    return (Message("user", value),)


def _as_messages(value: Any, name: str) -> Conversation:
    if isinstance(value, str):  # a CSV field
        try:
            value = parse_json(value)
        except (HwoptError, ValueError) as error:
            raise RowError("wrong type", f"{name} is text, not messages") from error
    if not isinstance(value, list):
        raise RowError("wrong type", f"{name} is {type(value).__name__}, not a list of messages")
    turns = [_as_message(turn, f"{name}[{i}]") for i, turn in enumerate(value)]
    return tuple(turn for turn in turns if turn.role != "system" or turn.content.strip())


def _as_message(turn: Any, name: str) -> Message:
    if not isinstance(turn, Mapping):
        raise RowError("wrong type", f"{name} is {type(turn).__name__}, not a message")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise RowError("wrong type", f"{name} has the role {role!r}")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(parts) else None
    if not isinstance(content, str):
        raise RowError("wrong type", f"{name} has no text as its content")
    return Message(ROLES[role], content)


def _check(text: Any, name: str) -> None:
    """A text that can be tokenised: a string, not empty, valid Unicode."""
    if not isinstance(text, str):
        raise RowError("wrong type", f"{name} is {type(text).__name__}, not text")
    if not text.strip():
        raise RowError("empty", name)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError("not Unicode", f"{name}: half a surrogate pair") from error
