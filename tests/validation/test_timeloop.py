"""Fixed mappings against Timeloop's own counts."""

import csv
import json
from pathlib import Path

import pytest

from hwopt.errors import FileFormatError, PathError
from hwopt.validation.harness import REFERENCE, validate
from hwopt.validation.timeloop_gemmini import COLUMNS, gemmini_rows

ORACLE = REFERENCE / "timeloop_oracle.json"
ROW = {
    "target.cycle": "99831681", "target.energy": "6030.69",
    "mapping.mapping": "L3[WIO] C8 K32 S3 - L2[WI] N1 - L1[O] K8 R3 C32 Q13 - L0[W] P13",
    "prob.shape": "cnn-layer", "arch.pe": "64", "arch.mem1_entries": "65536",
    "arch.mem1_word-bits": "32", "arch.mem1_shared_bandwidth": "2", "arch.mem2_entries": "16384",
    "arch.mem2_word-bits": "8", "arch.mem2_width": "64", "arch.mem2_shared_bandwidth": "16",
    "prob.C": "256", "prob.K": "256", "prob.R": "3", "prob.S": "3", "prob.N": "1", "prob.P": "13",
    "prob.Q": "13", "prob.Wstride": "1", "prob.Hstride": "1", "prob.Wdilation": "1",
    "prob.Hdilation": "1",
}  # fmt: skip


def write_rows(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_every_count_equals_timeloop():
    """Reads, fills, updates, tiles, copies and cycles of the carried records, energies too."""
    outcome = validate("timeloop")
    assert len(outcome.rows) == 22
    assert outcome.metrics["counts_different"] == 0
    assert outcome.metrics["counts_compared"] > 1000
    assert outcome.metrics["exact_share"] == 1
    assert outcome.metrics["energy_max_percent"] < 1e-9
    assert outcome.baseline["exact_share"] < 0.5
    assert outcome.notes[0].startswith("no difference")


@pytest.mark.data
def test_every_count_of_the_whole_file(reference):
    """All records of the reference file."""
    outcome = validate("timeloop", reference / ORACLE.name)
    assert outcome.metrics["counts_different"] == 0
    assert outcome.metrics["energy_max_percent"] < 1e-9


@pytest.mark.data
@pytest.mark.slow
def test_gemmini_mappings(reference):
    """The folder takes both files: 6,000 rows within one cycle and 0.1 % of energy."""
    outcome = validate("timeloop", reference)
    assert len(outcome.rows) > 6000
    assert outcome.metrics["cycles_within_1_share"] >= 0.99
    assert outcome.metrics["energy_within_0.1_percent_share"] >= 0.99


def test_a_row_bound_by_the_accumulator(tmp_path):
    """One cycle more than the quotient of whole numbers, as Timeloop's floats have it."""
    (row,) = gemmini_rows(write_rows(tmp_path / "rows.csv", ROW))
    assert row.cycles == row.their_cycles == 99_831_681
    assert row.energy_error_percent < 0.01
    assert row.bound == "L1"


def test_differences_are_told(tmp_path):
    """A count that differs is named with both values; the worst rows come first."""
    data = json.loads(ORACLE.read_text())
    data["records"] = data["records"][:2]
    data["records"][1]["levels"][0]["Outputs"]["reads_per_inst"] += 1
    path = tmp_path / "records.json"
    path.write_text(json.dumps(data))
    outcome = validate("timeloop", path)
    assert outcome.metrics["exact_share"] == 0.5
    assert outcome.metrics["counts_different"] == 1
    assert outcome.notes[0] == "1 of 2 rows differ:"
    assert "reads of Outputs" in outcome.notes[1]
    rows = write_rows(tmp_path / "rows.csv", {**ROW, "target.cycle": "5"}, ROW)
    outcome = validate("timeloop", rows)
    assert "bound by L1" in outcome.notes[1]
    assert outcome.metrics["cycles_within_1_share"] == 0.5


@pytest.mark.parametrize(
    ("column", "value", "word"),
    [
        ("target.cycle", "many", "number"), ("arch.mem2_width", "-1", "number"),
        ("prob.C", "255", "multiply up"), ("prob.shape", "rnn", "mapping of keys"),
        ("mapping.mapping", "L3[WIO] C8 K?", "not a level"),
        ("mapping.mapping", "L1[WIO] C8", "not a mapping on this machine"),
        ("mapping.mapping", ROW["mapping.mapping"].replace("P13", "P13,4"), "multiply up"),
    ],
)  # fmt: skip
def test_bad_rows(tmp_path, column, value, word):
    """Each is one error that names the line."""
    path = write_rows(tmp_path / "rows.csv", {**ROW, column: value})
    with pytest.raises(FileFormatError, match=rf"(?s)line 2.*{word}"):
        validate("timeloop", path)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{}", "not a file of Timeloop records"), ('{"arch": 1', "invalid JSON"),
        ('{"arch": {}, "problems": {}, "records": []}', "no records"), ("", "columns are missing"),
        ("a,b\n1,2\n", "columns are missing"),
        ('{"arch": [], "problems": [], "records": [1]}', "list"),
    ],
)  # fmt: skip
def test_other_files(tmp_path, text, word):
    """What is neither kind of file is one clear error."""
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=word):
        validate("timeloop", path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mapping": {"temporal": {"DRAM": [["M", 8]]}}}, "RS: C: bounds do not multiply"),
        ({"mapping": {"temporal": {"L9": []}}}, "RS: mapping.temporal: no such memory"),
        ({"mapping": {"temporal": {"DRAM": [["M", "x"]]}}}, "ValueError"),
        ({"arch": "other"}, "KeyError: 'other'"),
        ({"levels": [{"level": "GLB", "Inputs": {}}]}, "KeyError"),
    ],
)  # fmt: skip
def test_bad_records(tmp_path, change, word):
    """Each is one error; what is wrong with a mapping names its record."""
    data = json.loads(ORACLE.read_text())
    data["records"] = [{**data["records"][0], **change}]
    path = tmp_path / "records.json"
    path.write_text(json.dumps(data))
    with pytest.raises(FileFormatError, match=word):
        validate("timeloop", path)


def test_a_folder_without_either(tmp_path):
    """The message names the files that are looked for."""
    with pytest.raises(PathError, match=r"timeloop_oracle\.json or timeloop_gemmini"):
        validate("timeloop", tmp_path)
