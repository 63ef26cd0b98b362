"""Workloads of AccelForge's recorded runs, by the name and parameters that a row gives.

    matmuls        N_EINSUMS products in a row: T[m, n] x W[n, n']; M rows, KN columns each
    convRxS_C_P    P x P outputs of C channels from C; convRxS[sT]_C_K_P: K from C, stride T
    dwRxS_C_P      depthwise
    gpt3_6.7B      one layer (heads of 128, 16-bit values): 8 products, and the softmax, which only
                   passes values on; its copy of the input stays where the input is
    resnet18       the convolutions and the classifier of our own library's network; its additions
                   and pooling are not counted

Values are 8 bits wide where nothing else is said. Padding is counted by that tool, so windows here
never leave their input.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from hwopt.errors import FileFormatError
from hwopt.hardware.accelerator import ROLES
from hwopt.ir.access import Access, Axis, parse_access
from hwopt.mapping.problem import Operand, Problem, problems_of

_WINDOW = re.compile(
    r"(?P<kind>conv|dw)(?P<r>\d+)x(?P<s>\d+)(?:s(?P<stride>\d+))?_(?P<c>\d+)(?:_(?P<k>\d+))?_(?P<p>\d+)"
)
BITS = 8
GPT3 = {"gpt3_6.7B": (32, 128, 4096, 16384), "gpt3_175B": (96, 128, 12288, 49152)}
"""Heads, width of a head, width of the model, width of its feed-forward part (GPT-3, table 2.1)."""


@dataclass(frozen=True)
class Workload:
    """Problems with how often each occurs, values that are only passed on, and bits of each."""

    problems: tuple[tuple[Problem, int], ...]
    passed: int = 0
    bits: int = BITS

    @property
    def single(self) -> bool:
        """One operator alone: nothing could be fused."""
        return sum(count for _, count in self.problems) == 1


def workload(name: str, parameters: Mapping[str, object]) -> Workload:
    """The operators of a row; raises `FileFormatError` for a workload or parameter it lacks."""
    if name == "matmuls":
        count, m, n = (_whole(parameters, key) for key in ("N_EINSUMS", "M", "KN"))
        return Workload(((product({"m": m, "k": n, "n": n}, "m k", "k n", "m n"), count),))
    if match := _WINDOW.fullmatch(name):
        return Workload(((_window(match), 1),))
    if name in GPT3 and not parameters.get("DECODE"):
        return _layer(*GPT3[name], _whole(parameters, "BATCH_SIZE"),
                      _whole(parameters, "N_NEW_TOKENS"))  # fmt: skip
    if name == "resnet18":
        return _network(name, _whole(parameters, "BATCH_SIZE"))
    raise FileFormatError(
        "unknown workload", value=name,
        allowed="matmuls, convRxS[sT]_C[_K]_P, dwRxS[sT]_C_P, gpt3_6.7B (not decoding), resnet18",
    )  # fmt: skip


def product(sizes: Mapping[str, int], *index: str, bits: int = BITS) -> Problem:
    """A contraction; `index` gives each operand's dimensions: "c 2*p+r"."""
    accesses = [parse_access(*text.split()) for text in index]
    return Problem(
        tuple(Axis(name, size) for name, size in sizes.items()),
        tuple(
            Operand(role, access, _shape(access, sizes), bits)
            for role, access in zip(ROLES, accesses, strict=True)
        ),
    )


def _shape(access: Access, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(affine.bounds(sizes)[1] + 1 for affine in access.index)


def _whole(parameters: Mapping[str, object], key: str) -> int:
    value = parameters.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FileFormatError("a whole number is missing", where=f"params.{key}", value=value)
    return value


def _window(match: re.Match[str]) -> Problem:
    size = {key: int(match[key]) for key in "rscp"}
    stride = int(match["stride"] or 1)
    rows, columns = f"{stride}*p+r", f"{stride}*q+s"
    axes = {"c": size["c"], "p": size["p"], "q": size["p"], "r": size["r"], "s": size["s"]}
    if match["kind"] == "dw":
        return _unused(product(axes, f"c {rows} {columns}", "c r s", "c p q"))
    axes = {"k": int(match["k"] or match["c"]), **axes}
    return _unused(product(axes, f"c {rows} {columns}", "k c r s", "k p q"))


def _unused(problem: Problem) -> Problem:
    """Without axes of size 1."""
    kept = {axis.name for axis in problem.axes if axis.size > 1}
    gone = {axis.name: parse_access("0").index[0] for axis in problem.axes if axis.name not in kept}
    operands = tuple(
        Operand(o.role, o.access.substitute(gone), o.shape, o.bits) for o in problem.operands
    )
    return Problem(tuple(axis for axis in problem.axes if axis.name in kept), operands)


def _layer(heads: int, head: int, width: int, wide: int, batch: int, tokens: int) -> Workload:
    """One decoder layer over whole sequences."""
    rows = batch * tokens
    per_head = {"h": heads * batch, "m": tokens, "p": tokens, "e": head}

    def linear(inputs: int, outputs: int) -> Problem:
        return product({"m": rows, "k": inputs, "n": outputs}, "m k", "k n", "m n", bits=16)

    problems = (
        (linear(width, heads * head), 3),
        (product(per_head, "h m e", "h p e", "h m p", bits=16), 1),
        (product(per_head, "h m p", "h p e", "h m e", bits=16), 1),
        (linear(heads * head, width), 1), (linear(width, wide), 1), (linear(wide, width), 1),
    )  # fmt: skip
    return Workload(problems, per_head["h"] * tokens * tokens, 16)


def _network(name: str, batch: int) -> Workload:
    from hwopt.frontend.capture import trace

    graph = trace(name, batch=batch)
    bits = dict.fromkeys(ROLES, BITS)
    found = Counter(
        problem for op in graph.ops if op.macs for problem in problems_of(op, graph, bits)
    )
    return Workload(tuple(found.items()))
