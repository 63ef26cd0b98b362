"""From what a user names to a module and its inputs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwopt.errors import HwoptError, PathError, TraceError
from hwopt.frontend import huggingface
from hwopt.frontend.capture import Request
from hwopt.frontend.captured import parse_dtype
from hwopt.models.configuration import from_config
from hwopt.models.library import Entry, LossName, Specification, find


@dataclass(frozen=True)
class Resolved:
    """A model that can be built. `key` is what it is made of, for the cache (None: not cached)."""

    name: str
    build: Callable[[], nn.Module | tuple[nn.Module, Any]]
    key: str | None = None
    shapes: Callable[[int, int | None], dict[str, Specification]] | None = None
    loss: LossName | None = None
    modes: tuple[str, ...] | None = None
    seq: int | None = None
    owned: bool = True


def resolve(model: str | nn.Module, request: Request) -> Resolved:
    """The model of a name, file, factory or module; nothing is built yet.

    Raises `UnknownNameError`, `PathError`, `FileFormatError`, `TraceError` or `HwoptError`.
    """
    overrides = dict(request.overrides)
    if isinstance(model, nn.Module):
        _refuse(overrides, "a module")
        name = type(model).__name__
        return Resolved(name, lambda: model, owned=False)
    path = Path(model)
    if path.suffix == ".onnx":
        _refuse(overrides, "an ONNX file")
        return _onnx(path, request)
    if path.exists() or path.suffix == ".json" or "/" in model or model.startswith("."):
        return _configuration(path, request)
    if ":" in model:
        return _factory(model, overrides)
    return _entry(find(model), request)


def default_dtype(request: Request, fallback: torch.dtype = torch.float32) -> torch.dtype:
    """The element type of weights that a trace asks for."""
    return fallback if request.dtype is None else parse_dtype(request.dtype)


class building:  # noqa: N801 - used like the functions of torch
    """Context: modules are made on a device and in an element type, then both are put back."""

    def __init__(self, dtype: torch.dtype, device: str = "meta") -> None:
        self._dtype, self._device = dtype, torch.device(device)

    def __enter__(self) -> None:
        self._before = torch.get_default_dtype()
        torch.set_default_dtype(self._dtype)
        self._device.__enter__()

    def __exit__(self, *error: object) -> None:
        self._device.__exit__(*error)
        torch.set_default_dtype(self._before)


def _entry(entry: Entry, request: Request) -> Resolved:
    overrides = dict(request.overrides)

    def build() -> nn.Module:
        with building(default_dtype(request)):
            return entry.build(**overrides)

    return Resolved(
        entry.name, build, f"library:{entry.name}", entry.input_shapes, entry.loss, entry.modes,
        entry.seq,
    )  # fmt: skip


def _configuration(path: Path, request: Request) -> Resolved:
    config = {**huggingface.read_config(path), **dict(request.overrides)}
    wanted = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    dtype = default_dtype(request, parse_dtype(wanted.removeprefix("torch.")))
    for stored in ("dtype", "torch_dtype"):
        config.pop(stored, None)
    name = str(config["model_type"])

    def build() -> nn.Module:
        with building(dtype):
            return from_config(config)

    return Resolved(name, build, f"config:{sorted(config.items(), key=str)!r}:{dtype}")


def _onnx(path: Path, request: Request) -> Resolved:
    if not path.is_file():
        raise PathError("no such file", where=str(path))

    def build() -> tuple[nn.Module, Any]:
        from hwopt.frontend.onnxfile import load_onnx

        return load_onnx(path, batch=request.batch, seq=request.seq)

    return Resolved(path.stem, build)


def _factory(spec: str, overrides: dict[str, int]) -> Resolved:
    """`package.module:function`, imported with the current directory on the path."""
    module_name, _, attribute = spec.partition(":")

    def build() -> nn.Module | tuple[nn.Module, Any]:
        factory = _import(module_name, attribute)
        try:
            with building(torch.get_default_dtype()):
                made = factory(**overrides)
        except Exception as error:
            raise TraceError(
                "the factory fails",
                where=spec,
                value=f"{type(error).__name__}: {error}",
                fix="it runs on the meta device, and takes the overrides as keyword arguments",
            ) from error
        module = made[0] if isinstance(made, tuple) and made else made
        if not isinstance(module, nn.Module):
            raise TraceError(
                "the factory returned no torch module", where=spec, value=type(made).__name__,
                allowed="a module, or a tuple of a module and its inputs",
            )  # fmt: skip
        result: nn.Module | tuple[nn.Module, Any] = made
        return result

    return Resolved(attribute or module_name, build)


def _import(module_name: str, attribute: str) -> Any:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        value: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise TraceError(
            "cannot import the factory",
            where=f"{module_name}:{attribute}",
            value=f"{type(error).__name__}: {error}",
            allowed="package.module:function",
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    return value


def _refuse(overrides: Mapping[str, int], what: str) -> None:
    if overrides:
        raise HwoptError(
            f"{what} has no overrides", value=", ".join(overrides),
            fix="overrides go to library models, configurations and factories",
        )  # fmt: skip
