"""One process of `test_hybrid.py`: generation with real DeepSpeed engines.

`python hybrid_worker.py OUT`: each rank writes what it saw to OUT/rank-N.json.
"""

import json
import logging
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch

from rlhf import processes
from rlhf.engine import RoleEngine, start_engine
from rlhf.hybrid import HybridRollout, hybrid_rollout, injects
from rlhf.models import build_model
from rlhf.plan import HybridEngine, Lora, Optimizer, Plan, RoleModel
from rlhf.rollout import PlainRollout, choose_rollout, measure_parity, uniforms
from rlhf.sampling import Sampling

CONFIG = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
ENDS = tuple(range(2, 8))


class Tokenizer:
    """What the self-check asks of a tokenizer."""

    eos_token_id, pad_token_id, all_special_ids = 2, 0, (0, 1, 2)

    def __len__(self) -> int:
        return 97


def plan_of(**engine: Any) -> Plan:
    """A plan with one PPO stage and this engine."""
    return Plan(
        name="small", roles={"actor": {"model": "x"}}, data={"sets": [{"path": "rows.jsonl"}]},
        stages=({"algorithm": "ppo"},), engine=engine,
    )  # fmt: skip


def start(plan: Plan, role: RoleModel | None = None) -> RoleEngine:
    """A training engine of the tiny model."""
    module = build_model(
        CONFIG, "policy", engine=plan.engine, role=role or RoleModel(), seed=5,
        device=processes.device(),
    )  # fmt: skip
    return start_engine(
        module, role="actor", engine=plan.engine, optimizer=Optimizer(learning_rate=1e-2),
        total_steps=3, micro_rows=2, accumulation=1,
    )  # fmt: skip


def mine(rows: int = 6) -> tuple[list[list[int]], slice]:
    """This process's prompts and rows of the batch."""
    generator = torch.Generator().manual_seed(1)
    total = rows * processes.world()
    lengths = torch.randint(1, 20, (total,), generator=generator).tolist()
    prompts = [torch.randint(8, 97, (n,), generator=generator).tolist() for n in lengths]
    part = slice(rows * processes.rank(), rows * (processes.rank() + 1))
    return prompts[part], part


def numbers(part: slice, tokens: int) -> torch.Tensor:
    """The uniform numbers of this process's rows."""
    return uniforms(3, 1, part, 6 * processes.world(), tokens)


def train(engine: RoleEngine) -> None:
    """One optimizer step."""
    tokens = torch.tensor([[9, 10, 11, 12]])
    outputs = engine.forward(tokens, torch.ones_like(tokens, dtype=torch.bool))
    assert outputs.log_probs is not None
    engine.accumulate(-outputs.log_probs.sum())
    engine.step()


def hybrid() -> dict[str, Any]:
    """A real hybrid engine without kernels against plain generation, before and after a step."""
    plan = plan_of(zero=2, hybrid=HybridEngine())
    engine = start(plan)
    prompts, part = mine()
    sampling = Sampling(response_tokens=12, temperature=0.9, top_p=0.9, minimum_tokens=1)
    plain = PlainRollout(engine.generation_module, ENDS)
    fast = HybridRollout(engine.deepspeed, ENDS)
    modes = [module.training for module in engine.module.modules()]
    settings = engine.module.model.generation_config
    settings.repetition_penalty = 3.0  # of the folder: no part of the policy
    seen: dict[str, Any] = {"injects": injects(engine.deepspeed), "same": [], "difference": []}
    for _ in range(2):
        expected = plain.generate(prompts, sampling, numbers(part, 12), micro_rows=3)
        found = fast.generate(prompts, sampling, numbers(part, 12), micro_rows=3)
        parity = measure_parity(engine, found, sampling.temperature)
        seen["same"].append(torch.equal(found.tokens, expected.tokens))
        seen["difference"].append(parity.largest)
        seen["computed"] = [expected.computed_tokens, found.computed_tokens]
        seen["needed"] = [expected.needed_tokens, found.needed_tokens]
        seen["finished"] = found.finished.tolist()
        seen["lengths"] = found.response_lengths.tolist()
        seen["prompts"] = found.prompt_lengths.tolist()
        seen.setdefault("first", found.tokens.tolist())
        train(engine)
    seen["changed"] = seen.pop("first") != found.tokens.tolist()
    seen["restored"] = (
        modes == [module.training for module in engine.module.modules()]
        and engine.module.model.generation_config is settings
    )
    seen["reason"] = hybrid_rollout(engine, plan, ends=ENDS, pad=0)[1]
    chosen = choose_rollout(engine, plan, Tokenizer())
    seen["chosen"] = [chosen.name, chosen.reason]
    return seen


def sharded() -> dict[str, Any]:
    """ZeRO-3: how often weights are gathered, whatever the tokens; the same samples as whole."""
    engine = start(plan_of(zero=3))
    whole = build_model(
        CONFIG, "policy", engine=plan_of(zero=0).engine, role=RoleModel(), seed=5
    ).model
    gathers = []
    original = deepspeed.zero.GatheredParameters

    class Counted(original):  # type: ignore[misc, valid-type]
        """Counts those that really gather."""

        def __enter__(self) -> Any:
            gathers.append(self.enabled)
            return super().__enter__()

    deepspeed.zero.GatheredParameters = Counted
    prompts, part = mine()
    seen: dict[str, Any] = {"gathers": [], "same": [], "lengths": []}
    for tokens in (4, 16):
        sampling = Sampling(response_tokens=tokens)
        gathers.clear()
        rows = PlainRollout(engine.generation_module, ENDS)
        found = rows.generate(prompts, sampling, numbers(part, tokens), micro_rows=3)
        seen["gathers"].append(sum(gathers))
        reference = PlainRollout(lambda: nullcontext(whole), ENDS)
        expected = reference.generate(prompts, sampling, numbers(part, tokens), micro_rows=3)
        seen["same"].append(torch.equal(found.tokens, expected.tokens))
        seen["lengths"].append(int(found.response_lengths.max()))
    deepspeed.zero.GatheredParameters = original
    seen["parameters"] = len(list(engine.module.model.parameters()))
    chosen = choose_rollout(engine, plan_of(zero=3), Tokenizer())
    seen["chosen"] = [chosen.name, chosen.reason]
    return seen


def adapted() -> dict[str, Any]:
    """LoRA: generation sees the adapters, and the self-check agrees with a forward."""
    engine = start(plan_of(zero=2), RoleModel(lora=Lora(rank=4)))
    with torch.no_grad():
        for name, parameter in engine.module.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(0, 0.3)
    chosen = choose_rollout(engine, plan_of(zero=2), Tokenizer())
    return {"chosen": [chosen.name, chosen.reason]}


def halved() -> dict[str, Any]:
    """bf16: the wider bound of the self-check."""
    plan = plan_of(zero=1, dtype="bf16")
    chosen = choose_rollout(start(plan), plan, Tokenizer())
    return {"chosen": [chosen.name, chosen.reason]}


def main(out: Path) -> None:
    """Run all, write what was seen."""
    logging.basicConfig(level=logging.WARNING)
    processes.start(timeout_s=120, threads=1)
    seen = {"hybrid": hybrid(), "sharded": sharded(), "adapted": adapted(), "halved": halved()}
    (out / f"rank-{processes.rank()}.json").write_text(json.dumps(seen))
    processes.barrier()
    processes.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
