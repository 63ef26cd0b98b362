"""The oracle of every lowering: torch runs the operator, numpy runs what it was lowered to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hwopt.ir.graph import Graph
from hwopt.ir.interpret import interpret
from hwopt.ir.tensor import Tensor
from hwopt.ir.verify import verify
from hwopt.ops import Builder, Call, lower


class Lowered:
    """A lowered call: its graph, the arrays given, torch's results (`expected` stands for them
    where torch has no kernel for the CPU).
    """

    def __init__(self, op: Any, *args: Any, expected: Any = None, **kwargs: Any) -> None:
        self.given: dict[str, np.ndarray] = {}
        self.tensors: dict[str, Tensor] = {}
        self._seen: dict[int, Tensor] = {}
        arguments = {}
        for position, argument in enumerate(op._schema.arguments):
            if position < len(args) and not argument.kwarg_only:
                value = args[position]
            else:
                value = kwargs.get(argument.name, argument.default_value)
            arguments[argument.name] = self._bound(argument.name, value)
        result = op(*args, **kwargs) if expected is None else expected
        self.expected = list(result) if isinstance(result, tuple | list) else [result]
        mask = arguments.get("output_mask", arguments.get("grad_input_mask"))
        if mask is not None:  # torch may compute what is not asked for
            self.expected = [e if m else None for e, m in zip(self.expected, mask, strict=True)]
        outputs = tuple(self._output(i, part) for i, part in enumerate(self.expected))
        build = Builder()
        lower(Call(str(op), "call", arguments, outputs), build)
        written = {name for lowered in build.ops for name in lowered.writes}
        used = written | {name for lowered in build.ops for name in lowered.reads}
        known = {t.name: t for t in (*self.tensors.values(), *outputs, *build.tensors)}
        self.outputs = [t for t in outputs if t.elements]
        self.graph = Graph(
            "call", tuple(known[n] for n in sorted(used)), tuple(build.ops),
            tuple(t.name for t in self.outputs),
        )  # fmt: skip

    def _bound(self, name: str, value: Any) -> Any:
        """A torch argument as plain data; a tensor given twice stays one tensor."""
        if isinstance(value, torch.Tensor):
            if id(value) not in self._seen:
                dtype = str(value.dtype).removeprefix("torch.")
                tensor = Tensor(name, tuple(value.shape), dtype, "input")
                self._seen[id(value)] = self.tensors[name] = tensor
                self.given[name] = value.detach().numpy()
            return self._seen[id(value)]
        if isinstance(value, list | tuple):
            return [self._bound(f"{name}{i}", part) for i, part in enumerate(value)]
        if isinstance(value, torch.dtype):
            return str(value).removeprefix("torch.")
        return value

    def _output(self, position: int, part: Any) -> Tensor:
        if not isinstance(part, torch.Tensor):
            return Tensor(f"out{position}", (0,))
        dtype = str(part.dtype).removeprefix("torch.")
        return Tensor(f"out{position}", tuple(part.shape), dtype)

    def values(self) -> list[np.ndarray]:
        """The interpreter's results."""
        verify(self.graph)
        read = {n for op in self.graph.ops for n in op.reads}
        given = {n: v for n, v in self.given.items() if n in read}
        results = interpret(self.graph, given)
        return [results[t.name] for t in self.outputs]

    def check(self, tolerance: float = 1e-5, only: int | None = None) -> Lowered:
        """Every output equals torch's, in shape, type and value."""
        expected = [e for e in self.expected if isinstance(e, torch.Tensor) and e.numel()]
        assert len(expected) == len(self.outputs)
        for position, (value, wanted) in enumerate(zip(self.values(), expected, strict=True)):
            if only is not None and position != only:
                continue
            target = wanted.detach().resolve_conj().numpy()
            assert value.shape == target.shape
            np.testing.assert_allclose(
                value, target, rtol=tolerance, atol=tolerance, err_msg=f"output {position}"
            )
        return self


@pytest.fixture(scope="session")
def run_aten() -> Callable[..., Lowered]:
    """`run_aten(op, *args)`: lower, interpret, compare with torch."""

    def run(op: Any, *args: Any, tolerance: float = 1e-5, **kwargs: Any) -> Lowered:
        return Lowered(op, *args, **kwargs).check(tolerance)

    return run


@pytest.fixture(scope="session")
def lowered() -> Callable[..., Lowered]:
    """`lowered(op, *args)`: lower without comparing."""
    return Lowered


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random tensors in every run."""
    torch.manual_seed(0)
