"""NVDLA's performance sheet as a small model: four stages that overlap, the slowest one counts.

    DRAM ──10 GB/s──> convolution buffer (512 KiB) ──> 2048 MACs ──> pooling ──> out
      └──> 4 MB SRAM ──25 GB/s read──┘                                └──25 GB/s write──> SRAM

Two systems: `with_sram` keeps activations in an SRAM of 4 MB beside the chip, `without_sram` passes
everything through DRAM. 8-bit data. Space is counted in KiB, and a transfer takes
`ceil(KiB * 1000 / GB/s)` cycles at 1 GHz (the sheet's own rounding of units).

Strided convolutions are folded: `stride^2` positions become channels. Channels are rounded up to
16, which is what a stripe of the buffer holds. The formulas, from
hw/perf/NVDLA_OpenSource_Performance.xlsx of github.com/nvdla/hw, stage by stage:

* MAC: `channels * positions * kernels * R S / stride^2 / 2048` with the positions that the sheet
  sweeps (the input's where the layer is padded, else those that fit the kernel), kernels rounded
  up to a group, divided by 2.25 for 3x3 kernels (Winograd). Fully connected layers run
  16 samples at once: their kernels are rounded up together. Not rounded.
* buffer: input X, weights Wt (16/9 as large under Winograd) and output Z in KiB. Where weights do
  not fit beside the rows of input that a kernel needs, input is read again for each share of them.
* SRAM: reads X (the image comes from elsewhere), writes Z.
* DRAM: see `Layer.with_sram` and `Layer.without_sram`.

What the sheet does differently for its two networks is data: `Habits`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from hwopt.hardware.accelerator import Accelerator, Memory
from hwopt.hardware.library import load

SRAM_GB_PER_S = 25.0
FC_BATCH = 16
"""Samples that a fully connected layer handles at once."""
STRIPE = 16
WINOGRAD_SPEEDUP = 2.25
"""Four results of a 3x3 kernel take 16 products instead of 36; its weights become 4x4."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Figures of the sheet's machine; bandwidth in GB/s."""

    macs: int
    buffer_kib: float
    dram_gb_per_s: float

    @staticmethod
    def of(accelerator: Accelerator) -> Machine:
        """Those that the library's description of the chip already has."""
        buffer, dram = accelerator.level("CBUF"), accelerator.level("DRAM")
        assert isinstance(buffer, Memory)
        assert isinstance(dram, Memory)
        assert buffer.capacity_bytes is not None
        assert dram.bytes_per_s is not None
        return Machine(accelerator.lanes, buffer.capacity_bytes / 1024, dram.bytes_per_s / 1e9)


@cache
def nv_full() -> Machine:
    """The machine of the sheet: `nvdla` of the hardware library."""
    return Machine.of(load("nvdla"))


@dataclass(frozen=True, slots=True)
class Habits:
    """What the sheet does for one network.

    `spread_weights`: with SRAM, convolutions fetch their weights once for so many images that they
    never limit. Without SRAM: `kernel_group`: kernels are rounded up to it; `batch_weights`: fully
    connected layers fetch weights once for 16 samples, as they do with SRAM; `rereads`: input is
    read several times where weights do not fit.
    """

    spread_weights: bool = False
    kernel_group: int = STRIPE
    batch_weights: bool = True
    rereads: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its cycles, and for a transfer the KiB it moves, by what."""

    name: str
    cycles: float
    moves: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        parts = " + ".join(f"{what} {kib:,.4g}" for what, kib in self.moves if kib)
        return f"{self.name} {self.cycles:,.10g}" + (f" ({parts} KiB)" if parts else "")


def bound(stages: tuple[Stage, ...]) -> Stage:
    """The slowest stage, the first named one of equals."""
    return max(stages, key=lambda stage: stage.cycles)


@dataclass(frozen=True, slots=True)
class Layer:
    """One row. Sizes as published; `output` is height and width after pooling that is fused.

    `weighted` is False for a sum of two tensors by itself; `adds` marks that a second tensor of
    the output's size is read and added; `spills`: with SRAM, the output goes on to DRAM.
    """

    channels: int
    height: int
    width: int
    kernels: int
    kernel: tuple[int, int]
    stride: int
    result: tuple[int, int]
    output: tuple[int, int]
    fully_connected: bool = False
    winograd: bool = False
    weighted: bool = True
    adds: bool = False
    spills: bool = False
    habits: Habits = Habits()

    @property
    def first(self) -> bool:
        """Whether it reads the image: three colours, perhaps a fourth channel."""
        return self.channels <= 4

    @property
    def folded_channels(self) -> int:
        """Channels after folding the stride, in whole stripes."""
        return _up(self.channels * self.stride**2, STRIPE)

    def mac_cycles(self, kernel_group: int) -> float:
        """Cycles of the MACs, not rounded."""
        if not self.weighted:
            return 0.0
        samples = FC_BATCH if self.fully_connected else 1
        rows, columns = (
            _swept(size, extent, kernel, self.stride)
            for size, extent, kernel in zip(
                (self.height, self.width), self.result, self.kernel, strict=True
            )
        )
        kernels = _up(self.kernels * samples, kernel_group) / samples
        taps = self.kernel[0] * self.kernel[1] / self.stride**2
        cycles = self.folded_channels * rows * columns * kernels * taps / nv_full().macs
        return cycles / WINOGRAD_SPEEDUP if self.winograd else cycles

    @property
    def input_kib(self) -> float:
        """X: the input, folded."""
        rows, columns = -(-self.height // self.stride), -(-self.width // self.stride)
        return self.folded_channels * rows * columns / 1024

    @property
    def weight_kib(self) -> float:
        """Wt: all kernels, folded; larger under Winograd."""
        if not self.weighted:
            return 0.0
        taps = math.prod(-(-side // self.stride) for side in self.kernel)
        kib = self.folded_channels * taps * self.kernels / 1024
        return kib * 16 / 9 if self.winograd else kib

    @property
    def output_kib(self) -> float:
        """Z: the output after pooling."""
        return self.output[0] * self.output[1] * _up(self.kernels, STRIPE) / 1024

    @property
    def input_passes(self) -> int:
        """How often X is read from DRAM: once for each share of the weights that fits the buffer
        beside one kernel's height of input rows, if X is not the smaller of the two.
        """
        if not self.habits.rereads or self.input_kib < self.weight_kib:
            return 1
        rows_kib = self.folded_channels * self.kernel[0] * -(-self.width // self.stride) / 1024
        room = nv_full().buffer_kib - rows_kib
        return max(1, math.ceil(self.weight_kib / room)) if room > 0 else 1

    def with_sram(self) -> tuple[Stage, ...]:
        """Activations live in the SRAM. DRAM brings weights, the image and the input of fully
        connected layers, and takes outputs that spill.
        """
        x, z = self.input_kib, self.output_kib
        weights = self.weight_kib
        if self.fully_connected:
            weights /= FC_BATCH
        elif self.habits.spread_weights:
            weights = 0.0
        return (
            Stage("MAC", self.mac_cycles(STRIPE)),
            _transfer("SRAM read", SRAM_GB_PER_S, X=0.0 if self.first else x),
            _transfer("SRAM write", SRAM_GB_PER_S, Z=z),
            _transfer(
                "DRAM", nv_full().dram_gb_per_s, Wt=weights,
                X=x if self.first or self.fully_connected else 0.0, Z=z if self.spills else 0.0,
            ),
        )  # fmt: skip

    def without_sram(self) -> tuple[Stage, ...]:
        """Everything passes through DRAM: input, weights, output, and what is added to it."""
        weights = self.weight_kib
        if self.fully_connected and self.habits.batch_weights:
            weights /= FC_BATCH
        return (
            Stage("MAC", self.mac_cycles(self.habits.kernel_group)),
            _transfer(
                "DRAM", nv_full().dram_gb_per_s, Wt=weights,
                X=self.input_kib * self.input_passes, Z=self.output_kib,
                added=self.output_kib if self.adds else 0.0,
            ),
        )  # fmt: skip


def _transfer(name: str, gb_per_s: float, **moves: float) -> Stage:
    kib = sum(moves.values())
    return Stage(name, math.ceil(kib * 1000 / gb_per_s), tuple(moves.items()))


def _swept(size: int, result: int, kernel: int, stride: int) -> int:
    """Positions along one side: the whole input's if the result is that of a padded layer."""
    padded = result == -(-size // stride)
    return -(-(size if padded else size - kernel + 1) // stride)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
