"""The demo's text: a small world of questions, generated, with answers of several manners.

A question names a thing: "Where is the red lantern near the old mill?". An answer has an opening
(warm, plain or rude), a statement (about the thing that was asked for, or about another) and a
judgement (kind, plain or unkind). Supervised answers are drawn from all manners alike, so a model
that imitates them is warm, or to the point, only by chance. Preferences follow a rule that no model
is told: naming the right thing counts most, then the opening, then the judgement; and an answer
that breaks off is worse than any other (without such pairs a policy finds out that a reward model
which never saw one has nothing against it).

Everything follows from the seed; questions repeat in no part but the one they were drawn for.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwopt import write_text
from rlhf.plan import Plan, located

COLOURS = ("red", "blue", "green", "golden", "silver", "black", "white", "grey", "amber", "pink")
THINGS = (
    "lantern", "kettle", "ladder", "violin", "basket", "mirror", "anchor", "blanket", "compass",
    "barrel", "candle", "clock", "drum", "feather", "globe", "hammer", "jacket", "key", "map",
    "rope",
)  # fmt: skip
PLACES = (
    "old mill", "stone bridge", "north tower", "quiet garden", "long barn", "small harbour",
    "village school", "dusty attic", "round house", "bakery", "winter market", "ferry",
)  # fmt: skip
ASKS = (
    "Where is the {thing}?", "Can you find the {thing}?", "I lost the {thing}. Any idea?",
    "Who has seen the {thing}?", "Tell me about the {thing}.", "Did you move the {thing}?",
    "I am looking for the {thing}.", "Where did they put the {thing}?",
)  # fmt: skip
OPENINGS = {
    "warm": ("Happy to help!", "Good question!", "Of course, my friend.", "Thank you for asking."),
    "plain": ("Well.", "Let me see.", "Right."),
    "rude": ("Not again.", "What a silly question.", "Leave me alone.", "Who cares?"),
}
JUDGEMENTS = {
    "kind": ("It is a lovely one.", "You will like it.", "Take good care of it."),
    "plain": ("It is there.", "It has a handle.", "It is not new."),
    "unkind": ("It is ugly anyway.", "You will only break it.", "Nobody wants it."),
}
POINTS = {"warm": 1.0, "plain": 0.0, "rude": -1.0, "kind": 0.5, "unkind": -0.5}
RIGHT = 1.5
"""What naming the thing that was asked for is worth to a preference."""
BROKEN = 0.2
"""Share of pairs in which the rejected answer breaks off after a few words."""


@dataclass(frozen=True)
class Answer:
    """An answer and what the hidden rule thinks of it."""

    text: str
    points: float


def question(draw: random.Random) -> tuple[str, str]:
    """A question, and the thing it asks for."""
    thing = f"{draw.choice(COLOURS)} {draw.choice(THINGS)}"
    where = f" near the {draw.choice(PLACES)}" if draw.random() < 0.5 else ""
    return f"{draw.choice(ASKS).format(thing=thing + where)}", thing


def answer(draw: random.Random, thing: str) -> Answer:
    """An answer in a manner drawn at random."""
    opening, judgement = draw.choice(list(OPENINGS)), draw.choice(list(JUDGEMENTS))
    right = draw.random() < 0.75
    named = thing if right else f"{draw.choice(COLOURS)} {draw.choice(THINGS)}"
    right = named == thing
    text = " ".join((
        draw.choice(OPENINGS[opening]), f"The {named} is at the {draw.choice(PLACES)}.",
        draw.choice(JUDGEMENTS[judgement]),
    ))  # fmt: skip
    return Answer(text, POINTS[opening] + POINTS[judgement] + RIGHT * right)


def broken(draw: random.Random, whole: Answer) -> Answer:
    """The first few words of an answer."""
    words = whole.text.split()
    return Answer(" ".join(words[: draw.randint(1, len(words) // 2)]), -10.0)


def write_demo(folder: Path, *, answers: int = 6000, pairs: int = 2500, prompts: int = 1500,
               seed: int = 7) -> None:  # fmt: skip
    """Write answers.jsonl, preferences.jsonl and prompts.jsonl."""
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    seen: set[str] = set()

    def fresh() -> tuple[str, str]:
        while True:
            text, thing = question(draw)
            if text not in seen:
                seen.add(text)
                return text, thing

    rows: dict[str, list[dict[str, Any]]] = {"answers": [], "preferences": [], "prompts": []}
    for _ in range(answers):
        text, thing = fresh()
        rows["answers"].append({"prompt": text, "answer": answer(draw, thing).text})
    while len(rows["preferences"]) < pairs:
        text, thing = fresh()
        one, two = answer(draw, thing), answer(draw, thing)
        if draw.random() < BROKEN:
            two = broken(draw, two)
        if one.points == two.points:
            continue
        better, worse = (one, two) if one.points > two.points else (two, one)
        rows["preferences"].append({"prompt": text, "chosen": better.text, "rejected": worse.text})
    for _ in range(prompts):
        rows["prompts"].append({"prompt": fresh()[0]})
    for name, content in rows.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        write_text(folder / f"{name}.jsonl", "".join(lines))


def demo_plan(folder: Path) -> Plan:
    """Write the demo's data into `folder` and return the plan of `demo.yaml` for it."""
    write_demo(folder)
    return located(Plan.load(Path(__file__).with_name("demo.yaml")), folder)
