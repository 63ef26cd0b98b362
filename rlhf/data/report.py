"""What was read, dropped, cut and kept: one value per stage, written to the run's data.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

EXAMPLES = 3
"""Origins that are kept of each reason."""


@dataclass(frozen=True)
class Dropped:
    """Rows left out for one reason: how many, and the first of them as file:line (what)."""

    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class SetReport:
    """One set in one stage.

    rows: read, bad ones included. examples: after the adapter (equal to rows without one).
    examples = used + all dropped + other_stages; used = train + held_out. truncated: answers that
    were cut. duplicates: used examples that are equal to an earlier one. drawn: rows per epoch, by
    the weight. prompt_tokens, answer_tokens: totals over used examples, end of text included.
    skipped: why the stage does not use the set at all.
    """

    source: str
    rows: int = 0
    examples: int = 0
    used: int = 0
    train: int = 0
    held_out: int = 0
    drawn: int = 0
    other_stages: int = 0
    dropped: Mapping[str, Dropped] = field(default_factory=dict)
    truncated: int = 0
    duplicates: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    skipped: str = ""


@dataclass(frozen=True)
class DataReport:
    """All sets of a stage."""

    stage: str
    kind: str
    sets: tuple[SetReport, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DataReport:
        """The inverse of `to_json`."""
        sets = []
        for one in data["sets"]:
            dropped = {
                reason: Dropped(found["count"], tuple(found["examples"]))
                for reason, found in one["dropped"].items()
            }
            sets.append(SetReport(**{**one, "dropped": dropped}))
        return cls(data["stage"], data["kind"], tuple(sets))

    def lines(self) -> list[str]:
        """For people: a line per set, and one per reason for which rows were dropped."""
        text = []
        for one in self.sets:
            if one.skipped:
                text.append(f"{one.source}: not used, {one.skipped}")
                continue
            notes = [f"{one.rows} rows", f"{one.train} to train on", f"{one.held_out} held out"]
            notes += [f"{one.drawn} drawn an epoch"] if one.drawn != one.train else []
            notes += [f"{one.truncated} answers cut"] if one.truncated else []
            notes += [f"{one.duplicates} duplicates"] if one.duplicates else []
            text.append(f"{one.source}: {', '.join(notes)}")
            text += [
                f"  dropped {found.count}: {reason}, e.g. {found.examples[0]}"
                for reason, found in one.dropped.items()
            ]
        return text
