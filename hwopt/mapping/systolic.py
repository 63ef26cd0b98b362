"""Systolic arrays: output, weight and input stationary matrix products, fold by fold.

    input SRAM ──> row[0..R) x column[0..C) of PEs, each with one stationary element
    weight SRAM ─┘         └──> output SRAM

A product `output[m, n] += input[m, k] * weight[k, n]` is cut into folds of one array each. Two of
its axes lie in space, the third is streamed through, one index a cycle:

    dataflow            rows   columns   streamed   stationary in the PEs
    os (output)          m        n         k       partial sums
    ws (weight)          k        n         m       weights
    is (input)           k        m         n       inputs

In ordinary terms that is a `Mapping` (`mapping`) on an `Accelerator` (`accelerator`), counted by
`traffic.analyse`. What a systolic array adds is the wavefront. PE (i, j) works i + j cycles after
PE (0, 0), because operands pass from neighbour to neighbour: R - 1 + C - 1 cycles of skew in every
fold, the whole array wide even where the fold is a narrow edge. Stationary operands first shift in
from the top, one row a cycle: R cycles more (partial sums start at zero and leave their PE with
their last product: none). Folds follow one another without overlap:

    cycles = steps + folds * (skew + load)

The tests walk such an array register by register. After A. Samajdar et al., "A systematic
methodology for characterizing scalability of DNN accelerators using SCALE-Sim", ISPASS 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from hwopt.errors import MappingError
from hwopt.hardware.accelerator import (
    ROLES,
    Accelerator,
    Compute,
    Fanout,
    FanoutDim,
    Memory,
    OperandRole,
)
from hwopt.hardware.conventions import SCALESIM, Conventions
from hwopt.ir.access import Access, Affine, Axis
from hwopt.mapping.analysis import Analysis, Price, price
from hwopt.mapping.mapping import Keep, Loop, Mapping, Node, Spread
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.traffic import analyse

Dataflow: TypeAlias = Literal["os", "ws", "is"]
DATAFLOWS: tuple[Dataflow, ...] = ("os", "ws", "is")

STATIONARY: dict[Dataflow, OperandRole] = {"os": "output", "ws": "weight", "is": "input"}
_SHARED: dict[Literal["m", "n", "k"], frozenset[OperandRole]] = {
    "m": frozenset(("input", "output")),
    "n": frozenset(("weight", "output")),
    "k": frozenset(("input", "weight")),
}
_PLACES: dict[Dataflow, tuple[Literal["m", "n", "k"], ...]] = {
    "os": ("m", "n", "k"),
    "ws": ("k", "n", "m"),
    "is": ("k", "m", "n"),
}
"""Which axis lies along rows, which along columns, which is streamed."""


def matrix_product(m: int, n: int, k: int, *, bits: int = 8) -> Problem:
    """`output[m, n] += input[m, k] * weight[k, n]`; a convolution after im2col has m output
    positions, n filters and k = channels x kernel height x kernel width.
    """
    sizes = {"m": m, "n": n, "k": k}

    def operand(role: OperandRole, axes: str) -> Operand:
        index = tuple(Affine.axis(axis) for axis in axes)
        return Operand(role, Access(index), tuple(sizes[axis] for axis in axes), bits)

    operands = (operand("input", "mk"), operand("weight", "kn"), operand("output", "mn"))
    return Problem(tuple(Axis(name, size) for name, size in sizes.items()), operands)


@dataclass(frozen=True)
class SystolicRun:
    """One product on one array: `folds`, `cycles` (see the file), counts and price.

    `price` is that of the ordinary model with the fill and drain of all folds as `fill_cycles`.
    """

    folds: int
    cycles: int
    analysis: Analysis
    price: Price

    def mapping_efficiency(self, lanes: int) -> float:
        """Share of the PEs that a fold uses, fill and drain apart."""
        return self.analysis.points / (self.analysis.steps * lanes)


@dataclass(frozen=True, slots=True)
class SystolicArray:
    """`rows` x `columns` PEs under one dataflow."""

    rows: int
    columns: int
    dataflow: Dataflow

    @property
    def lanes(self) -> int:
        """Number of PEs."""
        return self.rows * self.columns

    @property
    def skew_cycles(self) -> int:
        """Cycles by which the last PE trails the first."""
        return self.rows - 1 + self.columns - 1

    @property
    def load_cycles(self) -> int:
        """Cycles in which the stationary operand of a fold shifts in."""
        return 0 if self.dataflow == "os" else self.rows

    def accelerator(self, clock_hz: float = 1e9) -> Accelerator:
        """The array under three SRAMs, one for each operand, unlimited: nothing stalls it."""
        srams = (Memory(name=f"{role}_sram", keeps=(role,)) for role in ROLES)
        sides = (FanoutDim(name="row", size=self.rows), FanoutDim(name="column", size=self.columns))
        held = STATIONARY[self.dataflow]
        return Accelerator(
            name=f"systolic-{self.dataflow}-{self.rows}x{self.columns}",
            clock_hz=clock_hz,
            levels=(
                Memory(name="DRAM", kind="dram"),
                *srams,
                Fanout(name="array", dims=sides),
                Memory(name="PE", kind="register", keeps=(held,)),
            ),
            compute=Compute(bits=8),
        )

    def mapping(self, problem: Problem) -> Mapping:
        """Folds in time, two axes in space, the stationary operand in the PEs, the rest streamed.

        Axes of size 1 may be absent. Raises `MappingError` where the problem is no matrix product
        with one axis of each kind.
        """
        axes = _axes(problem)
        along_rows, along_columns, streamed = (axes.get(kind) for kind in _PLACES[self.dataflow])
        nodes: list[Node] = [Keep("DRAM", ROLES)]
        nodes += [Keep(f"{role}_sram", (role,)) for role in ROLES]
        # Folds go down the rows first, so that a column's operand stays for all of them.
        for axis, size in ((along_columns, self.columns), (along_rows, self.rows)):
            if axis is not None:
                nodes.append(Loop(axis, size))
        for axis, side in ((along_rows, "row"), (along_columns, "column")):
            if axis is not None:
                nodes.append(Spread("array", side, axis, 1))
        nodes.append(Keep("PE", (STATIONARY[self.dataflow],)))
        if streamed is not None:
            nodes.append(Loop(streamed, 1))
        return Mapping(tuple(nodes))

    def folds(self, problem: Problem) -> int:
        """Arrays full of work, the last along each side perhaps an edge."""
        axes, count = _axes(problem), 1
        for kind, size in zip(_PLACES[self.dataflow], (self.rows, self.columns), strict=False):
            if kind in axes:
                count *= -(-problem.sizes[axes[kind]] // size)
        return count

    def run(
        self, problem: Problem, conventions: Conventions = SCALESIM, *, clock_hz: float = 1e9
    ) -> SystolicRun:
        """Cycles, traffic and price of a matrix product."""
        machine, folds = self.accelerator(clock_hz), self.folds(problem)
        analysis = analyse(problem, self.mapping(problem), machine, conventions)
        fill = folds * (self.skew_cycles + self.load_cycles)
        filled = machine.model_copy(update={"fill_cycles": fill})
        paid = price(analysis.row(machine), filled, analysis.points)
        return SystolicRun(folds, analysis.steps + fill, analysis, paid)


def _axes(problem: Problem) -> dict[Literal["m", "n", "k"], str]:
    """Name of the axis of each kind: by the operands that it indexes."""
    found: dict[Literal["m", "n", "k"], str] = {}
    for axis in problem.axes:
        roles = frozenset(o.role for o in problem.operands if axis.name in o.access.axes)
        kind = next((kind for kind, shared in _SHARED.items() if shared == roles), None)
        if kind is None or kind in found:
            raise MappingError(
                "not a matrix product with one axis of each kind", where=axis.name,
                value=", ".join(f"{a.name}: {a.size}" for a in problem.axes),
                allowed="one axis shared by input and output, one by weight and output, one by "
                "input and weight",
                fix="lower it to a matrix product first (im2col, one product for each group)",
            )  # fmt: skip
        found[kind] = axis.name
    return found
