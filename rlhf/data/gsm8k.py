"""GSM8K (Cobbe et al., arXiv 2110.14168): grade-school problems whose answers can be checked.

A row of train.jsonl is {question, answer}; the answer ends in "#### 72", and its calculations are
annotated, "48/2 = <<48/2=24>>24". A row of example_model_solutions.jsonl holds four solutions by
models, each marked right or wrong; they end in "A: 72" and are rewritten to end as answers do, so
that the reward model judges the form in which the actor answers. These questions are those of the
*test* set: a policy that was trained on them is not to be measured on test.jsonl.

Adapters: `gsm8k`, `gsm8k-preferences`; with `-plain` the annotations are taken away.
Reward: `rlhf.data.gsm8k:reward`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

from rlhf.data.adapters import adapters
from rlhf.errors import DataError

NUMBER = r"[-+]?\$?\s?[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
FINAL = (re.compile(rf"####\s*({NUMBER})"), re.compile(rf"^A:\s*({NUMBER})", re.MULTILINE))
"""Where an answer is stated: after "####", else on a line "A: ". The first place counts, so that
going on guessing after it wins nothing."""

ANNOTATION = re.compile(r"<<[^<>\n]*>>")


def extract_answer(text: str) -> str | None:
    """The stated final number in its plainest form ("1,000.50" is "1000.5"); None: none stated."""
    for pattern in FINAL:
        if found := pattern.search(text):
            return number(found[1])
    return None


def number(text: str) -> str | None:
    """A number without currency sign, separators and needless zeros; None: not a number."""
    try:
        value = Decimal(re.sub(r"[,$\s]", "", text))
    except InvalidOperation:
        return None
    if not value.is_finite():
        return None
    digits = format(value, "f")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return "0" if digits in ("-0", "") else digits.removeprefix("+")


def reward(
    prompts: Sequence[str], responses: Sequence[str], records: Sequence[dict[str, Any]]
) -> list[float]:
    """1 for each response whose stated answer is the record's reference, else 0."""
    scores = []
    for _prompt, response, record in zip(prompts, responses, records, strict=True):
        known = reference(record)
        scores.append(float(extract_answer(response) == known))
    return scores


def reference(record: dict[str, Any]) -> str:
    """The right answer of a record: its reference, else what its answer states."""
    if "reference" in record:
        text = str(record["reference"])
        known = extract_answer(text) or number(text)
    else:
        known = extract_answer(str(record.get("answer", "")))
    if known is None:
        raise DataError(
            "record without a number as its reference", value=record.get("reference"),
            fix="read the set with adapter: gsm8k, or name columns: {reference: ...}",
        )  # fmt: skip
    return known


def without_annotations(text: str) -> str:
    """The text without the calculator's <<48/2=24>>."""
    return ANNOTATION.sub("", text)


def problem(row: dict[str, Any], *, annotated: bool) -> Iterator[dict[str, Any]]:
    """{question, answer} with the number after #### as the reference."""
    answer = row["answer"]
    known = extract_answer(answer)
    if known is None:
        raise ValueError("the answer states no number after ####")
    answer = answer if annotated else without_annotations(answer)
    yield {"question": row["question"], "answer": answer, "reference": known}


def preferences(row: dict[str, Any], *, annotated: bool) -> Iterator[dict[str, Any]]:
    """Every right solution over every wrong one, each distinct pair once; maybe none."""
    right: dict[str, None] = {}
    wrong: dict[str, None] = {}
    for solution in row.values():
        if isinstance(solution, dict):
            text = re.sub(r"^A:", "####", solution["solution"], count=1, flags=re.MULTILINE)
            text = text if annotated else without_annotations(text)
            (right if solution["is_correct"] else wrong)[text] = None
    known = extract_answer(row["ground_truth"])
    for chosen in right:
        for rejected in wrong:
            if chosen != rejected:
                yield {"question": row["question"], "chosen": chosen, "rejected": rejected,
                       "reference": known}  # fmt: skip


for _name, _adapter in (("gsm8k", problem), ("gsm8k-preferences", preferences)):
    adapters.register(_name)(partial(_adapter, annotated=True))
    adapters.register(f"{_name}-plain")(partial(_adapter, annotated=False))
