"""What Gemmini is asked to do for one row: loop commands, array passes, DMA beats, cache misses.

The rows were measured by programs of ucb-bar/gemmini-rocc-tests (folder gemmini-data-collection,
Hong et al., DOSA, MICRO 2023). Its commits differ in how a mapping becomes tiles (928aba8, 629d720,
6bae4f9 were read); what follows, in our words, is the reading under which no training row is faster
than its array passes and many equal them. That the test rows follow it too is an assumption.

* the tile of one loop command is the product of the factors at L0, L1 and L2, temporal and
  spatial; the loops at L3 run in software, one loop command each, in their order, and a last tile
  may be smaller. Every tile loads its inputs and weights anew: loop order reaches only the caches;
* rows with Q = R = S = 1 are matrix products (`LOOP_WS`): rows P, columns K, depth C, tiles rounded
  down to whole blocks of the array side, but at least one block;
* all others are convolutions (`LOOP_CONV_WS`), *square*: both output sides come from P, the kernel
  side from R, padding is R // 2. Several pixels are never packed into one row of the array;
* rows of `arch.meshX` 128 ran on arrays of the smallest power of two that holds their spatial
  factors. This is *inferred*: all 835 training rows obey it (no row has a temporal factor where
  half the array would do, which is how that folder groups its runs), and no convolution is faster
  than the passes this implies, the fastest by 4 in 100,000; one 16 x 16 array breaks both.

Inside a tile (ucb-bar/gemmini, LoopConv.scala and LoopMatmul.scala): for each block of weights
(side x side), a command streams up to `side` output pixels of one output row through the array.
Operands come in DMA requests of at most 64 bytes, one element a byte, 16 bytes a beat. Outputs are
stored with the last tile of the reduction. Accumulators start at zero and read nothing.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping as MappingType
from dataclasses import dataclass

from hwopt.errors import FileFormatError

LINE = 64
"""Bytes of a cache line and of the largest DMA request."""
BEAT = 16
"""Bytes the DMA bus moves in a cycle (dma_buswidth 128)."""
L2_LINES = 512 * 1024 // LINE
"""Chipyard's default shared L2 cache: 512 KiB."""
LLC_LINES = 4 * 1024 * 1024 // LINE
"""FireSim's default memory model: a last-level cache of 4 MiB before DDR3."""

_DIMS = "CRSKPQN"
_LEVEL = re.compile(r"(L\d)\[[WIO]+\]((?: [CRSKPQN]\d+X?)*)")


@dataclass(frozen=True, slots=True)
class Factors:
    """A mapping line: the loops at L3, and the product of all factors below it."""

    outer: dict[str, int]
    """Loops at L3, outermost first."""
    tile: dict[str, int]
    spatial: int
    steps: int
    """Product of all temporal factors: Timeloop's cycles without any limit."""


def parse_mapping(text: str, where: str) -> Factors:
    """Read `L3[WIO] C8 K32 - L2[WI] K16X - L1[O] P7 C16X - L0[W] N1` (`X` marks a spatial loop)."""
    outer: dict[str, int] = {}
    tile = dict.fromkeys(_DIMS, 1)
    spatial = steps = 1
    levels = [_LEVEL.fullmatch(part.strip()) for part in text.split(" - ")]
    names = [level[1] if level else "" for level in levels]
    if names != ["L3", "L2", "L1", "L0"]:
        raise FileFormatError(
            "not a mapping of four levels", where=where, value=text,
            allowed="L3[WIO] C8 K32 - L2[WI] K16X - L1[O] P7 C16X - L0[W] N1",
        )  # fmt: skip
    for level in levels:
        assert level is not None
        for word in level[2].split():
            axis, across = word[0], word.endswith("X")
            factor = int(word[1:].rstrip("X"))
            if factor < 1:
                raise FileFormatError("a factor below one", where=where, value=word)
            steps *= 1 if across else factor
            spatial = max(spatial, factor) if across else spatial
            if level[1] == "L3":
                if axis in outer:
                    raise FileFormatError("an axis twice at L3", where=where, value=word)
                outer[axis] = factor
            else:
                tile[axis] *= factor
    outer |= {axis: 1 for axis in _DIMS[::-1] if axis not in outer}
    return Factors(outer, tile, spatial, steps)


@dataclass(frozen=True, slots=True)
class Layer:
    """The operator of a row: sizes by dimension letter (C, R, S, K, P, Q, N), one stride."""

    sizes: MappingType[str, int]
    stride: int = 1
    dilation: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the row states."""
        return math.prod(self.sizes.values())

    @property
    def is_matmul(self) -> bool:
        """Whether the row runs as a matrix product."""
        return self.sizes["Q"] == self.sizes["R"] == self.sizes["S"] == 1

    @property
    def extents(self) -> dict[str, int]:
        """Loop bounds of what runs: a convolution is square in its outputs and its kernel."""
        sizes = dict(self.sizes)
        if not self.is_matmul:
            kernel = sizes["R"]
            rows = sizes["P"] * self.stride + 2 * (kernel // 2) - kernel
            sizes["P"] = sizes["Q"] = rows // self.stride + 1
            sizes["S"] = kernel
        return sizes


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of one shape: how many, and what one of them asks for."""

    number: int
    commands: int
    """Array passes of `side` rows."""
    last_commands: int
    """Array passes of `last_rows` rows, at the ends of output rows."""
    last_rows: int
    beats: int
    """DMA beats to load inputs and weights; no request takes less than one."""
    stores: int
    """Rows to store where the tile is the last of its reduction."""


@dataclass(frozen=True, slots=True)
class Program:
    """A row as the chip sees it."""

    is_matmul: bool
    side: int
    tiles: tuple[Tiles, ...]
    reductions: int
    """Tiles per stored tile."""
    l2_misses: float
    """Cache lines of all operands, over the whole run, that the L2 cache does not hold."""
    llc_misses: float
    """Those that come from DRAM or go there."""

    @property
    def number_of_tiles(self) -> int:
        """Loop commands issued."""
        return sum(tiles.number for tiles in self.tiles)


def array_side(factors: Factors, mesh: int) -> int:
    """Side of the array a row ran on: the smallest power of two that holds its factors, or less."""
    return min(mesh, 1 << max(1, (factors.spatial - 1).bit_length()))


def program(layer: Layer, factors: Factors, mesh: int) -> Program:
    """What the row asks of a chip whose largest array is `mesh` x `mesh`."""
    side = array_side(factors, mesh)
    full = layer.extents
    tile = {axis: min(full[axis], factors.tile[axis]) for axis in _DIMS}
    if layer.is_matmul:
        for axis in "PKC":
            blocks = max(1, factors.tile[axis] // side)
            tile[axis] = min(full[axis], blocks * side)
    shapes = itertools.product(*(_split(full[axis], tile[axis]) for axis in _DIMS))
    tiles = []
    for parts in shapes:
        size = {axis: part[1] for axis, part in zip(_DIMS, parts, strict=True)}
        number = math.prod(part[0] for part in parts)
        tiles.append(_tile(layer, size, side, number))
    outer = _software_order(factors)
    trips = {axis: -(-full[axis] // tile[axis]) for axis in _DIMS}
    return Program(
        layer.is_matmul, side, tuple(tiles), math.prod(trips[axis] for axis in "CRS"),
        *(_misses(layer, outer, trips, tile, lines) for lines in (L2_LINES, LLC_LINES)),
    )  # fmt: skip


def _software_order(factors: Factors) -> list[str]:
    """Loops outermost first: those that the mapping does not name at L3 go around all others."""
    named = [axis for axis, factor in factors.outer.items() if factor > 1]
    return [axis for axis in _DIMS[::-1] if axis not in named] + named


def _split(size: int, tile: int) -> list[tuple[int, int]]:
    """(number, length) of the whole tiles and of the last one."""
    whole, rest = divmod(size, tile)
    return [(whole, tile)] + ([(1, rest)] if rest else [])


def _tile(layer: Layer, size: dict[str, int], side: int, number: int) -> Tiles:
    """Commands, beats and stores of one tile of the given sizes."""
    blocks = -(-size["K"] // side) * -(-size["C"] // side) * size["R"] * size["S"]
    rows = size["N"] * size["Q"]
    whole, rest = divmod(size["P"], side)
    pixels = size["N"] * math.prod(_input_sides(layer, size))
    weights = size["R"] * size["S"] * size["C"]
    stored = LINE if layer.is_matmul else side
    return Tiles(
        number, blocks * rows * whole, blocks * rows if rest else 0, rest,
        pixels * -(-size["C"] // BEAT) + weights * -(-size["K"] // BEAT),
        rows * size["P"] * -(-size["K"] // stored),
    )  # fmt: skip


def _input_sides(layer: Layer, size: MappingType[str, int]) -> tuple[int, int]:
    """Rows and columns of input loaded for a tile, padding and skipped pixels included."""
    if layer.is_matmul:
        return 1, size["P"]
    reach = {axis: (size[axis] - 1) * layer.dilation for axis in "RS"}
    return size["Q"] * layer.stride + reach["S"], size["P"] * layer.stride + reach["R"]


def _misses(
    layer: Layer, outer: list[str], trips: dict[str, int], tile: dict[str, int], capacity: int
) -> float:
    """Lines loaded or stored past a cache of `capacity` lines (LRU, by its footprint).

    Walk the loops from the inside out: where all that one iteration touches fits, the next finds
    what it shares with it; else it moves everything again. Outputs move once per reduction. What
    fits as a whole was left in the cache by the run before (the rows of a program share their
    arrays): it misses nothing.
    """
    size = dict(tile)
    touched = _touched(layer, size)
    moved = list(touched)
    for axis in reversed(outer):
        if trips[axis] == 1:
            continue
        fits = sum(touched) <= capacity
        size[axis] = min(layer.extents[axis], size[axis] * trips[axis])
        after = _touched(layer, size)
        for operand, stored in enumerate((False, False, True)):
            if stored and axis in "CRS":
                continue
            again = moved[operand] * trips[axis]
            new = max(moved[operand], moved[operand] * after[operand] / touched[operand])
            moved[operand] = min(again, new) if fits else again
        touched = after
    return 0.0 if sum(touched) <= capacity else sum(moved)


def _touched(layer: Layer, size: dict[str, int]) -> tuple[float, float, float]:
    """Cache lines of input, weights and output that a block of the given sizes touches.

    Arrays are stored channels innermost: pixels x C, (R S C) x K, pixels x K.
    """
    full = layer.extents
    sides = zip(_input_sides(layer, size), _input_sides(layer, full), strict=True)
    pixels = math.prod(min(side, whole) for side, whole in sides)
    return (
        size["N"] * pixels * _lines(size["C"], full["C"]),
        size["R"] * size["S"] * size["C"] * _lines(size["K"], full["K"]),
        size["N"] * size["P"] * size["Q"] * _lines(size["K"], full["K"]),
    )


def _lines(part: int, record: int) -> float:
    """Lines that `part` bytes of a record touch; short records share lines with neighbours."""
    return min(record / LINE, -(-part // LINE))
