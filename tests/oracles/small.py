"""Operators and machines that `enumerate` can exhaust in about a second.

Prices are small whole numbers and bandwidths powers of two, so that sums are exact and ties are
ties, whoever adds them up and in whatever order.
"""

from __future__ import annotations

import math

from hypothesis import strategies as st

from hwopt.hardware.accelerator import (
    ROLES,
    Accelerator,
    Compute,
    Fanout,
    FanoutDim,
    Level,
    Memory,
    OperandRole,
)
from hwopt.ir.access import Access, Affine, Axis
from hwopt.mapping.problem import Operand, Problem

LIMITS = {
    "matmul": {"m": 6, "k": 6, "n": 6},
    "convolution": {"k": 2, "c": 2, "p": 4, "r": 3},
    "depthwise": {"c": 3, "p": 4, "r": 3},
    "image": {"k": 2, "p": 4, "q": 3, "r": 2, "s": 2},
    "sums": {"c": 3, "p": 4, "r": 3},
}
"""Kinds of operators with the largest size of each axis. "image" is a convolution in two
dimensions, "sums" a transposed one, whose outputs overlap."""


def build(kind: str, sizes: dict[str, int], stride: int, pad: int, bits: dict[str, int]) -> Problem:
    """One operator; `pad` positions of its window's range at each end lie outside the tensor."""
    one = {name: Affine.axis(name) for name in sizes}

    def window(p: str, r: str) -> Affine:
        return one[p] * stride + one[r]

    forms = {
        "matmul": ("m k", "k n", "m n"),
        "convolution": ("c p+r", "k c r", "k p"),
        "depthwise": ("c p+r", "c r", "c p"),
        "image": ("p+r q+s", "k r s", "k p q"),
        "sums": ("p", "c r", "c p+r"),
    }
    operands = []
    for role, form in zip(ROLES, forms[kind], strict=True):
        dims = [window(*d.split("+")) if "+" in d else one[d] for d in form.split()]
        bounds = [affine.bounds(sizes) for affine in dims]
        cut = [pad if len(affine.terms) > 1 and high > 2 * pad else 0
               for affine, (_, high) in zip(dims, bounds, strict=True)]  # fmt: skip
        access = Access(tuple(a + -c for a, c in zip(dims, cut, strict=True)), 0.0 if pad else None)
        shape = tuple(high + 1 - 2 * c for (_, high), c in zip(bounds, cut, strict=True))
        operands.append(Operand(role, access, shape, bits[role]))
    return Problem(tuple(Axis(n, size) for n, size in sizes.items()), tuple(operands))


@st.composite
def operators(draw: st.DrawFn, *, points: int) -> Problem:
    """Matrix products, convolutions in one and two dimensions, with stride and padding, depthwise
    and transposed ones, of at most so many points; outputs may be twice as wide.
    """
    kind = draw(st.sampled_from(sorted(LIMITS)))
    sizes: dict[str, int] = {}
    for name, limit in LIMITS[kind].items():
        left = points // math.prod(sizes.values())
        sizes[name] = draw(st.integers(1, max(1, min(limit, left))))
    stride, pad = draw(st.sampled_from((1, 1, 2))), draw(st.sampled_from((0, 0, 1)))
    bits = dict.fromkeys(ROLES, 8) | {"output": draw(st.sampled_from((8, 16)))}
    return build(kind, sizes, stride, pad if kind != "matmul" else 0, bits)


@st.composite
def machines(draw: st.DrawFn, *, deep: bool = False) -> Accelerator:
    """DRAM, a buffer that some operands may pass by, up to 6 lanes in up to two dimensions, and
    sometimes a scratchpad for one operand in each lane. `deep`: for several operands, in any order
    of the levels, or a second buffer instead.
    """
    buffers = 1 + (deep and draw(st.integers(0, 2)) == 0)
    pads = ((ROLES[1], ROLES[2]), ROLES, ROLES[::-1]) if deep and buffers == 1 else ()

    def memory(name: str, capacity: int, **fields: object) -> Memory:
        read, write = (
            draw(st.sampled_from(((1, 1), (1, 2), (2, 3)))) if name != "DRAM" else (32, 48)
        )
        port = draw(st.sampled_from((None, 1.0, 2.0, 4.0)))
        return Memory(
            name=name, capacity_bytes=capacity or None, bytes_per_s=port,
            read_joules_per_byte=read, write_joules_per_byte=write, **fields,
        )  # fmt: skip

    def some() -> tuple[OperandRole, ...]:
        return tuple(role for role in ROLES if draw(st.booleans()))

    levels: list[Level] = [
        memory("DRAM", 0, kind="dram"),
        memory("GLB", draw(st.integers(3, 24)), bypass=some() if draw(st.booleans()) else ()),
    ]
    lanes = draw(st.sampled_from(((1,), (2,), (3,), (4,), (2, 2), (3, 2))))
    dims = tuple(FanoutDim(name=name, size=size) for name, size in zip("xy", lanes, strict=False))
    if buffers == 2:
        levels.append(memory("L1", draw(st.integers(3, 12)), bypass=some()))
    levels.append(
        Fanout(
            name="PE",
            dims=dims,
            multicast=some() if draw(st.integers(0, 3)) == 0 else ROLES[:2],
            reduces=draw(st.integers(0, 3)) > 0,
        )
    )
    below = draw(st.sampled_from(((), (), (), (), *((role,) for role in ROLES), *pads)))
    levels += [memory(f"{role} pad", draw(st.integers(2, 6)), keeps=(role,)) for role in below]
    return Accelerator(
        name="small", clock_hz=1.0, levels=tuple(levels),
        compute=Compute(joules_per_mac=1, leakage_watts=draw(st.sampled_from((None, 0.25)))),
    )  # fmt: skip
