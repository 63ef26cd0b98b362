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
    """Right for groups: torch gives a grouped convolution's weight gradient `groups` times its
    products.
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
    """No oneDNN, whose LSTM is one operator that the counter does not know: each step is seen."""
    before = torch.backends.mkldnn.enabled
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


SMALL = 2_000_000
"""Parameters up to which the count runs on real tensors."""


@pytest.fixture(scope="session")
def count_flops():
    """`count(module, inputs, loss=None, training=True)`: FLOPs of a forward pass, or with backward.

    Runs eagerly, with explicit attention, on CPU tensors (fake ones if it is large); `loss` turns
    the output into a scalar.
    """

    def count(module, inputs, loss=None, training=True):
        mode = contextlib.nullcontext()
        if sum(p.numel() for p in module.parameters()) > SMALL:
            mode = FakeTensorMode(allow_non_fake_inputs=True)
        with mode:
            memo = {
                id(p): torch.nn.Parameter(torch.ones(p.shape, dtype=p.dtype))
                for p in module.parameters()
            }
            memo |= {id(b): torch.ones(b.shape, dtype=b.dtype) for b in module.buffers()}
            model = copy.deepcopy(module, memo)
            given = {k: torch.ones(v.shape, dtype=v.dtype) for k, v in inputs.items()}
        if hasattr(model, "set_attn_implementation"):
            model.set_attn_implementation("eager")
        model.train(training and loss is not None)
        if hasattr(getattr(model, "config", None), "apply_spec_augment"):
            model.config.apply_spec_augment = False
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
                output = model(**given)
                if loss is not None:
                    loss(output).backward()
        return counter.get_total_flops()

    return count
