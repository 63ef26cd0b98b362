"""Dataflow: which axes of an operator are laid out in space, after what stays in place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from typing_extensions import override

from hwopt.errors import PassError
from hwopt.ir.op import Nest
from hwopt.ir.program import Constraint, Program
from hwopt.passes.manager import Pass, passes

if TYPE_CHECKING:
    from hwopt.hardware.accelerator import Accelerator

Stationary: TypeAlias = Literal["weight", "output", "input", "row", "searched"]

Sides: TypeAlias = tuple[frozenset[str], frozenset[str]]
"""Axes for the first and the second dimension of a fan-out."""


@passes.register("dataflow")
@dataclass(frozen=True)
class Dataflow(Pass):
    """Say which axes may be spread over each dimension of each fan-out.

    `stationary` names what stays in a processing element while the rest streams by (Chen, Emer,
    Sze, Eyeriss, ISCA 2016, section IV). With o(utput) channels in weight and output, c(hannels
    and window) in input and weight, m (batch, positions) in input and output:

    * weight: c over the first dimension, o over the second (a systolic array's rows, columns);
    * output: m over the first, o over the second;
    * input: c over the first, m over the second;
    * row: rows of the window, then c and o, over the first; m and o over the second;
    * searched: whatever the mapper finds best.

    A fan-out of one dimension takes both sides. Axes that all three operands share (groups, heads)
    may go to either. Where a preset has no axis for a dimension (or none that it accepts), the
    choice stays open.

    Before: an operator without a constraint. After: its `Constraint.spatial` is set.
    """

    ensures: ClassVar[frozenset[str]] = frozenset({"dataflow"})
    stationary: Stationary = "weight"

    @override
    def run(self, program: Program, target: Accelerator | None) -> Program:
        """The same graph with constraints; only the names and axes of fan-outs are read."""
        if target is None:
            raise PassError(
                "dataflow needs a target, for the names of its fan-outs", where="dataflow"
            )
        constraints = dict(program.constraints)
        for op in program.graph.ops:
            if op.macs and isinstance(op.body, Nest):
                known = constraints.get(op.name, Constraint())
                spatial = self._spatial(op.body, target)
                constraints[op.name] = replace(known, spatial=spatial)
        # Classes tell operators of different constraints apart, so they are found anew.
        properties = program.properties - {"classified"}
        return replace(program, constraints=constraints, class_of={}, properties=properties)

    def _spatial(self, nest: Nest, target: Accelerator) -> tuple[tuple[str, tuple[str, ...]], ...]:
        if self.stationary == "searched":
            return ()
        sides = spatial_sides(nest, self.stationary)
        found = []
        for fanout in target.fanouts:
            for number, dim in enumerate(fanout.dims):
                side = sides[0] | sides[1] if len(fanout.dims) == 1 else sides[number % 2]
                axes = [
                    axis.name for axis in nest.axes
                    if axis.size > 1 and axis.name in side
                    and (not dim.axes or axis.name in dim.axes)
                ]  # fmt: skip
                if axes:
                    found.append((f"{fanout.name}.{dim.name}", tuple(axes)))
        return tuple(found)


def spatial_sides(nest: Nest, stationary: Stationary) -> Sides:
    """Axes of a contraction for the first and second dimension of a fan-out, by preset."""
    inputs, weights = (access.axes for access in nest.reads)
    outputs = nest.write.axes
    shared = inputs & weights & outputs
    channels = (inputs & weights) - outputs
    filters = (weights & outputs) - inputs
    positions = (inputs & outputs) - weights
    first, second = {
        "weight": (channels, filters),
        "output": (positions, filters),
        "input": (channels, positions),
        "row": (channels | filters, positions | filters),
        "searched": (frozenset[str](), frozenset[str]()),
    }[stationary]
    if stationary == "row" and (windows := _windows(nest, channels, positions)):
        # The window's other axes (filter columns) are walked inside a processing element.
        first = (first - frozenset[str]().union(*windows)) | windows[0]
    return first | shared, second | shared


def _windows(
    nest: Nest, channels: frozenset[str], positions: frozenset[str]
) -> list[frozenset[str]]:
    """Reduction axes of each sliding window of the input (`p + r`), in order of dimensions."""
    return [
        channels & set(index.axes)
        for index in nest.reads[0].index
        if channels & set(index.axes) and positions & set(index.axes)
    ]
