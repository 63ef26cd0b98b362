"""All spaces of one nest packed into flat arrays for the compiled search."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hwopt.mapping.space import Space
from hwopt.mapping.trees import Tree


class Forest(NamedTuple):
    """Trees of all tables, each once; products and forms of each space (padded to the largest).

    Nodes of all trees are numbered through. `base[n]`: where the columns of node `n` begin in `lo`
    and `hi`. Per space: `root` and `size` of the tree of each part, `parts` of them, `factors[p]` =
    pairs (product, column) of part `p`, `many[p]` of them; `wider`, `wides`: the same for products
    whose largest values matter (uses of fan-outs, terms that are subtracted); `constant`,
    `counts` = (terms, footprints, dimensions), `forms` (columns of a row, terms) in bits,
    `fixed`, `memory` of
    the footprints, `room` of the dimensions, `resident` bits.
    """

    lo: npt.NDArray[Any]
    hi: npt.NDArray[Any]
    base: npt.NDArray[Any]
    claims: npt.NDArray[Any]
    denies: npt.NDArray[Any]
    left: npt.NDArray[Any]
    row: npt.NDArray[Any]
    width: npt.NDArray[Any]
    root: npt.NDArray[Any]
    size: npt.NDArray[Any]
    parts: npt.NDArray[Any]
    factors: npt.NDArray[Any]
    many: npt.NDArray[Any]
    wider: npt.NDArray[Any]
    wides: npt.NDArray[Any]
    constant: npt.NDArray[Any]
    counts: npt.NDArray[Any]
    forms: npt.NDArray[Any]
    fixed: npt.NDArray[Any]
    memory: npt.NDArray[Any]
    room: npt.NDArray[Any]
    resident: npt.NDArray[Any]


def plant(spaces: tuple[Space, ...]) -> Forest:
    """The forest of some spaces (at least one)."""
    trees: dict[int, Tree] = {}
    for space in spaces:
        for table in space.tables:
            trees.setdefault(id(table.tree), table.tree)
    first: dict[int, int] = {}
    nodes = cells = 0
    base, left = [], []
    for key, tree in trees.items():
        first[key] = nodes
        size, columns = tree.lo.shape
        base.append(cells + columns * np.arange(size))
        left.append(np.where(tree.left < 0, -1, tree.left + nodes))
        nodes, cells = nodes + size, cells + size * columns
    every = list(trees.values())
    count = len(spaces)
    parts = max(1, *(len(space.tables) for space in spaces))
    products = max(len(space.constant) for space in spaces)
    terms = max(space.terms for space in spaces)
    sizes = max(1, *(len(space.memory) for space in spaces))
    dims = max(1, *(len(space.room) for space in spaces))
    rows = len(spaces[0].fixed)
    claims, denies, row, width = (
        np.concatenate([getattr(tree, name) for tree in every])
        for name in ("claims", "denies", "row", "width")
    )
    low, high = (
        np.concatenate([getattr(tree, name).ravel() for tree in every]) for name in ("lo", "hi")
    )
    forest = Forest(
        low, high, np.concatenate(base), claims, denies, np.concatenate(left), row, width,
        np.full((count, parts), -1, np.int64), np.zeros((count, parts), np.int64),
        np.zeros(count, np.int64),
        np.zeros((count, parts, products, 2), np.int64), np.zeros((count, parts), np.int64),
        np.zeros((count, parts, products, 2), np.int64), np.zeros((count, parts), np.int64),
        np.ones((count, products)),
        np.zeros((count, 3), np.int64), np.zeros((count, rows, terms)), np.zeros((count, rows)),
        np.zeros((count, sizes), np.int64), np.full((count, dims), np.inf),
        np.array([space.resident for space in spaces]),
    )  # fmt: skip
    for k, space in enumerate(spaces):
        n = len(space.tables)
        forest.parts[k] = n
        forest.root[k, :n] = [first[id(table.tree)] for table in space.tables]
        forest.size[k, :n] = [len(table.tree.left) for table in space.tables]
        subtracted = np.flatnonzero((space.forms < 0).any(axis=0))
        wide = {*subtracted.tolist(), *range(space.terms + len(space.memory), len(space.constant))}
        for p in range(n):
            own = [(j, c) for j, c in enumerate(space.column[:, p].tolist()) if c >= 0]
            _write(forest.factors[k, p], forest.many[k], p, own)
            _write(
                forest.wider[k, p], forest.wides[k], p, [pair for pair in own if pair[0] in wide]
            )
        forest.constant[k, : len(space.constant)] = space.constant
        forest.counts[k] = space.terms, len(space.memory), len(space.room)
        forest.forms[k, :, : space.terms] = space.forms
        forest.fixed[k] = space.fixed
        forest.memory[k, : len(space.memory)] = space.memory
        forest.room[k, : len(space.room)] = space.room
    return forest


def _write(
    pairs: npt.NDArray[Any], many: npt.NDArray[Any], part: int, own: list[tuple[int, int]]
) -> None:
    many[part] = len(own)
    if own:
        pairs[: len(own)] = own
