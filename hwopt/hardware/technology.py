"""Energy, area and leakage of parts that a description leaves out, from cited tables.

Anchors. 45 nm: M. Horowitz, "Computing's energy problem", ISSCC 2014, fig. 1.1.9 (0.9 V); areas of
arithmetic units from the same talk. 7 nm: N. Jouppi et al., "Ten lessons from three generations",
ISCA 2021, table 2. `benchmarks/reference/technology.csv` lists each figure with its source.

Laws between and beyond the anchors:

* **Node.** A. Stillmaker, B. Baas, "Scaling equations for the accurate prediction of CMOS device
  performance from 180 nm to 7 nm", Integration 58, 2017: energy `a V^2 + b V + c` at the supply
  listed here, and area factors. Above 45 nm a 45 nm figure is multiplied by their ratio. Between
  45 and 7 nm both anchors are met, and their equation gives the way from one to the other. Below
  7 nm nothing is cited: parts are priced as in 7 nm, an upper bound. Above 130 nm: refused.
* **Word width.** A power law through the cited widths (the exponent of integer multipliers comes
  out at 1.98, of adders at 0.87).
* **SRAM energy.** A power law of the capacity through the cited 8 KiB, 32 KiB and 1 MiB points (45
  nm: exponents 0.50, then 0.46), proportional to the bits accessed. It goes on above 1 MiB; below
  8 KiB it is the square root at every node (both word and bit lines shrink). The cited memories are
  organised for least energy inside, so `banks` give no discount.
* **SRAM area.** `bits x 0.616 um2 + banks x 13359 um2 x width / 64` in 45 nm: the fit to CACTI of
  D. Greaves, "System on Chip" (Cambridge lecture notes, 45 nm SRAM), whose constant, a bank's
  periphery, is taken as proportional to the width. Register files: a flip-flop per bit (NanGate
  45 nm open cell library, DFF_X1, 4.522 um2). A small memory takes whichever is smaller.
* **Leakage.** Area times a density: 38 W/m2 for SRAM (CACTI, as in AccelForge's Eyeriss and Simba
  examples) and 7.5 kW/m2 for logic (the multipliers of the same examples).
* **Overhead.** Controller, host interface and the rest: 8/65 of the area of buffers, arithmetic and
  vector unit, as on the floor plan of the first TPU (N. Jouppi et al., ISCA 2017, fig. 2). DRAM
  controllers and PHYs: 89.8 mm2 for 2.039 TB/s, as on GA100 (die annotation of LLMCompass, ISCA
  2024), at any node, for they hardly shrink; so bandwidth is not free.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.errors import HardwareError
from hwopt.hardware.accelerator import Accelerator, Compute, Level, Memory, Vector

Values: TypeAlias = npt.NDArray[np.float64]

PICO, SQUARE_MICRON = 1e-12, 1e-12

NODES_NM = (7, 10, 14, 16, 20, 32, 45, 65, 90, 130)
AREA_FACTOR = (0.059, 0.10, 0.17, 0.19, 0.21, 0.46, 1.0, 1.5, 2.8, 6.4)
"""Stillmaker and Baas: area relative to 45 nm, in the order of `NODES_NM`."""
SUPPLY_VOLTS = (0.70, 0.75, 0.80, 0.80, 0.90, 0.90, 0.90, 1.10, 1.20, 1.30)
ENERGY_POLYNOMIAL = (
    (0.1776, -0.09097, 0.02447), (0.2068, -0.09311, 0.02375), (0.2363, -0.09675, 0.02239),
    (0.2958, -0.1241, 0.03024), (0.373, -0.1582, 0.04104), (0.9559, -0.7823, 0.471),
    (1.103, -0.362, 0.2767), (3.755, -4.398, 1.975), (4.762, -4.781, 2.092),
    (7.171, -6.709, 2.904),
)  # fmt: skip
"""Stillmaker and Baas: energy factor `a V^2 + b V + c`, in the order of `NODES_NM`."""

# Energy of one operation in pJ by width in bits: (45 nm, 7 nm).
INTEGER_MULTIPLY_PJ = {8: (0.2, 0.07), 32: (3.1, 1.48)}
INTEGER_ADD_PJ = {8: (0.03, 0.007), 32: (0.1, 0.03)}
FLOAT_MULTIPLY_PJ = {16: (1.1, 0.34), 32: (3.7, 1.31)}
FLOAT_ADD_PJ = {16: (0.4, 0.16), 32: (0.9, 0.38)}
# Area in um2 at 45 nm by width in bits.
INTEGER_MULTIPLY_UM2 = {8: 282.0, 32: 3495.0}
INTEGER_ADD_UM2 = {8: 36.0, 16: 67.0, 32: 137.0}
FLOAT_MULTIPLY_UM2 = {16: 1640.0, 32: 7700.0}
FLOAT_ADD_UM2 = {16: 1360.0, 32: 4184.0}
# Energy in pJ of one 64-bit access by capacity in bytes: (45 nm, 7 nm).
SRAM_PJ_PER_64_BITS = {8 * 1024: (10.0, 7.5), 32 * 1024: (20.0, 8.5), 1024 * 1024: (100.0, 14.0)}
SMALL_SRAM_EXPONENT = 0.5

SRAM_UM2_PER_BIT, BANK_UM2, BANK_WIDTH_BITS = 4.93 / 8, 13359.0, 64
FLIP_FLOP_UM2 = 4.522
SRAM_LEAKAGE_W_PER_M2, LOGIC_LEAKAGE_W_PER_M2 = 38.0, 7500.0
OVERHEAD_SHARE = 8 / 65
INTERFACE_M2_S_PER_BYTE = 89.8e-6 / 2.039e12

DRAM_PJ_PER_BIT = {"ddr4": 1300 / 64, "gddr6": 415 / 64, "hbm2": 350 / 64, "lpddr4": 8.0}
"""By standard. DDR4, and the middle of the ranges given for GDDR6 (350-480 pJ per 64 bits) and HBM2
(250-450): Jouppi et al. 2021, table 2. LPDDR4: AccelForge's Eyeriss and Simba examples."""


def resolve(accelerator: Accelerator) -> Accelerator:
    """The accelerator with every energy, area and leakage that was left out filled in.

    What is given is kept. Idempotent. Raises `HardwareError` for a node above 130 nm, or an on-chip
    memory without capacity, whose numbers would have to be derived.
    """
    nm = accelerator.technology_nm
    levels: list[Level] = [
        _resolved_memory(level, nm, accelerator.name) if isinstance(level, Memory) else level
        for level in accelerator.levels
    ]
    compute = _resolved_compute(accelerator.compute, nm)
    vector = _resolved_vector(accelerator.vector, accelerator.compute.floating, nm)
    done = accelerator.model_copy(
        update={"levels": tuple(levels), "compute": compute, "vector": vector}
    )
    if done.overhead_area_m2 is None:
        outer = done.memories[0]
        rates = (outer.bytes_per_s, outer.read_bytes_per_s, outer.write_bytes_per_s)
        rate = next((rate for rate in rates if rate is not None), 0.0)
        overhead = float(overhead_area_m2(done.area_m2, rate))
        done = done.model_copy(update={"overhead_area_m2": overhead})
    return done


def overhead_area_m2(parts_m2: float | Values, dram_bytes_per_s: float | Values) -> Values:
    """Area of what is neither buffer, arithmetic nor vector unit (array in, array out)."""
    share = OVERHEAD_SHARE * np.asarray(parts_m2, dtype=np.float64)
    overhead: Values = share + INTERFACE_M2_S_PER_BYTE * np.asarray(dram_bytes_per_s)
    return overhead


def _resolved_memory(memory: Memory, nm: float, machine: str) -> Memory:
    energies = memory.read_joules_per_byte is None or memory.write_joules_per_byte is None
    sizes = memory.area_m2 is None or memory.leakage_watts is None
    if memory.kind != "dram" and memory.capacity_bytes is None and (energies or sizes):
        raise HardwareError(
            "an on-chip memory without capacity has no energy or area",
            where=f"{machine}.{memory.name}",
            fix="give capacity_bytes, or its energies, area and leakage",
        )
    if memory.kind == "dram":
        per_byte = dram_joules_per_byte(memory.standard)
        area = leakage = 0.0
    else:
        capacity = memory.capacity_bytes or 0.0
        if memory.kind == "register":
            area = float(register_area_m2(capacity, nm))
            leakage = float(register_leakage_watts(capacity, nm))
        else:
            area = float(sram_area_m2(capacity, memory.width_bits, memory.banks, nm))
            leakage = float(sram_leakage_watts(capacity, memory.width_bits, memory.banks, nm))
        per_byte = float(sram_joules_per_byte(capacity, nm))
    derived = {
        "read_joules_per_byte": per_byte, "write_joules_per_byte": per_byte,
        "area_m2": area, "leakage_watts": leakage,
    }  # fmt: skip
    update = {key: value for key, value in derived.items() if getattr(memory, key) is None}
    return memory.model_copy(update=update) if update else memory


def _resolved_compute(compute: Compute, nm: float) -> Compute:
    area = mac_area_m2(compute.bits, compute.floating, nm)
    derived = {
        "joules_per_mac": mac_joules(compute.bits, compute.floating, nm),
        "area_m2": area,
        "leakage_watts": LOGIC_LEAKAGE_W_PER_M2 * area,
    }
    update = {key: value for key, value in derived.items() if getattr(compute, key) is None}
    return compute.model_copy(update=update) if update else compute


def _resolved_vector(vector: Vector, floating: bool, nm: float) -> Vector:
    derived = {
        "joules_per_operation": vector_joules(floating, nm),
        "area_m2": vector_area_m2(floating, nm),
    }
    update = {key: value for key, value in derived.items() if getattr(vector, key) is None}
    return vector.model_copy(update=update) if update else vector


def mac_joules(bits: int, floating: bool, nm: float) -> float:
    """One multiply-accumulate of `bits`-wide operands into an accumulator of at least 32 bits."""
    multiply = FLOAT_MULTIPLY_PJ if floating else INTEGER_MULTIPLY_PJ
    add = FLOAT_ADD_PJ if floating else INTEGER_ADD_PJ
    wide = accumulator_bits(bits, floating)
    return PICO * (_operation_pj(multiply, bits, nm) + _operation_pj(add, wide, nm))


def mac_area_m2(bits: int, floating: bool, nm: float) -> float:
    """Area of the multiplier and the accumulating adder."""
    multiply = FLOAT_MULTIPLY_UM2 if floating else INTEGER_MULTIPLY_UM2
    add = FLOAT_ADD_UM2 if floating else INTEGER_ADD_UM2
    wide = accumulator_bits(bits, floating)
    at_45 = _power_law(multiply, bits) + _power_law(add, wide)
    return SQUARE_MICRON * at_45 * area_factor(nm)


def accumulator_bits(bits: int, floating: bool) -> int:
    """Width of partial sums: 32 bits, or more where exact integer products need it."""
    return max(32, bits if floating else 2 * bits)


def vector_joules(floating: bool, nm: float) -> float:
    """One operation of a vector lane: the mean of a 32-bit addition and multiplication."""
    multiply = FLOAT_MULTIPLY_PJ if floating else INTEGER_MULTIPLY_PJ
    add = FLOAT_ADD_PJ if floating else INTEGER_ADD_PJ
    return PICO * (_operation_pj(multiply, 32, nm) + _operation_pj(add, 32, nm)) / 2


def vector_area_m2(floating: bool, nm: float) -> float:
    """Area of one vector lane: a 32-bit adder and multiplier."""
    multiply = FLOAT_MULTIPLY_UM2 if floating else INTEGER_MULTIPLY_UM2
    add = FLOAT_ADD_UM2 if floating else INTEGER_ADD_UM2
    return SQUARE_MICRON * (multiply[32] + add[32]) * area_factor(nm)


def dram_joules_per_byte(standard: str) -> float:
    """Energy of one byte to or from a DRAM of a standard, interface included."""
    return PICO * 8 * DRAM_PJ_PER_BIT[standard]


def sram_joules_per_byte(capacity_bytes: float | Values, nm: float) -> Values:
    """Energy of one byte read or written, by capacity (array in, array out)."""
    capacities = sorted(SRAM_PJ_PER_64_BITS)
    anchors = [_between(*SRAM_PJ_PER_64_BITS[capacity], nm) for capacity in capacities]
    x = np.log(np.asarray(capacity_bytes, dtype=np.float64))
    at = np.log(np.array(capacities, dtype=np.float64))
    energy = np.log(np.array(anchors))
    slopes = (energy[1:] - energy[:-1]) / (at[1:] - at[:-1])
    small = energy[0] + (x - at[0]) * SMALL_SRAM_EXPONENT
    middle = energy[0] + (x - at[0]) * slopes[0]
    large = energy[1] + (x - at[1]) * slopes[1]
    law = np.where(x < at[0], small, np.where(x < at[1], middle, large))
    result: Values = np.exp(law) * PICO / 8
    return result


def sram_area_m2(
    capacity_bytes: float | Values, width_bits: float | Values, banks: float | Values, nm: float
) -> Values:
    """Area of an SRAM; of flip-flops where that is smaller (array in, array out)."""
    capacity = np.asarray(capacity_bytes, dtype=np.float64)
    cells = 8 * capacity * SRAM_UM2_PER_BIT
    periphery = np.asarray(banks) * BANK_UM2 * np.asarray(width_bits) / BANK_WIDTH_BITS
    area: Values = (cells + periphery) * SQUARE_MICRON * area_factor(nm)
    return np.minimum(area, register_area_m2(capacity, nm))


def register_area_m2(capacity_bytes: float | Values, nm: float) -> Values:
    """Area of a register file: one flip-flop per bit (array in, array out)."""
    bits = 8 * np.asarray(capacity_bytes, dtype=np.float64)
    area: Values = bits * FLIP_FLOP_UM2 * SQUARE_MICRON * area_factor(nm)
    return area


def sram_leakage_watts(
    capacity_bytes: float | Values, width_bits: float | Values, banks: float | Values, nm: float
) -> Values:
    """Leakage of an SRAM (array in, array out)."""
    leakage: Values = SRAM_LEAKAGE_W_PER_M2 * sram_area_m2(capacity_bytes, width_bits, banks, nm)
    return leakage


def register_leakage_watts(capacity_bytes: float | Values, nm: float) -> Values:
    """Leakage of a register file, at the density of SRAM: its cells hold, they do not compute."""
    leakage: Values = SRAM_LEAKAGE_W_PER_M2 * register_area_m2(capacity_bytes, nm)
    return leakage


def area_factor(nm: float) -> float:
    """Area relative to 45 nm."""
    return _on_nodes(AREA_FACTOR, nm)


def energy_factor(nm: float) -> float:
    """Energy of logic relative to 45 nm at 0.9 V (Stillmaker and Baas)."""
    energies = tuple(
        a * volts**2 + b * volts + c
        for (a, b, c), volts in zip(ENERGY_POLYNOMIAL, SUPPLY_VOLTS, strict=True)
    )
    return _on_nodes(energies, nm) / energies[NODES_NM.index(45)]


def _on_nodes(values: tuple[float, ...], nm: float) -> float:
    """Interpolate between nodes in logarithms of both; below 7 nm as at 7 nm."""
    if nm > NODES_NM[-1]:
        raise HardwareError(
            "no cited technology data for this node", value=f"{nm} nm", allowed="at most 130 nm",
            fix="give every energy, area and leakage in the file",
        )  # fmt: skip
    nodes = np.log(np.array(NODES_NM, dtype=np.float64))
    return math.exp(float(np.interp(math.log(nm), nodes, np.log(np.array(values)))))


def _between(at_45: float, at_7: float, nm: float) -> float:
    """A figure with two anchors at another node (see the module docstring, "Node")."""
    factor = energy_factor(nm)
    if nm >= 45:
        return at_45 * factor
    way = math.log(factor) / math.log(energy_factor(7))
    return math.exp((1 - way) * math.log(at_45) + way * math.log(at_7))


def _operation_pj(table: dict[int, tuple[float, float]], bits: int, nm: float) -> float:
    return _power_law({width: _between(*pair, nm) for width, pair in table.items()}, bits)


def _power_law(table: dict[int, float], bits: int) -> float:
    """Through the first and the last point; a width in the table gives its own value."""
    if bits in table:
        return table[bits]
    low, high = min(table), max(table)
    exponent = math.log(table[high] / table[low]) / math.log(high / low)
    return float(table[low] * (bits / low) ** exponent)
