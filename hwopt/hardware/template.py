"""Templates: families of accelerators with integer-coded knobs, for a search.

A template is one file in `templates/`: its knobs, and one function from knob values to a
`Blueprint`. The blueprint is written once with plain arithmetic, so that it serves a single design
(numbers give an `Accelerator`) and a whole batch (arrays give a `HardwareTable`) alike:

    @register
    class Mine(Template):
        name = "mine"
        about = "one line"
        knobs = (Knob("lanes", (8, 16)), Knob("buffer", ("64 KiB", "128 KiB")))
        def blueprint(self, value): ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt import quantities
from hwopt.errors import HardwareError, HwoptError
from hwopt.hardware.accelerator import Accelerator
from hwopt.hardware.blueprint import Blueprint, Number
from hwopt.hardware.table import HardwareTable
from hwopt.registry import Registry

KnobValue: TypeAlias = int | float | str
Codes: TypeAlias = npt.NDArray[np.int64]

_UNITS = (quantities.parse_bytes_per_s, quantities.parse_bytes, quantities.parse_hz)


@dataclass(frozen=True)
class Knob:
    """A name and its values, in increasing order, as they are written in files."""

    name: str
    values: tuple[KnobValue, ...]
    about: str = ""

    @cached_property
    def numbers(self) -> npt.NDArray[np.float64]:
        """The values in SI base units: (values,)."""
        return np.array([_number(value) for value in self.values], dtype=np.float64)

    def code(self, value: KnobValue) -> int:
        """The code of a value; equal quantities may be written differently ("0.7 GHz")."""
        if value in self.values:
            return self.values.index(value)
        try:
            number = _number(value)
        except HwoptError:
            number = float("nan")
        found = np.flatnonzero(self.numbers == number)
        if len(found) == 0:
            raise HardwareError("not a value of this knob", where=self.name, value=value,
                                allowed=", ".join(map(str, self.values)))  # fmt: skip
        return int(found[0])


def _number(value: KnobValue) -> float:
    if not isinstance(value, str):
        return float(value)
    for parse in _UNITS:
        try:
            return parse(value)
        except HwoptError:
            continue
    raise HardwareError("not a quantity", value=value, allowed='such as "64 KiB", "700 MHz"')


class Template(ABC):
    """A family of accelerators of one structure."""

    name: ClassVar[str]
    about: ClassVar[str]
    knobs: ClassVar[tuple[Knob, ...]]

    @abstractmethod
    def blueprint(self, value: Mapping[str, Number]) -> Blueprint:
        """The machine for knob values in SI base units: all numbers, or all arrays."""

    def build(self, values: Mapping[str, KnobValue]) -> Accelerator:
        """One design from knob values as in files. Raises `HardwareError` for a missing, unknown or
        impossible value.
        """
        names = [knob.name for knob in self.knobs]
        if unknown := sorted(set(values) ^ set(names)):
            raise HardwareError("knobs that are missing or unknown", where=self.name,
                                value=unknown, allowed=", ".join(names))  # fmt: skip
        return self.decoded([knob.code(values[knob.name]) for knob in self.knobs])

    def decoded(self, codes: Codes | list[int]) -> Accelerator:
        """One design from a code per knob."""
        chosen = {k.name: k.values[int(c)] for k, c in zip(self.knobs, codes, strict=True)}
        numbers = {k.name: float(k.numbers[int(c)]) for k, c in zip(self.knobs, codes, strict=True)}
        text = ", ".join(f"{name} {value}" for name, value in chosen.items())
        return self.blueprint(numbers).accelerator(self.name, f"{self.name}: {text}")

    def codes(self, values: Mapping[str, KnobValue]) -> list[int]:
        """The code per knob of a design given by values."""
        return [knob.code(values[knob.name]) for knob in self.knobs]

    def table(self, codes: Codes) -> HardwareTable:
        """All designs of an integer array (designs, knobs) as one table, without building each.

        Raises `HardwareError` for codes that are no codes of the knobs.
        """
        codes = np.asarray(codes, dtype=np.int64)
        counts = np.array([len(knob.values) for knob in self.knobs])
        if codes.ndim != 2 or codes.shape[1] != len(counts):
            raise HardwareError("codes must be (designs, knobs)", where=self.name,
                                value=codes.shape, allowed=f"(any, {len(counts)})")  # fmt: skip
        if codes.size and (codes.min() < 0 or (codes >= counts).any()):
            raise HardwareError("a code that is none of the knob's", where=self.name,
                                allowed=f"0 <= code < {counts.tolist()}")  # fmt: skip
        numbers: dict[str, Number] = {
            knob.name: knob.numbers[codes[:, column]] for column, knob in enumerate(self.knobs)
        }
        return self.blueprint(numbers).table(len(codes), lambda index: self.decoded(codes[index]))


templates = Registry[Template]("template", "hwopt.hardware.templates")
"""Every template by name."""


def register(template: type[Template]) -> type[Template]:
    """Class decorator: add a template under its `name`."""
    templates.register(template.name)(template())
    return template
