"""The memory of a running study: a journal of what was priced and a checkpoint to go on from.

`journal.jsonl`: a header (format, identity of the study, column names), then one line per
generation: `{"generation", "codes", "numbers"}`. It is flushed to disk before the checkpoint of
the same generation is written, so that whatever kills the process, a checkpoint's generations are
all in the journal. Lines beyond the checkpoint, and a torn last line, are dropped on resume; the
search then does them again, identically. Infinite numbers are null.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hwopt.dse.space import Codes
from hwopt.errors import StudyError
from hwopt.files import read_json, read_text, write_json, write_text

FORMAT = 1
JOURNAL, CHECKPOINT = "journal.jsonl", "checkpoint.json"


@dataclass(frozen=True)
class History:
    """Everything priced so far: `codes` (designs, knobs), `numbers` (designs, columns), and the
    generation of each design (designs,).
    """

    columns: tuple[str, ...]
    codes: Codes
    numbers: npt.NDArray[np.float64]
    generation: npt.NDArray[np.int64]


class Journal:
    """The journal of one study directory, open for appending."""

    def __init__(self, path: Path, identity: str, columns: tuple[str, ...]) -> None:
        self.path = path / JOURNAL
        self._header = {"format": FORMAT, "identity": identity, "columns": list(columns)}
        self._file: IO[str] | None = None

    def start(self) -> None:
        """A new journal with its header."""
        write_text(self.path, _line(self._header))
        self._open()

    def resume(self, generations: int) -> History:
        """Keep the first `generations` generations, return them, and go on appending."""
        header, lines = _read(self.path)
        if header["identity"] != self._header["identity"]:
            raise StudyError(
                "the run in this directory is of another study", where=str(self.path.parent),
                fix="resume with the same study file, or choose another directory",
            )  # fmt: skip
        if len(lines) < generations:
            raise StudyError(
                "the journal lacks generations that the checkpoint has", where=str(self.path),
                value=len(lines), allowed=f"at least {generations}", fix="start the run again",
            )  # fmt: skip
        kept = lines[:generations]
        write_text(self.path, _line(header) + "".join(_line(entry) for entry in kept))
        self._open()
        return _history(header, kept)

    def append(self, generation: int, codes: Codes, numbers: npt.NDArray[np.float64]) -> None:
        """Add one generation; it is on disk when this returns."""
        assert self._file is not None, "the journal is open"
        rows = [[_json(value) for value in row] for row in numbers.tolist()]
        entry = {"generation": generation, "codes": codes.tolist(), "numbers": rows}
        self._file.write(_line(entry))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        self._file = self.path.open("a", encoding="utf-8")


def read_history(path: Path) -> History:
    """The history in a study directory, complete lines only. Raises `StudyError` without one."""
    return _history(*_read(path / JOURNAL))


def save_checkpoint(path: Path, identity: str, generations: int, state: dict[str, Any]) -> None:
    """Replace the checkpoint, whole or not at all."""
    content = {
        "format": FORMAT, "identity": identity, "generations": generations, "optimizer": state,
    }  # fmt: skip
    write_json(path / CHECKPOINT, content)


def read_checkpoint(path: Path) -> tuple[int, dict[str, Any]] | None:
    """Generations done and the optimiser's state; None when there is no checkpoint."""
    file = path / CHECKPOINT
    if not file.exists():
        return None
    content = read_json(file)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StudyError("a checkpoint of another format", where=str(file), allowed=str(FORMAT))
    return int(content["generations"]), content["optimizer"]


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if not path.exists():
        raise StudyError("no study has run here", where=str(path.parent),
                         fix="hwopt search STUDY.yaml -o DIRECTORY")  # fmt: skip
    entries: list[dict[str, Any]] = []
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # a torn last line, or the empty one after the last newline
                break
            raise StudyError("a broken line", where=f"{path}:{number}", value=line[:60],
                             fix="restore the file, or start the run again") from error  # fmt: skip
        if number == len(lines):  # complete JSON, but the newline was never written: torn
            break
        entries.append(entry)
    if not entries or entries[0].get("format") != FORMAT:
        raise StudyError("not a journal of this format", where=str(path), allowed=str(FORMAT))
    return entries[0], entries[1:]


def _history(header: dict[str, Any], entries: list[dict[str, Any]]) -> History:
    columns = tuple(header["columns"])
    codes = [row for entry in entries for row in entry["codes"]]
    numbers = [
        [math.inf if value is None else value for value in row]
        for entry in entries for row in entry["numbers"]
    ]  # fmt: skip
    generation = [entry["generation"] for entry in entries for _ in entry["codes"]]
    knobs = len(codes[0]) if codes else 0
    return History(
        columns,
        np.array(codes, dtype=np.int64).reshape(len(codes), knobs),
        np.array(numbers, dtype=np.float64).reshape(len(codes), len(columns)),
        np.array(generation, dtype=np.int64),
    )


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False, separators=(",", ":")) + "\n"


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
