"""What every routine looks like, and what several families need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Attributes: TypeAlias = dict[str, Any]
Declared: TypeAlias = tuple[tuple[int, ...], str]
"""Shape and element type of an array to be written."""

Routine: TypeAlias = Callable[[Attributes, list[Array], Sequence[Declared]], list[Array]]


def line_index(index: Array, dim: int) -> tuple[Array, ...]:
    """The full index of `x[..., index, ...]` along `dim`, other dimensions in place."""
    grid: list[Array] = list(np.indices(index.shape, sparse=True))
    if grid:
        grid[dim] = index
    return tuple(grid)


def trailing(*index: Any) -> Any:
    """The index of the last dimensions, everything before them."""
    return (Ellipsis, *index)


def windows(image: Sequence[int], cells: Sequence[int]) -> list[list[slice]]:
    """Per dimension the slices of adaptive pooling: `floor(i*h/n)` to `ceil((i+1)*h/n)`."""
    return [
        [slice(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        for size, count in zip(image, cells, strict=True)
    ]
