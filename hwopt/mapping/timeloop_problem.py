"""Timeloop's description of an operator (its `problem:` section), read and written.

    problem:
      shape:
        name: conv
        dimensions: [C, K, R, S, P, Q]
        coefficients: [{name: Wstride, default: 1}]
        data_spaces:
          - {name: Weights, projection: [[[C]], [[K]], [[R]], [[S]]]}
          - {name: Inputs, projection: [[[C]], [[P, Wstride], [R]], [[Q], [S]]]}
          - {name: Outputs, projection: [[[K]], [[P]], [[Q]]], read_write: true}
      instance: {C: 64, K: 64, R: 3, S: 3, P: 56, Q: 56, Wstride: 2}

Each dimension of a data space is a list of terms, a dimension of the problem with or without a
coefficient. `shape: cnn-layer` stands for Timeloop's built-in convolution. Words in keys are joined
by _ or, as we write them (version 0.3), by -. The data space that is `read_write` is the output;
those named Weights and Inputs take those roles, others take them in order. Timeloop has no padding:
tensors are as large as the windows reach.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from typing import Any

from hwopt.errors import FileFormatError, MappingError
from hwopt.hardware.accelerator import ROLES, OperandRole
from hwopt.ir.access import Access, Affine, Axis
from hwopt.mapping.problem import Operand, Problem

CNN_LAYER: dict[str, Any] = {
    "name": "cnn-layer",
    "dimensions": ["C", "K", "R", "S", "N", "P", "Q"],
    "coefficients": [
        {"name": name, "default": 1} for name in ("Wstride", "Hstride", "Wdilation", "Hdilation")
    ],
    "data_spaces": [
        {"name": "Weights", "projection": [[["C"]], [["K"]], [["R"]], [["S"]]]},
        {
            "name": "Inputs",
            "projection": [
                [["N"]], [["C"]], [["R", "Wdilation"], ["P", "Wstride"]],
                [["S", "Hdilation"], ["Q", "Hstride"]],
            ],
        },
        {"name": "Outputs", "projection": [[["N"]], [["K"]], [["Q"]], [["P"]]], "read_write": True},
    ],
}  # fmt: skip
"""Timeloop's built-in convolution."""

DATA_SPACES: dict[OperandRole, str] = {
    "input": "Inputs", "weight": "Weights", "output": "Outputs",
}  # fmt: skip
"""What operands are called in files that we write."""


def read_problem(data: Any, where: str, bits: MappingType[OperandRole, int]) -> Problem:
    """The nest of a `problem:` section; `bits` gives the width of elements (8 where absent).

    Raises `FileFormatError` naming the key that is wrong.
    """
    section = _mapping(data, where)
    shape, instance = section.get("shape"), section.get("instance", section)
    if shape in ("cnn-layer", "cnn_layer"):
        shape = CNN_LAYER
    shape, instance = _mapping(shape, f"{where}.shape"), _mapping(instance, f"{where}.instance")
    names = [str(name) for name in _list(shape, "dimensions", f"{where}.shape")]
    sizes = {name: _size(instance, name, f"{where}.instance") for name in names}
    coefficients = {
        str(_mapping(item, f"{where}.shape.coefficients").get("name")): item.get("default", 1)
        for item in shape.get("coefficients", ())
    }
    spaces = _list(shape, "data_spaces", f"{where}.shape", "data-spaces")
    roles = roles_of(spaces, f"{where}.shape.data_spaces")
    operands = []
    for space, role in zip(spaces, roles, strict=True):
        at = f"{where}.shape.data_spaces.{space.get('name')}"
        index = tuple(
            _affine(dim, sizes, {**coefficients, **instance}, at)
            for dim in _list(space, "projection", at)
        )
        shape_of = tuple(part.bounds(sizes)[1] + 1 for part in index)
        operands.append(Operand(role, Access(index), shape_of, bits.get(role, 8)))
    operands.sort(key=lambda operand: ROLES.index(operand.role))
    return Problem(tuple(Axis(name, size) for name, size in sizes.items()), tuple(operands))


def roles_of(spaces: list[Any], where: str) -> list[OperandRole]:
    """The role of each data space, in order."""
    writes = [
        bool(_mapping(s, where).get("read_write", s.get("read-write", False))) for s in spaces
    ]
    if len(spaces) != 3 or sum(writes) != 1:
        raise FileFormatError("not a product of two tensors", where=where, value=len(spaces),
                              allowed="two data spaces that are read, one read_write")  # fmt: skip
    names = [str(space.get("name", "")).lower() for space in spaces]
    reads = [number for number in range(3) if not writes[number]]
    weights = [number for number in reads if names[number].startswith(("weight", "filter"))]
    inputs = [number for number in reads if names[number].startswith(("input", "ifmap"))]
    first = inputs[0] if inputs else next((n for n in reads if n not in weights), reads[0])
    return [
        "output" if writes[number] else "input" if number == first else "weight"
        for number in range(3)
    ]


def data_space_roles(data: Any, where: str) -> dict[str, OperandRole]:
    """Role by name of data space, for the keep and bypass lists of a mapping."""
    shape = data.get("shape")
    spaces = (CNN_LAYER if isinstance(shape, str) else shape).get("data_spaces") or shape.get(
        "data-spaces"
    )
    roles = roles_of(spaces, where)
    return {str(space["name"]): role for space, role in zip(spaces, roles, strict=True)}


def write_problem(problem: Problem) -> dict[str, Any]:
    """The `problem:` section of a nest; offsets (padding) are left out, for Timeloop has none.

    Raises `MappingError` for a coefficient below zero.
    """
    values: dict[str, int] = {}

    def terms(affine: Affine) -> list[list[str]]:
        result = []
        for axis, coefficient in affine.terms:
            if coefficient < 0:
                raise MappingError("Timeloop's projections go forward", value=str(affine))
            if coefficient == 1:
                result.append([axis])
                continue
            name = f"stride{coefficient}"
            values[name] = coefficient
            result.append([axis, name])
        return result

    spaces: list[dict[str, Any]] = []
    for operand in problem.operands:
        projection = [terms(affine) for affine in operand.access.index if affine.terms]
        space: dict[str, Any] = {"name": DATA_SPACES[operand.role], "projection": projection}
        if operand.role == "output":
            space["read-write"] = True
        spaces.append(space)
    return {
        "version": 0.3,
        "shape": {
            "name": "nest",
            "dimensions": [axis.name for axis in problem.axes],
            "coefficients": [{"name": name, "default": value} for name, value in values.items()],
            "data-spaces": spaces,
        },
        "instance": {**problem.sizes, **values},
    }


def _affine(dim: Any, sizes: dict[str, int], values: dict[str, Any], where: str) -> Affine:
    terms: list[tuple[str, int]] = []
    for term in dim if isinstance(dim, list) else [dim]:
        parts = term if isinstance(term, list) else [term]
        axis = str(parts[0]) if parts else ""
        if axis not in sizes or len(parts) > 2:
            raise FileFormatError(
                "not a term of a projection", where=f"{where}.projection", value=term,
                allowed="[DIMENSION] or [DIMENSION, COEFFICIENT]",
            )  # fmt: skip
        factor = values.get(str(parts[1]), parts[1]) if len(parts) == 2 else 1
        if not isinstance(factor, int) or isinstance(factor, bool):
            raise FileFormatError("a coefficient without a value", where=f"{where}.projection",
                                  value=parts[1])  # fmt: skip
        terms.append((axis, factor))
    return Affine.of(terms)


def _mapping(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise FileFormatError("not a mapping of keys", where=where, value=type(data).__name__)
    return data


def _list(data: dict[str, Any], key: str, where: str, other: str = "") -> list[Any]:
    value = data.get(key, data.get(other))
    if not isinstance(value, list) or not value:
        raise FileFormatError("not a list", where=f"{where}.{key}", value=value)
    return value


def _size(instance: dict[str, Any], name: str, where: str) -> int:
    value = instance.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FileFormatError("a dimension needs a size of at least 1", where=f"{where}.{name}",
                              value=value)  # fmt: skip
    return value
