"""Reading and writing accelerator and cluster files; those that come with the package, by name.

Files are YAML: the fields of `Accelerator` or `Cluster`, numbers in SI or with units. Unknown and
duplicate keys are refused, and every error names the file and the dotted path.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from hwopt.errors import FileFormatError, HardwareError, UnknownNameError
from hwopt.files import read_json, read_yaml
from hwopt.hardware.accelerator import Accelerator, Part, explain
from hwopt.hardware.cluster import Cluster

T = TypeVar("T", bound=Part)

_ACCELERATORS = Path(__file__).parent / "library"
_CLUSTERS = _ACCELERATORS / "clusters"


def names(kind: str = "hardware") -> tuple[str, ...]:
    """Names of the accelerators ("hardware") or "clusters" that come with the package."""
    folder = _CLUSTERS if kind == "clusters" else _ACCELERATORS
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def describe(kind: str) -> list[tuple[str, str]]:
    """Name and description of each entry of a kind, "hardware" or "clusters"."""
    if kind == "clusters":
        return [(name, load_cluster(name).description) for name in names(kind)]
    return [(name, load(name).description) for name in names(kind)]


def load(name_or_path: str | Path) -> Accelerator:
    """An accelerator by library name, or from a YAML or JSON file.

    Raises `UnknownNameError` for a name that is neither, `FileFormatError` for a file that is not
    an accelerator, `HardwareError` for one that contradicts itself.
    """
    return _read(_find(name_or_path, "hardware"), Accelerator)


def load_cluster(name_or_path: str | Path) -> Cluster:
    """A cluster by library name, or from a YAML or JSON file; errors as `load`."""
    return _read(_find(name_or_path, "clusters"), Cluster)


def _find(name_or_path: str | Path, kind: str) -> Path:
    text = str(name_or_path)
    if text in names(kind):
        return (_CLUSTERS if kind == "clusters" else _ACCELERATORS) / f"{text}.yaml"
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml", ".json") or path.exists():
        return path
    near = difflib.get_close_matches(text, names(kind), n=3) or names(kind)
    raise UnknownNameError(f"unknown {kind.removesuffix('s')}", value=text,
                           allowed=f"{', '.join(near)}, or a .yaml file",
                           fix=f"`hwopt list {kind}` prints all")  # fmt: skip


def _read(path: Path, kind: type[T]) -> T:
    data = read_json(path) if path.suffix == ".json" else read_yaml(path)
    return parse(data, kind, str(path))


def parse(data: Any, kind: type[T], where: str) -> T:
    """Plain data as an `Accelerator` or a `Cluster`; `where` names its origin in errors."""
    if not isinstance(data, dict):
        raise FileFormatError(f"not a description of {kind.__name__.lower()}", where=where,
                              value=type(data).__name__, allowed="a mapping of keys")  # fmt: skip
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise FileFormatError(**explain(error, where)) from error
    except HardwareError as error:
        raise HardwareError(
            error.what, where=f"{where}: {error.where}" if error.where else where,
            value=error.value, allowed=error.allowed, fix=error.fix,
        ) from error  # fmt: skip


def dump(part: Part) -> dict[str, Any]:
    """Plain data that reads back as the same part: SI numbers, values that are defaults left out.

    `load(write_yaml(dump(x))) == x`.
    """
    data = part.model_dump(mode="json", exclude_defaults=True)
    if isinstance(part, Accelerator):
        for level, original in zip(data.get("levels", ()), part.levels, strict=True):
            rest = dict(level)
            level.clear()
            level.update({"type": original.type, **rest})
    return data


def accelerator_schema() -> dict[str, Any]:
    """JSON Schema of an accelerator file."""
    return _schema(Accelerator)


def cluster_schema() -> dict[str, Any]:
    """JSON Schema of a cluster file."""
    return _schema(Cluster)


def _schema(kind: type[Part]) -> dict[str, Any]:
    schema = kind.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
