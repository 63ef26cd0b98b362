"""Numbers with units, in files and on the command line; SI base units everywhere inside.

`parse_bytes("64 KiB") == 65536.0`, `parse_bytes_per_s("1.2 TB/s") == 1.2e12`. Suffixes are
accepted here and gone after parsing. Decimal prefixes are powers of 1000, binary ones (Ki, Mi, Gi,
Ti) powers of 1024. NaN, infinities and negative values are refused.
"""

from __future__ import annotations

import math
import re

from hwopt.errors import QuantityError

_DECIMAL = {
    "": 1.0, "f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3,
    "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
}  # fmt: skip
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_NUMBER = re.compile(r"\s*([0-9][0-9_]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*(.*?)\s*")


def _parse(value: object, units: dict[str, float], example: str, *, binary: bool = False) -> float:
    """The value in SI base units; `units` maps each unit name to its size in base units."""
    if isinstance(value, bool):
        raise QuantityError("not a quantity", value=value, allowed=example)
    if isinstance(value, int | float):
        number, suffix = float(value), ""
    else:
        match = _NUMBER.fullmatch(str(value))
        if match is None:
            raise QuantityError("not a quantity", value=value, allowed=example)
        number, suffix = float(match[1].replace("_", "")), match[2]
    if not math.isfinite(number) or number < 0:
        raise QuantityError("a quantity must be finite and not negative", value=value)
    if not suffix:
        return number
    prefixes = {**_DECIMAL, **_BINARY} if binary else _DECIMAL
    for unit in sorted(units, key=len, reverse=True):
        if suffix.endswith(unit) and suffix[: len(suffix) - len(unit)].strip() in prefixes:
            return number * prefixes[suffix[: len(suffix) - len(unit)].strip()] * units[unit]
    raise QuantityError("unknown unit", value=value, allowed=example)


def parse_bytes(value: object) -> float:
    """Bytes from 4096, "64 KiB", "1.5MB", "512 bit"."""
    return _parse(
        value, {"B": 1.0, "byte": 1.0, "bytes": 1.0, "bit": 0.125, "b": 0.125},
        'bytes such as 4096, "64 KiB", "24 GB", "16 bit"', binary=True,
    )  # fmt: skip


def parse_bytes_per_s(value: object) -> float:
    """Bytes per second from "1.2 TB/s", "800 Gb/s" (bits), "64 GiB/s"."""
    return _parse(
        value, {"B/s": 1.0, "b/s": 0.125, "bit/s": 0.125},
        'bytes per second such as "1.2 TB/s" or "800 Gb/s"', binary=True,
    )  # fmt: skip


def parse_hz(value: object) -> float:
    """Hertz from 1e9, "200 MHz", "1.41 GHz"."""
    return _parse(value, {"Hz": 1.0, "hz": 1.0}, 'a frequency such as "200 MHz"')


def parse_seconds(value: object) -> float:
    """Seconds from 1e-6, "5 us", "2 ms"."""
    return _parse(value, {"s": 1.0}, 'a time such as "5 us"')


def parse_joules(value: object) -> float:
    """Joules from 1e-12, "0.56 pJ"."""
    return _parse(value, {"J": 1.0}, 'an energy such as "0.56 pJ"')


def parse_watts(value: object) -> float:
    """Watts from 2.0, "15 mW"."""
    return _parse(value, {"W": 1.0}, 'a power such as "15 mW"')


def parse_square_metres(value: object) -> float:
    """Square metres from "40 mm2", "1200 um2"."""
    return _parse(
        value, {"mm2": 1e-6, "um2": 1e-12, "µm2": 1e-12, "m2": 1.0}, 'an area such as "40 mm2"'
    )


_STEPS = (
    (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""),
    (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"),
)  # fmt: skip


def show(value: float, unit: str, digits: int = 3) -> str:
    """`show(2.5e-3, "s") == "2.50 ms"`: a value with an engineering prefix, for people."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}".strip()
    size, prefix = next((step for step in _STEPS if abs(value) >= step[0] * 0.9995), _STEPS[-1])
    scaled = value / size
    decimals = max(0, digits - 1 - max(0, math.floor(math.log10(abs(scaled)))))
    return f"{scaled:.{decimals}f} {prefix}{unit}".rstrip()


def show_bytes(value: float) -> str:
    """`show_bytes(65536) == "64.0 KiB"`: binary prefixes, for capacities and footprints."""
    for size, prefix in ((2.0**40, "Ti"), (2.0**30, "Gi"), (2.0**20, "Mi"), (2.0**10, "Ki")):
        if value >= size:
            return f"{value / size:.1f} {prefix}B"
    return f"{value:g} B"


def show_area(value: float) -> str:
    """`show_area(4e-5) == "40.0 mm2"`."""
    return f"{value * 1e6:.3g} mm2" if value < 1e-7 else f"{value * 1e6:.1f} mm2"
