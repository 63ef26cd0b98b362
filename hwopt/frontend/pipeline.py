"""The steps of a trace: resolve, build, capture (with few blocks where they repeat), convert,
expand, add the optimizer; and the graphs kept on disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from hwopt.errors import HwoptError, TraceError
from hwopt.frontend import huggingface
from hwopt.frontend.capture import Request
from hwopt.frontend.captured import parameters_of
from hwopt.frontend.convert import assemble, convert
from hwopt.frontend.expand import MismatchError, expand_stack
from hwopt.frontend.inference import capture_inference
from hwopt.frontend.optimizer import add_optimizer
from hwopt.frontend.repeat import Stack, find_stacks, shortened
from hwopt.frontend.resolve import Resolved, default_dtype, resolve
from hwopt.frontend.store import Store
from hwopt.frontend.subject import Subject, Wrapped, from_inputs, from_shapes
from hwopt.frontend.training import capture_training
from hwopt.ir.graph import Graph
from hwopt.ir.tensor import Tensor
from hwopt.ir.verify import verify


def trace_model(
    model: str | nn.Module, inputs: Any, request: Request, *, cache: bool, expand: bool
) -> Graph:
    """See `capture.trace`, which has checked the request."""
    resolved = resolve(model, request)
    if resolved.modes is not None and request.mode not in resolved.modes:
        raise HwoptError(
            f"{resolved.name} has no mode {request.mode!r}", allowed=", ".join(resolved.modes)
        )
    store = Store(resolved.key, request) if cache and resolved.key and inputs is None else None
    if store is not None and (known := store.load()) is not None:
        return known
    graph = _trace(resolved, inputs, request, expand=expand)
    if store is not None:
        store.save(graph)
    return graph


def _trace(resolved: Resolved, inputs: Any, request: Request, *, expand: bool) -> Graph:
    module, inputs = _built(resolved, inputs, request)
    with _set_mode(module, training=request.mode == "train"):
        return _traced(resolved, module, inputs, request, expand=expand)


def _traced(
    resolved: Resolved, module: nn.Module, inputs: Any, request: Request, *, expand: bool
) -> Graph:
    """The graph of a module that is in the right mode."""
    subject = _subject(resolved, module, inputs, request)
    name = resolved.name if request.mode == "forward" else f"{resolved.name}:{request.mode}"
    parameters = parameters_of(module)
    stacks = find_stacks(module) if expand else ()
    graph = _expanded(subject, stacks, request, name, parameters) if stacks else None
    if graph is None:
        graph = _captured(subject, request, name)
    if request.mode == "train" and request.optimizer != "none":
        tensors, ops, outputs = add_optimizer(graph, request.optimizer)
        graph = assemble(
            name, graph.tensor | tensors, (*graph.ops, *ops), (*graph.outputs, *outputs), parameters
        )
    verify(graph)
    return graph


@contextlib.contextmanager
def _set_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Within: the module trains or infers; afterwards each part is as it was."""
    before = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, value in before.items():
            part.training = value


def _built(resolved: Resolved, inputs: Any, request: Request) -> tuple[nn.Module, Any]:
    """The module, in the element type asked for, and the inputs given with it."""
    made = resolved.build()
    module, own = made if isinstance(made, tuple) else (made, None)
    if request.dtype is not None and any(
        p.is_floating_point() and p.dtype != default_dtype(request) for p in module.parameters()
    ):
        if not resolved.owned:
            raise HwoptError(
                "the module has its own element type", value=request.dtype,
                fix="convert it before tracing: module.to(dtype)",
            )  # fmt: skip
        module = module.to(default_dtype(request))
    return module, inputs if inputs is not None else own


def _subject(resolved: Resolved, module: nn.Module, inputs: Any, request: Request) -> Subject:
    """The module with its inputs: those given, else those its entry or configuration implies."""
    known = huggingface.is_transformers(module)
    options = huggingface.call_options(module) if known else {}
    seq = request.seq if request.seq is not None else resolved.seq
    if inputs is not None:
        subject = from_inputs(resolved.name, module, inputs, loss=resolved.loss)
        loss = "labels" if known and "labels" in subject.inputs else subject.loss
        given = {name: value for name, value in options.items() if name not in subject.inputs}
        return replace(subject, options=given, loss=loss)
    if resolved.shapes is not None and not (known and "input_ids" in resolved.shapes(1, seq)):
        shapes = resolved.shapes(request.batch, seq)
    elif known:
        shapes = huggingface.input_shapes(module, request.batch, seq)
        length = next((s[1] for n, (s, _) in shapes.items() if n == "input_ids"), 0)
        huggingface.check_positions(module, length + (request.mode == "decode"))
    else:
        raise TraceError(
            f"the inputs of {resolved.name} are not known", fix="give `inputs`, or let the factory "
            "return (module, inputs)",
        )  # fmt: skip
    loss = resolved.loss
    if request.mode == "train" and known:
        if huggingface.is_labelled(module):
            source = "decoder_input_ids" if "decoder_input_ids" in shapes else "input_ids"
            shapes["labels"], loss = shapes[source], "labels"
        elif loss == "labels":
            loss = None
    return from_shapes(resolved.name, module, shapes, options=options, loss=loss)


def _captured(subject: Subject, request: Request, name: str) -> Graph:
    """The graph of a module as it stands."""
    module = subject.module
    if request.mode == "train":
        captured = capture_training(subject, module)
    elif request.mode == "forward":
        captured = capture_inference(subject.name, Wrapped(subject, module), subject.inputs)
    else:
        batch, length = _tokens(subject, request)
        captured = huggingface.capture_cached(
            subject.name, module, batch, length, decode=request.mode == "decode"
        )
    return convert(captured, name, request.unsupported)


def _tokens(subject: Subject, request: Request) -> tuple[int, int]:
    """Batch and sequence of a language model's tokens."""
    tokens = subject.inputs.get("input_ids")
    if tokens is None or tokens.dim() != 2:
        raise HwoptError(
            f"{subject.name} is not a language model with a key/value cache",
            value=request.mode, allowed="forward, train",
        )  # fmt: skip
    return int(tokens.shape[0]), int(tokens.shape[1])


def _expanded(
    subject: Subject, stacks: tuple[Stack, ...], request: Request, name: str,
    parameters: tuple[Tensor, ...],
) -> Graph | None:  # fmt: skip
    """The graph of a module of repeated blocks, from a capture with four of each; None when the
    traced blocks are not equal after all, so that all must be traced.
    """
    try:
        with shortened(stacks):
            graph = _captured(subject, request, name)
        for stack in stacks:
            graph = expand_stack(graph, stack, parameters)
    except (MismatchError, TraceError):
        return None
    return graph
