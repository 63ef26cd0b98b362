"""Objectives: named columns of what the kernel priced. Adding one is adding one function.

    @objective("power", unit="W")
    def power(prices: Prices) -> Array:
        \"\"\"Average power while a model runs.\"\"\"
        return prices.joules / prices.seconds

A function returns (models, designs), joined over models by the study's aggregate, or (designs,)
where the value belongs to the chip as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from hwopt.errors import StudyError
from hwopt.registry import Registry

Array: TypeAlias = npt.NDArray[np.float64]
Aggregate: TypeAlias = Literal["geomean", "weighted", "worst"]


@dataclass(frozen=True)
class Prices:
    """What is known of a batch of designs.

    `seconds`, `joules`: (models, designs), infinite where a model does not fit. `quality`:
    (models, designs), NaN for a model without a quality source. `area_m2`: (designs,).
    `samples`: (models, designs), inputs per execution (the batch).
    """

    seconds: Array
    joules: Array
    quality: Array
    area_m2: Array
    samples: Array

    @property
    def feasible(self) -> npt.NDArray[np.bool_]:
        """Designs on which every model runs: (designs,)."""
        return np.asarray(np.isfinite(self.seconds).all(axis=0))


@dataclass(frozen=True)
class Objective:
    """A named column: its unit ("" for a pure number) and whether less or more is better.

    `direction` "source" is decided by the quality source. `about` is one line for people.
    """

    name: str
    unit: str
    direction: Literal["min", "max", "source"]
    column: Callable[[Prices], Array]
    about: str


objectives: Registry[Objective] = Registry("objective", "hwopt.dse")


def objective(
    name: str, *, unit: str = "", direction: Literal["min", "max", "source"] = "min"
) -> Callable[[Callable[[Prices], Array]], Callable[[Prices], Array]]:
    """Register a column function as an objective."""

    def add(column: Callable[[Prices], Array]) -> Callable[[Prices], Array]:
        about = (column.__doc__ or name).strip().split("\n")[0]
        objectives.register(name)(Objective(name, unit, direction, column, about))
        return column

    return add


def aggregate(values: Array, weights: Array, how: Aggregate, larger_is_better: bool) -> Array:
    """One value per design from (models, designs) and (models,) weights.

    geomean: exp of the weighted mean of logarithms (values must be positive). weighted: weighted
    arithmetic mean. worst: the largest, or the smallest where more is better. Models whose value
    is NaN (no quality source) are left out.
    """
    counted = ~np.isnan(values).all(axis=1)
    if not counted.any():
        raise StudyError(
            "no model has a quality", where="objectives", value="quality",
            fix="give at least one model `quality: {source: ...}`",
        )  # fmt: skip
    values, weights = values[counted], weights[counted][:, None]
    if how == "worst":
        return np.asarray(values.min(axis=0) if larger_is_better else values.max(axis=0))
    share = weights / weights.sum()
    if how == "weighted":
        return np.asarray((values * share).sum(axis=0))
    if (values <= 0).any():
        raise StudyError("a geometric mean needs positive values", where="aggregate",
                         value=float(values.min()), allowed="weighted or worst")  # fmt: skip
    if len(values) == 1:
        return np.asarray(values[0])  # exactly: exp(log(x)) is not always x
    return np.asarray(np.exp((np.log(values) * share).sum(axis=0)))


@objective("latency", unit="s")
def latency(prices: Prices) -> Array:
    """Time of one execution."""
    return prices.seconds


@objective("energy", unit="J")
def energy(prices: Prices) -> Array:
    """Energy of one execution, leakage included."""
    return prices.joules


@objective("area", unit="m2")
def area(prices: Prices) -> Array:
    """Area of the accelerator."""
    return prices.area_m2


@objective("edp", unit="J s")
def edp(prices: Prices) -> Array:
    """Energy-delay product of one execution."""
    return prices.seconds * prices.joules


@objective("power", unit="W")
def power(prices: Prices) -> Array:
    """Average power of one execution."""
    return prices.joules / prices.seconds


@objective("throughput", unit="1/s", direction="max")
def throughput(prices: Prices) -> Array:
    """Samples per second: the batch over the time of one execution."""
    return prices.samples / prices.seconds


@objective("quality", direction="source")
def quality(prices: Prices) -> Array:
    """What the model's quality source predicts (a loss, an accuracy)."""
    return prices.quality
