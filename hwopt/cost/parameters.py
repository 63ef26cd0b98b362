"""The numbers of an accelerator that can be turned, and what else turns with them.

Where a file gives a figure that the laws of `hardware.technology` would derive from a number that
is changed (the area of a buffer whose capacity grows), the figure follows in the proportion of the
law; a given overhead grows by what the law's grows by. So a bigger buffer is never free, and area
answers to every part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hwopt.errors import HardwareError
from hwopt.hardware.accelerator import ROLES, Accelerator, Fanout, Memory, OperandRole
from hwopt.hardware.technology import NODES_NM
from hwopt.quantities import show, show_bytes

RATES = ("bytes_per_s", "read_bytes_per_s", "write_bytes_per_s")
ENERGIES = ("read_joules_per_byte", "write_joules_per_byte")
DERIVED = {
    "memory": (*ENERGIES, "area_m2", "leakage_watts"),
    "compute": ("joules_per_mac", "area_m2", "leakage_watts"),
    "vector": ("joules_per_operation", "area_m2"),
}
"""Figures of each kind of part that `hardware.technology` derives where a file leaves them out."""


@dataclass(frozen=True)
class Parameter:
    """One number: dotted name, value as text, and the machine with it multiplied by a factor.

    `scaled` gives None where there is no such machine (a node for which nothing is cited).
    """

    name: str
    value: str
    scaled: Callable[[float], Accelerator | None]


def parameters(
    accelerator: Accelerator, widths: dict[OperandRole, int] | None = None
) -> Iterator[Parameter]:
    """Every number of an accelerator that latency, energy or area depend on.

    `widths`: bits per element by role of a program, for roles whose width the machine does not
    impose.
    """
    edit = _Edit(accelerator)
    yield Parameter(
        "clock", show(accelerator.clock_hz, "Hz"),
        lambda f: edit.top(clock_hz=accelerator.clock_hz * f),
    )  # fmt: skip
    yield Parameter("technology", f"{accelerator.technology_nm:g} nm", edit.node)
    for role in ROLES:
        if bits := accelerator.bits.get(role) or (widths or {}).get(role):
            yield Parameter(f"{role}.width", f"{bits} bit", edit.width(role, bits))
    yield from _units(accelerator, edit)
    for index, level in enumerate(accelerator.levels):
        if isinstance(level, Memory):
            yield from _memory(index, level, accelerator.resolved().levels[index], edit)
        else:
            yield from _fanout(index, level, edit)


class _Edit:
    """Changed copies of one accelerator, on which given figures have followed the laws."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def top(self, **update: Any) -> Accelerator:
        return following(self._accelerator, self._accelerator.model_copy(update=update))

    def part(self, name: str, **update: Any) -> Accelerator:
        return self.top(**{name: getattr(self._accelerator, name).model_copy(update=update)})

    def level(self, index: int, **update: Any) -> Accelerator:
        levels = list(self._accelerator.levels)
        levels[index] = levels[index].model_copy(update=update)
        return self.top(levels=tuple(levels))

    def node(self, factor: float) -> Accelerator | None:
        nm = self._accelerator.technology_nm * factor
        return self.top(technology_nm=nm) if NODES_NM[0] <= nm <= NODES_NM[-1] else None

    def width(self, role: OperandRole, bits: int) -> Callable[[float], Accelerator]:
        return lambda f: self.top(bits={**self._accelerator.bits, role: whole(bits * f)})


def _units(accelerator: Accelerator, edit: _Edit) -> Iterator[Parameter]:
    """Multiply-accumulate units, vector unit, fixed times."""
    compute, vector = accelerator.resolved().compute, accelerator.resolved().vector
    yield Parameter(
        "compute.width", f"{compute.bits} bit",
        lambda f: edit.part("compute", bits=whole(compute.bits * f)),
    )  # fmt: skip
    per_mac, per_operation = compute.joules_per_mac or 0.0, vector.joules_per_operation or 0.0
    yield Parameter(
        "compute.energy", show(per_mac, "J"),
        lambda f: edit.part("compute", joules_per_mac=per_mac * f),
    )  # fmt: skip
    yield Parameter(
        "vector.lanes", str(vector.lanes),
        lambda f: edit.part("vector", lanes=whole(vector.lanes * f)),
    )  # fmt: skip
    yield Parameter(
        "vector.energy", show(per_operation, "J"),
        lambda f: edit.part("vector", joules_per_operation=per_operation * f),
    )  # fmt: skip
    if accelerator.launch_seconds:
        yield Parameter(
            "launch", show(accelerator.launch_seconds, "s"),
            lambda f: edit.top(launch_seconds=accelerator.launch_seconds * f),
        )  # fmt: skip
    if accelerator.fill_cycles:
        yield Parameter(
            "fill", f"{accelerator.fill_cycles} cycles",
            lambda f: edit.top(fill_cycles=round(accelerator.fill_cycles * f)),
        )  # fmt: skip


def _memory(index: int, memory: Memory, resolved: Any, edit: _Edit) -> Iterator[Parameter]:
    name = memory.name
    if (capacity := memory.capacity_bytes) is not None:
        yield Parameter(
            f"{name}.capacity", show_bytes(capacity),
            lambda f: edit.level(index, capacity_bytes=capacity * f),
        )  # fmt: skip
    ports = {key: rate for key in RATES if (rate := getattr(memory, key)) is not None}
    if ports:
        yield Parameter(
            f"{name}.bandwidth", show(max(ports.values()), "B/s"),
            lambda f: edit.level(index, **{key: rate * f for key, rate in ports.items()}),
        )  # fmt: skip
    energies = {key: getattr(resolved, key) for key in ENERGIES}
    yield Parameter(
        f"{name}.energy", show(max(energies.values()), "J/B"),
        lambda f: edit.level(index, **{key: value * f for key, value in energies.items()}),
    )  # fmt: skip
    if memory.kind == "sram":
        yield Parameter(
            f"{name}.width", f"{memory.width_bits} bit",
            lambda f: edit.level(index, width_bits=whole(memory.width_bits * f)),
        )  # fmt: skip
        yield Parameter(
            f"{name}.banks", str(memory.banks),
            lambda f: edit.level(index, banks=whole(memory.banks * f)),
        )  # fmt: skip


def _fanout(index: int, fanout: Fanout, edit: _Edit) -> Iterator[Parameter]:
    for position, dim in enumerate(fanout.dims):

        def scaled(factor: float, position: int = position) -> Accelerator:
            dims = list(fanout.dims)
            size = whole(dims[position].size * factor)
            dims[position] = dims[position].model_copy(update={"size": size})
            return edit.level(index, dims=tuple(dims))

        yield Parameter(f"{fanout.name}.{dim.name}", str(dim.size), scaled)


def whole(value: float) -> int:
    """A count of at least 1."""
    return max(1, round(value))


def following(given: Accelerator, changed: Accelerator) -> Accelerator:
    """`changed` with the figures that `given` states moved as the laws say.

    A figure that was itself changed is left as it is.
    """
    try:
        before, after = _stripped(given).resolved(), _stripped(changed).resolved()
    except HardwareError:  # a node without data: what is given cannot follow
        return changed
    levels = list(changed.levels)
    for index, level in enumerate(given.levels):
        if isinstance(level, Memory):
            levels[index] = _moved(
                level, changed.levels[index], before.levels[index], after.levels[index], "memory"
            )
    update: dict[str, Any] = {"levels": tuple(levels)}
    for name in ("compute", "vector"):
        parts = [getattr(machine, name) for machine in (given, changed, before, after)]
        update[name] = _moved(parts[0], parts[1], parts[2], parts[3], name)
    if given.overhead_area_m2 is not None:
        more = (after.overhead_area_m2 or 0.0) - (before.overhead_area_m2 or 0.0)
        update["overhead_area_m2"] = max(0.0, given.overhead_area_m2 + more)
    return changed.model_copy(update=update)


def _moved(given: Any, changed: Any, before: Any, after: Any, kind: str) -> Any:
    """A part whose given figures are multiplied by the ratio of the law's."""
    update = {}
    for key in DERIVED[kind]:
        value, law = getattr(given, key), getattr(before, key)
        if value is not None and value == getattr(changed, key) and law:
            update[key] = value * getattr(after, key) / law
    return changed.model_copy(update=update)


def _stripped(accelerator: Accelerator) -> Accelerator:
    """Without the figures that can be derived (a buffer without limit keeps its own)."""
    levels = tuple(
        level.model_copy(update=dict.fromkeys(DERIVED["memory"]))
        if isinstance(level, Memory) and (level.kind == "dram" or level.capacity_bytes is not None)
        else level
        for level in accelerator.levels
    )
    return accelerator.model_copy(update={
        "levels": levels, "overhead_area_m2": None,
        "compute": accelerator.compute.model_copy(update=dict.fromkeys(DERIVED["compute"])),
        "vector": accelerator.vector.model_copy(update=dict.fromkeys(DERIVED["vector"])),
    })  # fmt: skip
