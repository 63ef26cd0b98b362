"""Rows of a data set from where it lies: JSONL, JSON, CSV, Parquet, saved folders, the hub.

Every row knows its origin, so that a bad one can be named:

    train.jsonl:12      line 12 of a JSONL file, or the line at which a CSV row starts (from 1)
    train.json[12]      entry 12 of a JSON list, a Parquet file, a folder, a hub set (from 0)

A row that cannot be read is a `Bad` in its place, and the rows after it are still read. What makes
the whole file unreadable (broken JSON, a Parquet file without its footer) is a `DataError`.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hwopt import HwoptError, cache_dir, parse_json, read_json
from rlhf.errors import DataError
from rlhf.plan import DataSet

MAX_ROW_BYTES = 16 * 2**20
"""Longest line of a JSONL file and longest field of a CSV file: a guard against a wrong file."""

ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}


@dataclass(frozen=True)
class Row:
    """One row: its columns and its origin."""

    values: dict[str, Any]
    where: str


@dataclass(frozen=True)
class Bad:
    """A row that cannot be used: origin, reason (one of few, counted by it) and what was found."""

    where: str
    reason: str
    found: str = ""


def source_name(dataset: DataSet) -> str:
    """The set in reports and errors: its path, or hub name and split."""
    return dataset.path if dataset.path is not None else f"{dataset.hub} ({dataset.split})"


def read_rows(dataset: DataSet) -> Iterator[Row | Bad]:
    """Every row of a set in its order. Blank lines of a JSONL file are no rows.

    Raises `DataError` when the source is missing, of unknown form or unreadable as a whole.
    """
    if dataset.path is None:
        return _hub(dataset)
    path = Path(dataset.path)
    if not path.exists():
        raise DataError("no such file or folder", where=dataset.path)
    form = _form(dataset, path)
    return _folder(path, dataset.split) if form == "folder" else _READERS[form](path)


def source_digest(dataset: DataSet) -> str:
    """SHA-256 of every byte of a set's files: changes when, and only when, its content does."""
    digest = hashlib.sha256()
    if dataset.path is None:
        for entry in _load_hub(dataset).cache_files:
            _hash_file(Path(entry["filename"]), digest)
        return digest.hexdigest()
    path = Path(dataset.path)
    if not path.exists():
        raise DataError("no such file or folder", where=dataset.path)
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(f"\0{file.relative_to(path)}\0".encode(errors="surrogateescape"))
        _hash_file(file, digest)
    return digest.hexdigest()


def _hash_file(path: Path, digest: Any) -> None:
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _form(dataset: DataSet, path: Path) -> str:
    """The format: as asked, a folder, or by the file's ending."""
    form = dataset.format or ("folder" if path.is_dir() else ENDINGS.get(path.suffix.lower()))
    if form is None:
        raise DataError(
            "format unknown from its ending", where=str(path), value=path.suffix,
            allowed=", ".join(ENDINGS), fix="give format: in the plan's data set",
        )  # fmt: skip
    if (form == "folder") != path.is_dir():
        found = "a folder" if path.is_dir() else "a file"
        raise DataError(f"is {found}, not {form}", where=str(path))
    return form


def _jsonl(path: Path) -> Iterator[Row | Bad]:
    """One JSON object a line."""
    with _opened(path) as file:
        number = 0
        while line := file.readline(MAX_ROW_BYTES + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > MAX_ROW_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_ROW_BYTES)
                yield Bad(where, "line too long", f"more than {MAX_ROW_BYTES} bytes")
                continue
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield _json_row(line, where)


def _json_row(line: bytes, where: str) -> Row | Bad:
    try:
        values = parse_json(line.decode(), where)
    except UnicodeDecodeError as error:
        return Bad(where, "not UTF-8", f"byte {error.start}")
    except HwoptError as error:
        shown = "" if error.value is None else f": {error.value!r}"
        return Bad(where, "invalid JSON", error.what.removeprefix("invalid JSON: ") + shown)
    except ValueError as error:  # an integer of more digits than Python converts
        return Bad(where, "invalid JSON", str(error))
    return _object(values, where)


def _object(values: Any, where: str) -> Row | Bad:
    if not isinstance(values, dict):
        return Bad(where, "not an object", type(values).__name__)
    return Row(values, where)


def _json(path: Path) -> Iterator[Row | Bad]:
    """A list of objects, or an object whose "data" is one."""
    try:
        content = read_json(path)
    except HwoptError as error:
        raise DataError(error.what, where=error.where, value=error.value) from error
    except ValueError as error:
        raise DataError(f"invalid JSON: {error}", where=str(path)) from error
    if isinstance(content, dict):
        content = content.get("data")
    if not isinstance(content, list):
        raise DataError(
            "holds no rows", where=str(path), value=type(content).__name__,
            allowed='a list of objects, or {"data": [...]}',
            fix="one object a line is format: jsonl",
        )  # fmt: skip
    for i, values in enumerate(content):
        yield _object(values, f"{path}[{i}]")


def _csv(path: Path) -> Iterator[Row | Bad]:
    """A header line, then rows; quoted fields may span lines."""
    limit = csv.field_size_limit(MAX_ROW_BYTES)
    try:
        with _opened(path) as file:
            reader = csv.reader(_lines(file), strict=True)
            try:
                header = next(reader, [])
            except csv.Error as error:
                raise DataError(f"header: {error}", where=f"{path}:1") from error
            if len(set(header)) != len(header) or "" in header:
                raise DataError("a column has no name or that of another", where=f"{path}:1",
                                value=", ".join(header))  # fmt: skip
            yield from _csv_rows(reader, header, path)
    finally:
        csv.field_size_limit(limit)


def _csv_rows(reader: Any, header: list[str], path: Path) -> Iterator[Row | Bad]:
    while True:
        where = f"{path}:{reader.line_num + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Bad(where, "invalid CSV", str(error))
            continue
        if not fields:  # a blank line
            continue
        if len(fields) != len(header):
            yield Bad(where, "wrong number of fields", f"{len(fields)} of {len(header)}")
        elif any(_escaped(field) for field in fields):
            yield Bad(where, "not UTF-8")
        else:
            yield Row(dict(zip(header, fields, strict=True)), where)


def _lines(file: BinaryIO) -> Iterator[str]:
    """Decoded lines; bytes that are not UTF-8 stay visible as lone surrogates."""
    for number, line in enumerate(file):
        text = line.decode(errors="surrogateescape")
        yield text.removeprefix("\ufeff") if number == 0 else text


def _escaped(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


def _parquet(path: Path) -> Iterator[Row | Bad]:
    """Rows of a Parquet file, a batch at a time."""
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    try:
        with ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    yield Row(values, f"{path}[{number}]")
                    number += 1
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise DataError(f"not a readable Parquet file: {error}", where=str(path)) from error


def _folder(path: Path, split: str) -> Iterator[Row | Bad]:
    """What `datasets` saved with save_to_disk, or a folder of data files that it understands."""
    import datasets  # type: ignore[import-untyped]

    saved = any((path / name).exists() for name in ("dataset_dict.json", "state.json"))
    try:
        if saved:
            found = datasets.load_from_disk(str(path))
            if isinstance(found, datasets.DatasetDict):
                if split not in found:
                    raise DataError("no such split", where=str(path), value=split,
                                    allowed=", ".join(found))  # fmt: skip
                found = found[split]
        else:
            found = datasets.load_dataset(
                str(path), split=split, cache_dir=str(cache_dir() / "rlhf" / "datasets")
            )
        yield from _dataset_rows(found, str(path))
    except DataError:
        raise
    except (OSError, ValueError, TypeError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"not a data set folder: {error}", where=str(path)) from error


def _hub(dataset: DataSet) -> Iterator[Row | Bad]:
    yield from _dataset_rows(_load_hub(dataset), str(dataset.hub))


def _load_hub(dataset: DataSet) -> Any:
    """`name` or `name:configuration` from the Hugging Face hub or its local cache."""
    import datasets

    name, _, configuration = str(dataset.hub).partition(":")
    try:
        return datasets.load_dataset(name, configuration or None, split=dataset.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"cannot be loaded from the Hugging Face hub: {str(error).splitlines()[0]}",
            where=source_name(dataset),
            fix="check name, split, network and HF_HUB_OFFLINE; or save it elsewhere with"
            " datasets.load_dataset(...).save_to_disk(FOLDER), and give path: FOLDER",
        ) from error


def _dataset_rows(found: Any, where: str) -> Iterator[Row]:
    for number, values in enumerate(found):
        yield Row(dict(values), f"{where}[{number}]")


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error


_READERS = {
    "jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet,
}  # fmt: skip
