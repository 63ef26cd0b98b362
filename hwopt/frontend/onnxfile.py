"""ONNX files: a model file becomes a torch module, and is traced like any other.

Initialisers become parameters (on the meta device unless `weights=True`), each node one call of a
torch function. Shape arithmetic (`Shape`, `Gather`, `Concat` ... of integers) runs on real small
CPU tensors while tracing, so shapes are static. Needs the `onnx` package (extra `onnx`).
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from hwopt.errors import FileFormatError, HwoptError, PathError
from hwopt.frontend.onnx_operators import DTYPES, HANDLERS, Node, Value, unsupported


class OnnxModule(torch.nn.Module):
    """Runs an ONNX graph with torch. Inputs positionally, in the file's order; outputs a tuple."""

    def __init__(self, model: Any, *, weights: bool = False) -> None:
        super().__init__()
        import onnx

        self._nodes = [Node(proto, onnx) for proto in model.graph.node]
        self._attribute: dict[str, str] = {}
        self._known: dict[str, torch.Tensor] = {}
        self._outputs = [output.name for output in model.graph.output]
        self._inputs: list[str] = []
        for node in self._nodes:
            if node.domain not in ("", "ai.onnx") or node.type not in HANDLERS:
                raise unsupported(node, "has no translation")
        for initializer in model.graph.initializer:
            self._add_initializer(initializer, onnx, weights=weights)
        for given in model.graph.input:
            if given.name not in self._attribute and given.name not in self._known:
                self._inputs.append(given.name)

    def _add_initializer(self, proto: Any, onnx: Any, *, weights: bool) -> None:
        """Floating tensors become parameters, integers (shapes, indices) stay real constants."""
        shape, dtype = tuple(proto.dims), DTYPES.get(proto.data_type)
        if dtype is None:
            raise FileFormatError("element type is not supported", where=proto.name)
        attribute = "w_" + "".join(c if c.isalnum() else "_" for c in proto.name)
        while hasattr(self, attribute):
            attribute += "_"
        if dtype.is_floating_point and not weights and math.prod(shape) > 1:
            value = torch.empty(shape, dtype=dtype, device="meta")
        else:
            value = torch.from_numpy(onnx.numpy_helper.to_array(proto).copy())
        if not dtype.is_floating_point:
            self._known[proto.name] = value  # in a dict, where tracers do not look for tensors
            return
        if math.prod(shape) > 1:
            self.register_parameter(attribute, torch.nn.Parameter(value))
        else:
            self.register_buffer(attribute, value)
        self._attribute[proto.name] = attribute

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run every node in the file's (topological) order."""
        values: dict[str, Value] = {"": None, **self._known}
        values.update({name: getattr(self, a) for name, a in self._attribute.items()})
        values.update(zip(self._inputs, inputs, strict=True))
        for node in self._nodes:
            given = [values[name] for name in node.inputs]
            with _values_known(node, given):
                result = HANDLERS[node.type](node, given)
            results = result if isinstance(result, tuple) else (result,)
            values.update(zip(node.outputs, results, strict=False))
        return tuple(values[name] for name in self._outputs)


def _values_known(node: Node, given: list[Value]) -> contextlib.AbstractContextManager[object]:
    """Arithmetic on known integers (shapes, indices) runs for real, out of any tracer's sight."""
    known = all(
        value is None
        or (type(value) is torch.Tensor and value.is_cpu and not value.is_floating_point())
        for value in given
    )
    if node.type in ("Shape", "Constant") or (known and any(value is not None for value in given)):
        return _disable_current_modes()
    return contextlib.nullcontext()


def load_onnx(
    path: str | Path, *, batch: int = 1, seq: int | None = None, weights: bool = False
) -> tuple[OnnxModule, tuple[torch.Tensor, ...]]:
    """The module of an ONNX file and example inputs (meta tensors, or CPU with `weights`).

    A free first dimension of an input is `batch`, any other free dimension `seq`; `seq` must be
    given when there is one. Raises `PathError`, `FileFormatError` or `UnsupportedOperatorError`.
    """
    try:
        import onnx
    except ImportError as error:
        raise HwoptError(
            "reading ONNX files needs the onnx package", fix="pip install hwopt[onnx]"
        ) from error
    path = Path(path)
    if not path.is_file():
        raise PathError("no such file", where=str(path))
    try:
        model = onnx.load(str(path), load_external_data=weights)
    except Exception as error:  # protobuf raises its own kinds
        raise FileFormatError(
            "not an ONNX model", where=str(path), value=str(error)[:200]
        ) from error
    device = "cpu" if weights else "meta"
    module = OnnxModule(model, weights=weights)
    given = {i.name: i for i in model.graph.input if i.name in module._inputs}  # noqa: SLF001
    inputs = tuple(_example(given[name], path, batch, seq, device) for name in given)
    return module, inputs


def _example(proto: Any, path: Path, batch: int, seq: int | None, device: str) -> torch.Tensor:
    """An input tensor of the declared type, free dimensions filled in."""
    kind = proto.type.tensor_type
    shape = []
    for position, dim in enumerate(kind.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            shape.append(int(dim.dim_value))
        elif position == 0:
            shape.append(batch)
        elif seq is not None:
            shape.append(seq)
        else:
            raise HwoptError(
                "a free dimension of an input", where=f"{path}, input {proto.name}",
                value=dim.dim_param or position, fix="give it with --seq",
            )  # fmt: skip
    dtype = DTYPES.get(kind.elem_type, torch.float32)
    return torch.zeros(shape, dtype=dtype, device=device)
