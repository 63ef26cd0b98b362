"""Hypothesis strategies for tests of the package and of its extensions.

Random small nests, machines and legal mappings, for oracles that walk every step.
"""

from __future__ import annotations

from hypothesis import strategies as st

from hwopt.hardware.accelerator import (
    ROLES, Accelerator, Compute, Fanout, FanoutDim, Level, Memory, OperandRole,
)  # fmt: skip
from hwopt.hardware.conventions import Conventions
from hwopt.ir.access import Access, Affine, Axis
from hwopt.mapping.mapping import Keep, Loop, Mapping, Node, Spread
from hwopt.mapping.problem import Operand, Problem


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
def mappings(draw: st.DrawFn, problem: Problem, accelerator: Accelerator) -> Mapping:
    """Any legal mapping: loops of any tile size in any order, uneven keeps, bypass, spreads."""
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
    for axis in draw(st.permutations(names)):
        if extent[axis] > 1:
            nodes.append(Loop(axis, 1))
    return Mapping(tuple(nodes))


def conventions() -> st.SearchStrategy[Conventions]:
    """Every combination of conventions."""
    return st.builds(
        Conventions,
        name=st.just("random"),
        halo=st.sampled_from(("shift", "none")),
        strided=st.sampled_from(("exact", "bounding")),
        padding=st.sampled_from(("free", "counted")),
        first_write=st.sampled_from(("nothing", "zero")),
        edges=st.sampled_from(("exact", "padded")),
    )
