"""Recurrent layers and cells: LSTM, GRU and plain RNN, forward; LSTM backward.

The input projection is one contraction over all steps; what remains is a `Scan` over time whose
nest is the recurrent product, sequential in t:

    gates[t, b, n] = sum over k of x[t, b, k] * w_ih[n, k]                        matrix, one nest
    gates[t, b, n] += sum over k of h[t - 1, b, k] * w_hh[n, k]; cell functions   scan over t

Gates are stacked in torch's order: LSTM input, forget, cell, output; GRU reset, update, new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwopt.ir.access import Axis, parse_access
from hwopt.ir.op import Nest, Phase
from hwopt.ir.scalar import PRODUCT, Operand, Scalar, apply
from hwopt.ir.tensor import Tensor
from hwopt.ops.builder import Builder, at
from hwopt.ops.lowering import Call, lowering
from hwopt.ops.randomness import bernoulli

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
CELL_WORK = {"lstm": 13, "gru": 14, "rnn_tanh": 3, "rnn_relu": 3}
"""Vector operations per hidden unit and step, biases apart: an activation per gate, the recurrent
product added to each gate, and the cell's own arithmetic."""


@dataclass(frozen=True)
class Weights:
    """Parameters of one layer in one direction."""

    input: Tensor
    hidden: Tensor
    biases: tuple[Tensor, ...] = ()


def _project(
    call: Call,
    build: Builder,
    x: Tensor,
    weight: Tensor,
    *,
    batch_first: bool = False,
    phase: Phase | None = None,
) -> Tensor:
    """`gates[t, b, n] = sum over k of x[t, b, k] * w[n, k]`."""
    steps, batch = (x.shape[1], x.shape[0]) if batch_first else x.shape[:2]
    gates = build.temporary(call, (steps, batch, weight.shape[0]), x.dtype)
    axes = {"t": steps, "b": batch, "n": weight.shape[0], "k": weight.shape[1]}
    time = ("b", "t", "k") if batch_first else ("t", "b", "k")
    build.contract(
        call, axes, at(x, *time), at(weight, "n", "k"), at(gates, "t", "b", "n"),
        kind="recurrence_input", phase=phase,
    )  # fmt: skip
    return gates


def _step_nest(steps: int, batch: int, wide: int, narrow: int, *, backward: bool) -> Nest:
    """The recurrent product of all steps, one after another."""
    axes = (Axis("t", steps), Axis("b", batch), Axis("n", wide), Axis("k", narrow))
    hidden, gates = parse_access("t", "b", "k"), parse_access("t", "b", "n")
    weight = parse_access("n", "k")
    reads, write = ((gates, weight), hidden) if backward else ((hidden, weight), gates)
    return Nest(axes, reads, write, PRODUCT, "sum", ("t",))


def _run(
    call: Call,
    build: Builder,
    cell: str,
    gates: Tensor,
    weights: Weights,
    states: Sequence[Tensor],
    writes: Sequence[Tensor],
    *,
    reverse: bool,
    phase: Phase | None = None,
) -> None:
    """The recurrence over time: reads [gates, w_hh, states, biases], writes [y, last states]."""
    steps, batch, wide = gates.shape
    hidden = wide // GATES[cell]
    per_unit = CELL_WORK[cell] + GATES[cell] * len(weights.biases)
    build.scan(
        call, cell, [gates, weights.hidden, *states, *weights.biases], writes, reverse=reverse,
        biases=bool(weights.biases), work=per_unit * steps * batch * hidden, depth=steps,
        nests=[_step_nest(steps, batch, wide, hidden, backward=False)],
        kind="recurrence", resource="matrix", phase=phase,
    )  # fmt: skip


def _parameters(call: Call, count: int) -> list[Weights]:
    """The flat list of parameters, per layer and direction."""
    flat: list[Tensor] = list(call.arguments["params"])
    size = len(flat) // count
    if size not in (2, 4):
        raise call.unsupported("a projection of the hidden state")
    return [
        Weights(flat[i], flat[i + 1], tuple(flat[i + 2 : i + size]))
        for i in range(0, count * size, size)
    ]


def _stacked(call: Call, build: Builder, states: Sequence[Tensor], out: Tensor) -> None:
    """The last states of all layers and directions as one tensor."""
    if len(states) == 1:
        build.reshape(call, states[0], out)
    else:
        build.gather(call, "stack", states, [out], dim=0, kind="concatenate")


@lowering("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input")
def recurrent_layers(call: Call, build: Builder) -> None:
    """Layers upon layers, in one or both directions."""
    cell = call.target.split(".")[1]
    hx = call.arguments["hx"]
    initial: list[Tensor] = list(hx) if isinstance(hx, list | tuple) else [hx]
    layers, both = call.arguments["num_layers"], call.arguments["bidirectional"]
    directions, batch_first = 1 + both, call.arguments["batch_first"]
    weights = _parameters(call, layers * directions)
    x, last = call.tensor("input"), [[] for _ in initial]  # type: tuple[Tensor, list[list[Tensor]]]
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            row = layer * directions + direction
            whole = layer == layers - 1 and not both and not batch_first
            y, states = _direction(
                call, build, cell, x, weights[row], initial, row,
                first=batch_first and layer == 0, reverse=direction == 1,
                out=call.output if whole else None,
            )  # fmt: skip
            outputs.append(y)
            for kept, state in zip(last, states, strict=True):
                kept.append(state)
        x = _joined(call, build, outputs)
        if layer < layers - 1:
            x = _dropped(call, build, x)
    if x is not call.output:
        if batch_first:
            build.view(call, x, "d1", "d0", "d2")
        else:
            build.pointwise(call, Operand(0), [x], kind="view", resource="none")
    for kept, out in zip(last, call.outputs[1:], strict=True):
        _stacked(call, build, kept, out)


def _direction(
    call: Call,
    build: Builder,
    cell: str,
    x: Tensor,
    weights: Weights,
    initial: Sequence[Tensor],
    row: int,
    *,
    first: bool,
    reverse: bool,
    out: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """One layer in one direction: its outputs (time, batch, hidden) and last states."""
    gates = _project(call, build, x, weights.input, batch_first=first)
    steps, batch, hidden = *gates.shape[:2], weights.hidden.shape[1]
    states = []
    for state in initial:
        own = build.temporary(call, (batch, hidden), state.dtype)
        states.append(build.view(call, state, row, "d0", "d1", out=own))
    y = out or build.temporary(call, (steps, batch, hidden), x.dtype)
    last = [build.temporary(call, (batch, hidden), x.dtype) for _ in initial]
    _run(call, build, cell, gates, weights, states, [y, *last], reverse=reverse)
    return y, last


def _joined(call: Call, build: Builder, outputs: Sequence[Tensor]) -> Tensor:
    """Both directions side by side."""
    if len(outputs) == 1:
        return outputs[0]
    steps, batch, hidden = outputs[0].shape
    out = build.temporary(call, (steps, batch, 2 * hidden), outputs[0].dtype)
    return build.gather(call, "cat", outputs, [out], dim=2, kind="concatenate")


def _dropped(call: Call, build: Builder, x: Tensor) -> Tensor:
    """Dropout between layers, in training."""
    probability = call.arguments["dropout"]
    if not call.arguments["train"] or probability == 0:
        return x
    mask, out = build.temporary(call, x.shape, "bool"), build.temporary(call, x.shape, x.dtype)
    bernoulli(call, build, 1 - probability, mask)
    kept = 1 / (1 - probability) if probability < 1 else 0.0
    scaled = apply("mul", apply("mul", Operand(0), Operand(1)), kept)
    return build.pointwise(call, scaled, [x, mask], out, kind="dropout")


def _mkldnn(call: Call) -> tuple[Tensor, Weights, bool]:
    """Input, weights and direction of one LSTM layer of the CPU library."""
    if call.arguments["mode"] != 2 or call.arguments["num_layers"] != 1:
        raise call.unsupported("anything but one LSTM layer")
    first = 0 if "weight0" in call.arguments else 1  # the backward counts from 1
    listed = [call.tensor(f"weight{first + i}") for i in range(4)]
    biases = tuple(listed[2:]) if call.arguments["has_biases"] else ()
    weights = Weights(listed[0], listed[1], biases)
    return call.tensor("input"), weights, call.arguments["reverse"]


def _flat_state(call: Call, build: Builder, state: Tensor) -> Tensor:
    """(1, batch, hidden) as (batch, hidden)."""
    if len(state.shape) == 2:
        return state
    return build.reshape(call, state, build.temporary(call, state.shape[-2:], state.dtype))


@lowering("aten.mkldnn_rnn_layer.default")
def mkldnn_layer(call: Call, build: Builder) -> None:
    """One LSTM layer in one direction; the workspace stays opaque."""
    x, weights, reverse = _mkldnn(call)
    if call.arguments["batch_first"]:
        raise call.unsupported("batch first")
    gates = _project(call, build, x, weights.input)
    states = [_flat_state(call, build, call.tensor(name)) for name in ("hx_", "cx_")]
    last = [build.temporary(call, s.shape, s.dtype) for s in states]
    _run(call, build, "lstm", gates, weights, states, [call.output, *last], reverse=reverse)
    for state, out in zip(last, call.outputs[1:3], strict=True):
        build.reshape(call, state, out)
    build.unspecified(call, call.outputs[3:])


@lowering("aten.mkldnn_rnn_layer_backward.default")
def mkldnn_layer_backward(call: Call, build: Builder) -> None:
    """Gradients of input, weights, biases and first states.

    The library keeps the gates in an opaque workspace; here they are computed again (phase
    "recompute"). With d = gradient of the gates before their activation, from last step to first:
    `dh[t-1] = d[t] w_hh`; then `dx = d w_ih`, `dw_ih = d' x`, `dw_hh = d' h[t-1]`, `db = sum d`.
    """
    x, weights, reverse = _mkldnn(call)
    states = [_flat_state(call, build, call.tensor(name)) for name in ("hx_", "cx_tmp")]
    y = call.tensor("output")
    steps, batch, hidden = y.shape
    raw = _project(call, build, x, weights.input, phase="recompute")
    gates = build.temporary(call, raw.shape, raw.dtype)
    cells = build.temporary(call, y.shape, y.dtype)
    again = [build.temporary(call, t.shape, t.dtype) for t in (y, *states)]
    _run(
        call, build, "lstm", raw, weights, states, [*again, gates, cells], reverse=reverse,
        phase="recompute",
    )  # fmt: skip
    grads = [
        _gradient(call, build, name, like)
        for name, like in (("grad_output", y), ("grad_hy", states[0]), ("grad_cy", states[1]))
    ]
    delta = build.temporary(call, gates.shape, gates.dtype)
    first = [build.temporary(call, s.shape, s.dtype) for s in states]
    build.scan(
        call, "lstm_backward", [gates, weights.hidden, cells, states[1], *grads], [delta, *first],
        reverse=reverse, work=24 * y.elements, depth=steps,
        nests=[_step_nest(steps, batch, 4 * hidden, hidden, backward=True)],
        kind="recurrence", resource="matrix",
    )  # fmt: skip
    for state, out in zip(first, call.outputs[5:7], strict=True):
        build.reshape(call, state, out)
    _parameter_gradients(call, build, x, weights, delta, _previous(call, build, y, states[0]))


def _gradient(call: Call, build: Builder, name: str, like: Tensor) -> Tensor:
    """A gradient that may be absent (zeros then)."""
    given = call.optional(name)
    if given is None:
        zeros = build.temporary(call, like.shape, like.dtype)
        return build.fill(call, 0, zeros, resource="none")
    if given.shape == like.shape:
        return given
    return build.reshape(call, given, build.temporary(call, like.shape, like.dtype))


def _previous(call: Call, build: Builder, y: Tensor, first: Tensor) -> Tensor:
    """h[t-1] for every t: the outputs shifted by one step, the first state in front."""
    steps, batch, hidden = y.shape
    wide = build.reshape(call, first, build.temporary(call, (1, batch, hidden), y.dtype))
    if steps == 1:
        return wide
    reverse = call.arguments["reverse"]
    rest = build.temporary(call, (steps - 1, batch, hidden), y.dtype)
    build.view(call, y, "d0 + 1" if reverse else "d0", "d1", "d2", out=rest)
    parts = [rest, wide] if reverse else [wide, rest]
    out = build.temporary(call, y.shape, y.dtype)
    return build.gather(call, "cat", parts, [out], dim=0, kind="concatenate")


def _parameter_gradients(
    call: Call, build: Builder, x: Tensor, weights: Weights, delta: Tensor, previous: Tensor
) -> None:
    """The four contractions that follow the recurrence."""
    steps, batch, wide = delta.shape
    axes = {"t": steps, "b": batch, "k": x.shape[2], "n": wide}
    row = at(delta, "t", "b", "n")
    build.contract(
        call, axes, row, at(weights.input, "n", "k"), at(call.outputs[0], "t", "b", "k"),
        kind="recurrence_input",
    )  # fmt: skip
    for source, out in ((x, call.outputs[1]), (previous, call.outputs[2])):
        build.contract(
            call, axes | {"k": source.shape[2]}, at(source, "t", "b", "k"), row, at(out, "n", "k"),
            kind="recurrence_input",
        )  # fmt: skip
    for out in call.outputs[3:5]:
        if out.elements == wide:
            build.reduce(call, "sum", [delta], [0, 1], out)


def _gate(position: int, biases: int) -> Scalar:
    """One gate before its activation: both products, then the biases. Each gate has `2 + biases`
    operands.
    """
    start = position * (2 + biases)
    value: Scalar = Operand(start)
    for i in range(1, 2 + biases):
        value = apply("add", value, Operand(start + i))
    return value


@lowering("aten.lstm_cell.default")
def lstm_cell(call: Call, build: Builder) -> None:
    """`c' = f * c + i * g`, `h' = o * tanh(c')`."""
    h, c = call.arguments["hx"]
    sums, biases = _cell_products(call, build, h)
    reads = [at(t, *index) for gate in range(3) for t, index in _gate_reads(sums, biases, gate, h)]
    count = len(biases)
    i, f, g = (_gate(gate, count) for gate in range(3))
    axes = {"b": h.shape[0], "n": h.shape[1]}
    reads.append(at(c, "b", "n"))
    kept = apply("mul", apply("sigmoid", f), Operand(len(reads) - 1))
    cell = apply("add", kept, apply("mul", apply("sigmoid", i), apply("tanh", g)))
    build.nest(
        call, axes, reads, at(call.outputs[1], "b", "n"), cell, kind="cell", resource="vector"
    )
    own = [at(t, *index) for t, index in _gate_reads(sums, biases, 3, h)]
    last = _gate(0, count)
    shown = apply("mul", apply("sigmoid", last), apply("tanh", Operand(len(own))))
    own.append(at(call.outputs[1], "b", "n"))
    build.nest(
        call, axes, own, at(call.outputs[0], "b", "n"), shown, kind="cell", resource="vector"
    )


def _cell_products(call: Call, build: Builder, h: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Both contractions of a cell, and its biases."""
    sums = []
    for x, name in ((call.tensor("input"), "w_ih"), (h, "w_hh")):
        weight = call.tensor(name)
        out = build.temporary(call, (x.shape[0], weight.shape[0]), x.dtype)
        axes = {"b": x.shape[0], "n": weight.shape[0], "k": weight.shape[1]}
        build.contract(
            call, axes, at(x, "b", "k"), at(weight, "n", "k"), at(out, "b", "n"),
            kind="recurrence_input",
        )  # fmt: skip
        sums.append(out)
    biases = [t for t in (call.optional("b_ih"), call.optional("b_hh")) if t is not None]
    return sums, biases


def _gate_reads(
    sums: Sequence[Tensor], biases: Sequence[Tensor], gate: int, h: Tensor
) -> list[tuple[Tensor, tuple[str, ...]]]:
    """The operands of one gate: a block of columns of each tensor."""
    column = f"n + {gate * h.shape[1]}"
    return [(t, ("b", column)) for t in sums] + [(t, (column,)) for t in biases]


@lowering("aten.gru_cell.default")
def gru_cell(call: Call, build: Builder) -> None:
    """`r, z = sigmoid`, `n = tanh(x_n + r * h_n)`, `h' = (1 - z) * n + z * h`."""
    h = call.tensor("hx")
    sums, biases = _cell_products(call, build, h)
    count = len(biases)
    reads = [at(t, *index) for gate in range(3) for t, index in _gate_reads(sums, biases, gate, h)]
    reset = apply("sigmoid", _gate(0, count))
    update = apply("sigmoid", _gate(1, count))
    start = 2 * (2 + count)
    from_input: Scalar = Operand(start)
    from_hidden: Scalar = Operand(start + 1)
    if count == 2:
        from_input = apply("add", from_input, Operand(start + 2))
        from_hidden = apply("add", from_hidden, Operand(start + 3))
    new = apply("tanh", apply("add", from_input, apply("mul", reset, from_hidden)))
    old = Operand(len(reads))
    reads.append(at(h, "b", "n"))
    value = apply("add", apply("mul", apply("sub", old, new), update), new)
    axes = {"b": h.shape[0], "n": h.shape[1]}
    build.nest(call, axes, reads, at(call.output, "b", "n"), value, kind="cell", resource="vector")


@lowering("aten.rnn_tanh_cell.default", "aten.rnn_relu_cell.default")
def rnn_cell(call: Call, build: Builder) -> None:
    """`h' = tanh(w_ih x + w_hh h + biases)`, or the rectifier."""
    h = call.tensor("hx")
    sums, biases = _cell_products(call, build, h)
    total = _gate(0, len(biases))
    tanh = "tanh" in call.target
    value = apply("tanh", total) if tanh else apply("maximum", total, 0.0)
    build.pointwise(call, value, [*sums, *biases], kind="cell")
