"""An accelerator as Timeloop's `architecture:` section (version 0.3), with its bypass constraints.

A fan-out becomes an array `name[0..n-1]` in the tree; `meshX` is the number of copies along X, the
first dimension of the fan-outs above (the second is Y). Timeloop asks Accelergy for energies and
areas by component class, so ours are not in the file; capacities, widths, ports and the clock are.
Words are the widest elements that a memory keeps; ports are in words per cycle of one copy.
"""

from __future__ import annotations

from typing import Any

from hwopt.errors import HardwareError
from hwopt.hardware.accelerator import ROLES, Accelerator, Fanout, Memory
from hwopt.mapping.timeloop import spatial_dims
from hwopt.mapping.timeloop_problem import DATA_SPACES

_CLASSES = {"dram": "DRAM", "sram": "SRAM", "register": "regfile"}


def write_architecture(accelerator: Accelerator) -> dict[str, Any]:
    """The sections `architecture` and `architecture_constraints`.

    Raises `HardwareError` for more than two dimensions of fan-out below one memory.
    """
    for memory in accelerator.memories:
        if len(places := spatial_dims(accelerator, memory.name)) > 2:
            raise HardwareError(
                "Timeloop's fan-outs have two dimensions, X and Y", where=memory.name,
                value=", ".join(".".join(place) for place in places),
            )  # fmt: skip
    return {
        "architecture": {"version": 0.3, "subtree": [_tree(accelerator)]},
        "architecture_constraints": {
            "version": 0.3,
            "targets": [_bypass(memory) for memory in accelerator.memories],
        },
    }


def _tree(accelerator: Accelerator) -> dict[str, Any]:
    """Nested arrays, from the outside in."""
    top: dict[str, Any] = {
        "name": "system",
        "attributes": {
            "technology": f"{accelerator.technology_nm:g}nm",
            "global_cycle_seconds": 1 / accelerator.clock_hz,
        },
        "local": [],
    }
    here, columns, above = top, 1, 0
    for level in accelerator.levels:
        if isinstance(level, Fanout):
            for dim in level.dims:
                columns *= dim.size if above == 0 else 1
                above += 1
            inner: dict[str, Any] = {"name": f"{level.name}[0..{level.size - 1}]", "local": []}
            here["subtree"] = [inner]
            here = inner
        else:
            here["local"].append(_memory(level, accelerator, columns))
            above = 0
    compute = accelerator.compute
    here["local"].append(
        {
            "name": compute.name, "class": "fpmac" if compute.floating else "intmac",
            "attributes": {"datawidth": compute.bits, "meshX": columns},
        }
    )  # fmt: skip
    return top


def _memory(memory: Memory, accelerator: Accelerator, columns: int) -> dict[str, Any]:
    bits = max(accelerator.bits.get(role, accelerator.compute.bits) for role in memory.keeps)
    words_per_s = bits / 8 * accelerator.clock_hz
    attributes: dict[str, Any] = {"word-bits": bits, "width": max(memory.width_bits, bits)}
    attributes["block-size"] = attributes["width"] // bits
    if memory.capacity_bytes is not None:
        attributes["entries"] = int(memory.usable_bytes * 8 // bits)
    for name, port in (
        ("read_bandwidth", memory.read_bytes_per_s), ("write_bandwidth", memory.write_bytes_per_s),
        ("shared_bandwidth", memory.bytes_per_s),
    ):  # fmt: skip
        if port is not None:
            attributes[name] = port / words_per_s
    attributes["meshX"] = columns
    return {"name": memory.name, "class": _CLASSES[memory.kind], "attributes": attributes}


def _bypass(memory: Memory) -> dict[str, Any]:
    """What a memory must and may not keep; what it may skip is left open."""
    return {
        "target": memory.name, "type": "bypass",
        "keep": [DATA_SPACES[r] for r in ROLES if r in memory.keeps and r not in memory.bypass],
        "bypass": [DATA_SPACES[r] for r in ROLES if r not in memory.keeps],
    }  # fmt: skip
