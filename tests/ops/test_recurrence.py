"""Recurrent layers, cells and the LSTM's gradients against torch."""

from __future__ import annotations

import itertools

import pytest
import torch

from hwopt.errors import UnsupportedOperatorError
from hwopt.ir.op import Scan

A = torch.ops.aten
R = torch.randn
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def parameters(gates, layers, directions, biases, inputs=3, hidden=4):
    """The flat list of weights that torch's layers keep."""
    flat = []
    for layer, _ in itertools.product(range(layers), range(directions)):
        wide = inputs if layer == 0 else hidden * directions
        flat += [R(gates * hidden, wide), R(gates * hidden, hidden)]
        flat += [R(gates * hidden), R(gates * hidden)] * biases
    return flat


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, False), (1, True), (2, True)])
@pytest.mark.parametrize("batch_first", [False, True])
def test_layers(run_aten, cell, layers, both, batch_first):
    """Layers, directions, both layouts, with and without biases."""
    for biases in (True, False):
        x = R(2, 5, 3) if batch_first else R(5, 2, 3)
        state = R(layers * (1 + both), 2, 4)
        hx = [state, R(state.shape)] if cell == "lstm" else state
        flat = parameters(GATES[cell], layers, 1 + both, biases)
        rest = (biases, layers, 0.0, False, both, batch_first)
        run_aten(getattr(A, cell).input, x, hx, flat, *rest, tolerance=1e-4)


def test_work_of_an_lstm(lowered):
    """Per layer T*B*4H*(I + H) multiply-accumulates; the recurrent product is sequential in t."""
    hx = [R(1, 2, 4), R(1, 2, 4)]
    rest = (True, 1, 0.0, False, False, False)
    graph = lowered(A.lstm.input, R(5, 2, 3), hx, parameters(4, 1, 1, True), *rest).graph
    assert graph.macs == 5 * 2 * 16 * (3 + 4)
    (scan,) = [op for op in graph.ops if isinstance(op.body, Scan)]
    assert scan.body.depth == 5
    assert scan.nests[0].sequential == ("t",)


def test_dropout_between_layers(lowered):
    """In training a mask is drawn between layers, not after the last."""
    hx = [R(2, 2, 4), R(2, 2, 4)]
    rest = (True, 2, 0.5, True, False, False)
    graph = lowered(A.lstm.input, R(5, 2, 3), hx, parameters(4, 2, 1, True), *rest).graph
    assert [op.kind for op in graph.ops].count("dropout") == 1


def test_projection_is_refused(lowered):
    """An LSTM whose state is projected has no lowering, and says so."""
    module = torch.nn.LSTM(3, 4, proj_size=2)
    flat = [p.detach() for p in module.parameters()]
    with pytest.raises(UnsupportedOperatorError, match="projection"):
        lowered(
            A.lstm.input, R(5, 2, 3), [R(1, 2, 2), R(1, 2, 4)], flat, True, 1, 0.0, False, False,
            False,
        )  # fmt: skip


@pytest.mark.parametrize("biases", [False, True])
def test_cells(run_aten, biases):
    """One step of each."""
    x, h, c = R(2, 3), R(2, 4), R(2, 4)

    def weights(gates):
        return R(gates * 4, 3), R(gates * 4, 4), *([R(gates * 4), R(gates * 4)] * biases)

    run_aten(A.lstm_cell.default, x, [h, c], *weights(4))
    run_aten(A.gru_cell.default, x, h, *weights(3))
    run_aten(A.rnn_tanh_cell.default, x, h, *weights(1))
    run_aten(A.rnn_relu_cell.default, x, h, *weights(1))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 5])
def test_lstm_gradients(lowered, reverse, steps):
    """One layer of the CPU library and its backward, against autograd of the plain formula."""
    x, h, c = R(steps, 2, 3).requires_grad_(), R(2, 4).requires_grad_(), R(2, 4).requires_grad_()
    flat = [p.requires_grad_() for p in parameters(4, 1, 1, True)]
    layout = x.flip(0) if reverse else x
    y, hn, cn = torch.lstm(layout, [h[None], c[None]], flat, True, 1, 0.0, False, False, False)
    y = y.flip(0) if reverse else y
    plain = [t.detach() for t in flat]
    states = h.detach(), c.detach()
    workspace = torch.zeros(0, dtype=torch.uint8)
    lowered(
        A.mkldnn_rnn_layer.default, x.detach(), *plain, *states, reverse, [], 2, 4, 1, True, False,
        False, True, expected=(y, hn[0], cn[0], workspace),
    ).check()  # fmt: skip
    grads = R(y.shape), R(2, 4), R(2, 4)
    wanted = torch.autograd.grad((y, hn[0], cn[0]), (x, *flat, h, c), grads)
    result = lowered(
        A.mkldnn_rnn_layer_backward.default, x.detach(), *plain, *states, y.detach(),
        hn[0].detach(), cn[0].detach(), *grads, reverse, 2, 4, 1, True, True, False, [], False,
        workspace, expected=wanted,
    ).check(1e-4)  # fmt: skip
    assert result.graph.macs == 2 * steps * 2 * 16 * (3 + 4)
    assert result.graph.recompute_flops == 2 * steps * 2 * 16 * (3 + 4)


def test_lstm_without_gradients_of_states(lowered):
    """Only the outputs have a gradient: that of the last states is zero."""
    x, h, c = R(3, 2, 3), R(2, 4), R(2, 4)
    flat = [p.requires_grad_() for p in parameters(4, 1, 1, True)]
    y, hn, cn = torch.lstm(x, [h[None], c[None]], flat, True, 1, 0.0, False, False, False)
    grad, plain = R(y.shape), [t.detach() for t in flat]
    wanted = torch.autograd.grad(y, flat, grad)
    given = (x, *plain, h[None], c[None], y.detach(), hn.detach(), cn.detach(), grad, None, None)
    result = lowered(
        A.mkldnn_rnn_layer_backward.default, *given, False, 2, 4, 1, True, True, False, [], False,
        torch.zeros(0, dtype=torch.uint8),
        expected=(R(x.shape), *wanted, R(1, 2, 4), R(1, 2, 4)),
    )  # fmt: skip
    for position in range(1, 5):
        result.check(1e-4, only=position)
