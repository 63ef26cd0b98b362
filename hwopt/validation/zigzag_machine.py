"""A machine and a layer in ZigZag's terms, from `zigzag_hw.json` and rows of `zigzag_layers.csv`.

The JSON lists memories from the inside out, each with size in bits, energy of an access in pJ *of a
word of the port's full width*, the operands it holds, the array dimensions that one copy serves
(`per`; none: one copy per MAC), and its ports: least and greatest bits of one access and what they
carry. "I1, fh" is the fill of the first operand from the level above; `tl` to lower, `fl` from
lower, `th` to higher. Operands are named by layer here: I, W, O, through the `links` of the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hwopt.errors import FileFormatError
from hwopt.files import read_json

OPERANDS = ("O", "W", "I")
WAYS = ("fh", "tl", "fl", "th")


@dataclass(frozen=True, slots=True)
class Port:
    """A physical port: bits of its smallest and widest access, and (operand, way) it carries."""

    name: str
    least_bits: int
    width_bits: int
    serves: tuple[tuple[str, str], ...]

    @property
    def feeds_both_inputs(self) -> bool:
        """Whether inputs and weights pass through it."""
        return {"I", "W"} <= {operand for operand, _ in self.serves}


@dataclass(frozen=True)
class Store:
    """A memory: bits, pJ per access of full width, operands, array dimensions one copy serves."""

    name: str
    bits: int
    read_pj: float
    write_pj: float
    operands: tuple[str, ...]
    serves: tuple[str, ...]
    ports: tuple[Port, ...]

    @cached_property
    def port(self) -> dict[tuple[str, str], Port]:
        """By operand and way: what carries it."""
        return {served: port for port in reversed(self.ports) for served in port.serves}


@dataclass(frozen=True)
class Array:
    """An operational array and its memories, innermost first.

    `spread` gives for each array dimension the layer dimensions laid out over it with their most
    copies; `systolic` the dimensions along which results leave one MAC after another.
    """

    name: str
    dims: dict[str, int]
    mac_pj: float
    systolic: tuple[str, ...]
    stores: tuple[Store, ...]
    spread: dict[str, dict[str, int]]

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulate units."""
        return math.prod(self.dims.values())

    @cached_property
    def path(self) -> dict[str, tuple[Store, ...]]:
        """By operand: its memories, innermost first."""
        return {
            operand: tuple(store for store in self.stores if operand in store.operands)
            for operand in OPERANDS
        }


LOOPS = ("B", "H", "G", "K", "C", "OX", "OY", "FX", "FY", "D")
"""Loops of a layer: batch, heads, groups, output and input channels of a group, output columns and
rows, kernel columns and rows, rows of a matrix product."""
_RELEVANT = {"O": "B G K OX OY D H", "W": "G K C FX FY H", "I": "B G C D H"}
_WINDOWS = (("OX", "FX", 0), ("OY", "FY", 1))


@dataclass(frozen=True)
class Layer:
    """Loop sizes of a convolution or matrix product, and what its rows leave out.

    `stride`, `dilation`: along x and y; `input_size`: width and height of the input without
    padding. Widths in bits: 8 for inputs, weights and results, 16 for partial sums.
    """

    kind: str
    sizes: dict[str, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    input_size: tuple[int, int] = (0, 0)
    bits: dict[str, int] = field(default_factory=lambda: {"I": 8, "W": 8, "O": 8})
    partial_bits: int = 16

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return math.prod(self.sizes.values())

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """In the order in which ZigZag visits them: as its equations name them."""
        return ("O", "W", "I") if "OX" in self.sizes else ("O", "I", "W")

    @cached_property
    def relevant(self) -> dict[str, frozenset[str]]:
        """By operand: loops of more than one iteration that index it by themselves."""
        return {
            operand: frozenset(d for d in dims.split() if self.sizes.get(d, 1) > 1)
            for operand, dims in _RELEVANT.items()
        }

    @cached_property
    def irrelevant(self) -> dict[str, frozenset[str]]:
        """By operand: loops of more than one iteration in which it does not change."""
        loops = {d for d, size in self.sizes.items() if size > 1}
        windows = {d for x, f, _ in _WINDOWS for d in (x, f)}
        return {
            operand: frozenset(loops - used - (windows if operand == "I" else set()))
            for operand, used in self.relevant.items()
        }

    def tile(self, operand: str, sizes: Mapping[str, float]) -> float:
        """Distinct elements that loops of these sizes reach, never more than the tensor has."""
        total = math.prod(sizes.get(d, 1) for d in self.relevant[operand])
        if operand == "I":
            for out, kernel, axis in _WINDOWS:
                if out in self.sizes:
                    total *= self._window(sizes.get(out, 1), sizes.get(kernel, 1), axis)
        return total

    def _window(self, outputs: float, taps: float, axis: int) -> int:
        """Positions that `outputs` windows of `taps` cover along an axis (holes not counted)."""
        a, b = int(outputs), int(taps)
        step, gap = self.stride[axis], self.dilation[axis]
        shared = math.gcd(step, gap)
        covered = a * b - max(0, b - step // shared) * (a - gap // shared)
        return min(covered, self.input_size[axis])


def read_array(path: Path, name: str) -> Array:
    """The machine `name` of a hardware file; raises `FileFormatError` with what is wrong in it."""
    document = read_json(path)
    machines = document.get("hardware") if isinstance(document, dict) else None
    if not isinstance(machines, dict) or name not in machines:
        known = sorted(machines) if isinstance(machines, dict) else []
        raise FileFormatError(
            "no such machine", where=f"{path} at hardware", value=name, allowed=", ".join(known)
        )
    try:
        return _array(name, machines[name], document["spatial_mapping"][name])
    except (KeyError, TypeError, ValueError, StopIteration, AttributeError) as error:
        raise FileFormatError(
            "a machine is not complete", where=f"{path} at hardware.{name}",
            value=f"{type(error).__name__}: {error}",
            allowed="array, mac_energy_pj, memories (name, size_bits, r_cost, w_cost, operands, "
            "per, ports) and a default entry in spatial_mapping",
        ) from error  # fmt: skip


def _array(name: str, machine: dict[str, Any], mappings: list[dict[str, Any]]) -> Array:
    default = next(entry for entry in mappings if entry["op"] == "default")
    layer_operand = {memory: operand for operand, memory in default["links"].items()}
    spread = {
        dim: {loop.split(",")[0].strip(): int(loop.split(",")[1]) for loop in loops}
        for dim, loops in default["spatial"].items()
    }
    stores = tuple(
        Store(
            memory["name"], int(memory["size_bits"]), float(memory["r_cost"]),
            float(memory["w_cost"]), tuple(layer_operand[o] for o in memory["operands"]),
            tuple(memory["per"]), tuple(_port(port, layer_operand) for port in memory["ports"]),
        )
        for memory in machine["memories"]
    )  # fmt: skip
    dims = {dim: int(size) for dim, size in machine["array"].items()}
    systolic = tuple(machine.get("systolic_dimensions", ()))
    return Array(name, dims, float(machine["mac_energy_pj"]), systolic, stores, spread)


def _port(port: list[Any], layer_operand: dict[str, str]) -> Port:
    name, _, least, width, serves = port
    pairs = [tuple(part.strip() for part in entry.split(",")) for entry in serves]
    if any(way not in WAYS for _, way in pairs):
        raise ValueError(f"{name} carries {serves}")
    found = tuple((layer_operand[operand], way) for operand, way in pairs)
    return Port(name, int(least), int(width), found)
