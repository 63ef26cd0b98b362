"""Reading and writing files safely: YAML, JSON, atomic writes, paths kept inside their root.

YAML is YAML 1.2 through ruamel's safe loader: duplicate keys are refused and `1e9` is a number.
Nothing is ever half-written: a file appears whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from hwopt.errors import FileFormatError, PathError

MAX_BYTES = 256 * 2**20
"""Largest text file that is read: a guard against a wrong path, not a design limit."""


def read_text(path: str | Path) -> str:
    """The file's text; one clear error when it is missing, a folder, too large or not UTF-8."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FileFormatError("file is too large", where=str(path), allowed="256 MiB")
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise PathError(str(error.strerror), where=str(path)) from error
    except UnicodeDecodeError as error:
        raise FileFormatError("not UTF-8 text", where=str(path)) from error


def read_yaml(path: str | Path) -> Any:
    """Plain data (dict, list, str, int, float, bool, None) of one YAML document."""
    return parse_yaml(read_text(path), where=str(path))


def parse_yaml(text: str, where: str = "<text>") -> Any:
    """Like `read_yaml`, from text; errors carry `where` with line and column."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        data = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        problem = (error.problem or str(error)).split("\n")[0]
        raise FileFormatError(f"invalid YAML: {problem}", where=at) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise FileFormatError(f"invalid YAML: {error}", where=where) from error
    _refuse_non_finite(data, where, "", frozenset())
    return data


def read_json(path: str | Path) -> Any:
    """Plain data of one JSON file; duplicate keys, NaN and Infinity are refused."""
    return parse_json(read_text(path), where=str(path))


def parse_json(text: str, where: str = "<text>") -> Any:
    """Like `read_json`, from text."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in pairs:
            if key in data:
                raise FileFormatError("duplicate key", where=where, value=key)
            data[key] = value
        return data

    def refuse(constant: str) -> Any:
        raise FileFormatError("not a number that JSON allows", where=where, value=constant)

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        at = f"{where}:{error.lineno}:{error.colno}"
        raise FileFormatError(f"invalid JSON: {error.msg}", where=at) from error
    except RecursionError as error:
        raise FileFormatError("nested too deeply", where=where) from error


def write_text(path: str | Path, text: str) -> None:
    """Write the whole file or nothing (a temporary sibling, fsync, rename)."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Like `write_text`, for bytes."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise PathError(f"cannot write: {error.strerror}", where=str(path)) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, data: Any) -> None:
    """Canonical JSON: sorted keys, two spaces, exact floats, a final newline."""
    text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def write_yaml(path: str | Path, data: Any) -> None:
    """Block-style YAML with keys in the order given."""
    write_text(path, dump_yaml(data))


def dump_yaml(data: Any) -> str:
    """The text that `write_yaml` writes."""
    import io

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 100
    buffer = io.StringIO()
    yaml.dump(data, buffer)
    return buffer.getvalue()


def inside(root: str | Path, relative: str | Path) -> Path:
    """`root / relative`, refused when it leaves `root` (absolute, `..`, or through a link)."""
    base = Path(root).resolve()
    path = (base / relative).resolve()
    if not path.is_relative_to(base):
        raise PathError("path leaves its root", where=str(root), value=str(relative))
    return path


def cache_dir() -> Path:
    """Where derived data is kept: $HWOPT_CACHE, else $XDG_CACHE_HOME/hwopt, else ~/.cache/hwopt."""
    if configured := os.environ.get("HWOPT_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwopt"


def _refuse_non_finite(data: Any, where: str, path: str, parents: frozenset[int]) -> None:
    """NaN and infinities are never meant; anchors that contain themselves never end."""
    if isinstance(data, float) and not math.isfinite(data):
        raise FileFormatError("not a finite number", where=f"{where} at {path or '.'}", value=data)
    if isinstance(data, dict | list):
        if id(data) in parents:
            raise FileFormatError("an anchor contains itself", where=f"{where} at {path or '.'}")
        inner = parents | {id(data)}
        items = data.items() if isinstance(data, dict) else enumerate(data)
        for key, value in items:
            _refuse_non_finite(value, where, f"{path}.{key}", inner)
