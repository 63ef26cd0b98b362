"""Tile: which tile sizes the mapper may choose for each matrix operator."""

from __future__ import annotations

from dataclasses import replace

from hwopt.errors import PassError
from hwopt.hardware.accelerator import Accelerator
from hwopt.ir.program import Constraint, Program
from hwopt.passes.manager import Pass, compiler_pass

FACTORS = ("any", "perfect")


@compiler_pass("tile")
class Tile(Pass):
    """Narrow the mapspace of every operator on the matrix engine.

    `factors`: "any" integer tiles (edge tiles are smaller), or only "perfect" divisors. Tile sizes
    themselves are chosen by the mapper for each machine: they depend on buffer sizes, and a
    program serves a whole search.

    Before: an operator without a constraint. After: its `Constraint.factors` is set.
    """

    factors: str = "any"
    ensures = frozenset({"tiled"})

    def run(self, program: Program, target: Accelerator | None) -> Program:  # noqa: ARG002
        """The same graph with constraints."""
        if self.factors not in FACTORS:
            raise PassError(
                "unknown factors", where="tile", value=self.factors, allowed=", ".join(FACTORS)
            )
        constraints = dict(program.constraints)
        for op in program.graph.ops:
            if op.macs:
                known = constraints.get(op.name, Constraint())
                constraints[op.name] = replace(known, factors=self.factors)
        return replace(program, constraints=constraints)
