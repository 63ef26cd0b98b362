"""Low-rank adapters (Hu et al., arXiv 2106.09685): y = W x + (alpha / rank) B A x.

`add` turns linear layers into adapted ones in place: the layer keeps its name, weight and bias and
gains `lora_a` (rank, inputs) and `lora_b` (outputs, rank). So names of the other weights never
change, and leaving the adapters out of a state gives the plain model back.

A starts as in the paper's code (uniform, Kaiming with slope sqrt 5), B at zero: the adapted model
begins as the original. `merged` folds the adapters into the weights for generation and afterwards
puts the very same tensors back, so nothing is ever added and subtracted again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from rlhf.errors import ModelError
from rlhf.plan import Lora

NAMES = ("lora_a", "lora_b")
"""The last parts of the names of adapter weights."""


class _Adapted(nn.Module):
    """What the two kinds of adapted layers share; see `add`."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    scale: float
    dropout: float
    transposed = False
    """Whether the weight is (inputs, outputs)."""
    is_merged = False

    def adapter(self, x: Tensor) -> Tensor | float:
        """What the adapter adds to the layer's output; nothing while it is merged."""
        if self.is_merged:
            return 0.0
        x = functional.dropout(x, self.dropout, self.training)
        return functional.linear(functional.linear(x, self.lora_a), self.lora_b) * self.scale

    def merged_weight(self, weight: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """W + scale B A in float32, in the weight's type and layout."""
        added = (B.float() @ A.float()) * self.scale
        return (weight.float() + (added.T if self.transposed else added)).to(weight.dtype)


class AdaptedLinear(_Adapted, nn.Linear):
    """`nn.Linear` with an adapter."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return functional.linear(x, self.weight, self.bias) + self.adapter(x)


class AdaptedConv1D(_Adapted, Conv1D):  # type: ignore[misc]
    """GPT-2's linear layer, which keeps its weight transposed, with an adapter."""

    transposed = True

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return cast("Tensor", Conv1D.forward(self, x)) + self.adapter(x)


def add(model: nn.Module, lora: Lora, *, seed: int, skip: Sequence[nn.Module] = ()) -> int:
    """Give the linear layers of a model adapters in place; returns how many.

    Layers whose name contains one of `lora.targets` (all, where there are none), `skip` excluded.
    With `lora.only` every parameter but the adapters is frozen. The weights may be partitioned
    (ZeRO-3): only shapes are read. Raises `ModelError` when no layer matches.
    """
    if lora.only:
        model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    count = 0
    for name, layer in model.named_modules():
        if type(layer) not in (nn.Linear, Conv1D) or any(layer is other for other in skip):
            continue
        if not lora.targets or any(target in name for target in lora.targets):
            _adapt(layer, lora, generator)
            count += 1
    if count == 0:
        names = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if _linear(m)})
        raise ModelError(
            "no linear layer for adapters", where="lora.targets", value=list(lora.targets),
            allowed="parts of names such as " + ", ".join(names),
        )  # fmt: skip
    return count


def _linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _adapt(layer: nn.Module, lora: Lora, generator: torch.Generator) -> None:
    """Change the class of one layer and add its two matrices."""
    weight = cast("Any", layer).weight
    shape = tuple(getattr(weight, "ds_shape", weight.shape))
    if isinstance(layer, nn.Linear):
        outputs, inputs = shape
        layer.__class__ = AdaptedLinear
    else:
        inputs, outputs = shape
        layer.__class__ = AdaptedConv1D
    adapted = cast("_Adapted", layer)
    bound = 1 / math.sqrt(inputs)  # Kaiming uniform with slope sqrt 5
    start = torch.empty(lora.rank, inputs).uniform_(-bound, bound, generator=generator)
    adapted.lora_a = nn.Parameter(start.to(weight.device, weight.dtype))
    adapted.lora_b = nn.Parameter(weight.new_zeros(outputs, lora.rank))
    adapted.scale = (lora.alpha if lora.alpha is not None else float(lora.rank)) / lora.rank
    adapted.dropout = lora.dropout


def adapted_layers(model: nn.Module) -> dict[str, _Adapted]:
    """The adapted layers by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, _Adapted)}


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is an adapter's."""
    return name.rsplit(".", 1)[-1] in NAMES


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Inside, the adapters are part of the weights; afterwards the kept originals are back.

    Not for partitioned weights (ZeRO-3), and no optimizer step may happen inside.
    """
    kept: list[tuple[_Adapted, Tensor]] = []
    try:
        with torch.no_grad():
            for layer in adapted_layers(model).values():
                weight = cast("nn.Parameter", layer.weight)
                kept.append((layer, weight.data))
                weight.data = layer.merged_weight(weight, layer.lora_a, layer.lora_b)
                layer.is_merged = True
        yield
    finally:
        for layer, original in kept:
            cast("nn.Parameter", layer.weight).data = original
            layer.is_merged = False
