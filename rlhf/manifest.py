"""The list of a folder's files with their hashes: damage is found before anything is read.

    {"format": 1, "files": {"actor/engine.json": {"bytes": 312, "sha256": ...}}, ..., "sha256": ...}

`sha256` at the end is the hash of everything else in the list, so damage to the list itself is
found as well. It is written last: a folder that has one was whole when it was written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hwopt import HwoptError, inside, parse_json, read_text, write_text
from rlhf.errors import CheckpointError

MANIFEST = "manifest.json"
FORMAT = 1
THREADS = 4
"""Files hashed at once by a process; hashing leaves the interpreter's lock alone."""

Entry: TypeAlias = dict[str, Any]
"""{"bytes": size, "sha256": hexadecimal} of a file."""


@dataclass(frozen=True)
class Damage:
    """A file that is not what the manifest says: what, and expected against found."""

    file: str
    what: str
    expected: str
    found: str


def files_in(folder: Path) -> list[str]:
    """Relative paths of the files that belong into a manifest, sorted.

    Hidden files are none of ours (a file manager's, a network file system's): nothing reads them.
    """
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(root) / name).relative_to(folder).as_posix()
            for name in names
            if not name.startswith(".")
        ]
    return sorted(set(found) - {MANIFEST})


def share_of(items: Sequence[str], rank: int, world: int) -> list[str]:
    """The part of the work on `items` that falls to one of `world` processes."""
    return list(items[rank::world])


def entries_of(folder: Path, files: Iterable[str], *, flush: bool = False) -> dict[str, Entry]:
    """Size and hash of files, several at once. `flush`: bring each to the disk first."""

    def entry(file: str) -> tuple[str, Entry]:
        with (folder / file).open("rb") as opened:
            if flush:
                os.fsync(opened.fileno())
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return file, {"bytes": opened.tell(), "sha256": digest}

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(pool.map(entry, files))


def flush_folders(folder: Path) -> None:
    """Bring the names in a folder and all folders below it to the disk.

    File systems of object stores and some network ones know no such thing: they are let be.
    """
    for root, _, _ in os.walk(folder):
        handle = os.open(root, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(handle)


def write_manifest(folder: Path, files: dict[str, Entry], facts: dict[str, Any]) -> None:
    """Write the list of a folder with `facts` (JSON) about it."""
    write_text(folder / MANIFEST, _text({"format": FORMAT, "files": files, **facts}))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The list of a folder: {"format", "files", ...}.

    Raises `CheckpointError` where it is missing, damaged or of another version.
    """
    path = folder / MANIFEST
    try:
        text = read_text(path)
        data = parse_json(text, str(path))
        if not isinstance(data, dict) or _text(_without_hash(data)) != text:
            raise CheckpointError("the manifest is damaged", where=str(path))
    except CheckpointError:
        raise
    except (HwoptError, OSError, ValueError) as error:
        what = "there is no manifest" if not path.exists() else "the manifest is damaged"
        raise CheckpointError(what, where=str(path)) from error
    if data.get("format") != FORMAT:
        raise CheckpointError(
            "a checkpoint of another version of this program", where=str(path),
            value=data.get("format"), allowed=str(FORMAT),
        )  # fmt: skip
    return data


def damage_of(folder: Path, files: dict[str, Entry], share: Iterable[str]) -> list[Damage]:
    """What is wrong with the files of `share`, which are listed in `files`."""
    found, whole = [], []
    for file in share:
        try:
            size = inside(folder, file).stat().st_size
        except (OSError, HwoptError):
            found.append(Damage(file, "a file is missing", f"{files[file]['bytes']} bytes", "none"))
            continue
        if size != files[file]["bytes"]:
            expected, is_ = f"{files[file]['bytes']} bytes", f"{size} bytes"
            found.append(Damage(file, "a file has another size", expected, is_))
        else:
            whole.append(file)
    for file, entry in entries_of(folder, whole).items():
        expected, is_ = f"sha256 {files[file]['sha256']}", f"sha256 {entry['sha256']}"
        if expected != is_:
            found.append(Damage(file, "a file is corrupt", expected, is_))
    return found


def strangers(folder: Path, files: dict[str, Entry]) -> list[Damage]:
    """Files that the list does not know (a shard of another process would be read)."""
    return [
        Damage(file, "a file does not belong here", "no such file", "a file")
        for file in files_in(folder)
        if file not in files
    ]


def _without_hash(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != "sha256"}


def _text(data: dict[str, Any]) -> str:
    """The only text that a list has: canonical JSON with its own hash."""

    def dump(value: dict[str, Any]) -> str:
        return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)

    digest = hashlib.sha256(dump(data).encode()).hexdigest()
    return dump({**data, "sha256": digest}) + "\n"
