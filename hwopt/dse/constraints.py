"""Constraints as text: `area <= 40 mm2`, `latency[lm] <= 5 ms`, `power <= 2 W`.

The name is an objective; in brackets, a model's own value instead of the aggregate over models.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwopt import quantities
from hwopt.dse.objectives import Objective, objectives
from hwopt.errors import QuantityError, StudyError
from hwopt.quantities import show, show_area

_PATTERN = re.compile(r"\s*([\w-]+)\s*(?:\[([^\]]+)\])?\s*(<=|>=)\s*(.+?)\s*")


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError as error:
        raise QuantityError("not a number", value=value) from error


def _joule_seconds(value: object) -> float:
    return quantities.parse_joules(re.sub(r"J\s*\*?\s*s$", "J", str(value)))


_PARSERS: dict[str, Callable[[object], float]] = {
    "s": quantities.parse_seconds,
    "J": quantities.parse_joules,
    "W": quantities.parse_watts,
    "m2": quantities.parse_square_metres,
    "J s": _joule_seconds,
}


@dataclass(frozen=True, slots=True)
class Constraint:
    """`objective[model] sense bound`, the bound in SI base units."""

    text: str
    objective: str
    model: str | None
    sense: str
    bound: float

    def violation(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """How far values miss the bound, relative to it; at most 0 where it holds: (designs,)."""
        scale = abs(self.bound) or 1.0
        gap = values - self.bound if self.sense == "<=" else self.bound - values
        return np.asarray(gap / scale, dtype=np.float64)


def parse_constraint(text: str, models: tuple[str, ...]) -> Constraint:
    """Read one constraint; the unit is the objective's own ("40 mm2", "5 ms", a plain number)."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise StudyError("not a constraint", where="constraints", value=text,
                         allowed='such as "area <= 40 mm2" or "latency[lm] <= 5 ms"')  # fmt: skip
    name, model, sense, bound = match.groups()
    objective = objectives[name]
    if model is not None and model not in models:
        raise StudyError("no such model", where=f"constraint {text!r}", value=model,
                         allowed=", ".join(models))  # fmt: skip
    try:
        value = _PARSERS.get(objective.unit, _number)(bound)
    except QuantityError as error:
        raise StudyError(error.what, where=f"constraint {text!r}", value=bound,
                         allowed=error.allowed) from error  # fmt: skip
    return Constraint(text.strip(), name, model, sense, value)


def show_value(objective: Objective, value: float) -> str:
    """A value with its unit, for people."""
    if objective.unit == "m2":
        return show_area(value)
    return f"{value:.4f}" if not objective.unit else show(value, objective.unit)
