"""Random numbers: dropout masks, uniform, normal and integer draws, permutations.

A draw is a `Gather` without reads, so that its traffic (the numbers written) and its work (a
counter-based generator such as Philox 4x32-10 spends about ten rounds, four operations each, on
four numbers) are priced. The interpreter draws from a fixed seed: shapes and laws are torch's, the
numbers are not.
"""

from __future__ import annotations

from hwopt.ir.scalar import Operand, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder
from hwopt.ops.lowering import Call, lowering

GENERATOR_WORK = 10
"""Vector operations per random number: 10 rounds of 4 operations give 4 numbers (Salmon et al.,
Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011)."""


def _draw(
    call: Call, build: Builder, law: str, out: Tensor, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Numbers of one law: "bernoulli" (probability `high`), "uniform", "normal" (mean `low`,
    deviation `high`), "integers" or "permutation".
    """
    return build.gather(
        call, "random", [], [out], law=law, low=low, high=high, work=GENERATOR_WORK * out.elements,
        kind="random", resource="vector",
    )  # fmt: skip


def bernoulli(call: Call, build: Builder, probability: float, out: Tensor) -> Tensor:
    """1 with `probability`, else 0."""
    return _draw(call, build, "bernoulli", out, high=float(probability))


@lowering("aten.bernoulli.p", "aten.bernoulli_.float")
def bernoulli_p(call: Call, build: Builder) -> None:
    """Draws of one probability."""
    bernoulli(call, build, call.arguments["p"], call.output)


@lowering("aten.bernoulli.default", "aten.bernoulli.Tensor")
def bernoulli_tensor(call: Call, build: Builder) -> None:
    """A probability per element: a uniform draw below it."""
    probability = call.optional("p") or call.tensor("self")
    uniform = build.temporary(call, call.output.shape, probability.dtype)
    _draw(call, build, "uniform", uniform)
    below = apply("lt", Operand(0), Operand(1))
    build.pointwise(call, below, [uniform, probability], kind="random")


@lowering("aten.rand.default", "aten.rand_like.default", "aten.uniform.default")
def uniform(call: Call, build: Builder) -> None:
    """Uniform on [from, to), [0, 1) unless given."""
    low, high = call.get("from", 0.0), call.get("to", 1.0)
    _draw(call, build, "uniform", call.output, float(low), float(high))


@lowering("aten.randn.default", "aten.randn_like.default", "aten.normal_functional.default")
@lowering("aten.normal.float_float")
def normal(call: Call, build: Builder) -> None:
    """Normal, by default with mean 0 and deviation 1."""
    mean, deviation = call.get("mean", 0.0), call.get("std", 1.0)
    _draw(call, build, "normal", call.output, float(mean), float(deviation))


@lowering("aten.randint.default", "aten.randint.low", "aten.randint_like.default")
@lowering("aten.randint_like.low_dtype")
def integers(call: Call, build: Builder) -> None:
    """Integers in [low, high)."""
    _draw(call, build, "integers", call.output, call.get("low", 0), call.arguments["high"])


@lowering("aten.randperm.default")
def permutation(call: Call, build: Builder) -> None:
    """The numbers 0 to n - 1 in random order."""
    _draw(call, build, "permutation", call.output)


@lowering("aten.native_dropout.default")
def native_dropout(call: Call, build: Builder) -> None:
    """`x * mask / (1 - p)` and the mask; without training x and ones."""
    x, mask = call.tensor("input"), call.outputs[1]
    if call.get("train", default=True) and call.arguments["p"] > 0:
        _drop(call, build, x, mask)
        return
    build.pointwise(call, Operand(0), [x], kind="copy", resource="memory")
    build.fill(call, True, mask, resource="memory")


@lowering("aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default")
@lowering("aten.feature_alpha_dropout.default")
def dropout(call: Call, build: Builder) -> None:
    """The identity in evaluation; a random mask in training."""
    x = call.tensor("input")
    if not call.arguments["train"] or call.arguments["p"] == 0:
        build.pointwise(call, Operand(0), [x], kind="view", resource="none")
    elif call.target == "aten.dropout.default":
        _drop(call, build, x, build.temporary(call, x.shape, "bool"))
    else:
        raise call.unsupported("training with this kind of dropout")


def _drop(call: Call, build: Builder, x: Tensor, mask: Tensor) -> None:
    keep = 1 - call.arguments["p"]
    bernoulli(call, build, keep, mask)
    scaled = apply("mul", apply("mul", Operand(0), Operand(1)), 1 / keep if keep else 0.0)
    build.pointwise(call, scaled, [x, mask], call.output, kind="dropout")


@lowering("aten.native_dropout_backward.default")
def native_dropout_backward(call: Call, build: Builder) -> None:
    """`grad * mask * scale`."""
    scaled = apply("mul", apply("mul", Operand(0), Operand(1)), call.arguments["scale"])
    build.pointwise(call, scaled, [call.tensor("grad_output"), call.tensor("mask")], kind="dropout")


@lowering("aten.multinomial.default")
def multinomial(call: Call, build: Builder) -> None:
    """Draws of column numbers with the given weights: a search in the cumulative sums."""
    weights, out = call.tensor("self"), call.output
    build.gather(
        call, "multinomial", [weights], replacement=call.arguments["replacement"],
        work=2 * weights.elements + GENERATOR_WORK * out.elements, kind="random",
        resource="vector",
    )  # fmt: skip
