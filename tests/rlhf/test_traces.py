"""What passes take, from graphs traced once."""

from itertools import pairwise

import pytest

import hwopt
from rlhf.forms import Form
from rlhf.traces import Work, cache_bytes, decode_step, graph_of, passes
from tests.rlhf.models import ADAPTERS, LLAMA, form

DEVICE = hwopt.load("a100").model_copy(update={"bits": {}})
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4}


@pytest.mark.parametrize(("rows", "tokens"), [(1, 10), (6, 100)])
def test_cache_is_keys_and_values_of_the_shared_heads(rows, tokens):
    """2 x layers x key/value heads (2 of 4) x head size x tokens x rows x bytes."""
    total, largest = cache_bytes(form(LLAMA, "policy"), rows, tokens)
    assert total == 2 * 3 * 2 * 8 * tokens * rows * 4
    assert largest == 2 * 8 * tokens * rows * 4


def test_more_rows_or_tokens_never_take_less():
    """FLOPs, bytes, seconds and memory of a pass rise with either."""
    of = form(LLAMA, "policy")
    order = [passes(of, r, t, DEVICE) for r, t in ((1, 20), (2, 20), (4, 20), (4, 40))]
    for less, more in pairwise(order):
        for a, b in ((less.forward, more.forward), (less.backward, more.backward)):
            assert a.flops < b.flops
            assert a.moved_bytes < b.moved_bytes
            assert a.seconds <= b.seconds
        assert less.memory.saved < more.memory.saved
        assert less.memory.peak < more.memory.peak
    steps = [decode_step(of, 2, t, DEVICE) for t in (10, 20, 40)]
    assert steps[1].flops - steps[0].flops == (steps[2].flops - steps[1].flops) / 2
    assert steps[0].seconds <= steps[1].seconds <= steps[2].seconds


def test_policies_and_value_models_share_their_backbone():
    """The head is in closed form, so one graph serves both."""
    assert passes(form(LLAMA, "policy"), 2, 20, DEVICE) == passes(
        form(LLAMA, "value"), 2, 20, DEVICE
    )


def test_adapters_save_the_gradients_of_weights():
    """Frozen weights get none: less work backward; adapters add a little forward."""
    whole, adapted = (passes(form(LLAMA, "policy", a), 2, 20, DEVICE) for a in (None, ADAPTERS))
    assert adapted.backward.flops < 0.8 * whole.backward.flops
    assert whole.forward.flops < adapted.forward.flops < 1.5 * whole.forward.flops
    of = form(LLAMA, "policy", ADAPTERS)
    assert decode_step(of, 2, 20, DEVICE) == decode_step(of.plain, 2, 20, DEVICE)


def test_work_adds_and_scales():
    """Sums of parts, and repetitions."""
    assert Work(1, 2.0, 3.0) + Work(4, 5.0, 6.0) == Work(5, 7.0, 9.0)
    assert Work(1, 2.0, 3.0).times(4) == Work(4, 8.0, 12.0)


@pytest.mark.slow
def test_experts_in_float32_are_traced_in_16_bits():
    """Their grouped products exist in 16 bits alone; the sizes are those of float32."""
    wide, narrow = (
        Form(form(MIXTRAL, "policy").config, "policy", d) for d in ("float32", "bfloat16")
    )
    assert passes(wide, 2, 20, DEVICE).forward.flops == passes(narrow, 2, 20, DEVICE).forward.flops
    graph = graph_of(wide, "train", rows=2, tokens=20)
    assert not any(t.dtype == "bfloat16" for t in graph.tensors)
