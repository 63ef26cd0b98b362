"""From a plan's sets to the tokenised rows of one stage, and the report of what became of each.

read -> adapt -> prompt and answers -> stage and held-out split -> tokens -> limits -> blend
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from rlhf.algorithm import Data
from rlhf.data import split
from rlhf.data.adapters import find_adapter
from rlhf.data.cache import Built, cached, data_key
from rlhf.data.columns import Example, RowError, example, serves, shown
from rlhf.data.report import EXAMPLES, DataReport, Dropped, SetReport
from rlhf.data.sources import Bad, Row, read_rows, source_name
from rlhf.data.template import encode_answers, encode_prompts
from rlhf.data.tokenized import TokenizedSet, TokenStore
from rlhf.errors import DataError
from rlhf.plan import DataSet, Plan, Stage

HARMLESS = ("prompt too long", "chosen equals rejected", "repeated in pairs")
"""Reasons that leave a row out whatever `on_bad_row` says: nothing is wrong with it."""


def load_data(
    plan: Plan, stage: Stage, tokenizer: Any, *, kind: Data | None = None
) -> tuple[TokenizedSet, TokenizedSet]:
    """Training and held-out rows of a stage; the held-out part may be empty.

    kind: None is what the algorithm eats. Another kind (the supervised rows of PPO's mixture) comes
    from the stage's own sets, and where none of them serves, from the stages of that kind.

    A set without the columns for the kind is left to other stages, unless its `stages` names this
    one. Raises `DataError` with file:line for bad rows (see `Data.on_bad_row`), for sources that
    cannot be read, and when no set serves or no row is left.
    """
    wanted: Data = kind or stage.algorithm.data
    sets = [s for s in plan.data.sets if s.stages is None or s.stages.get(stage.title, 0) > 0]
    serving = [s for s in sets if _serves(s, stage, wanted)]
    others = [other for other in plan.stages if other.algorithm.data == wanted]
    if not serving and wanted != stage.algorithm.data and others:
        return load_data(plan, others[0], tokenizer)
    if not serving:
        names = ", ".join(source_name(dataset) for dataset in sets) or "no sets at all"
        raise DataError(
            f"no set has the columns for {wanted}", where=f"stage {stage.title}", value=names,
            fix="add a set to data.sets, or name its columns:",
        )  # fmt: skip
    key = data_key(plan, stage, sets, tokenizer, wanted)
    store, report = cached(key, lambda: _build(plan, stage, sets, serving, tokenizer, wanted))
    parts = [
        TokenizedSet(wanted, report, store, entries, tokenizer.pad_token_id)
        for entries in (store.train, store.held_out)
    ]
    return parts[0], parts[1]


def texts(plan: Plan) -> Iterator[str]:
    """Every text to train on, each once per set: the food of a new tokenizer.

    Bad rows are passed over here; `load_data` names them.
    """
    for dataset in plan.data.sets:
        seen: set[str] = set()
        for row in _adapted(dataset):
            for found in _any_kind(row, dataset):
                if split.held_out(plan, split.prompt_key(found)):
                    continue
                for text in (*(turn.content for turn in found.prompt), *found.answers):
                    if text not in seen:
                        seen.add(text)
                        yield text


@dataclass
class _Tally:
    """What became of the rows of one set so far."""

    source: str
    rows: int = 0
    examples: int = 0
    other_stages: int = 0
    truncated: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, bad: Bad) -> None:
        """Count a row that is left out."""
        self.reasons[bad.reason] += 1
        examples = self.first.setdefault(bad.reason, [])
        if len(examples) < EXAMPLES:
            examples.append(f"{bad.where} ({bad.found})" if bad.found else bad.where)


@dataclass(frozen=True)
class _Entry:
    """One example as tokens: the prompt and its answers."""

    example: Example
    key: str
    prompt: list[int]
    answers: list[list[int]]

    @property
    def content(self) -> tuple[tuple[int, ...], ...]:
        return tuple(map(tuple, (self.prompt, *self.answers)))


def _build(
    plan: Plan,
    stage: Stage,
    sets: Sequence[DataSet],
    serving: Sequence[DataSet],
    tokenizer: Any,
    kind: Data,
) -> Built:
    """Everything that the cache saves."""
    entries: list[_Entry] = []
    train: list[int] = []
    held: list[int] = []
    reports = []
    for dataset in sets:
        tally = _Tally(source_name(dataset))
        if dataset not in serving:
            reports.append(SetReport(tally.source, skipped=f"it has no columns for {kind}"))
            continue
        examples = _examples(plan, stage, dataset, kind, tally)
        new = _entries(plan, examples, tokenizer, kind, tally)
        kept = [split.held_out(plan, entry.key) for entry in new]
        drawn = [i for i, out in enumerate(kept) if not out]
        times = split.repeats(plan, dataset, [new[i].key for i in drawn])
        first = len(entries)
        train += [first + i for i, count in zip(drawn, times, strict=True) for _ in range(count)]
        held += [first + i for i, out in enumerate(kept) if out]
        entries += new
        reports.append(_report(tally, new, sum(kept), sum(times)))
    report = DataReport(stage.title, kind, tuple(reports))
    if not entries:
        raise DataError("no row is left to train on", where=f"stage {stage.title}",
                        value="; ".join(report.lines()))  # fmt: skip
    return _store(entries, train, held), report


def _serves(dataset: DataSet, stage: Stage, kind: Data) -> bool:
    """Whether a set is meant for a kind: some row has its columns, or the plan says so.

    A set without one readable row is not passed over either: its rows are bad.
    """
    if dataset.stages is not None and kind == stage.algorithm.data:
        return True
    readable = False
    for row in _adapted(dataset):
        if isinstance(row, Row):
            readable = True
            if serves(row.values, kind, dataset.columns):
                return True
    return not readable


def _adapted(dataset: DataSet, tally: _Tally | None = None) -> Iterator[Row | Bad]:
    """Rows of the usual columns."""
    name = source_name(dataset)
    adapter = find_adapter(dataset.adapter, name) if dataset.adapter else None
    empty = True
    for row in read_rows(dataset):
        empty = False
        if tally is not None:
            tally.rows += 1
        yield from [row] if adapter is None or isinstance(row, Bad) else _adapt(adapter, row)
    if empty:
        raise DataError("holds no rows", where=name)


def _adapt(adapter: Any, row: Row) -> Iterable[Row | Bad]:
    try:
        return [Row(dict(values), row.where) for values in adapter(row.values)]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return [Bad(row.where, "adapter", f"{type(error).__name__}: {error}")]


def _any_kind(row: Row | Bad, dataset: DataSet) -> Iterator[Example]:
    """The fullest example that a row gives, if it gives one."""
    if isinstance(row, Bad):
        return
    kinds: tuple[Data, ...] = ("pairs", "answers", "prompts")
    for kind in kinds:
        if serves(row.values, kind, dataset.columns):
            try:
                yield example(row.values, kind, dataset.columns, row.where)
            except RowError:
                continue
            return


def _examples(
    plan: Plan, stage: Stage, dataset: DataSet, kind: Data, tally: _Tally
) -> list[tuple[Example, str]]:
    """The examples of a set that this stage sees, with the key of their prompt."""
    found = []
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for row in _adapted(dataset, tally):
        tally.examples += 1
        if isinstance(row, Bad):
            _bad(plan, tally, row)
            continue
        try:
            one = example(row.values, kind, dataset.columns, row.where)
        except RowError as error:
            _bad(plan, tally, Bad(row.where, error.reason, error.found))
            continue
        key = split.prompt_key(one)
        if split.stage_of(plan, dataset, key) not in (None, stage.title):
            tally.other_stages += 1
            continue
        if kind != "pairs" and serves(row.values, "pairs", dataset.columns):
            if (key, one.answers) in seen:
                _bad(plan, tally, Bad(row.where, "repeated in pairs"))
                continue
            seen.add((key, one.answers))
        found.append((one, key))
    return found


def _entries(
    plan: Plan, examples: Sequence[tuple[Example, str]], tokenizer: Any, kind: Data, tally: _Tally
) -> list[_Entry]:
    """Examples as tokens, within the limits."""
    prompts = encode_prompts(tokenizer, [one.prompt for one, _ in examples])
    answers = iter(encode_answers(tokenizer, [a for one, _ in examples for a in one.answers]))
    limit = plan.data.answer_tokens
    found = []
    for (one, key), prompt in zip(examples, prompts, strict=True):
        whole = [[*next(answers), tokenizer.eos_token_id] for _ in one.answers]
        if isinstance(prompt, RowError):
            _bad(plan, tally, Bad(one.where, prompt.reason, prompt.found))
            continue
        cut = [answer[:limit] for answer in whole]
        if len(prompt) > plan.data.prompt_tokens:
            _bad(plan, tally, Bad(one.where, "prompt too long", f"{len(prompt)} tokens"))
        elif kind == "pairs" and cut[0] == cut[1]:
            _bad(plan, tally, Bad(one.where, "chosen equals rejected"))
        else:
            tally.truncated += sum(len(answer) > limit for answer in whole)
            found.append(_Entry(one, key, prompt, cut))
    return found


def _bad(plan: Plan, tally: _Tally, bad: Bad) -> None:
    """Count a row that is left out, or stop at it."""
    if plan.data.on_bad_row == "stop" and bad.reason not in HARMLESS:
        raise DataError(
            f"bad row: {bad.reason}", where=bad.where, value=bad.found or None,
            fix="correct the row, or leave such rows out with data: {on_bad_row: drop}",
        )  # fmt: skip
    tally.drop(bad)


def _report(tally: _Tally, entries: Sequence[_Entry], held: int, drawn: int) -> SetReport:
    return SetReport(
        source=tally.source,
        rows=tally.rows,
        examples=tally.examples,
        used=len(entries),
        train=len(entries) - held,
        held_out=held,
        drawn=drawn,
        other_stages=tally.other_stages,
        dropped={
            reason: Dropped(count, tuple(tally.first[reason]))
            for reason, count in sorted(tally.reasons.items())
        },
        truncated=tally.truncated,
        duplicates=len(entries) - len({entry.content for entry in entries}),
        prompt_tokens=sum(len(entry.prompt) for entry in entries),
        answer_tokens=sum(len(answer) for entry in entries for answer in entry.answers),
    )


def _store(entries: Sequence[_Entry], train: Sequence[int], held: Sequence[int]) -> TokenStore:
    sequences = [part for entry in entries for part in (entry.prompt, *entry.answers)]
    described = [_described(entry.example) for entry in entries]
    return TokenStore(
        tokens=np.fromiter(chain.from_iterable(sequences), dtype=np.int32),
        ends=np.cumsum([len(sequence) for sequence in sequences], dtype=np.int64),
        texts=np.frombuffer(b"".join(described), dtype=np.uint8),
        text_ends=np.cumsum([len(text) for text in described], dtype=np.int64),
        train=np.array(train, dtype=np.int64),
        held_out=np.array(held, dtype=np.int64),
    )


def _described(one: Example) -> bytes:
    content = {
        "prompt": shown(one.prompt), "answers": one.answers, "record": one.record,
        "where": one.where,
    }  # fmt: skip
    return json.dumps(content, ensure_ascii=True).encode()
