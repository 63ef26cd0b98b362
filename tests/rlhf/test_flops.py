"""FLOPs of passes, beside torch's own counter on the modules that run them."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rlhf.flops import FlopCounter
from rlhf.forms import Form
from rlhf.meter import Pass
from rlhf.plan import Plan
from rlhf.traces import Polynomial, decode_flops_of, flops_of, graph_of
from tests.rlhf.models import ADAPTERS, LLAMA, OPT, batch, form, network


def counter(config=LLAMA, adapters=None, algorithm="ppo"):
    """A counter of one stage's roles."""
    role = {"lora": adapters.model_dump()} if adapters is not None else {}
    plan = Plan(
        name="p", roles={"actor": {"model": config, **role}, "critic": role},
        data={"prompt_tokens": 20}, stages=[{"algorithm": algorithm, "batch": 4}],
    )  # fmt: skip
    return FlopCounter(plan, plan.stages[0], tokenizer_size=300)


def counted(of: Form, rows: int, tokens: int, *, backward: bool) -> int:
    """What torch counts for the real module."""
    module = network(of, eager=True)
    with FlopCounterMode(display=False) as mode:
        out = module(*batch(rows, tokens))[0]
        if backward:
            out.sum().backward()
    return mode.get_total_flops()


CASES = [
    ("actor", LLAMA, None), ("critic", LLAMA, None), ("actor", LLAMA, ADAPTERS),
    pytest.param("critic", LLAMA, ADAPTERS, marks=pytest.mark.slow),
    pytest.param("actor", OPT, None, marks=pytest.mark.slow),
    pytest.param("critic", OPT, ADAPTERS, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("role", "config", "adapters"), CASES)
def test_passes_equal_torchs_counter(role, config, adapters):
    """Forward, and forward with backward, at sizes that no trace had."""
    of = form(config, "policy" if role == "actor" else "value", adapters)
    found = counter(config, adapters)
    for rows, tokens in ((2, 17), (3, 40)):
        assert found.flops(role, "forward", rows, tokens) == counted(
            of, rows, tokens, backward=False
        )
        assert found.flops(role, "train", rows, tokens) == counted(of, rows, tokens, backward=True)


def test_generation_equals_torchs_counter():
    """A prefill and a step for each further token, of one row, with a real cache."""
    prompt, response = 9, 5
    model = network(form(LLAMA, "policy"), eager=True).model.eval()
    tokens = torch.arange(prompt)[None] + 5
    with torch.no_grad(), FlopCounterMode(display=False) as mode:
        out = model(input_ids=tokens, use_cache=True, logits_to_keep=1)
        for _ in range(response - 1):
            cache = out.past_key_values
            out = model(input_ids=tokens[:, :1], past_key_values=cache, use_cache=True)
    assert counter().flops("actor", "generate", prompt, response) == mode.get_total_flops()


def test_polynomials_equal_a_fourth_size():
    """Taken at 2, 3 and 4 tokens, exact at any other, of graphs as traced."""
    of = form(LLAMA, "policy")
    for tokens in (7, 50, 128):
        graph = graph_of(of, "train", rows=5, tokens=tokens)
        assert flops_of(of)["train"](5, tokens) == graph.flops
        assert decode_flops_of(of)(5, tokens) == graph_of(of, "decode", rows=5, tokens=tokens).flops
    assert decode_flops_of(of).per_row[2] == 0  # linear in the cache's length


def test_logits_that_are_not_computed_are_not_counted():
    """A policy's head at some columns alone: 2 x width x vocabulary each, thrice in training."""
    found = counter()
    for work, times in (("forward", 1), ("train", 3)):
        every, some = (found.flops("actor", work, 2, 20, logits=n) for n in (19, 4))
        assert every - some == times * 2 * 2 * 15 * 32 * 300
        assert found.flops("actor", work, 2, 20) == every


def test_several_passes_add_up():
    """What the trainer asks each step; a response of one token has no decode step."""
    found = counter()
    passes = [Pass("actor", "train", 2, 20), Pass("critic", "forward", 2, 20),
              Pass("actor", "generate", 9, 1)]  # fmt: skip
    parts = [found.flops(p.role, p.work, p.rows, p.tokens) for p in passes]
    assert found.of(passes) == sum(parts)
    assert found.of([]) == 0
    assert found.flops("actor", "generate", 9, 0) == 0


def test_sums_of_a_polynomial():
    """`total` is the sum of the values, none for an empty range."""
    p = Polynomial((3, 5, 7), (2, 0, 1))
    assert p.total(4, 3, 9) == sum(p(4, t) for t in range(3, 10))
    assert p.total(4, 3, 2) == 0
