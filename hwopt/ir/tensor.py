"""Tensors of the IR: a name, static sizes, an element type and the part it plays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Role: TypeAlias = Literal[
    "input", "parameter", "buffer", "constant", "cache", "state", "activation", "gradient"
]
"""input: given by the caller. parameter: trained. buffer: kept by the model, not trained.
constant: a small tensor stored in the model. cache: key/value cache, read or written. state: kept
by the optimizer. activation: computed. gradient: the gradient of a parameter or input."""

ROLES: tuple[str, ...] = get_args(Role)

DTYPE_BITS: dict[str, int] = {
    "bool": 8, "uint8": 8, "int8": 8, "int16": 16, "int32": 32, "int64": 64,
    "float8_e4m3fn": 8, "float8_e5m2": 8, "float16": 16, "bfloat16": 16, "float32": 32,
    "float64": 64, "complex64": 64, "complex128": 128,
}  # fmt: skip
"""Element types and the bits that one element takes in memory."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor: `shape` is () for a scalar; `dtype` is a key of `DTYPE_BITS`."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    role: Role = "activation"

    @property
    def elements(self) -> int:
        """Number of elements (1 for a scalar)."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.elements * DTYPE_BITS[self.dtype] // 8

    @property
    def is_source(self) -> bool:
        """Whether the graph is given it, rather than computing it."""
        return self.role in ("input", "parameter", "buffer", "constant")

    def __str__(self) -> str:
        return f"%{self.name} : {self.dtype}[{', '.join(map(str, self.shape))}]"
