"""Decompose: normalisations and softmax written out as nests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from typing_extensions import override

from hwopt.errors import PassError
from hwopt.ir.graph import Graph
from hwopt.ir.op import Op, Scan
from hwopt.ir.program import Program
from hwopt.ir.scalar import Operand, Scalar, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder
from hwopt.ops.lowering import Call
from hwopt.passes.manager import Pass, passes
from hwopt.passes.rewriting import Names, in_order, regraphed

if TYPE_CHECKING:
    from hwopt.hardware.accelerator import Accelerator

Rule: TypeAlias = Callable[[Call, Builder, list[Tensor], dict[str, Any]], None]

X, ROW, WIDTH = Operand(0), Operand(1), Operand(2)


@passes.register("decompose")
@dataclass(frozen=True)
class Decompose(Pass):
    """Write scans out as the passes over a row that they are.

    `only` names the functions to write out; empty means all of softmax, layer_norm, rms_norm and
    group_norm. The fuse pass recognises attention by its softmax: decompose after it, or leave
    "softmax" out.

    Before: y = softmax(x).
    After: m = max(x); e = exp(x - m); s = sum(e); y = e / s.
    """

    only: tuple[str, ...] = ()

    @override
    def run(self, program: Program, target: Accelerator | None) -> Program:
        """The graph with those scans replaced."""
        if unknown := [name for name in self.only if name not in RULES]:
            raise PassError(
                "no rule for this function", where="decompose{only}", value=unknown[0],
                allowed=", ".join(RULES),
            )  # fmt: skip
        graph, names = program.graph, Names(program.graph)
        ops: list[Op] = []
        tensors = list(graph.tensors)
        for op in graph.ops:
            rule = self._rule(op)
            if rule is None:
                ops.append(op)
                continue
            build = Builder()
            call, reads = _call(op, graph)
            rule(call, build, reads, call.arguments)
            fresh = {tensor.name: names.fresh(tensor.name) for tensor in build.tensors}
            tensors += [replace(tensor, name=fresh[tensor.name]) for tensor in build.tensors]
            for part in build.ops:
                name = part.name if part.name == op.name else names.fresh(part.name)
                ops.append(part.renamed(fresh, name))
        if len(ops) == len(graph.ops):
            return program
        whole = Graph(graph.name, in_order(tensors, ops), tuple(ops), graph.outputs)
        return regraphed(program, whole, keeps={"canonical"})

    def _rule(self, op: Op) -> Rule | None:
        if not isinstance(op.body, Scan) or (self.only and op.body.function not in self.only):
            return None
        return RULES.get(op.body.function)


def _call(op: Op, graph: Graph) -> tuple[Call, list[Tensor]]:
    assert isinstance(op.body, Scan), "rules exist for scans only"
    writes = tuple(graph.tensor[name] for name in op.writes)
    attributes = dict(op.body.attributes)
    call = Call(op.source.target, op.name, attributes, writes, op.phase, op.source)
    return call, [graph.tensor[name] for name in op.reads]


def _wide(dtype: str) -> str:
    """The type that intermediate results are kept in: float32 where the data has 16 bits."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def _softmax(call: Call, build: Builder, reads: list[Tensor], options: dict[str, Any]) -> None:
    """exp(x - max x) / sum, or x - max x - log(sum); a second result is max x + log(sum).

    A safe softmax gives zeros for a row of -inf: its maximum counts as 0, its sum as 1.
    """
    x, out, axis = reads[0], call.outputs[0], int(options["axis"])
    row = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    wide = _wide(x.dtype)
    most = build.reduce(call, "max", [x], [axis], build.temporary(call, row, x.dtype))
    safe = bool(options.get("safe"))
    shifted = apply("sub", X, _unless(ROW, -math.inf, 0.0) if safe else ROW)
    width = build.temporary(call, row, wide)
    if options["log"]:
        moved = build.pointwise(call, shifted, [x, most], build.temporary(call, x.shape, wide))
        build.reduce(call, "sum", [moved], [axis], width, apply("exp", X))
        build.pointwise(call, apply("sub", X, apply("log", ROW)), [moved, width], out)
    else:
        exponent = build.temporary(call, x.shape, wide)
        build.pointwise(call, apply("exp", shifted), [x, most], exponent)
        build.reduce(call, "sum", [exponent], [axis], width)
        divisor = _unless(ROW, 0.0, 1.0) if safe else ROW
        build.pointwise(call, apply("div", X, divisor), [exponent, width], out)
    for given in call.outputs[1:]:
        kept = _keeping(call, build, given, row)
        build.pointwise(call, apply("add", X, apply("log", ROW)), [most, width], kept)
        if kept is not given:
            build.reshape(call, kept, given)


def _unless(value: Scalar, special: float, instead: float) -> Scalar:
    """The value, but `instead` where it is `special`."""
    return apply("where", apply("eq", value, special), instead, value)


def _layer_norm(call: Call, build: Builder, reads: list[Tensor], options: dict[str, Any]) -> None:
    """(x - mean) * rsqrt(variance + epsilon) * weight + bias."""
    _norm(call, build, reads, options, list(options["axes"]), centred=True)


def _rms_norm(call: Call, build: Builder, reads: list[Tensor], options: dict[str, Any]) -> None:
    """Compute x * rsqrt(mean of squares + epsilon) * weight."""
    _norm(call, build, reads, options, list(options["axes"]), centred=False)


def _group_norm(call: Call, build: Builder, reads: list[Tensor], options: dict[str, Any]) -> None:
    """Layer normalisation of each group of channels; weight and bias are per channel."""
    x, out, groups = reads[0], call.outputs[0], int(options["groups"])
    split = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    channel = (1, groups, x.shape[1] // groups, *(1 for _ in x.shape[2:]))
    parts = build.reshape(call, x, build.temporary(call, split, x.dtype))
    scale = [build.reshape(call, t, build.temporary(call, channel, t.dtype)) for t in reads[1:]]
    inner = build.temporary(call, split, out.dtype)
    inside = replace(call, outputs=(inner, *call.outputs[1:]))
    _norm(inside, build, [parts, *scale], options, list(range(2, len(split))), centred=True)
    build.reshape(call, inner, out)


def _norm(
    call: Call, build: Builder, reads: list[Tensor], options: dict[str, Any], axes: list[int],
    *, centred: bool,
) -> None:  # fmt: skip
    x, out = reads[0], call.outputs[0]
    count = math.prod(x.shape[axis] for axis in axes)
    row = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    statistics = [_keeping(call, build, t, row) for t in call.outputs[1:]]
    dtype = _wide(statistics[0].dtype if statistics else x.dtype)
    operands, value = [x], X
    normalised: Scalar = value
    if centred:
        mean = statistics[0] if statistics else build.temporary(call, row, dtype)
        build.reduce(call, "sum", [x], axes, mean, apply("mul", X, 1.0 / count))
        operands.append(mean)
        normalised = apply("sub", X, ROW)
    square = build.temporary(call, row, dtype)
    share = apply("mul", apply("square", normalised), 1.0 / count)
    build.reduce(call, "sum", operands, axes, square, share)
    rstd = statistics[-1] if statistics else build.temporary(call, row, dtype)
    build.pointwise(
        call, apply("rsqrt", apply("add", X, float(options["epsilon"]))), [square], rstd
    )
    result: Scalar = apply("mul", normalised, Operand(len(operands)))
    operands.append(rstd)
    scale = iter(reads[1:])
    for option, function in (("weight", "mul"), ("bias", "add")):
        if options[option]:
            result = apply(function, result, Operand(len(operands)))
            operands.append(next(scale))
    build.pointwise(call, result, operands, out)
    for given, kept in zip(call.outputs[1:], statistics, strict=True):
        if given is not kept:
            build.reshape(call, kept, given)


def _keeping(call: Call, build: Builder, given: Tensor, row: tuple[int, ...]) -> Tensor:
    """A statistic under the row's shape: the output itself where it has it."""
    return given if given.shape == row else build.temporary(call, row, given.dtype)


RULES: dict[str, Rule] = {
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
}
"""How each scan is written out."""
