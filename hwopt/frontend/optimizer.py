"""The optimizer step as operators: per parameter, updates of its state and of itself.

State is float32. A parameter of lower precision has a float32 master copy in the state, which is
updated and then rounded: 4 + 4 + 4 bytes of state per parameter (AdamW), as mixed-precision
trainers keep it. Tensors: `W.exp_avg`, `W.exp_avg_sq`, `W.master` of role "state", written as
`W.exp_avg.next` ..., and `W.next`, the new parameter. Constants are torch's defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from hwopt.ir.graph import Graph
from hwopt.ir.op import Op, Source
from hwopt.ir.scalar import Operand, Scalar, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder
from hwopt.ops.lowering import Call

LEARNING_RATE = 1e-3
BETA1, BETA2, EPSILON, WEIGHT_DECAY = 0.9, 0.999, 1e-8, 0.01


@dataclass
class Step:
    """What one optimizer step reads and writes."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def state(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A float32 tensor that the optimizer keeps."""
        return self.add(Tensor(name, shape, "float32", "state"))

    def add(self, tensor: Tensor) -> Tensor:
        """Declare a tensor."""
        self.tensors[tensor.name] = tensor
        return tensor

    def update(self, tensor: Tensor, scalar: Scalar, *reads: Tensor) -> Tensor:
        """`tensor.next = scalar(reads)` at each element, an output of the graph."""
        new = self.add(Tensor(f"{tensor.name}.next", tensor.shape, tensor.dtype, "state"))
        build = Builder()
        call = Call(
            "hwopt.optimizer", new.name, {}, (new,), "optimizer",
            Source(tensor.name.rpartition(".")[0], "", "hwopt.optimizer"),
        )  # fmt: skip
        build.pointwise(call, scalar, list(reads), kind="optimizer")
        self.ops += build.ops
        self.outputs.append(new.name)
        return new


Optimizer: TypeAlias = Callable[[Step, Tensor, Tensor], None]
"""Emits the update of one parameter from its gradient."""


def adamw(step: Step, parameter: Tensor, gradient: Tensor) -> None:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), as torch.optim.AdamW.

        m' = b1 m + (1 - b1) g          v' = b2 v + (1 - b2) g g
        w' = w - lr (d w + (m' / c1) / (sqrt(v' / c2) + e))      c = 1 - b ** step

    `optimizer.bias1` and `.bias2` are c1 and c2 of this step, worked out by the host.
    """
    shape, name = parameter.shape, parameter.name
    first = step.state(f"{name}.exp_avg", shape)
    second = step.state(f"{name}.exp_avg_sq", shape)
    bias1, bias2 = step.state("optimizer.bias1", ()), step.state("optimizer.bias2", ())
    old, g = Operand(0), Operand(1)
    m = step.update(
        first, apply("add", apply("mul", old, BETA1), apply("mul", g, 1 - BETA1)), first, gradient
    )
    square = apply("mul", apply("mul", g, g), 1 - BETA2)
    v = step.update(second, apply("add", apply("mul", old, BETA2), square), second, gradient)
    mean = apply("div", Operand(1), Operand(3))
    root = apply("add", apply("sqrt", apply("div", Operand(2), Operand(4))), EPSILON)
    kept = apply("mul", Operand(0), 1 - LEARNING_RATE * WEIGHT_DECAY)
    change = apply("mul", apply("div", mean, root), LEARNING_RATE)
    _write(step, parameter, apply("sub", kept, change), m, v, bias1, bias2)


def sgd(step: Step, parameter: Tensor, gradient: Tensor) -> None:
    """Gradient descent without momentum, w' = w - lr g; no state but a master copy."""
    change = apply("mul", Operand(1), LEARNING_RATE)
    _write(step, parameter, apply("sub", Operand(0), change), gradient)


def none(step: Step, parameter: Tensor, gradient: Tensor) -> None:
    """No update: the graph ends with the gradients."""


optimizers: dict[str, Optimizer] = {"adamw": adamw, "sgd": sgd, "none": none}
"""Optimizers by name."""


def _write(step: Step, parameter: Tensor, scalar: Scalar, *reads: Tensor) -> None:
    """The new value of a parameter, through its float32 master copy where it is not float32."""
    if parameter.dtype == "float32":
        step.update(parameter, scalar, parameter, *reads)
        return
    master = step.state(f"{parameter.name}.master", parameter.shape)
    new = step.update(master, scalar, master, *reads)
    step.update(parameter, apply("cast", Operand(0)), new)


def add_optimizer(graph: Graph, optimizer: str) -> tuple[dict[str, Tensor], list[Op], list[str]]:
    """Tensors, operators and outputs of the step for every parameter that has a gradient."""
    step = Step()
    for parameter in graph.parameters:
        gradient = graph.tensor.get(f"{parameter.name}.grad")
        if gradient is not None:
            optimizers[optimizer](step, parameter, gradient)
    return step.tensors, step.ops, step.outputs
