"""Memory that a pass needs beside weights, from its traced graph.

Tensors live from the operator that writes them to the last that reads them, views keeping what they
look into. Not counted: weights and inputs, gradients of weights (their own entry of an estimate),
and what one fused kernel keeps to itself (the scores inside attention: named `NODE.tN`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hwopt import Graph, Op

_INSIDE = re.compile(r"\.t\d*$")


@dataclass(frozen=True)
class Activations:
    """Bytes for one micro-batch.

    inference: the most that is alive in a forward pass that keeps nothing for a backward one.
    saved: alive between forward and backward. peak: the most in forward and backward.
    outside, block: what is saved outside the repeated blocks, and inside the largest of them.
    boundaries: the inputs of all blocks, which is what gradient checkpointing keeps.
    """

    inference: int
    saved: int
    peak: int
    outside: int
    block: int
    boundaries: int

    @property
    def checkpointed_saved(self) -> int:
        """Alive between forward and backward when only the inputs of blocks are kept."""
        return self.outside + self.boundaries

    @property
    def checkpointed_peak(self) -> int:
        """The most with gradient checkpointing: one block at a time is computed again, saved, and
        passed backward, which needs as much more than what is saved as without.
        """
        return self.checkpointed_saved + self.block + (self.peak - self.saved)


def activations(graph: Graph) -> Activations:
    """Of a graph of forward and backward."""
    storage = _storages(graph)
    forward = [op for op in graph.ops if op.phase == "forward"]
    saved = _saved(graph, storage, forward)
    stack = block_stack(graph)
    blocks: Counter[str] = Counter()
    for name in saved:
        blocks[_block(name, stack)] += graph.tensor[name].nbytes
    outside = blocks.pop("", 0)
    kept = sum(saved.values())
    return Activations(
        inference=_peak(graph, forward, storage),
        saved=kept,
        peak=max(kept, _peak(graph, graph.ops, storage)),
        outside=outside,
        block=max(blocks.values(), default=0),
        boundaries=_boundaries(graph, forward, storage, stack),
    )


def block_stack(graph: Graph) -> str:
    """The module path of the repeated blocks ("layers", "decoder.layers"): the numbered list that
    holds most parameters. Empty when there is none.
    """
    sizes: Counter[str] = Counter()
    for parameter in graph.parameters:
        match = re.match(r"(.+?)\.\d+\.", parameter.name)
        if match is not None:
            sizes[match[1]] += parameter.elements
    return sizes.most_common(1)[0][0] if sizes else ""


def _block(name: str, stack: str) -> str:
    """The number of the block that an operator or tensor belongs to; empty outside."""
    if not stack or not name.startswith(f"{stack}."):
        return ""
    number = name[len(stack) + 1 :].partition(".")[0]
    return number if number.isdigit() else ""


def _storages(graph: Graph) -> dict[str, str]:
    """The tensor whose memory each tensor uses: its own, or the one that it is a view of."""
    storage = {tensor.name: tensor.name for tensor in graph.tensors}
    for op in graph.ops:
        if op.is_view and op.reads:
            storage.update(dict.fromkeys(op.writes, storage[op.reads[0]]))
    return storage


def _counted(graph: Graph) -> frozenset[str]:
    """Tensors that take memory of their own in a pass."""
    gradients = {name for name in graph.outputs if graph.tensor[name].role == "gradient"}
    written = {name for op in graph.ops for name in op.writes}
    return frozenset(n for n in written if n not in gradients and not _INSIDE.search(n))


def _saved(graph: Graph, storage: Mapping[str, str], forward: Iterable[Op]) -> dict[str, int]:
    """Bytes of each storage that the forward pass wrote and the backward pass reads."""
    counted = _counted(graph)
    made = {storage[name] for op in forward for name in op.writes} & counted
    read = {storage[n] for op in graph.ops if op.phase != "forward" for n in op.reads}
    return {name: graph.tensor[name].nbytes for name in sorted(made & read)}


def _peak(graph: Graph, ops: Iterable[Op], storage: Mapping[str, str]) -> int:
    """The most bytes that are alive at once while `ops` run."""
    ops = list(ops)
    counted = _counted(graph)
    last: dict[str, int] = {}
    for position, op in enumerate(ops):
        for name in (*op.reads, *op.writes):
            last[storage[name]] = position
    ends: dict[int, list[str]] = {}
    for name, position in last.items():
        ends.setdefault(position, []).append(name)
    alive: set[str] = set()
    total = most = 0
    for position, op in enumerate(ops):
        for name in op.writes:
            own = storage[name]
            if own in counted and own not in alive:
                alive.add(own)
                total += graph.tensor[own].nbytes
        most = max(most, total)
        for name in ends.get(position, ()):
            if name in alive:
                alive.remove(name)
                total -= graph.tensor[name].nbytes
    return most


def _boundaries(
    graph: Graph, forward: Iterable[Op], storage: Mapping[str, str], stack: str
) -> int:  # fmt: skip
    """Bytes of the tensors that enter blocks from the block before or from outside, each once."""
    counted = _counted(graph)
    entering: set[str] = set()
    origin = {name: _block(op.name, stack) for op in forward for name in op.writes}
    for op in forward:
        block = _block(op.name, stack)
        for name in op.reads:
            own = storage[name]
            if block and own in counted and origin.get(own) != block:
                entering.add(own)
    return sum(graph.tensor[name].nbytes for name in entering)
