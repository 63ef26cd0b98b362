"""Row-stationary mappings of a convolution on a grid of PEs: which PEs work, and for how long.

A PE convolves one row of a kernel with one row of input. R x e of them, kernel rows down and output
rows across, are a PE set: it makes e rows of output, and partial sums go up its columns.

    on 12 x 14:   R = 11, e = 7, twice     R = 5, e = 27, folded     R = 3, e = 13, four times
                  +-------+-------+        +----------------+        +---------------+
                  | set 0 | set 1 |        |  rows 0 .. 13  |        |     set 0     |
                  |       |       |        +---------------++        |     set 1     |
                  |       |       |        | rows 14 .. 26 |         |     set 2     |
                  +-------+-------+        +---------------+         |     set 3     |
                                                                     +---------------+

A set wider than the grid is folded into segments, one above the other; one that has too many
segments is strip-mined: fewer output rows at a time. Kernels taller than the grid are folded too,
in time. Where room is left, r sets work on further channels and t sets on further kernels. A pass
loads q channels of p kernels into each set's scratchpads, and runs through a row of outputs for
each of n images. The buffer holds the inputs of a pass, and partial sums of m kernels over a strip.

`best` derives these from the machine: (1) the fewest steps, so that as few PEs idle as can be; (2)
the fewest cycles; (3) the least energy. Everything is counted by `traffic.analyse` on an ordinary
`Mapping`. Cycles are the grid's steps, or its networks where these are slower, and then the loads
of the weight scratchpads, which work cannot hide because they hold the weights of one pass only:

    max(steps, input words / 1, partial sums / 4 each way) + weight words / 4

with the widths of Eyeriss' networks in words, 16 bits for inputs and 64 for the others (recalled,
as are the port rates of the library's `eyeriss`). Waiting for DRAM is not counted.

After Y.-H. Chen et al., "Eyeriss", JSSC 52(1), 2017, section IV, and ISCA 2016.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from hwopt.errors import HwoptError
from hwopt.hardware.accelerator import ROLES, Accelerator, Fanout, Memory
from hwopt.ir.access import Access, Affine, Axis, parse_affine
from hwopt.mapping.analysis import Analysis, price
from hwopt.mapping.mapping import Keep, Loop, Mapping, Spread
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.traffic import analyse

BITS = 16
BYTES = BITS // 8
INPUT_WORDS_PER_CYCLE = 1
SUM_WORDS_PER_CYCLE = 4
WEIGHT_WORDS_PER_CYCLE = 4


@dataclass(frozen=True, slots=True)
class Convolution:
    """One group of a convolution: `images` x `kernels` x `channels` x output rows and columns."""

    images: int
    kernels: int
    channels: int
    rows: int
    columns: int
    kernel_rows: int
    kernel_columns: int
    stride: int = 1

    def problem(self) -> Problem:
        """The nest; padded to keep the size where the stride is 1, else not padded."""
        sizes = {
            "n": self.images, "k": self.kernels, "c": self.channels, "p": self.rows,
            "q": self.columns, "r": self.kernel_rows, "s": self.kernel_columns,
        }  # fmt: skip
        sides = [self._side("p", "r", sizes), self._side("q", "s", sizes)]
        image = tuple(side[1] for side in sides)
        fill = 0.0 if any(affine.offset for affine, _ in sides) else None

        def plain(axes: str) -> tuple[Affine, ...]:
            return tuple(Affine.axis(axis) for axis in axes)

        def shape(axes: str) -> tuple[int, ...]:
            return tuple(sizes[axis] for axis in axes)

        access = Access((*plain("nc"), *(side[0] for side in sides)), fill)
        operands = (
            Operand("input", access, (*shape("nc"), *image), BITS),
            Operand("weight", Access(plain("kcrs")), shape("kcrs"), BITS),
            Operand("output", Access(plain("nkpq")), shape("nkpq"), BITS),
        )
        return Problem(tuple(Axis(name, size) for name, size in sizes.items()), operands)

    def _side(self, out: str, tap: str, sizes: dict[str, int]) -> tuple[Affine, int]:
        """Index into the input along one side, and the input's extent there."""
        pad = (sizes[tap] - 1) // 2 if self.stride == 1 else 0
        affine = parse_affine(f"{self.stride}*{out} + {tap} - {pad}")
        return affine, (sizes[out] - 1) * self.stride + sizes[tap] - 2 * pad


@dataclass(frozen=True)
class Grid:
    """What a row-stationary machine offers; capacities in words."""

    machine: Accelerator

    @cached_property
    def height(self) -> int:
        """PEs down."""
        return self._fanout.dims[0].size

    @cached_property
    def width(self) -> int:
        """PEs across."""
        return self._fanout.dims[1].size

    @property
    def _fanout(self) -> Fanout:
        found = self.machine.fanouts
        if len(found) != 1 or len(found[0].dims) != 2:
            raise HwoptError("not a grid of PEs", where=self.machine.name,
                             allowed="one fan-out of two dimensions")  # fmt: skip
        return found[0]

    def words(self, memory: str) -> int:
        """Words that a memory holds."""
        level = self.machine.level(memory)
        assert isinstance(level, Memory)
        return int(level.usable_bytes // BYTES)


@dataclass(frozen=True, slots=True)
class RowStationary:
    """One row-stationary mapping; names as in the file. `channel_sets` and `kernel_sets` (r and t)
    are pairs: down and across the grid.
    """

    strip: int
    segments: int
    channel_sets: tuple[int, int]
    kernel_sets: tuple[int, int]
    pass_channels: int
    pass_kernels: int
    pass_images: int
    held_kernels: int

    def active_pes(self, layer: Convolution, grid: Grid) -> int:
        """PEs that work in a full strip: kernel rows x output rows x sets."""
        sets = math.prod(self.channel_sets) * math.prod(self.kernel_sets)
        return min(layer.kernel_rows, grid.height) * self.strip * sets

    def mapping(self, layer: Convolution, grid: Grid) -> Mapping:
        """As a loop nest: strips and passes in time, sets in space, a row of outputs in each PE."""
        (down_c, across_c), (down_k, across_k) = self.channel_sets, self.kernel_sets
        c, k = self.pass_channels, self.pass_kernels
        segment = -(-self.strip // self.segments)
        return Mapping((
            Keep("DRAM", ROLES),
            Loop("n", self.pass_images), Loop("k", self.held_kernels), Loop("p", self.strip),
            Keep("GLB", ("output",)),
            Loop("c", c * down_c * across_c),
            Keep("GLB", ("input",)),
            Loop("r", min(layer.kernel_rows, grid.height)), Loop("k", k * down_k * across_k),
            Spread("PE", "y", "c", c * across_c), Spread("PE", "x", "c", c),
            Spread("PE", "y", "k", k * across_k), Spread("PE", "x", "k", k),
            Spread("PE", "y", "p", segment), Spread("PE", "x", "p", 1), Spread("PE", "y", "r", 1),
            Keep("weight_spad", ("weight",)),
            Loop("n", 1), Loop("q", 1),
            Keep("input_spad", ("input",)), Keep("output_spad", ("output",)),
            Loop("c", 1), Loop("s", 1), Loop("k", 1),
        ))  # fmt: skip


@dataclass(frozen=True)
class Run:
    """The mapping taken for a layer, with its counts and energy."""

    layer: Convolution
    choice: RowStationary
    active_pes: int
    """PEs that work in a full strip."""
    analysis: Analysis
    joules: float

    @property
    def streams(self) -> dict[str, float]:
        """Cycles of what goes on at once: steps of the grid, inputs and partial sums under way."""
        buffer = self.analysis.flows["GLB"]
        sums = max(buffer["output"].total_read, buffer["output"].total_write)
        return {
            "steps": self.analysis.steps,
            "inputs": buffer["input"].total_read / INPUT_WORDS_PER_CYCLE,
            "sums": sums / SUM_WORDS_PER_CYCLE,
        }

    @property
    def load_cycles(self) -> float:
        """Cycles in which weights are loaded."""
        return self.analysis.flows["DRAM"]["weight"].total_read / WEIGHT_WORDS_PER_CYCLE

    @property
    def cycles(self) -> float:
        """See the file."""
        return max(self.streams.values()) + self.load_cycles


def best(layer: Convolution, machine: Accelerator) -> Run:
    """The row-stationary mapping that the file's rules choose; ties go to the wider strip.

    Raises `HwoptError` where not even one row of outputs fits the buffers.
    """
    grid, problem = Grid(machine), layer.problem()
    found = list(_fitting(layer, grid))
    if not found:
        raise HwoptError("no row-stationary mapping fits", where=machine.name, value=str(layer),
                         fix="larger scratchpads or a larger buffer")  # fmt: skip
    fewest = min(_passes(layer, choice) for choice in found)
    runs = []
    for choice in _undominated([c for c in found if _passes(layer, c) == fewest]):
        analysis = analyse(problem, choice.mapping(layer, grid), machine)
        paid = price(analysis.row(machine), machine, analysis.points)
        assert paid.feasible
        runs.append(Run(layer, choice, choice.active_pes(layer, grid), analysis, paid.joules))
    return min(runs, key=lambda run: (run.cycles, run.joules, -run.choice.strip))


def _passes(layer: Convolution, choice: RowStationary) -> int:
    """Steps up to a factor that all mappings of the layer share: strips x kernels x channels that
    the sets do not take at once.
    """
    sets = math.prod(choice.channel_sets) * math.prod(choice.kernel_sets)
    return -(-layer.rows // choice.strip) * layer.kernels * layer.channels // sets


def _fitting(layer: Convolution, grid: Grid) -> Iterator[RowStationary]:
    """All mappings with whole tiles (strips apart) that fit grid, scratchpads and buffer; the
    buffer holds sums of as many kernels as it can: more only saves reading inputs again.
    """
    input_columns = (layer.columns - 1) * layer.stride + layer.kernel_columns
    for strip, segments, channel_sets, kernel_sets in _layouts(layer, grid):
        r, t = math.prod(channel_sets), math.prod(kernel_sets)
        input_rows = (strip - 1) * layer.stride + layer.kernel_rows
        for c in _divisors(layer.channels // r):
            for k in _divisors(layer.kernels // t):
                taps = c * layer.kernel_columns
                if (
                    taps > grid.words("input_spad") or taps * k > grid.words("weight_spad")
                    or k > grid.words("output_spad")
                ):  # fmt: skip
                    continue
                for n in _divisors(layer.images):
                    room = grid.words("GLB") // n - c * r * input_rows * input_columns
                    held = [
                        k * t * times for times in _divisors(layer.kernels // t // k)
                        if k * t * times * strip * layer.columns <= room
                    ]  # fmt: skip
                    if held:
                        yield RowStationary(
                            strip, segments, channel_sets, kernel_sets, c, k, n, held[-1]
                        )


def _layouts(
    layer: Convolution, grid: Grid
) -> Iterator[tuple[int, int, tuple[int, int], tuple[int, int]]]:
    """Strips, their segments, and sets of channels and kernels, down and across, on the grid. Of
    layouts that differ only in where sets lie, one is enough.
    """
    tall = min(layer.kernel_rows, grid.height)
    for strip in sorted({-(-layer.rows // count) for count in range(1, layer.rows + 1)}):
        segments = -(-strip // grid.width)
        if segments * tall > grid.height:
            continue
        down = grid.height // (tall * segments)
        across = grid.width // -(-strip // segments)
        seen = set()
        for down_c in range(1, down + 1):
            for across_c in range(1, across + 1):
                for down_k in range(1, down // down_c + 1):
                    for across_k in range(1, across // across_c + 1):
                        r, t = down_c * across_c, down_k * across_k
                        if layer.channels % r or layer.kernels % t or (r, t) in seen:
                            continue
                        seen.add((r, t))
                        yield strip, segments, (down_c, across_c), (down_k, across_k)


def _undominated(choices: list[RowStationary]) -> list[RowStationary]:
    """Without those that another one with the same sets and images exceeds in everything held."""

    def key(choice: RowStationary) -> tuple[object, ...]:
        return choice.strip, choice.channel_sets, choice.kernel_sets, choice.pass_images

    def held(choice: RowStationary) -> tuple[int, int, int]:
        return choice.pass_channels, choice.pass_kernels, choice.held_kernels

    alike: dict[tuple[object, ...], list[RowStationary]] = {}
    for choice in choices:
        alike.setdefault(key(choice), []).append(choice)
    return [
        one for group in alike.values() for one in group
        if not any(
            held(other) != held(one)
            and all(a >= b for a, b in zip(held(other), held(one), strict=True))
            for other in group
        )
    ]  # fmt: skip


def _divisors(value: int) -> list[int]:
    return [divisor for divisor in range(1, value + 1) if value % divisor == 0]
