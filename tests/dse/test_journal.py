"""The journal survives what can happen to a process: torn lines, old checkpoints, other studies."""

import math

import numpy as np
import pytest

from hwopt.dse.journal import (
    JOURNAL,
    Journal,
    read_checkpoint,
    read_history,
    save_checkpoint,
)
from hwopt.errors import HwoptError, StudyError

COLUMNS = ("latency", "feasible")


def write(path, generations=3):
    """A journal of some generations of two designs each."""
    journal = Journal(path, "study", COLUMNS)
    journal.start()
    for g in range(generations):
        codes = np.array([[g, 0], [g, 1]])
        journal.append(g, codes, np.array([[0.1 + g, 1.0], [math.inf, 0.0]]))
    journal.close()


def test_what_was_written_is_read(tmp_path):
    """Codes, numbers (bit for bit, infinities too) and generations come back."""
    write(tmp_path)
    history = read_history(tmp_path)
    assert history.columns == COLUMNS
    assert history.codes.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
    assert history.numbers[:, 0].tolist() == [0.1, math.inf, 1.1, math.inf, 2.1, math.inf]
    assert history.generation.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("cut", [1, 2, 10, 40])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    """Whatever part of the last line is missing, the complete ones are read."""
    write(tmp_path)
    content = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(content[:-cut])
    assert read_history(tmp_path).generation.max() == 1


def test_resume_cuts_back_to_the_checkpoint(tmp_path):
    """Generations after the checkpoint are dropped, and appending goes on from there."""
    write(tmp_path)
    journal = Journal(tmp_path, "study", COLUMNS)
    assert journal.resume(2).generation.tolist() == [0, 0, 1, 1]
    journal.append(2, np.array([[9, 9]]), np.array([[9.0, 1.0]]))
    journal.close()
    assert read_history(tmp_path).codes[-1].tolist() == [9, 9]
    assert len(read_history(tmp_path).codes) == 5


def test_another_study_is_refused(tmp_path):
    """Resuming with a changed study is an error."""
    write(tmp_path)
    with pytest.raises(StudyError, match="another study"):
        Journal(tmp_path, "other", COLUMNS).resume(1)


def test_a_journal_shorter_than_its_checkpoint_is_refused(tmp_path):
    """That cannot happen by a crash: someone cut the file."""
    write(tmp_path)
    with pytest.raises(StudyError, match="lacks generations"):
        Journal(tmp_path, "study", COLUMNS).resume(4)


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    """Only the last line may be torn."""
    write(tmp_path)
    lines = (tmp_path / JOURNAL).read_text().split("\n")
    lines[1] = lines[1][:10]
    (tmp_path / JOURNAL).write_text("\n".join(lines))
    with pytest.raises(StudyError, match=r"journal.jsonl:2"):
        read_history(tmp_path)


@pytest.mark.parametrize("text", ["", "not json\n", '{"format": 99}\n'])
def test_foreign_files_are_refused(tmp_path, text):
    """An empty, foreign or newer journal is one clear error."""
    (tmp_path / JOURNAL).write_text(text)
    with pytest.raises(StudyError):
        read_history(tmp_path)


def test_no_journal(tmp_path):
    """A directory without a run."""
    with pytest.raises(StudyError, match="no study has run here"):
        read_history(tmp_path)


def test_checkpoint_round_trip(tmp_path):
    """State comes back equal; none when there is none; another format is refused."""
    assert read_checkpoint(tmp_path) is None
    state = {"F": [[0.1, 1 / 3]], "generator": {"state": 2**127 + 1}}
    save_checkpoint(tmp_path, "study", 7, state)
    assert read_checkpoint(tmp_path) == (7, state)
    (tmp_path / "checkpoint.json").write_text('{"format": 0}')
    with pytest.raises(HwoptError, match="format"):
        read_checkpoint(tmp_path)
