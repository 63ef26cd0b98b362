"""A program: a graph plus how it may be computed.

Passes rewrite programs. Groups say what is fused, constraints narrow the mapspace of an operator,
classes say which operators are identical and need pricing only once. A program never holds a
buffer size, a bandwidth or a price, so that one program serves a whole search.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hwopt.ir.graph import Graph
from hwopt.ir.op import Op


@dataclass(frozen=True, slots=True)
class Group:
    """Operators that run as one: tensors between them need not leave the chip.

    `ops` are names in graph order; `anchor` names the operator that is mapped (a contraction where
    there is one), the others follow tile by tile. `kind`: "epilogue" (pointwise work applied to
    the anchor's output tiles), "pointwise" (a chain without a contraction) or "attention"
    (scores, softmax and values computed per block of queries).
    """

    ops: tuple[str, ...]
    anchor: str
    kind: str = "epilogue"


@dataclass(frozen=True, slots=True)
class Constraint:
    """Narrows an operator's mapspace. Empty fields leave the choice to the mapper.

    `spatial`: per fan-out dimension name, the axes that may be spread over it. `tile`: per memory
    name, the largest tile of each axis that may be kept there. `factors`: "any" integer tiles or
    "perfect" divisors only. `least_use`: per fan-out dimension ("PE.x"), the product of the counts
    of its spreads is at least this.
    """

    spatial: tuple[tuple[str, tuple[str, ...]], ...] = ()
    tile: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = ()
    factors: str = "any"
    least_use: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Program:
    """`groups` partition the operators that are not views once `fuse` has run (else empty).

    `constraints` by operator name. `class_of` gives the class of each operator: the name of the
    first operator that is identical to it (empty until `classify` has run). `properties`: what the
    passes so far guarantee ("canonical", "fused", ...).
    """

    graph: Graph
    groups: tuple[Group, ...] = ()
    constraints: dict[str, Constraint] = field(default_factory=dict)
    class_of: dict[str, str] = field(default_factory=dict)
    properties: frozenset[str] = frozenset()

    @property
    def classes(self) -> dict[str, tuple[Op, ...]]:
        """Operators by class; each operator is its own class before `classify`."""
        members: dict[str, list[Op]] = {}
        for op in self.graph.ops:
            members.setdefault(self.class_of.get(op.name, op.name), []).append(op)
        return {name: tuple(ops) for name, ops in members.items()}

    def with_graph(self, graph: Graph) -> Program:
        """The program of a rewritten graph: facts about operators that are gone are dropped."""
        names = {op.name for op in graph.ops}
        return replace(
            self,
            graph=graph,
            groups=tuple(g for g in self.groups if set(g.ops) <= names),
            constraints={n: c for n, c in self.constraints.items() if n in names},
            class_of={n: c for n, c in self.class_of.items() if n in names and c in names},
        )
