"""Memory of activations: by hand, and beside what autograd really saves."""

import pytest
import torch

import hwopt
from hwopt import Graph, Tensor
from rlhf.activations import activations, block_stack
from rlhf.forms import facts_of
from rlhf.traces import passes
from tests.rlhf.models import LLAMA, OPT, batch, form, network

DEVICE = hwopt.load("a100").model_copy(update={"bits": {}})
TOLERANCE = 0.01
"""Of the bytes that autograd saves: what is not predicted are masks of attention."""


def saved_bytes(module, tokens, attended):
    """Bytes of the storages that autograd keeps for the backward pass, weights aside."""
    own = [*module.parameters(), *module.buffers()]
    weights = {t.untyped_storage().data_ptr() for t in own}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = module(tokens, attended)
        total = sum(found.values())
    assert kept
    return total


@pytest.mark.parametrize(
    ("config", "kind", "rows", "tokens"),
    [(LLAMA, "policy", 4, 40), (LLAMA, "value", 2, 64),
     pytest.param(OPT, "policy", 4, 40, marks=pytest.mark.slow),
     pytest.param(OPT, "value", 3, 50, marks=pytest.mark.slow)],
)  # fmt: skip
def test_saved_bytes_beside_autograd(config, kind, rows, tokens):
    """Predicted from the graph within 1 % of what a real forward keeps, head included."""
    of = form(config, kind)
    module = network(of).train()
    measured = saved_bytes(module, *batch(rows, tokens))
    facts, memory = facts_of(of), passes(of, rows, tokens, DEVICE).memory
    head = rows * tokens * facts.head_inputs * 4
    logits = rows * (tokens - 1) * facts.head_outputs * 4 if kind == "policy" else 0
    assert memory.saved + head + logits == pytest.approx(measured, rel=TOLERANCE)


def chain():
    """X -> a -> view -> b -> c, then backward from b's saved value; 4-byte elements of 8."""

    def tensor(name, role="activation", size=8):
        return Tensor(name, (size,), "float32", role)

    def op(name, reads, writes, phase="forward", view=False):
        body = hwopt.Opaque(name)
        resource = "none" if view else "vector"
        return hwopt.Op(name, name, body, resource, reads, writes, phase)

    tensors = (
        tensor("x", "input"), tensor("layers.0.w", "parameter"), tensor("layers.1.w", "parameter"),
        tensor("layers.0.a"), tensor("layers.0.v"), tensor("layers.0.b.t1", size=1000),
        tensor("layers.0.b"), tensor("layers.1.c"), tensor("g"),
        tensor("layers.0.w.grad", "gradient"),
    )  # fmt: skip
    ops = (
        op("layers.0.a", ("x",), ("layers.0.a",)),
        op("layers.0.v", ("layers.0.a",), ("layers.0.v",), view=True),
        op("layers.0.t", ("layers.0.v", "layers.0.w"), ("layers.0.b.t1",)),
        op("layers.0.b", ("layers.0.b.t1",), ("layers.0.b",)),
        op("layers.1.c", ("layers.0.b", "layers.1.w"), ("layers.1.c",)),
        op("back", ("layers.1.c", "layers.0.v"), ("g",), "backward"),
        op("back.w", ("g",), ("layers.0.w.grad",), "backward"),
    )
    return Graph("chain", tensors, ops, ("layers.0.w.grad",))


def test_liveness_by_hand():
    """Inference holds b and c, training a (through its view), c and g; the kernel's own tensor, the
    weights and their gradient are not counted.
    """
    found = activations(chain())
    assert found.inference == 2 * 32  # b while c is made
    assert found.saved == 2 * 32  # a, by its view, and c
    assert found.peak == 3 * 32  # a, b and c, then a, c and g
    assert found.block == 32
    assert found.outside == 0
    assert found.boundaries == 32  # b enters block 1
    assert block_stack(chain()) == "layers"


def test_checkpointing_keeps_the_inputs_of_blocks():
    """Less is saved than without, and at the worst moment no more is alive."""
    memory = passes(form(LLAMA, "policy"), 4, 40, DEVICE).memory
    rows_bytes = 4 * 40 * 32 * 4
    assert memory.checkpointed_saved < memory.saved
    assert memory.checkpointed_peak < memory.peak
    assert memory.boundaries >= 3 * rows_bytes  # each of three blocks has its input
    assert memory.inference < memory.saved < memory.peak
