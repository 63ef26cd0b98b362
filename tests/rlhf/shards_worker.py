"""One process that trains a tiny policy under DeepSpeed, saves it, and loads it again.

    python shards_worker.py '{"folder": ..., "save": [engine, ...], "load": [[saved, engine], ...]}'

with RANK, WORLD_SIZE ... as any launcher sets them. An engine is {"zero", "dtype", ...} and "lora".
Prints, on the first process, the losses, norms and rates of the steps after each save and load.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from rlhf import processes
from rlhf.checkpoint import Checkpoints
from rlhf.engine import RoleEngine, start_engine
from rlhf.models import build_model
from rlhf.plan import Engine, Lora, Optimizer, RoleModel

STEPS = 3
TINY = {
    "model_type": "llama", "vocab_size": 260, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip
OPTIMIZER = Optimizer(
    learning_rate=1e-2, lora_learning_rate=1e-2, weight_decay=0.1, warmup_steps=3
)  # fmt: skip


def make(options: dict[str, Any], seed: int) -> RoleEngine:
    """A policy under DeepSpeed."""
    options = dict(options)
    role = RoleModel(lora=Lora(rank=4)) if options.pop("lora", False) else RoleModel()
    engine = Engine(**options)
    module = build_model(TINY, "policy", engine=engine, role=role, seed=seed)
    return start_engine(module, role="actor", engine=engine, optimizer=OPTIMIZER, total_steps=20)


def steps(engine: RoleEngine, first: int, last: int) -> list[tuple[float, float, float]]:
    """Optimizer steps on rows drawn from the step's number: loss, norm, learning rate of each."""
    found = []
    for step in range(first, last):
        drawn = torch.Generator().manual_seed(step)
        tokens = torch.randint(0, 260, (4, 10), generator=drawn)
        tokens = tokens[processes.rank() :: processes.world()]
        outputs = engine.forward(tokens, torch.ones_like(tokens, dtype=torch.bool))
        assert outputs.log_probs is not None
        loss = -outputs.log_probs.sum() / 36
        engine.accumulate(loss)
        result = engine.step()
        total = float(processes.sum(loss.detach()))
        found.append((total, result.gradient_norm, result.learning_rate))
    return found


def name(options: dict[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)


def main(told: dict[str, Any]) -> None:
    processes.start(threads=1)
    root = Path(told["folder"])
    curves: dict[str, Any] = {}
    for index, options in enumerate(told.get("save", [])):
        engine = make(options, 0)
        steps(engine, 0, STEPS)
        Checkpoints(root / str(index), 1).save(STEPS, {"actor": engine}, {}, {}, "digest")
        curves[name(options)] = steps(engine, STEPS, STEPS + 3)
    for index, options in told.get("load", []):
        engine = make(options, 1)
        checkpoints = Checkpoints(root / str(index), 1)
        found = checkpoints.latest()
        assert found is not None
        checkpoints.load(found, {"actor": engine})
        curves[f"{index} {name(options)}"] = steps(engine, STEPS, STEPS + 3)
    if processes.rank() == 0:
        print(json.dumps(curves))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
