"""Capture of a training step: loss, forward and backward in one graph (AOT autograd, joint).

The model is copied onto fake CPU tensors, which hold no memory: on the meta device autograd loses
the gradient of some losses. Dropout is off. Dynamo captures the forward pass with its modules and
source lines; the joint graph then carries both passes, and its placeholders and outputs say which
parameter each belongs to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch._dynamo.functional_export import dynamo_graph_capture_for_export
from torch._functorch._aot_autograd import descriptors
from torch._functorch.aot_autograd import aot_export_joint_with_descriptors
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import traceback
from torch.nn import functional
from torch.utils import _pytree as pytree

from hwopt.errors import HwoptError, TraceError
from hwopt.frontend.captured import (
    Captured,
    Given,
    Result,
    fake_module,
    fake_tensor,
    first_names,
    parameters_of,
    tracing,
)
from hwopt.frontend.naming import WRAPPED, without_wrapper
from hwopt.frontend.subject import Subject
from hwopt.ir.tensor import Role
from hwopt.models.library import LossName
from hwopt.ops.lowering import lowerings

TARGET = "target"
"""Input that holds what the model should have answered, where the loss is not the model's own."""


_ORDER: tuple[Role, ...] = ("activation", "gradient", "state")
"""Outputs: the loss, gradients in the order of the parameters, then changed buffers."""


class WithLoss(nn.Module):
    """The model under flat tensor arguments, returning its scalar loss."""

    def __init__(self, subject: Subject, module: nn.Module, loss: LossName) -> None:
        super().__init__()
        setattr(self, WRAPPED, module)
        self._arguments = subject.arguments
        self._options = dict(subject.options)
        self._loss = loss
        self._targets = 0 if loss in ("labels", "mean") else 1

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor]:
        """The loss of the inputs (and of the target, which comes last)."""
        inputs = tensors[: len(tensors) - self._targets]
        positional, keywords = self._arguments(inputs)
        result = getattr(self, WRAPPED)(*positional, **keywords, **self._options)
        if self._loss == "labels":
            return (result.loss,)
        if self._loss == "mean":
            return (torch.stack([leaf.mean() for leaf in _floating(result)]).sum(),)
        logits = _logits(result)
        if self._loss == "cross_entropy":
            flat = logits.reshape(-1, logits.shape[-1])
            return (functional.cross_entropy(flat, tensors[-1].reshape(-1)),)
        return (functional.binary_cross_entropy_with_logits(logits, tensors[-1]),)


def capture_training(subject: Subject, module: nn.Module) -> Captured:
    """The joint graph of `module`'s training step. Raises `TraceError` or `HwoptError`.

    A model that throws dice in training mode (layers dropped at random) is captured in inference
    mode, but for its batch normalisation.
    """
    try:
        return _capture(subject, module, random=True)
    except TraceError as error:
        with contextlib.suppress(TraceError):
            return _capture(subject, module, random=False)
        raise error from error.__cause__


def _capture(subject: Subject, module: nn.Module, *, random: bool) -> Captured:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with tracing(subject.name), mode:
        model = fake_module(module, mode).train()
        _still(model)
        if not random:
            for part in model.modules():
                part.training = isinstance(part, nn.modules.batchnorm._NormBase)  # noqa: SLF001 - the common base class
        inputs = {name: fake_tensor(value, mode) for name, value in subject.inputs.items()}
        loss, target = _loss(subject, model, inputs)
        if target is not None:
            inputs = {**inputs, TARGET: target}
        step = WithLoss(subject, model, loss)
        tensors = tuple(inputs.values())
        with traceback.preserve_node_meta(), _settings(), contextlib.ExitStack() as stack:
            forward = dynamo_graph_capture_for_export(step)(*tensors)
            joint = aot_export_joint_with_descriptors(
                stack, forward, tensors, decompositions=_decompositions()
            )
        return _described(joint.graph_module, tuple(inputs), model)


def _settings() -> contextlib.AbstractContextManager[Any]:
    """Everything is static, whatever was captured before; recurrent layers are let through."""
    settings = torch._dynamo.config  # noqa: SLF001 - its public home
    patched: contextlib.AbstractContextManager[Any] = settings.patch(
        allow_rnn=True, specialize_float=True, automatic_dynamic_shapes=False
    )
    return patched


def _described(
    graph_module: torch.fx.GraphModule, names: tuple[str, ...], model: nn.Module
) -> Captured:
    """Names and roles from the descriptors on placeholders and outputs."""
    unique = first_names(model)
    given: dict[str, Given] = {}
    results: list[Result] = []
    for node in graph_module.graph.nodes:
        meaning = node.meta.get("desc")
        if node.op == "placeholder":
            given[node.name] = _given(meaning, names, unique)
        elif node.op == "output":
            for value, what in zip(node.args[0], meaning, strict=True):
                if isinstance(value, torch.fx.Node):
                    results.append(_result(value, what, unique))
    results.sort(key=lambda result: _ORDER.index(result.role))
    return Captured(graph_module, given, tuple(results), parameters_of(model))


def _given(meaning: Any, names: tuple[str, ...], unique: Mapping[str, str]) -> Given:
    if isinstance(meaning, descriptors.ParamAOTInput):
        name = without_wrapper(meaning.target)
        return Given(unique.get(name, name), "parameter")
    if isinstance(meaning, descriptors.BufferAOTInput):
        return Given(without_wrapper(meaning.target), "buffer")
    if isinstance(meaning, descriptors.TangentAOTInput):
        return Given("loss.grad", "gradient", one=True)
    if isinstance(meaning, descriptors.PlainAOTInput):
        return Given(names[meaning.idx], "input")
    raise HwoptError(f"an input of the training graph that is not understood: {meaning}")


def _result(node: torch.fx.Node, meaning: Any, unique: Mapping[str, str]) -> Result:
    if isinstance(meaning, descriptors.GradAOTOutput):
        source = meaning.grad_of
        target = without_wrapper(str(getattr(source, "target", "input")))
        return Result(node, "gradient", f"{unique.get(target, target)}.grad")
    if isinstance(meaning, descriptors.InputMutationAOTOutput):
        target = without_wrapper(str(getattr(meaning.mutated_input, "target", "input")))
        return Result(node, "state", f"{target}.next")
    return Result(node, "activation", "loss")


def _still(model: nn.Module) -> None:
    """No dropout, no masking of inputs at random, no logging inside losses (tracers refuse it)."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):  # noqa: SLF001 - the common base class
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and ("drop" in name):
                setattr(module, name, 0.0)
    if getattr(getattr(model, "config", None), "apply_spec_augment", False):
        setattr(model.config, "apply_spec_augment", False)  # noqa: B010 - not a torch attribute
    if getattr(model, "loss_type", "absent") is None:
        setattr(model, "loss_type", "ForCausalLM")  # noqa: B010 - not a torch attribute


def _loss(
    subject: Subject, model: nn.Module, inputs: Mapping[str, torch.Tensor]
) -> tuple[LossName, torch.Tensor | None]:
    """The loss, and a target for it. Without a wish it follows from the shape of the outputs."""
    loss = subject.loss
    if loss in ("labels", "mean"):
        return loss, None
    positional, keywords = subject.arguments(tuple(inputs.values()))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        result = model(*positional, **keywords, **subject.options)
    logits = _logits(result)
    if loss is None:
        named = getattr(result, "logits", None) is not None
        loss = "cross_entropy" if (named or logits.dim() == 2) and logits.dim() >= 2 else "mean"
    if loss == "mean":
        return loss, None
    if loss == "binary_cross_entropy":
        return loss, torch.empty_like(logits)
    return loss, torch.empty(logits.shape[:-1], dtype=torch.int64)


def _logits(result: Any) -> torch.Tensor:
    """`.logits` of an output, else its first floating tensor."""
    logits = getattr(result, "logits", None)
    return logits if isinstance(logits, torch.Tensor) else _floating(result)[0]


def _floating(result: Any) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(result)
    return [x for x in leaves if isinstance(x, torch.Tensor) and x.is_floating_point()]


def _decompositions() -> dict[Any, Any]:
    """The table of torch to core operators, less all that has a lowering of its own."""
    from torch._decomp import core_aten_decompositions

    table: dict[Any, Any] = dict(core_aten_decompositions())
    return {op: rule for op, rule in table.items() if str(op) not in lowerings}
