"""`rlhf/vllm_rollout.py`: what can be shown without vLLM, which needs a GPU."""

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf.errors import PlanError
from rlhf.plan import Plan
from rlhf.rollout import choose_rollout


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_names_the_extra_where_vllm_is_missing() -> None:
    """A plan that asks for it is refused at the start, with what to install."""
    tokenizer: Any = SimpleNamespace(eos_token_id=2, pad_token_id=0)
    plan = Plan(
        name="small", roles={"actor": {"model": "x"}}, data={"sets": [{"path": "rows.jsonl"}]},
        stages=({"algorithm": "ppo"},), engine={"vllm": {"memory": 0.4}},
    )  # fmt: skip
    engine: Any = SimpleNamespace(generation_module=None)
    with pytest.raises(PlanError, match=r"engine\.vllm(.|\n)*hwopt\[vllm\]"):
        choose_rollout(engine, plan, tokenizer, prompts=[[5]])


def test_a_plan_takes_one_faster_rollout() -> None:
    """Hybrid and vLLM together contradict each other."""
    with pytest.raises(PlanError, match="hybrid or vllm"):
        Plan(
            name="small", roles={"actor": {"model": "x"}}, data={"sets": [{"path": "r.jsonl"}]},
            stages=({"algorithm": "ppo"},), engine={"vllm": {}, "hybrid": {}},
        )  # fmt: skip
