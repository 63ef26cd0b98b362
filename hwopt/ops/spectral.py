"""Complex numbers made of two parts, and Fourier transforms, real to complex and back.

A transform takes `5 n log2 n` operations per complex line of n (Cooley and Tukey 1965), half of
that where one side is real.
"""

from __future__ import annotations

import math

from hwopt.ir.scalar import Operand, apply
from hwopt.ops.builder import Builder
from hwopt.ops.lowering import Call, lowering


def _work(elements: int, sizes: list[int]) -> int:
    """Real operations of a transform over lines of the given lengths."""
    return sum(5 * elements * max(1, math.ceil(math.log2(size))) for size in sizes)


@lowering("aten._fft_r2c.default", "aten._fft_c2r.default", "aten._fft_c2c.default")
def transform(call: Call, build: Builder) -> None:
    """A discrete Fourier transform over `dim`, normalised as torch's number says."""
    x, out, kind = call.tensor("self"), call.output, call.target.split("_fft_")[1][:3]
    full = out if kind == "c2r" else x
    dims = tuple(d % len(x.shape) for d in call.arguments["dim"])
    work = _work(full.elements, [full.shape[d] for d in dims])
    build.gather(
        call, f"fft_{kind}", [x], dims=dims, normalization=call.arguments["normalization"],
        onesided=call.get("onesided", default=True), forward=call.get("forward", default=True),
        last=out.shape[dims[-1]], work=work if kind == "c2c" else work // 2, kind="fourier",
        resource="vector",
    )  # fmt: skip


@lowering("aten.complex.default", "aten.polar.default")
def compose(call: Call, build: Builder) -> None:
    """From real and imaginary part, or from length and angle: `r cos(a)`, `r sin(a)`."""
    polar = "polar" in call.target
    parts = [call.tensor("abs" if polar else "real"), call.tensor("angle" if polar else "imag")]
    if polar:
        parts = [
            build.pointwise(
                call, apply("mul", Operand(0), apply(function, Operand(1))), parts,
                build.temporary(call, call.output.shape, parts[0].dtype),
            )
            for function in ("cos", "sin")
        ]  # fmt: skip
    build.gather(call, "complex", parts, kind="copy")
