"""Readers: the same rows from every form of file, and hostile files."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.sources import MAX_ROW_BYTES, Bad, Row, read_rows, source_digest
from rlhf.errors import DataError
from rlhf.plan import DataSet

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
rows = st.lists(st.fixed_dictionaries({"prompt": texts, "answer": texts}), min_size=1, max_size=6)


def read(path: Path | str, **more: Any) -> list[Row | Bad]:
    return list(read_rows(DataSet(path=str(path), **more)))


def save(form: str, content: list[dict[str, Any]], folder: Path) -> DataSet:
    """The rows in one of the forms."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"rows.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    elif form == "json":
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    elif form == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(content[0]), quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(content)
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(content), path)
    else:
        datasets.disable_progress_bars()
        path = folder / "saved"
        datasets.Dataset.from_list(content).save_to_disk(str(path))
    return DataSet(path=str(path))


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet"])
@given(content=rows)
def test_round_trip(
    form: str, content: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What is written in a form is read from it, in order, any text included."""
    dataset = save(form, content, tmp_path_factory.mktemp("rows"))
    found = list(read_rows(dataset))
    assert [row.values for row in found if isinstance(row, Row)] == content


def test_folder(tmp_path: Path) -> None:
    """A folder that the datasets library saved, and one split of a dictionary of them."""
    import datasets

    content = [{"prompt": "a", "answer": "b"}, {"prompt": "c\n", "answer": "\0d"}]
    found = list(read_rows(save("folder", content, tmp_path)))
    assert [row.values for row in found if isinstance(row, Row)] == content
    assert found[1].where == f"{tmp_path / 'saved'}[1]"
    splits = datasets.DatasetDict(train=datasets.Dataset.from_list(content))
    splits.save_to_disk(str(tmp_path / "splits"))
    assert len(read(tmp_path / "splits")) == 2
    with pytest.raises(DataError, match="no such split"):
        read(tmp_path / "splits", split="validation")


def test_folder_of_files(tmp_path: Path) -> None:
    """A folder of data files as the hub keeps them."""
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    assert [row.values for row in read(folder) if isinstance(row, Row)] == [
        {"prompt": "a"}, {"prompt": "b"},
    ]  # fmt: skip


def test_folder_of_something_else(tmp_path: Path) -> None:
    """A folder that is no data set is one clear error."""
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match="not a data set folder"):
        read(tmp_path)


def test_hub_unreachable() -> None:
    """Without the network (tests run with HF_HUB_OFFLINE=1) the error says what to do."""
    with pytest.raises(DataError, match=r"cannot be loaded(.|\n)*HF_HUB_OFFLINE"):
        list(read_rows(DataSet(hub="nobody/nothing:main")))


def test_json_with_data_key(tmp_path: Path) -> None:
    """{"data": [...]} is a list of rows; entries that are no objects are bad rows."""
    path = tmp_path / "rows.json"
    path.write_text('{"version": 1, "data": [{"prompt": "a"}, 3]}')
    good, bad = read(path)
    assert good == Row({"prompt": "a"}, f"{path}[0]")
    assert bad == Bad(f"{path}[1]", "not an object", "int")


@pytest.mark.parametrize("text", ['{"prompt": "a"}', "3", "[", '[{"a": 1, "a": 2}]', "[NaN]", ""])
def test_json_without_rows(tmp_path: Path, text: str) -> None:
    """A file that is no list of rows is an error as a whole."""
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(DataError):
        read(path)


HOSTILE = {
    b'{"prompt": "a"': "invalid JSON",
    b'{"prompt": "\xff"}': "not UTF-8",
    b'{"prompt": "a\x01"}': "invalid JSON",
    b'{"prompt": "a\x00"}': "invalid JSON",
    b"\x00\x00\x00": "invalid JSON",
    b'{"a": 1, "a": 2}': "invalid JSON",
    b'{"a": NaN}': "invalid JSON",
    b'{"a": ' + b"9" * 5000 + b"}": "invalid JSON",
    b"[" * 200_000: "invalid JSON",
    b'["a"]': "not an object",
    b"null": "not an object",
    b'"' + b"a" * MAX_ROW_BYTES + b'"': "line too long",
}


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: repr(line[:12]))
def test_hostile_line(tmp_path: Path, line: bytes) -> None:
    """A line that is no row is named with its number, and the lines around it are read."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "before"}\n\n' + line + b'\n{"prompt": "after"}')
    before, bad, after = read(path)
    assert before == Row({"prompt": "before"}, f"{path}:1")
    assert isinstance(bad, Bad)
    assert (bad.where, bad.reason) == (f"{path}:3", HOSTILE[line])
    assert after == Row({"prompt": "after"}, f"{path}:4")


def test_line_endings_and_byte_order_mark(tmp_path: Path) -> None:
    """Files from Windows are read as any other."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    assert [row.values for row in read(path) if isinstance(row, Row)] == [
        {"prompt": "a"}, {"prompt": "b"},
    ]  # fmt: skip
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbfprompt,answer\r\na,b\r\n")
    assert read(path) == [Row({"prompt": "a", "answer": "b"}, f"{path}:2")]


def test_csv_bad_rows(tmp_path: Path) -> None:
    """Rows of another width, of broken quotes and of broken text, named by their first line."""
    path = tmp_path / "rows.csv"
    path.write_bytes(b'prompt,answer\n"two\nlines",b\nonly\na,\xff\n"a"x,b\nlast,row\n"open,')
    found = read(path)
    assert found[0] == Row({"prompt": "two\nlines", "answer": "b"}, f"{path}:2")
    assert [(bad.where, bad.reason) for bad in found if isinstance(bad, Bad)] == [
        (f"{path}:4", "wrong number of fields"),
        (f"{path}:5", "not UTF-8"),
        (f"{path}:6", "invalid CSV"),
        (f"{path}:8", "invalid CSV"),
    ]
    assert Row({"prompt": "last", "answer": "row"}, f"{path}:7") in found


def test_csv_field_limit_is_restored(tmp_path: Path) -> None:
    """The limit of the csv module is global: reading leaves it as it was, and takes long fields."""
    before = csv.field_size_limit()
    path = tmp_path / "rows.csv"
    path.write_text("prompt\n" + "a" * 200_000 + "\n")
    (row,) = read(path)
    assert isinstance(row, Row)
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("header", ["a,a", "a,", '"a'])
def test_csv_header(tmp_path: Path, header: str) -> None:
    """Columns need names of their own."""
    path = tmp_path / "rows.csv"
    path.write_text(header + "\n1,2\n")
    with pytest.raises(DataError, match=r"rows.csv:1"):
        read(path)


def test_not_parquet(tmp_path: Path) -> None:
    """A file with the wrong content is an error that names it."""
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read(path)


def test_unknown_form(tmp_path: Path) -> None:
    """An ending that says nothing needs `format`; a missing file and a wrong kind are named."""
    path = tmp_path / "rows.txt"
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(DataError, match="format unknown"):
        read(path)
    assert read(path, format="jsonl") == [Row({"prompt": "a"}, f"{path}:1")]
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="is a folder, not jsonl"):
        read(tmp_path, format="jsonl")


def test_digest_follows_content(tmp_path: Path) -> None:
    """The digest changes with any byte of a file or a folder's file, and with nothing else."""
    path = tmp_path / "rows.jsonl"
    path.write_text("a")
    first = source_digest(DataSet(path=str(path)))
    path.touch()
    assert source_digest(DataSet(path=str(path))) == first
    path.write_text("b")
    assert source_digest(DataSet(path=str(path))) != first
    folder = source_digest(DataSet(path=str(tmp_path)))
    path.rename(tmp_path / "other.jsonl")
    assert source_digest(DataSet(path=str(tmp_path))) != folder
