"""The operator graph: tensors, operators in topological order, outputs. Frozen and hashable.

Totals (`macs`, `flops`, `parameters`, ...) are exact Python integers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from hwopt.ir.access import touched_elements
from hwopt.ir.op import Nest, Op, Opaque
from hwopt.ir.tensor import DTYPE_BITS, Tensor

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Graph:
    """What is computed. `ops` are in an order in which every tensor is written before it is read.

    `outputs` are the tensors that live on after the graph (results, new cache, gradients, updated
    parameters); an output may also be a source. Sources are tensors whose role says so, or that no
    operator writes. `verify.verify` checks all rules.
    """

    name: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    outputs: tuple[str, ...]

    @cached_property
    def tensor(self) -> dict[str, Tensor]:
        """Tensor by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def op(self) -> dict[str, Op]:
        """Operator by name."""
        return {op.name: op for op in self.ops}

    @cached_property
    def producer(self) -> dict[str, Op]:
        """The operator that writes each tensor (sources are absent)."""
        return {name: op for op in self.ops for name in op.writes}

    @cached_property
    def consumers(self) -> dict[str, tuple[Op, ...]]:
        """The operators that read each tensor, in graph order, each once."""
        readers: dict[str, dict[str, Op]] = {tensor.name: {} for tensor in self.tensors}
        for op in self.ops:
            for name in op.reads:
                readers[name][op.name] = op
        return {name: tuple(ops.values()) for name, ops in readers.items()}

    @cached_property
    def sources(self) -> tuple[Tensor, ...]:
        """Tensors that are given: no operator writes them."""
        return tuple(t for t in self.tensors if t.name not in self.producer)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Sources with role "input" or "cache": what a caller passes at each call."""
        return tuple(t for t in self.sources if t.role in ("input", "cache"))

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Trained tensors."""
        return tuple(t for t in self.sources if t.role == "parameter")

    @property
    def parameter_count(self) -> int:
        """Number of trained scalars; equals `sum(p.numel() for p in model.parameters())`."""
        return sum(t.elements for t in self.parameters)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of forward and backward (not of recomputation)."""
        return sum(op.macs for op in self.ops if op.phase != "recompute")

    @property
    def flops(self) -> int:
        """2 x `macs`, as torch.utils.flop_counter.FlopCounterMode counts."""
        return 2 * self.macs

    @property
    def recompute_flops(self) -> int:
        """Matrix FLOPs done a second time in the backward pass, counted apart."""
        return sum(op.flops for op in self.ops if op.phase == "recompute")

    @property
    def moved_bytes(self) -> int:
        """Bytes read and written if every operator ran by itself from memory (views are free)."""
        return sum(self.op_bytes(op) for op in self.ops)

    def op_bytes(self, op: Op) -> int:
        """Compulsory bytes of one operator: each element it touches, once."""
        if op.is_view:
            return 0
        tensors = [self.tensor[name] for name in (*op.reads, *op.writes)]
        counts = _touched(op, tensors)
        # A tensor read twice is read once, unless its parts add up to less.
        by_name: dict[str, int] = {}
        for tensor, count in zip(tensors, counts, strict=True):
            by_name[tensor.name] = min(tensor.elements, by_name.get(tensor.name, 0) + count)
        return sum(
            count * DTYPE_BITS[self.tensor[name].dtype] // 8 for name, count in by_name.items()
        )

    @property
    def saved_for_backward(self) -> tuple[Tensor, ...]:
        """Forward activations that the backward pass reads, in the order of their production."""
        backward = {n for op in self.ops if op.phase in ("backward", "recompute") for n in op.reads}
        written = [n for op in self.ops if op.phase == "forward" for n in op.writes]
        return tuple(self.tensor[name] for name in written if name in backward)

    @cached_property
    def static(self) -> frozenset[str]:
        """Operators that depend on parameters, buffers and constants alone, in a graph that only
        infers: they run once when the model is loaded, not at each call, and cost nothing here.
        """
        if any(op.phase != "forward" for op in self.ops):
            return frozenset()
        moving = {t.name for t in self.sources if t.role in ("input", "cache", "activation")}
        fixed: list[str] = []
        for op in self.ops:
            if moving.isdisjoint(op.reads):
                fixed.append(op.name)
            else:
                moving.update(op.writes)
        return frozenset(fixed)

    @property
    def is_bound(self) -> bool:
        """Whether totals are only a lower bound because of opaque operators."""
        return any(isinstance(op.body, Opaque) for op in self.ops)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content (names, sizes, operators; not sources): the cache key."""
        from hwopt.ir.text import print_graph

        return hashlib.sha256(print_graph(self, sources=False).encode()).hexdigest()

    def networkx(self) -> nx.DiGraph:
        """Operators as nodes (attribute `op`); an edge per producer-consumer pair (`tensors`)."""
        import networkx as nx

        view = nx.DiGraph(name=self.name)
        for op in self.ops:
            view.add_node(op.name, op=op)
        for op in self.ops:
            for name in dict.fromkeys(op.reads):
                if (producer := self.producer.get(name)) is not None:
                    if not view.has_edge(producer.name, op.name):
                        view.add_edge(producer.name, op.name, tensors=[])
                    view.edges[producer.name, op.name]["tensors"].append(name)
        return view


def _touched(op: Op, tensors: list[Tensor]) -> list[int]:
    """Elements that an operator touches, per operand, reads before writes."""
    body = op.body
    if isinstance(body, Opaque):
        return [tensor.elements for tensor in tensors]
    if not isinstance(body, Nest):
        return [*body.read_elements, *body.write_elements]
    sizes, accesses = body.sizes, (*body.reads, body.write)
    return [
        tensor.elements if access is body.write else touched_elements(access, tensor.shape, sizes)
        for access, tensor in zip(accesses, tensors, strict=True)
    ]
