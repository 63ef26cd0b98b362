"""Model quality as a function of the model's knobs, always from a named source.

    hoffmann    L(N, D) = E + A / N^alpha + B / D^beta, constants of Hoffmann et al. 2022
    besiroglu   the same law with the constants of Besiroglu et al. 2024, who refitted the data
    csv         the user's own points: interpolated on a grid, or a power law fitted to them
    callable    a function of the user: package.module:function
    constant    one number

A source is one class here or in another file of this package, registered under its name; its
fields are the options of the study file. Nothing is ever predicted outside the range a source was
made for without being marked (`extrapolated`) or refused.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, ValidationError

from hwopt.dse.space import ModelChoice, Section, Value
from hwopt.errors import StudyError
from hwopt.registry import Registry

Direction = Literal["min", "max"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a source may look at: the knobs of a model variant and its traced totals."""

    knobs: Mapping[str, Value]
    parameters: int
    macs: int

    def feature(self, name: str, where: str) -> float:
        """A number by name: "parameters", "macs" or a knob."""
        value = {"parameters": self.parameters, "macs": self.macs, **self.knobs}.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise StudyError("not a number that this model has", where=where, value=name,
                             allowed=", ".join(("parameters", "macs", *self.knobs)))  # fmt: skip
        return float(value)


@dataclass(frozen=True, slots=True)
class Quality:
    """A predicted value; `extrapolated` when the source was not made for such a model."""

    value: float
    extrapolated: bool = False


class Source(Section, ABC):
    """A quality source with its options. `direction`: whether less or more is better."""

    direction: Direction = "min"

    @abstractmethod
    def predict(self, shape: Shape) -> Quality:
        """The quality of a model variant."""

    def note(self) -> str:
        """One line for the report: where the number comes from and how good it is."""
        return (type(self).__doc__ or "").strip().split("\n")[0]


qualities: Registry[type[Source]] = Registry("quality source", "hwopt.dse")


def quality_source(model: ModelChoice) -> Source | None:
    """The source that a model of a study names, its options checked."""
    if model.quality is None:
        return None
    options = dict(model.quality)
    where = f"models.{model.label}.quality"
    name = options.pop("source", None)
    if not isinstance(name, str):
        raise StudyError("no source named", where=where, allowed=", ".join(qualities),
                         fix="quality: {source: besiroglu, tokens: 2.0e10}")  # fmt: skip
    kind = qualities[name]
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StudyError(first["msg"], where=f"{where}.{place}", value=first["input"],
                         allowed=", ".join(kind.model_fields)) from error  # fmt: skip


class ScalingLaw(Source):
    """Pre-training loss in nats per token, `E + A / N^alpha + B / D^beta`.

    N is the number of parameters, embeddings included, as Hoffmann et al. count them (see Pearce
    and Song, arXiv 2406.12907, on the difference to Kaplan et al.); D is `tokens`, the training
    tokens the study states. Fitted on models of 70 million to over 16 billion parameters and 5 to
    500 billion tokens (arXiv 2203.15556, abstract): outside, values are marked as extrapolated.
    """

    tokens: float = Field(gt=0)
    direction: Literal["min"] = "min"

    CONSTANTS: ClassVar[tuple[float, float, float, float, float]]
    FITTED_PARAMETERS: ClassVar[tuple[float, float]] = (70e6, 16e9)
    FITTED_TOKENS: ClassVar[tuple[float, float]] = (5e9, 500e9)

    def predict(self, shape: Shape) -> Quality:
        """The loss of the law for the traced number of parameters."""
        floor, a, b, alpha, beta = self.CONSTANTS
        n, d = float(shape.parameters), self.tokens
        if n <= 0:
            raise StudyError("a scaling law needs a model with parameters", value=n)
        loss = floor + a / n**alpha + b / d**beta
        low, high = self.FITTED_PARAMETERS
        fewest, most = self.FITTED_TOKENS
        return Quality(loss, not (low <= n <= high and fewest <= d <= most))


@qualities.register("hoffmann")
class Hoffmann(ScalingLaw):
    """Loss by the parametric law of Hoffmann et al. 2022 (Chinchilla), arXiv 2203.15556, eq. 10."""

    CONSTANTS = (1.69, 406.4, 410.7, 0.34, 0.28)


@qualities.register("besiroglu")
class Besiroglu(ScalingLaw):
    """Loss by the law refitted by Besiroglu et al. 2024, arXiv 2404.10102: the corrected one."""

    CONSTANTS = (1.8172, 482.01, 2085.43, 0.3478, 0.3658)


@qualities.register("constant")
class Constant(Source):
    """One number for every variant: quality is no reason to choose."""

    value: float

    def predict(self, shape: Shape) -> Quality:
        """The number."""
        del shape
        return Quality(self.value)


@qualities.register("callable")
class Callable_(Source):  # noqa: N801 - `Callable` is taken by typing
    """The user's function, called with the knobs, `parameters` and `macs` as keywords."""

    function: str
    _loaded: Callable[..., Any] | None = PrivateAttr(None)

    def predict(self, shape: Shape) -> Quality:
        """What the function returns; a finite number."""
        if self._loaded is None:
            self._loaded = self._load()
        value = self._loaded(**shape.knobs, parameters=shape.parameters, macs=shape.macs)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value)):
            raise StudyError("a quality must be a finite number", where=self.function, value=value)
        return Quality(float(value))

    def note(self) -> str:
        """The function's name."""
        return f"the function {self.function}"

    def _load(self) -> Callable[..., Any]:
        module, _, name = self.function.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise StudyError(
                f"cannot import: {error}", where="quality.function", value=self.function,
                allowed="package.module:function",
            ) from error  # fmt: skip
        if not callable(found):
            raise StudyError("not callable", where="quality.function", value=self.function)
        return found  # type: ignore[no-any-return]
