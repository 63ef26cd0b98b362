"""An independent count of matrix FLOPs: torch's own counter over an eager run on fake tensors."""

import contextlib
import copy
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, conv_backward_flop


def _grouped(x, weight, *_, **__):
    """Each of the rows of x (assignments, h) is multiplied by one expert's matrix (h, f)."""
    rows, inner = x[-2], x[-1]
    return 2 * rows * inner * weight[-1]


def _grouped_backward(x, weight, *_, **__):
    """Gradients of the rows and of the experts' matrices: as many products each."""
    return 2 * _grouped(x, weight)


def _convolution_backward(grad, x, weight, *rest, **named):
    """torch's count, but right for groups: it gives the weight gradient of a grouped convolution
    `groups` times its products.
    """
    *_, groups, mask = rest
    counted = conv_backward_flop.__wrapped__(grad, x, weight, *rest, **named)
    if groups == 1:
        return counted
    forward = 2 * math.prod(grad) * math.prod(weight[1:])
    return forward * sum(mask[:2])


def _formulas():
    """Counts of the operators that torch's counter lacks."""
    import transformers.integrations.moe  # noqa: F401 - defines the expert operators

    return {
        torch.ops.aten.convolution_backward: _convolution_backward,
        torch.ops.transformers.grouped_mm_fallback: _grouped,
        torch.ops.transformers.grouped_mm_fallback_backward: _grouped_backward,
    }


@contextlib.contextmanager
def _step_by_step():
    """No oneDNN: its LSTM is one operator that the counter does not know; else each step is seen."""
    before = torch.backends.mkldnn.enabled
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@pytest.fixture(scope="session")
def count_flops():
    """`count(module, inputs, loss=None)`: FLOPs of a forward pass, or of it and the backward.

    Runs eagerly on fake CPU tensors with explicit attention; `loss` turns the output into a scalar.
    """

    def count(module, inputs, loss=None):
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with mode:
            memo = {
                id(p): torch.nn.Parameter(torch.empty(p.shape, dtype=p.dtype))
                for p in module.parameters()
            }
            memo |= {id(b): torch.empty(b.shape, dtype=b.dtype) for b in module.buffers()}
            model = copy.deepcopy(module, memo)
            fake = {k: torch.empty(v.shape, dtype=v.dtype) for k, v in inputs.items()}
        if hasattr(model, "set_attn_implementation"):
            model.set_attn_implementation("eager")
        model.train(loss is not None)
        with pytest.MonkeyPatch.context() as patch:
            import transformers.integrations.moe
            import transformers.masking_utils

            moe = transformers.integrations.moe  # fake tensors refuse its float32 kernel
            patch.setattr(moe, "_can_use_grouped_mm", lambda *_, **__: False)
            patch.setattr(transformers.masking_utils, "is_tracing", lambda *_: True)
            with (
                mode,
                _step_by_step(),
                FlopCounterMode(display=False, custom_mapping=_formulas()) as counter,
            ):
                if loss is None:
                    with torch.no_grad():
                        model(**fake)
                else:
                    loss(model(**fake)).backward()
        return counter.get_total_flops()

    return count
