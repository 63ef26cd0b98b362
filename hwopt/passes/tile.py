"""Tile: which tile sizes the mapper may choose for each matrix operator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from hwopt.errors import PassError
from hwopt.ir.program import Constraint, Program
from hwopt.passes.manager import Pass, passes

if TYPE_CHECKING:
    from hwopt.hardware.accelerator import Accelerator


@passes.register("tile")
@dataclass(frozen=True)
class Tile(Pass):
    """Narrow the tile sizes of every operator on the matrix engine.

    `factors`: "any" integer tiles (edge tiles are smaller), or only "perfect" divisors.
    `largest`: limits "MEMORY.axis:N", the largest tile of an axis that may be kept in a memory
    (axes as the mapper prints them). Tiles themselves are chosen by the mapper for each machine:
    they depend on buffer sizes, and a program serves a whole search.

    Before: an operator without a constraint.
    After:  its `Constraint.factors` is set, and `Constraint.tile` where there are limits.
    """

    ensures: ClassVar[frozenset[str]] = frozenset({"tiled"})
    factors: Literal["any", "perfect"] = "any"
    largest: tuple[str, ...] = ()

    @override
    def run(self, program: Program, target: Accelerator | None) -> Program:
        """The same graph with constraints; of the target only the names of memories are read."""
        limits = self._limits(target)
        constraints = dict(program.constraints)
        for op in program.graph.ops:
            if op.macs:
                known = constraints.get(op.name, Constraint())
                constraints[op.name] = replace(known, factors=self.factors, tile=limits)
        # Every such operator gets the same rule, so that classes stay what they are.
        return replace(program, constraints=constraints)

    def _limits(
        self, target: Accelerator | None
    ) -> tuple[tuple[str, tuple[tuple[str, int], ...]], ...]:
        found: dict[str, dict[str, int]] = {}
        for text in self.largest:
            place, _, size = text.partition(":")
            memory, _, axis = place.rpartition(".")
            if not (memory and axis and size.isdigit() and int(size) > 0):
                raise PassError(
                    "not a limit", where="tile{largest}", value=text, allowed="MEMORY.axis:N",
                    fix='for example tile{largest=["GLB.k:64"]}',
                )  # fmt: skip
            if target is not None and memory not in [m.name for m in target.memories]:
                raise PassError(
                    "no such memory", where="tile{largest}", value=memory,
                    allowed=", ".join(m.name for m in target.memories),
                )  # fmt: skip
            found.setdefault(memory, {})[axis] = int(size)
        return tuple((memory, tuple(axes.items())) for memory, axes in found.items())
