"""An accelerator as a hierarchy: memories, fan-outs and the compute units at the bottom.

    DRAM ── GLB ──┬── PE[0] ── spad ── MAC
                  ├── PE[1] ── spad ── MAC          levels = (DRAM, GLB, Fanout PE, spad)
                  └── ...                            compute = MAC, at every leaf

`levels` are listed outermost first; everything after a `Fanout` exists once per instance. Numbers
are SI and *per instance*; files may write them with units ("64 KiB", "1.2 TB/s", "0.5 pJ"). A
number left out (`None`) is derived by `hardware.technology` from cited tables: call `resolved()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from hwopt import quantities
from hwopt.errors import HardwareError, QuantityError

OperandRole: TypeAlias = Literal["input", "weight", "output"]
"""The part an operand plays in a nest: first read, second read, write."""

ROLES: tuple[OperandRole, ...] = ("input", "weight", "output")


def _quantity(parse: Callable[[object], float], example: str) -> Any:
    """A field in SI units that files may write with a unit."""

    def read(value: object) -> float:
        try:
            return parse(value)
        except QuantityError as error:  # pydantic adds the path of the field to a ValueError
            allowed = f" (allowed: {error.allowed})" if error.allowed else ""
            raise ValueError(f"{error.what}{allowed}") from error

    schema = {"anyOf": [{"type": "number"}, {"type": "string"}], "examples": [example]}
    return BeforeValidator(read), WithJsonSchema(schema)


_BYTES, _BYTES_SCHEMA = _quantity(quantities.parse_bytes, "64 KiB")
_RATE, _RATE_SCHEMA = _quantity(quantities.parse_bytes_per_s, "1.2 TB/s")
_HERTZ, _HERTZ_SCHEMA = _quantity(quantities.parse_hz, "700 MHz")
_SECONDS, _SECONDS_SCHEMA = _quantity(quantities.parse_seconds, "5 us")
_JOULES, _JOULES_SCHEMA = _quantity(quantities.parse_joules, "0.5 pJ")
_WATTS, _WATTS_SCHEMA = _quantity(quantities.parse_watts, "2 mW")
_AREA, _AREA_SCHEMA = _quantity(quantities.parse_square_metres, "1.5 mm2")

Bytes = Annotated[float, _BYTES, _BYTES_SCHEMA]
BytesPerSecond = Annotated[float, _RATE, _RATE_SCHEMA]
Hertz = Annotated[float, _HERTZ, _HERTZ_SCHEMA]
Seconds = Annotated[float, _SECONDS, _SECONDS_SCHEMA]
Joules = Annotated[float, _JOULES, _JOULES_SCHEMA]
Watts = Annotated[float, _WATTS, _WATTS_SCHEMA]
SquareMetres = Annotated[float, _AREA, _AREA_SCHEMA]


class Part(BaseModel):
    """Base of all hardware descriptions: frozen, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **data: Any) -> None:
        """Raises `HardwareError` with the dotted path of the first field that is wrong."""
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise HardwareError(**explain(error, type(self).__name__)) from error

    # Nested parts are validated without their own __init__, so that paths stay whole.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields replaced (not validated); cached properties are not copied."""
        copied = super().model_copy(update=update, deep=deep)
        for name in set(copied.__dict__) - set(type(self).model_fields):
            del copied.__dict__[name]
        return copied


def explain(error: ValidationError, where: str) -> dict[str, Any]:
    """What is wrong first, as the arguments of one `HwoptError`: dotted path, value, reason."""
    first = error.errors(include_url=False)[0]
    path, after_index = "", False
    for part in first["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not (after_index and part in ("memory", "fanout")):  # the tag of a level
            path += f".{part}"
        after_index = isinstance(part, int)
    message = first["msg"].removeprefix("Value error, ")
    value = first["input"]
    more = error.error_count() - 1
    return {
        "what": message + (f" (and {more} more)" if more else ""),
        "where": f"{where}{path if path.startswith('[') else path and ' at ' + path[1:]}",
        "value": value if isinstance(value, str | int | float | None) else type(value).__name__,
    }


class Memory(Part):
    """A storage level. `keeps` lists the operands it may hold; those in `bypass` may skip it.

    `capacity_bytes=None` is unbounded. Bandwidths are per instance; `bytes_per_s` is a port shared
    by reads and writes, the other two are separate ports; `None` is unlimited. Energies are per
    byte moved. `double_buffered` halves the usable capacity and overlaps transfer with compute.
    """

    type: Literal["memory"] = "memory"
    name: str
    kind: Literal["dram", "sram", "register"] = "sram"
    standard: Literal["ddr4", "lpddr4", "gddr6", "hbm2"] = Field(
        default="ddr4", description="of a dram: what its energy is derived from"
    )
    capacity_bytes: Bytes | None = Field(default=None, gt=0)
    keeps: tuple[OperandRole, ...] = ROLES
    bypass: tuple[OperandRole, ...] = ()
    bytes_per_s: BytesPerSecond | None = Field(default=None, gt=0)
    read_bytes_per_s: BytesPerSecond | None = Field(default=None, gt=0)
    write_bytes_per_s: BytesPerSecond | None = Field(default=None, gt=0)
    read_joules_per_byte: Joules | None = None
    write_joules_per_byte: Joules | None = None
    width_bits: int = Field(default=64, ge=1, description="bits of one access")
    banks: int = Field(default=1, ge=1)
    double_buffered: bool = False
    leakage_watts: Watts | None = None
    area_m2: SquareMetres | None = None

    @property
    def usable_bytes(self) -> float:
        """Capacity that one tile set may take (half when double-buffered)."""
        if self.capacity_bytes is None:
            return math.inf
        return self.capacity_bytes / 2 if self.double_buffered else self.capacity_bytes


class FanoutDim(Part):
    """One dimension of a fan-out. `axes` empty: any axis may be spread over it."""

    name: str
    size: int = Field(ge=1)
    axes: tuple[str, ...] = ()


class Fanout(Part):
    """Copies of everything below. `multicast` operands are read once above for all copies that
    want the same element in the same step; `reduces`: outputs are summed on the way up.
    """

    type: Literal["fanout"] = "fanout"
    name: str
    dims: tuple[FanoutDim, ...]
    multicast: tuple[OperandRole, ...] = ("input", "weight")
    reduces: bool = True

    @property
    def size(self) -> int:
        """Number of copies."""
        return math.prod(dim.size for dim in self.dims)


Level: TypeAlias = Annotated[Memory | Fanout, Field(discriminator="type")]


class Compute(Part):
    """The unit at every leaf: one multiply-accumulate per cycle, of `bits`-wide operands."""

    name: str = "mac"
    bits: int = Field(default=8, ge=1)
    floating: bool = False
    joules_per_mac: Joules | None = None
    area_m2: SquareMetres | None = None
    leakage_watts: Watts | None = None


class Vector(Part):
    """The unit for pointwise work, normalisation, softmax, pooling: `lanes` operations a cycle.

    It reads and writes the memory named `memory` (the outermost on-chip one when left out).
    """

    lanes: int = Field(default=1, ge=1)
    memory: str | None = None
    joules_per_operation: Joules | None = None
    area_m2: SquareMetres | None = None


class Accelerator(Part):
    """A whole accelerator. `bits`: element width by operand role, when it is not the tensor's own
    (an int8 accelerator runs a float32-traced model in 8 bits); `launch_seconds`: fixed cost per
    operator; `overhead_area_m2`: controller, DMA, network, i/o.
    """

    name: str
    description: str = ""
    source: str = ""
    technology_nm: float = Field(default=45, ge=2, le=250)
    clock_hz: Hertz = Field(gt=0)
    levels: tuple[Level, ...]
    compute: Compute = Compute()
    vector: Vector = Vector()
    bits: dict[OperandRole, int] = Field(default_factory=dict)
    launch_seconds: Seconds = 0.0
    fill_cycles: int = Field(default=0, ge=0, description="pipeline fill and drain per operator")
    overhead_area_m2: SquareMetres | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Accelerator:
        names = [level.name for level in self.levels]
        if len(set(names)) != len(names):
            raise HardwareError("two levels share a name", where=self.name, value=names)
        if not self.memories or not isinstance(self.levels[0], Memory):
            raise HardwareError("the outermost level must be a memory", where=self.name)
        if set(self.levels[0].keeps) != set(ROLES) or self.levels[0].bypass:
            raise HardwareError(
                "the outermost memory must keep every operand", where=f"{self.name}.{names[0]}"
            )
        if self.vector.memory is not None and self.vector.memory not in names:
            raise HardwareError("no such memory", where=self.name, value=self.vector.memory)
        return self

    @cached_property
    def memories(self) -> tuple[Memory, ...]:
        """Storage levels, outermost first."""
        return tuple(level for level in self.levels if isinstance(level, Memory))

    @cached_property
    def fanouts(self) -> tuple[Fanout, ...]:
        """Fan-outs, outermost first."""
        return tuple(level for level in self.levels if isinstance(level, Fanout))

    @property
    def lanes(self) -> int:
        """Compute units: multiply-accumulates per cycle at most."""
        return math.prod(fanout.size for fanout in self.fanouts)

    @property
    def peak_macs_per_s(self) -> float:
        """`lanes * clock_hz`."""
        return self.lanes * self.clock_hz

    def instances(self, name: str) -> int:
        """Copies of one level: the product of the fan-outs above it."""
        count = 1
        for level in self.levels:
            if level.name == name:
                return count
            if isinstance(level, Fanout):
                count *= level.size
        raise HardwareError("no such level", where=self.name, value=name)

    def level(self, name: str) -> Memory | Fanout:
        """A level by name."""
        for level in self.levels:
            if level.name == name:
                return level
        raise HardwareError("no such level", where=self.name, value=name)

    @cached_property
    def leakage_watts(self) -> float:
        """Leakage of every copy of every memory and compute unit (numbers left out count as 0)."""
        memories = sum((m.leakage_watts or 0.0) * self.instances(m.name) for m in self.memories)
        return memories + (self.compute.leakage_watts or 0.0) * self.lanes

    @cached_property
    def area_m2(self) -> float:
        """Area of every copy of every part (numbers left out count as 0: see `resolved`)."""
        memories = sum((m.area_m2 or 0.0) * self.instances(m.name) for m in self.memories)
        units = (self.compute.area_m2 or 0.0) * self.lanes
        vector = (self.vector.area_m2 or 0.0) * self.vector.lanes
        return memories + units + vector + (self.overhead_area_m2 or 0.0)

    def resolved(self) -> Accelerator:
        """The same accelerator with every energy, area and leakage filled in."""
        from hwopt.hardware.technology import resolve

        return resolve(self)
