"""Mappings as one line of text, the way Timeloop prints them for a whole hierarchy.

    L3[WIO] C8 K32 S3 - L2[WI] N1 K4X - L1[O] K8 R3 C32 Q13 C2X - L0[W] P13

Levels stand outermost first, loops within a level too. `L3[WIO]` names a memory, counted from the
innermost one (`L0`) or by its own name (`DRAM[WIO]`), and the operands that it keeps: weights,
inputs, outputs. `C8` is a temporal loop, `K4X` a spatial one over the first dimension of the
fan-out below the level, `K4Y` over the second (of several fan-outs, dimensions count on: X, Y, Z);
`K5,3` has a remainder (see `timeloop`). Loops that run once (`N1`) may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from hwopt.errors import FileFormatError, MappingError
from hwopt.hardware.accelerator import ROLES, Accelerator, OperandRole
from hwopt.mapping.timeloop import Bound, Levels, TimeloopLevel, spatial_dims

_LEVEL = re.compile(r"([A-Za-z_]\w*)\[([WIOwio]*)\]((?:\s+[A-Za-z_]+[0-9]+(?:,[0-9]+)?[XYZ]?)*)\s*")
_LOOP = re.compile(r"([A-Za-z_]+)([0-9]+)(?:,([0-9]+))?([XYZ]?)")
_LETTER: dict[str, OperandRole] = {"W": "weight", "I": "input", "O": "output"}
_SPATIAL = "XYZ"


def looks_like_text(text: str) -> bool:
    """Whether a string is meant to be this form."""
    return re.match(r"\s*\w+\[[WIOwio]*\]", text) is not None


def parse_text(text: str) -> Levels:
    """The levels as written: memories by their labels, spatial loops by X, Y or Z.

    Raises `FileFormatError` with the part that is not a level.
    """
    levels = []
    for part in text.strip().split(" - "):
        match = _LEVEL.fullmatch(part.strip() + " ")
        if match is None:
            raise FileFormatError(
                "not a level of a mapping", where="mapping", value=part.strip(),
                allowed="LEVEL[WIO] then loops such as C8, K5,3 or K4X; levels joined by ' - '",
            )  # fmt: skip
        loops = [_bound(*loop.groups()) for loop in _LOOP.finditer(match[3])]
        letters = {_LETTER[letter] for letter in match[2].upper()}
        levels.append(
            TimeloopLevel(
                match[1], tuple(role for role in ROLES if role in letters),
                tuple(loop for loop in loops if not loop.dim),
                tuple(loop for loop in loops if loop.dim),
            )
        )  # fmt: skip
    return tuple(levels)


def _bound(axis: str, bound: str, remainder: str | None, dim: str) -> Bound:
    return Bound(axis, int(bound), int(remainder or bound), "spatial" if dim else "", dim)


def on_machine(levels: Levels, accelerator: Accelerator, axes: Sequence[str]) -> Levels:
    """Levels as written, with the names of a machine's parts and of a problem's axes.

    Memories that the text leaves out keep nothing. Raises `MappingError` for labels, directions and
    axes that do not exist, or levels out of order.
    """
    names = [memory.name for memory in accelerator.memories]
    labels = {f"L{len(names) - 1 - number}": name for number, name in enumerate(names)}
    given: dict[str, TimeloopLevel] = {}
    for level in levels:
        name = level.memory if level.memory in names else labels.get(level.memory)
        if name is None:
            raise MappingError("no such level", where=accelerator.name, value=level.memory,
                               allowed=", ".join((*labels, *names)))  # fmt: skip
        if given and names.index(name) <= names.index(list(given)[-1]):
            raise MappingError("levels stand outermost first, each once", where=accelerator.name,
                               value=level.memory)  # fmt: skip
        places = spatial_dims(accelerator, name)
        given[name] = TimeloopLevel(
            name, level.keeps,
            tuple(replace(x, axis=axis_name(x.axis, axes)) for x in _running(level.temporal)),
            tuple(_placed(x, places, axes, name) for x in _running(level.spatial)),
        )  # fmt: skip
    return tuple(given.get(name, TimeloopLevel(name, ())) for name in names)


def _running(loops: tuple[Bound, ...]) -> list[Bound]:
    """The loops that run more than once."""
    return [loop for loop in loops if loop.bound > 1]


def _placed(loop: Bound, places: list[tuple[str, str]], axes: Sequence[str], memory: str) -> Bound:
    number = _SPATIAL.index(loop.dim)
    if number >= len(places):
        raise MappingError(
            "there is no such direction of the fan-outs below this memory", where=memory,
            value=f"{loop.axis}{loop.bound}{loop.dim}",
            allowed=", ".join(".".join(place) for place in places) or "temporal loops only",
        )  # fmt: skip
    fanout, dim = places[number]
    return replace(loop, axis=axis_name(loop.axis, axes), fanout=fanout, dim=dim)


def axis_name(written: str, axes: Sequence[str]) -> str:
    """The problem's axis of this name, in whatever case it is written."""
    if written in axes:
        return written
    found = [axis for axis in axes if axis.lower() == written.lower()]
    if len(found) != 1:
        raise MappingError("no such axis", value=written, allowed=", ".join(axes))
    return found[0]


def print_text(levels: Levels, accelerator: Accelerator) -> str:
    """The line that `parse_text` and `on_machine` read back; axes are letters (`rename`)."""
    parts = []
    for number, level in enumerate(levels):
        places = spatial_dims(accelerator, level.memory)
        if len(places) > len(_SPATIAL):
            raise MappingError("the text form knows three directions", where=level.memory,
                               value=len(places))  # fmt: skip
        letters = "".join(letter for letter, role in _LETTER.items() if role in level.keeps)
        loops = [str(x).replace("=", "") for x in level.temporal]
        loops += [
            str(x).replace("=", "") + _SPATIAL[places.index((x.fanout, x.dim))]
            for x in level.spatial
        ]
        parts.append(" ".join((f"L{len(levels) - 1 - number}[{letters}]", *loops)))
    return " - ".join(parts)
