"""Hypothesis strategies for tests of the package and of its extensions.

Random small nests, machines and legal mappings, for oracles that walk every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from hwopt.errors import MappingError
from hwopt.hardware.accelerator import (
    ROLES,
    Accelerator,
    Compute,
    Fanout,
    FanoutDim,
    Level,
    Memory,
    OperandRole,
)  # fmt: skip
from hwopt.hardware.conventions import Conventions
from hwopt.ir.access import Access, Affine, Axis
from hwopt.ir.graph import Graph
from hwopt.ir.scalar import Iota, Scalar, apply
from hwopt.ir.scalar import Operand as Read
from hwopt.ir.tensor import Tensor
from hwopt.ir.verify import verify
from hwopt.mapping.mapping import Keep, Loop, Mapping, Node, Spread
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.verify import verify_mapping
from hwopt.ops.builder import Builder, at, names
from hwopt.ops.lowering import Call


def _operand(role: OperandRole, index: list[Affine], sizes: dict[str, int], pad: int) -> Operand:
    """An operand whose shape holds its index range, less `pad` positions at each end of halos."""
    shape, shifted = [], []
    for affine in index:
        low, high = affine.bounds(sizes)
        trim = min(pad, (high - low) // 2) if len(affine.terms) > 1 else 0
        shifted.append(affine + (-low - trim))
        shape.append(high - low + 1 - 2 * trim)
    return Operand(role, Access(tuple(shifted), 0.0 if pad else None), tuple(shape), 8)


@st.composite
def problems(draw: st.DrawFn, *, largest: int = 5, points: int = 700) -> Problem:
    """Contractions: matrix products, grouped and depthwise convolutions with strides, dilation and
    padding, their transposed form (a halo in the output), products without a second operand's axis.
    """
    kind = draw(st.sampled_from(("matmul", "batched", "convolution", "depthwise", "transposed")))
    names = {
        "matmul": "mkn", "batched": "bmkn", "convolution": "gkcpqrs", "depthwise": "cpqrs",
        "transposed": "kcpr",
    }[kind]  # fmt: skip
    sizes: dict[str, int] = {}
    total = 1
    for name in names:
        limit = max(1, min(largest, 3 if name in "rsg" else largest, points // total))
        sizes[name] = draw(st.integers(1, limit))
        total *= sizes[name]
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    pad = draw(st.integers(0, 2))
    one = {name: Affine.axis(name) for name in names}
    if kind in ("matmul", "batched"):
        batch = [one["b"]] if kind == "batched" else []
        reads = [[*batch, one["m"], one["k"]], [*batch, one["k"], one["n"]]]
        write = [*batch, one["m"], one["n"]]
    elif kind == "transposed":
        height = one["p"] * stride + one["r"] * dilation
        reads = [[one["k"], one["p"]], [one["k"], one["c"], one["r"]]]
        write = [one["c"], height]
    else:
        height = one["p"] * stride + one["r"] * dilation
        width = one["q"] * draw(st.integers(1, 2)) + one["s"]
        if kind == "depthwise":
            reads = [[one["c"], height, width], [one["c"], one["r"], one["s"]]]
            write = [one["c"], one["p"], one["q"]]
        else:
            group = [one["g"]]
            reads = [[*group, one["c"], height, width],
                     [*group, one["k"], one["c"], one["r"], one["s"]]]  # fmt: skip
            write = [*group, one["k"], one["p"], one["q"]]
    operands = tuple(
        _operand(role, index, sizes, pad)
        for role, index in zip(ROLES, [*reads, write], strict=True)
    )
    return Problem(tuple(Axis(name, size) for name, size in sizes.items()), operands)


@st.composite
def machines(draw: st.DrawFn) -> Accelerator:
    """DRAM, then up to three memories and up to two fan-outs, some operands bypassing some."""
    levels: list[Level] = [Memory(name="DRAM", kind="dram")]
    fanouts = 0
    for number in range(draw(st.integers(1, 4))):
        if fanouts < 2 and draw(st.booleans()):
            fanouts += 1
            dims = tuple(
                FanoutDim(name=name, size=draw(st.integers(1, 4)))
                for name in "xy"[: draw(st.integers(1, 2))]
            )
            multicast = tuple(r for r in ROLES[:2] if draw(st.booleans()))
            levels.append(
                Fanout(
                    name=f"F{fanouts}", dims=dims, multicast=multicast, reduces=draw(st.booleans())
                )
            )
        else:
            keeps = draw(st.sets(st.sampled_from(ROLES), min_size=1))
            bypass = draw(st.sets(st.sampled_from(sorted(keeps))))
            levels.append(
                Memory(
                    name=f"M{number}", keeps=tuple(r for r in ROLES if r in keeps),
                    bypass=tuple(r for r in ROLES if r in bypass),
                )
            )  # fmt: skip
    return Accelerator(name="random", clock_hz=1e9, levels=tuple(levels), compute=Compute())


@st.composite
def mappings(
    draw: st.DrawFn, problem: Problem, accelerator: Accelerator, *, ordered: bool = False
) -> Mapping:
    """Any legal mapping: loops of any tile size in any order, uneven keeps, bypass, spreads.

    `ordered`: all nodes in the machine's order, as conventions without hoisting need it.
    """
    extent = dict(problem.sizes)
    names = list(extent)
    roles = tuple(role for role in ROLES if role in problem.operand)
    nodes: list[Node] = [Keep(accelerator.memories[0].name, roles)]

    def loops() -> None:
        for _ in range(draw(st.integers(0, 3))):
            axis = draw(st.sampled_from(names))
            tile = draw(st.integers(1, extent[axis]))
            extent[axis] = tile
            nodes.append(Loop(axis, tile))

    for level in accelerator.levels[1:]:
        loops()
        if isinstance(level, Fanout):
            for dim in draw(st.permutations(level.dims)):
                room = dim.size
                for _ in range(draw(st.integers(0, 2))):
                    axis = draw(st.sampled_from(names))
                    least = -(-extent[axis] // room)
                    tile = draw(st.integers(least, extent[axis]))
                    room //= -(-extent[axis] // tile)
                    extent[axis] = tile
                    nodes.append(Spread(level.name, dim.name, axis, tile))
            continue
        kept = [
            role for role in level.keeps
            if role in roles and (role not in level.bypass or draw(st.booleans()))
        ]  # fmt: skip
        for role in draw(st.permutations(kept)):
            nodes.append(Keep(level.name, (role,)))
            if draw(st.booleans()):
                loops()
    order = draw(st.permutations(names))
    nodes += [Loop(axis, 1) for axis in order if extent[axis] > 1]
    for _ in range(0 if ordered else draw(st.integers(0, 6))):
        nodes = _raised(draw, nodes, problem, accelerator)
    return Mapping(tuple(nodes))


def _raised(
    draw: st.DrawFn, nodes: list[Node], problem: Problem, accelerator: Accelerator
) -> list[Node]:
    """One keep (or spread) a few places further out, where that is legal."""
    number = draw(st.integers(0, len(nodes) - 1))
    to = draw(st.integers(0, number))
    if isinstance(nodes[number], Loop):
        return nodes
    moved = [*nodes[:to], nodes[number], *nodes[to:number], *nodes[number + 1 :]]
    try:
        verify_mapping(problem, Mapping(tuple(moved)), accelerator)
    except MappingError:
        return nodes
    return moved


def conventions() -> st.SearchStrategy[Conventions]:
    """Every combination of conventions."""
    return st.builds(
        Conventions,
        name=st.just("random"),
        fetch=st.sampled_from(("hoisted", "changed", "counted")),
        halo=st.sampled_from(("shift", "none")),
        strided=st.sampled_from(("exact", "bounding")),
        padding=st.sampled_from(("free", "counted")),
        first_write=st.sampled_from(("nothing", "zero")),
        edges=st.sampled_from(("exact", "padded")),
    )


@st.composite
def graphs(draw: st.DrawFn, *, steps: int = 6) -> Graph:
    """Small verified graphs of float32: pointwise work, products, views of all kinds, copies,
    reductions and softmax, with shared and repeated operands; any of them may be an output.
    """
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    tensors = [Tensor("x", shape, role="input"), Tensor("z", shape, role="parameter")]
    build, live = Builder(), list(tensors)
    for number in range(draw(st.integers(1, steps))):
        source = draw(st.sampled_from(live))
        step = draw(st.sampled_from([s for s in _STEPS if s != "matmul" or source.shape]))
        live.append(_emit(draw, build, f"t{number}", step, source, live, tensors))
    results = draw(st.lists(st.sampled_from(live[2:]), max_size=2, unique=True))
    outputs = dict.fromkeys([*(t.name for t in results), live[-1].name])
    graph = Graph("random", (*tensors, *build.tensors), tuple(build.ops), tuple(outputs))
    verify(graph)
    return graph


def values_of(graph: Graph, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Normal numbers for each source of a graph (whole ones below 3 for integers)."""
    random = np.random.default_rng(seed)
    return {
        tensor.name: random.normal(size=tensor.shape)
        if "float" in tensor.dtype
        else random.integers(0, 3, size=tensor.shape)
        for tensor in graph.sources
    }


_STEPS = (
    "unary", "binary", "row", "matmul", "permute", "reshape", "slice", "flip", "expand", "copy",
    "cast", "sum", "max", "softmax", "pad",
)  # fmt: skip


def _emit(
    draw: st.DrawFn, build: Builder, name: str, step: str, x: Tensor, live: list[Tensor],
    sources: list[Tensor],
) -> Tensor:  # fmt: skip
    """Append one step that reads `x`, and return what it writes."""
    rank = len(x.shape)

    def call(*shape: int) -> Call:
        out = Tensor(name, shape)
        build.tensors.append(out)
        return Call(f"test.{step}", name, {}, (out,))

    if step == "matmul":
        weight = Tensor(f"{name}.w", (draw(st.integers(1, 4)), x.shape[-1]), role="parameter")
        sources.append(weight)
        lead = names(rank - 1)
        axes = {**dict(zip(lead, x.shape, strict=False)), "o": weight.shape[0], "k": x.shape[-1]}
        made = call(*x.shape[:-1], weight.shape[0])
        reads = at(x, *lead, "k"), at(weight, "o", "k")
        return build.contract(made, axes, *reads, at(made.output, *lead, "o"))
    if step == "binary":
        other = draw(st.sampled_from([t for t in live if t.shape == x.shape]))
        function = draw(st.sampled_from(("add", "mul", "maximum")))
        return build.pointwise(call(*x.shape), apply(function, Read(0), Read(1)), [x, other])
    if step == "permute":
        order = draw(st.permutations(range(rank)))
        made = call(*(x.shape[i] for i in order))
        return build.view(made, x, *(f"d{list(order).index(i)}" for i in range(rank)))
    if step == "reshape":
        return build.reshape(call(*draw(_factored(x.elements))), x)
    if step == "expand":
        return build.view(call(draw(st.integers(1, 3)), *x.shape), x, *names(rank + 1)[1:])
    if step in ("copy", "cast"):
        value: Scalar = apply("cast", Read(0)) if step == "cast" else Read(0)
        return build.pointwise(call(*x.shape), value, [x], kind="copy", resource="memory")
    if step == "unary" or rank == 0:
        function = draw(st.sampled_from(("neg", "tanh", "square", "abs")))
        return build.pointwise(call(*x.shape), apply(function, Read(0)), [x])
    return _emit_along(draw, build, call, step, x)


def _emit_along(
    draw: st.DrawFn, build: Builder, call: Callable[..., Call], step: str, x: Tensor
) -> Tensor:
    """A step along one dimension."""
    dim = draw(st.integers(0, len(x.shape) - 1))
    axes, size = names(len(x.shape)), x.shape[dim]
    before, after = x.shape[:dim], x.shape[dim + 1 :]
    if step in ("sum", "max"):
        return build.reduce(call(*before, *after), "sum" if step == "sum" else "max", [x], [dim])
    if step == "softmax":
        made = call(*x.shape)
        work = 5 * x.elements
        return build.scan(
            made, "softmax", [x], axis=dim, log=draw(st.booleans()), work=work, depth=3
        )
    if step == "row":
        scalar = apply("sub", Read(0), apply("mul", 0.5, Iota(axes[dim])))
        return build.pointwise(call(*x.shape), scalar, [x])
    if step == "pad":  # a window beyond both ends
        made = call(*before, size + 1, *after)
        index = [f"{axis} - 1" if i == dim else axis for i, axis in enumerate(axes)]
        sizes = dict(zip(axes, made.output.shape, strict=True))
        return build.move(
            made, sizes, at(x, *index, fill=0.0), at(made.output, *axes), kind="pad",
            resource="memory",
        )  # fmt: skip
    if step == "flip":
        index = [f"{size - 1} - {axis}" if i == dim else axis for i, axis in enumerate(axes)]
        return build.view(call(*x.shape), x, *index)
    start = draw(st.integers(0, size - 1))
    stride = draw(st.integers(1, 2))
    count = len(range(start, size, stride))
    index = [f"{stride}*{axis} + {start}" if i == dim else axis for i, axis in enumerate(axes)]
    return build.view(call(*before, count, *after), x, *index)


@st.composite
def _factored(draw: st.DrawFn, elements: int) -> tuple[int, ...]:
    """Up to three sizes with this product."""
    sizes: list[int] = []
    for _ in range(draw(st.integers(0, 2))):
        size = draw(st.sampled_from([d for d in range(1, elements + 1) if elements % d == 0]))
        sizes.append(size)
        elements //= size
    return (*sizes, elements)
