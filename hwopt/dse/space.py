"""What a search may choose: knobs of hardware and models, and the study file that states them.

A knob has a name, an owner ("hardware", or a model's name) and a tuple of values. A design is a
vector of integer codes, one per free knob: code `i` means the knob's `i`-th value. In files a list
of values is a free knob, a single value a fixed one:

    models:
      - model: resnet50
      - {model: opt-125m, name: lm, mode: prefill, seq: 128,
         knobs: {width: [512, 768, 1024], depth: [6, 12, 24]},
         quality: {source: besiroglu, tokens: 2.0e10}}
    hardware: {template: systolic, knobs: {rows: [8, 16, 32], clock: 700 MHz}}
    objectives: [latency, energy, area, quality]
    constraints: [area <= 40 mm2]
    search: {population: 128, budget: 20000, seed: 7}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hwopt.errors import FileFormatError, StudyError
from hwopt.files import read_yaml

if TYPE_CHECKING:
    from hwopt.hardware.accelerator import Accelerator

Codes: TypeAlias = npt.NDArray[np.int64]
"""Designs by row, one integer code per free knob: (designs, knobs)."""

Value: TypeAlias = int | float | str
HARDWARE = "hardware"
"""Owner of the knobs of the accelerator."""


class Section(BaseModel):
    """Base of everything in a study file: frozen, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Choice: TypeAlias = int | float | str | tuple[Value, ...]
"""A fixed value, or a list of values to search."""


class ModelChoice(Section):
    """One model of a study: how it is traced, and which of its dimensions are free.

    `knobs` are the overrides that the library entry takes (width, depth, heads ...), and also
    `batch` and `seq`. `weight` counts in aggregates. `quality`: `source` and that source's options.
    """

    model: str
    name: str = ""
    mode: Literal["forward", "prefill", "decode", "train"] = "forward"
    batch: int = Field(default=1, ge=1)
    seq: int | None = Field(default=None, ge=1)
    dtype: str | None = None
    unsupported: Literal["error", "opaque"] = "error"
    knobs: dict[str, Choice] = Field(default_factory=dict)
    quality: dict[str, Any] | None = None
    weight: float = Field(default=1.0, gt=0)

    @property
    def label(self) -> str:
        """The name under which knobs and results of this model appear."""
        return self.name or self.model


class HardwareChoice(Section):
    """A template with free or fixed knobs (those left out are free), or one fixed accelerator."""

    template: str | None = None
    knobs: dict[str, Choice] = Field(default_factory=dict)
    accelerator: str | None = None

    @model_validator(mode="after")
    def _one(self) -> HardwareChoice:
        if (self.template is None) == (self.accelerator is None):
            raise StudyError(
                "hardware is either a template or a fixed accelerator", where=HARDWARE,
                fix="give `template: NAME` or `accelerator: NAME-or-FILE`, not both",
            )  # fmt: skip
        if self.accelerator is not None and self.knobs:
            raise StudyError("a fixed accelerator has no knobs", where=f"{HARDWARE}.knobs",
                             value=list(self.knobs))  # fmt: skip
        return self


@dataclass(frozen=True, slots=True)
class Knob:
    """A free knob: who owns it, its name, and its values in order."""

    owner: str
    name: str
    values: tuple[Value, ...]

    @property
    def label(self) -> str:
        """`owner.name`."""
        return f"{self.owner}.{self.name}"


class DesignSpace(Section):
    """Models and hardware with free knobs; the integer codes of designs are defined here."""

    models: tuple[ModelChoice, ...] = Field(min_length=1)
    hardware: HardwareChoice

    @model_validator(mode="after")
    def _named(self) -> DesignSpace:
        labels = [model.label for model in self.models]
        if len(set(labels)) != len(labels) or HARDWARE in labels:
            raise StudyError(
                "models need different names", where="models", value=labels,
                fix=f"give each a `name:` (not {HARDWARE!r})",
            )  # fmt: skip
        for model in self.models:
            for name, choice in model.knobs.items():
                _check_choice(choice, f"models.{model.label}.knobs.{name}")
        return self

    @cached_property
    def knobs(self) -> tuple[Knob, ...]:
        """The free knobs: the hardware's, then each model's. A knob of one value is fixed."""
        found = list(self._hardware_knobs())
        for model in self.models:
            for name, choice in model.knobs.items():
                if isinstance(choice, tuple) and len(choice) > 1:
                    found.append(Knob(model.label, name, choice))
        return tuple(found)

    def _hardware_knobs(self) -> Iterator[Knob]:
        for name, values in self.hardware_values.items():
            if len(values) > 1:
                yield Knob(HARDWARE, name, values)

    @cached_property
    def hardware_values(self) -> dict[str, tuple[Value, ...]]:
        """Per knob of the template, the values that this space allows (one when fixed)."""
        if self.hardware.template is None:
            return {}
        from hwopt.hardware.template import templates

        template = templates[self.hardware.template]
        knobs = {knob.name: knob for knob in template.knobs}
        allowed = {knob.name: tuple(knob.values) for knob in template.knobs}
        for name, choice in self.hardware.knobs.items():
            where = f"{HARDWARE}.knobs.{name}"
            if name not in knobs:
                raise StudyError("the template has no such knob", where=where,
                                 allowed=", ".join(knobs))  # fmt: skip
            wanted = choice if isinstance(choice, tuple) else (choice,)
            # as the template writes them: "0.7 GHz" and "700 MHz" are one value
            allowed[name] = tuple(knobs[name].values[knobs[name].code(value)] for value in wanted)
            _check_choice(allowed[name], where)
        return allowed

    def template_codes(self, codes: Codes) -> Codes:
        """Codes of this space as codes of the template's own knobs: (designs, template knobs)."""
        from hwopt.hardware.template import templates

        assert self.hardware.template is not None, "the hardware is a template"
        template = templates[self.hardware.template]
        place = {k.name: i for i, k in enumerate(self.knobs) if k.owner == HARDWARE}
        result = np.empty((len(codes), len(template.knobs)), dtype=np.int64)
        for column, knob in enumerate(template.knobs):
            own = np.array([knob.code(value) for value in self.hardware_values[knob.name]])
            chosen = codes[:, place[knob.name]] if knob.name in place else np.zeros(len(codes), int)
            result[:, column] = own[chosen]
        return result

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """Number of values of each knob: (knobs,)."""
        return np.array([len(knob.values) for knob in self.knobs], dtype=np.int64)

    @property
    def size(self) -> int:
        """Number of designs."""
        return math.prod(len(knob.values) for knob in self.knobs)

    def decode(self, codes: Sequence[int] | Codes) -> dict[str, dict[str, Value]]:
        """One design as values by owner and knob, fixed knobs included."""
        design: dict[str, dict[str, Value]] = {
            HARDWARE: {name: values[0] for name, values in self.hardware_values.items()}
        }
        for model in self.models:
            design[model.label] = {
                name: choice[0] if isinstance(choice, tuple) else choice
                for name, choice in model.knobs.items()
            }
        for knob, code in zip(self.knobs, codes, strict=True):
            design[knob.owner][knob.name] = knob.values[int(code)]
        return design

    def encode(self, design: Mapping[str, Mapping[str, Value]]) -> tuple[int, ...]:
        """The codes of a design given by values; the inverse of `decode`.

        Raises `StudyError` for a missing or unknown value.
        """
        codes = []
        for knob in self.knobs:
            value = design.get(knob.owner, {}).get(knob.name)
            if value is None or value not in knob.values:
                raise StudyError("not a value of this knob", where=knob.label, value=value,
                                 allowed=", ".join(map(str, knob.values)))  # fmt: skip
            codes.append(knob.values.index(value))
        return tuple(codes)

    def accelerator(self, codes: Sequence[int] | Codes) -> Accelerator:
        """The accelerator of one design."""
        if self.hardware.accelerator is not None:
            from hwopt.hardware.library import load

            return load(self.hardware.accelerator)
        from hwopt.hardware.template import templates

        assert self.hardware.template is not None
        rows = np.asarray(codes, dtype=np.int64).reshape(1, -1)
        return templates[self.hardware.template].decoded(self.template_codes(rows)[0])

    def every(self) -> Codes:
        """All designs in order (the last knob changes fastest): (size, knobs)."""
        grids = np.indices(tuple(self.counts.tolist()), dtype=np.int64)
        return np.ascontiguousarray(grids.reshape(len(self.counts), self.size).T)


def _check_choice(choice: Choice, where: str) -> None:
    if isinstance(choice, tuple):
        if not choice:
            raise StudyError("a knob needs at least one value", where=where)
        if len(set(choice)) != len(choice):
            raise StudyError("a value is listed twice", where=where, value=list(choice))


class SearchOptions(Section):
    """How to search. `budget` is the number of designs priced at most."""

    optimizer: Literal["nsga2", "random", "enumerate"] = "nsga2"
    population: int = Field(default=128, ge=4, le=100_000)
    budget: int = Field(default=10_000, ge=1, le=100_000_000)
    seed: int = Field(default=1, ge=0, lt=2**63)


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class StudyFile(DesignSpace):
    """A whole study: the design space, what is wanted of it, and how to search it.

    `aggregate` joins the models' values of one objective: weighted geometric mean, weighted
    arithmetic mean or the worst. `mapping` is what each operator's mapping minimises.
    """

    name: str = "study"
    objectives: Names = Field(default=("latency", "energy", "area"), min_length=1)
    constraints: Names = ()
    aggregate: Literal["geomean", "weighted", "worst"] = "geomean"
    passes: str = "eliminate,canonicalize,fuse,classify,tile"
    fusion: Literal["off", "groups", "optimal"] = "groups"
    mapping: Literal["latency", "energy", "edp"] = "latency"
    search: SearchOptions = SearchOptions()

    @model_validator(mode="after")
    def _distinct(self) -> StudyFile:
        if len(set(self.objectives)) != len(self.objectives):
            raise StudyError("an objective is listed twice", where="objectives",
                             value=list(self.objectives))  # fmt: skip
        return self


def load_study(path: str | Path) -> StudyFile:
    """Read a study file. A CSV named in it is looked up beside the file first.

    Raises `FileFormatError` with file and dotted path for what the schema does not allow.
    """
    path = Path(path)
    data = read_yaml(path)
    if isinstance(data, dict):
        models = data.get("models")
        for model in models if isinstance(models, list) else ():
            quality = model.get("quality") if isinstance(model, dict) else None
            if isinstance(quality, dict) and isinstance(quality.get("file"), str):
                beside = path.parent / quality["file"]
                quality["file"] = str(beside if beside.is_file() else quality["file"])
    return parse_study(data, str(path))


def parse_study(data: Any, where: str = "<study>") -> StudyFile:
    """A study from plain data, with one clear error for what is wrong."""
    if not isinstance(data, dict):
        raise FileFormatError("a study is a mapping of keys", where=where, value=data)
    try:
        return StudyFile.model_validate({"name": Path(where).stem, **data})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FileFormatError(
            first["msg"], where=f"{where} at {place}", value=first["input"],
            allowed=f"keys of the study schema ({error.error_count()} problem(s) in all)",
        ) from error  # fmt: skip


def study_schema() -> dict[str, Any]:
    """JSON Schema of a study file."""
    schema = StudyFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
