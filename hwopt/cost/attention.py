"""Attention carried out block by block: the scores of a block never leave the chip.

    for each block of heads and queries:
        scores = queries x keys           stays in the on-chip memory that keeps outputs
        scores = softmax(mask(scale(scores)))        on the vector unit
        result = scores x values          reads the scores where they are

Keys and values are fetched again for each block (as often as the mapping of each product says).
After T. Dao et al., FlashAttention, 2022, and S.-C. Kao et al., FLAT, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from hwopt.cost.tables import Request, Side, Stage, with_sizes
from hwopt.ir.program import Constraint
from hwopt.mapping.problem import Problem

BLOCK_STEP = 4
"""Blocks are tried in sizes this factor apart: heads first, then queries."""


@dataclass(frozen=True)
class Attention:
    """The two products of an attention group, and the work between them."""

    names: tuple[str, str]
    scores: Problem
    values: Problem
    constraints: tuple[Constraint, Constraint]
    side: Side

    @property
    def rows(self) -> tuple[list[str], list[str]]:
        """The axes that say which row of scores it is, in both products, heads before queries."""
        return _rows(self.scores), _rows(self.values)

    @property
    def is_blockwise(self) -> bool:
        """Whether the rows of both products are the same ones."""
        first, second = self.rows
        return [self.scores.sizes[a] for a in first] == [self.values.sizes[a] for a in second]

    def ways(self) -> Iterator[tuple[str, tuple[Stage, ...]]]:
        """A label and the stages for each block size, largest first."""
        first, second = self.rows
        sizes = [self.scores.sizes[axis] for axis in first]
        for block in _blocks(sizes):
            stages: list[Stage] = []
            for count, part in _edges(sizes, block):
                share = math.prod(part) / math.prod(sizes)
                scores = with_sizes(self.scores, dict(zip(first, part, strict=True)))
                values = with_sizes(self.values, dict(zip(second, part, strict=True)))
                stages += [
                    Stage(
                        self.names[0], Request(scores, ("output",), self.constraints[0]),
                        self.side.scaled(share), count, int(not stages) / count,
                    ),
                    Stage(
                        self.names[1], Request(values, ("input",), self.constraints[1]), Side(),
                        count, 0,
                    ),
                ]  # fmt: skip
            yield f"blocks of {'x'.join(map(str, block)) or 1}", tuple(stages)


def _rows(problem: Problem) -> list[str]:
    """Axes that input and output share, those of the weights too (heads) first."""
    axes = [problem.operand[role].access.axes for role in ("input", "weight", "output")]
    shared = [a.name for a in problem.axes if a.name in axes[0] and a.name in axes[2]]
    return sorted(shared, key=lambda name: name not in axes[1])


def _blocks(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Block sizes, largest first: axes shrink in turn, by `BLOCK_STEP`, down to 1."""
    block = list(sizes)
    yield list(block)
    for position in range(len(block)):
        while block[position] > 1:
            block[position] = -(-block[position] // BLOCK_STEP)
            yield list(block)


def _edges(sizes: Sequence[int], block: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Full and edge blocks: how many there are of each, and their sizes."""
    choices = []
    for size, part in zip(sizes, block, strict=True):
        full, rest = divmod(size, part)
        choices.append([(full, part)] + ([(1, rest)] if rest else []))
    for combination in product(*choices):
        yield math.prod(n for n, _ in combination), [part for _, part in combination]
