"""A mapping: where tiles live, in which order loops run, what is spread over which fan-out.

A mapping is a list of nodes from the outside in, and prints as a loop nest:

    keep input weight output in DRAM
    for k in tiles of 16
      keep input output in GLB
      for c in tiles of 3
        spread k in tiles of 1 over PE.x
          keep weight in spad
          for r in tiles of 1

Each `Loop` or `Spread` cuts the current extent of its axis into `ceil(extent / tile)` tiles; the
last one may be smaller (an edge tile). Below the last node every axis has extent 1. A `Keep` may
list some operands only, and a memory may have several `Keep` nodes at different depths (an uneven
mapping); an operand without a `Keep` in a memory bypasses it. Keeps of one operand follow the
machine's order; those of different operands may stand in any order: `keep weight in spad` above
`for p` and `keep input in GLB` leaves the weights in the scratchpads while input tiles come and go.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

from hwopt.errors import MappingError
from hwopt.hardware.accelerator import OperandRole


@dataclass(frozen=True, slots=True)
class Keep:
    """From here inwards, the current tile of these operands is kept in a memory."""

    memory: str
    roles: tuple[OperandRole, ...]

    def __str__(self) -> str:
        return f"keep {' '.join(self.roles)} in {self.memory}"


@dataclass(frozen=True, slots=True)
class Loop:
    """Walk an axis in time, in tiles of `tile`."""

    axis: str
    tile: int

    def __str__(self) -> str:
        return f"for {self.axis} in tiles of {self.tile}"


@dataclass(frozen=True, slots=True)
class Spread:
    """Lay an axis out in space over one dimension of a fan-out, `tile` to each copy."""

    fanout: str
    dim: str
    axis: str
    tile: int

    def __str__(self) -> str:
        return f"spread {self.axis} in tiles of {self.tile} over {self.fanout}.{self.dim}"


Node: TypeAlias = Keep | Loop | Spread


@dataclass(frozen=True, slots=True)
class Mapping:
    """The nodes, outermost first. `mapping.verify` checks them against a problem and a machine."""

    nodes: tuple[Node, ...]

    def walked(self, sizes: dict[str, int]) -> Mapping:
        """The same without the loops and spreads that take a single tile."""
        extent, nodes = dict(sizes), list[Node]()
        for node in self.nodes:
            if isinstance(node, Keep) or node.tile < extent[node.axis]:
                nodes.append(node)
            if not isinstance(node, Keep):
                extent[node.axis] = min(extent[node.axis], node.tile)
        return Mapping(tuple(nodes))

    def __str__(self) -> str:
        lines, depth = [], 0
        for node in self.nodes:
            lines.append("  " * depth + str(node))
            depth += not isinstance(node, Keep)
        return "\n".join(lines)


_PATTERNS = (
    (re.compile(r"keep ((?:input|weight|output)(?: (?:input|weight|output))*) in (\S+)"), "keep"),
    (re.compile(r"for (\w+) in tiles of ([0-9]+)"), "loop"),
    (re.compile(r"spread (\w+) in tiles of ([0-9]+) over (\S+)\.([^.\s]+)"), "spread"),
)


def parse_mapping(text: str) -> Mapping:
    """Read what `str(mapping)` prints; indentation and blank lines do not matter.

    Raises `MappingError` with the line that is not a node.
    """
    nodes: list[Node] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        for pattern, kind in _PATTERNS:
            if match := pattern.fullmatch(line.strip()):
                nodes.append(_NODES[kind](match))
                break
        else:
            raise MappingError(
                "not a node of a mapping", where=f"line {number}", value=line.strip(),
                allowed="'keep ROLES in MEMORY', 'for AXIS in tiles of N', "
                "'spread AXIS in tiles of N over FANOUT.DIM'",
            )  # fmt: skip
    return Mapping(tuple(nodes))


_NODES: dict[str, Callable[[re.Match[str]], Node]] = {
    "keep": lambda m: Keep(m[2], cast("tuple[OperandRole, ...]", tuple(m[1].split()))),
    "loop": lambda m: Loop(m[1], int(m[2])),
    "spread": lambda m: Spread(m[3], m[4], m[1], int(m[2])),
}
