"""The optimizer step equals torch's optimizers over several steps."""

import numpy as np
import pytest
import torch

from hwopt import interpret
from hwopt.frontend.convert import assemble
from hwopt.frontend.optimizer import BETA1, BETA2, add_optimizer, optimizers
from hwopt.ir.graph import Graph
from hwopt.ir.tensor import Tensor
from hwopt.ir.verify import verify


def step_graph(optimizer, dtype="float32"):
    """A graph that is the step alone: parameter `w` and its gradient are given."""
    weight = Tensor("w", (3, 5), dtype, "parameter")
    gradient = Tensor("w.grad", (3, 5), dtype, "input")
    bare = Graph("step", (weight, gradient), (), ("w.grad",))
    tensors, ops, outputs = add_optimizer(bare, optimizer)
    graph = assemble("step", bare.tensor | tensors, ops, outputs, (weight,))
    if ops:
        verify(graph)
    return graph


def test_adamw_over_three_steps():
    """Moments, bias correction and decoupled weight decay."""
    graph = step_graph("adamw")
    generator = torch.Generator().manual_seed(1)
    parameter = torch.nn.Parameter(torch.randn(3, 5, generator=generator))
    optimizer = torch.optim.AdamW([parameter], lr=1e-3)
    values = {t.name: np.zeros(t.shape, np.float32) for t in graph.sources}
    values["w"] = parameter.detach().numpy().copy()
    for step in (1, 2, 3):
        parameter.grad = torch.randn(3, 5, generator=generator)
        values["w.grad"] = parameter.grad.numpy()
        values["optimizer.bias1"] = np.float32(1 - BETA1**step)
        values["optimizer.bias2"] = np.float32(1 - BETA2**step)
        result = interpret(graph, values)
        optimizer.step()
        np.testing.assert_allclose(result["w.next"], parameter.detach().numpy(), atol=1e-6)
        values |= {n.removesuffix(".next"): v for n, v in result.items() if n.endswith(".next")}


def test_sgd():
    """Plain gradient descent."""
    graph = step_graph("sgd")
    w, g = np.ones((3, 5), np.float32), np.full((3, 5), 2.0, np.float32)
    np.testing.assert_allclose(interpret(graph, {"w": w, "w.grad": g})["w.next"], w - 2e-3)
    assert not [t for t in graph.sources if t.role == "state"]


def test_master_copy():
    """Half precision: the float32 copy keeps what the parameter cannot."""
    graph = step_graph("sgd", "bfloat16")
    master = np.full((3, 5), 1.0, np.float32)
    given = {"w": master, "w.grad": np.full((3, 5), 2.0, np.float32), "w.master": master}
    result = interpret(graph, given)
    np.testing.assert_allclose(result["w.master.next"], 0.998, rtol=1e-6)
    assert result["w.next"].astype(np.float32)[0, 0] == pytest.approx(1.0, abs=2**-8)


def test_none_adds_nothing():
    """Every optimizer by name; "none" ends with the gradients."""
    assert set(optimizers) == {"adamw", "sgd", "none"}
    assert step_graph("none").ops == ()
