"""What can be named on the command line, and the schema of every file kind: one list of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from hwopt.errors import UnknownNameError
from hwopt.registry import Registry


def _models() -> Registry[Any]:
    from hwopt.models.library import library

    return library


def _templates() -> Registry[Any]:
    from hwopt.hardware.template import templates

    return templates


def _passes() -> Registry[Any]:
    from hwopt.passes.manager import passes

    return passes


def _objectives() -> Registry[Any]:
    from hwopt.dse.objectives import objectives

    return objectives


def _qualities() -> Registry[Any]:
    from hwopt.dse.quality import qualities

    return qualities


def _operators() -> Registry[Any]:
    from hwopt.ops.lowering import lowerings

    return lowerings


def _validations() -> Registry[Any]:
    from hwopt.validation.harness import comparisons

    return comparisons


_REGISTRIES: dict[str, Callable[[], Registry[Any]]] = {
    "models": _models,
    "templates": _templates,
    "passes": _passes,
    "objectives": _objectives,
    "qualities": _qualities,
    "operators": _operators,
    "validations": _validations,
}

KINDS = (*sorted((*_REGISTRIES, "hardware", "clusters")),)
"""What `hwopt list KIND` takes."""


def entries(kind: str) -> list[tuple[str, str]]:
    """Name and one line about each entry of a kind."""
    if kind in ("hardware", "clusters"):
        from hwopt.hardware import library

        return library.describe(kind)
    if kind not in _REGISTRIES:
        raise UnknownNameError("unknown kind", value=kind, allowed=", ".join(KINDS))
    registry = _REGISTRIES[kind]()
    return [(name, _about(registry[name])) for name in registry]


def _about(entry: Any) -> str:
    """`entry.about`, else the first line of its docstring."""
    about = getattr(entry, "about", None)
    if isinstance(about, str):
        return about
    return (inspect.getdoc(entry) or "").split("\n")[0]


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema by file kind, generated from the code."""
    from hwopt.dse.space import study_schema
    from hwopt.hardware.library import accelerator_schema, cluster_schema
    from hwopt.ir.serialize import graph_schema
    from hwopt.mapping.fixed import fixed_mapping_schema

    return {
        "accelerator": accelerator_schema(),
        "cluster": cluster_schema(),
        "graph": graph_schema(),
        "mapping": fixed_mapping_schema(),
        "study": study_schema(),
    }
