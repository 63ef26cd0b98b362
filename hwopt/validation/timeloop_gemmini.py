"""Mappings on Gemmini-like machines with Timeloop + Accelergy cycles and energy, as CSV.

    DRAM (L3: weights, inputs, outputs)
     └ scratchpad (L2: weights, inputs), one row per access
        └ fan-out over K ── accumulator (L1: outputs)
           └ fan-out over C ── register (L0: weights) ── MAC

Published by ucb-bar/dosa (Hong et al., MICRO 2023). Words are tensor elements; every port is shared
by reads, fills and updates: DRAM 8 words a cycle (no column says so), the others as their columns
say, the registers unlimited. Energy per access was worked out from the published energies: it is
affine in a memory's size. DRAM is charged in blocks of 64 words, the scratchpad in rows, each
rounded up once for a tensor and direction.
"""

from __future__ import annotations

from pathlib import Path

from hwopt.errors import FileFormatError, HwoptError
from hwopt.mapping.timeloop_counts import (
    TIMELOOP_2022,
    Port,
    TimeloopCounts,
    count,
    cycles,
    longest,
)
from hwopt.mapping.timeloop_problem import read_problem
from hwopt.mapping.timeloop_text import parse_text
from hwopt.validation.harness import count as whole
from hwopt.validation.harness import number, read_rows
from hwopt.validation.timeloop_rows import Row

_SIZES = ("C", "K", "R", "S", "N", "P", "Q")
_COEFFICIENTS = ("Wstride", "Hstride", "Wdilation", "Hdilation")
COLUMNS = (
    "target.cycle", "target.energy", "mapping.mapping", "prob.shape", "arch.pe",
    *(f"arch.mem1_{name}" for name in ("entries", "word-bits", "shared_bandwidth")),
    *(f"arch.mem2_{name}" for name in ("entries", "word-bits", "width", "shared_bandwidth")),
    *(f"prob.{name}" for name in (*_SIZES, *_COEFFICIENTS)),
)  # fmt: skip

DRAM_WORDS_PER_CYCLE = 8.0
DRAM_BLOCK_WORDS = 64
MAC_PJ = 0.5608
REGISTER_PJ = 0.48746
DRAM_PJ = 100.0
ACCUMULATOR_PJ = (1.94985, 0.1005)
"""Picojoules per word: constant, and per KiB of one copy."""
SCRATCHPAD_PJ = (0.48746, 0.02513)


def gemmini_rows(path: Path) -> list[Row]:
    """Every row, ours beside theirs. Raises `FileFormatError` for a row that is not a mapping."""
    rows = []
    for index, cells in enumerate(read_rows(path, COLUMNS), 2):
        where = f"{path}, line {index}"
        try:
            rows.append(_row(cells, where, index))
        except HwoptError as error:
            told = error.where if error.where.startswith(where) else f"{where}: {error.where}"
            raise FileFormatError(error.what, where=told, value=error.value,
                                  allowed=error.allowed) from error  # fmt: skip
    return rows


def _row(cells: dict[str, str], where: str, index: int) -> Row:
    instance = {name: whole(cells, f"prob.{name}", where) for name in (*_SIZES, *_COEFFICIENTS)}
    problem = read_problem(
        {"shape": cells["prob.shape"], "instance": instance}, f"{where}, prob.shape", {}
    )
    levels = parse_text(cells["mapping.mapping"])
    labels = [level.memory for level in levels]
    if labels != ["L3", "L2", "L1", "L0"]:
        raise FileFormatError("not a mapping on this machine", where=f"{where}, mapping.mapping",
                              value=" ".join(labels), allowed="L3 L2 L1 L0")  # fmt: skip
    counts = count(levels, problem, TIMELOOP_2022)
    took, bound = longest(cycles(counts, {
        "L3": Port(shared=DRAM_WORDS_PER_CYCLE),
        "L2": Port(shared=number(cells, "arch.mem2_shared_bandwidth", where, least=1e-9)),
        "L1": Port(shared=number(cells, "arch.mem1_shared_bandwidth", where, least=1e-9)),
    }), counts.steps)  # fmt: skip
    theirs = whole(cells, "target.cycle", where)
    return Row(
        name=f"line {index}: {cells['mapping.mapping']}", cycles=took, their_cycles=theirs,
        joules=1e-12 * _picojoules(cells, where, counts, problem.points),
        their_joules=1e-6 * number(cells, "target.energy", where, least=1e-12), compared=1,
        different=() if took == theirs else (f"cycles {took} for {theirs}, bound by {bound}",),
        bound=bound, macs=problem.points, lanes=whole(cells, "arch.pe", where),
    )  # fmt: skip


def _picojoules(cells: dict[str, str], where: str, counts: TimeloopCounts, macs: int) -> float:
    """Accesses in blocks, times what one word costs at each level."""

    def kib(memory: str) -> float:
        words = number(cells, f"arch.{memory}_entries", where)
        return words * number(cells, f"arch.{memory}_word-bits", where) / 8 / 1024

    row_words = whole(cells, "arch.mem2_width", where) // whole(cells, "arch.mem2_word-bits", where)
    accumulator = ACCUMULATOR_PJ[0] + ACCUMULATOR_PJ[1] * kib("mem1")
    scratchpad = SCRATCHPAD_PJ[0] + SCRATCHPAD_PJ[1] * kib("mem2")
    return (
        MAC_PJ * macs
        + REGISTER_PJ * _words(counts, "L0", 1)
        + accumulator * _words(counts, "L1", 1)
        + scratchpad * _words(counts, "L2", max(1, row_words))
        + DRAM_PJ * _words(counts, "L3", DRAM_BLOCK_WORDS)
    )


def _words(counts: TimeloopCounts, memory: str, block: int) -> int:
    """Words charged to all copies of a memory, in whole blocks per operand and direction."""
    return sum(
        -(-accesses.instances * way // block) * block
        for accesses in counts.accesses[memory].values()
        for way in (accesses.reads, accesses.fills, accesses.updates)
    )
