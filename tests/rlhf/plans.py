"""Small plans and real runs of them, for tests."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rlhf.data.demo import write_demo
from rlhf.metrics import read_metrics
from rlhf.plan import Plan, located

LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
}  # fmt: skip
OPT = {
    "model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "word_embed_proj_dim": 32, "max_position_embeddings": 128,
}  # fmt: skip
SFT = {"algorithm": "sft", "batch": 8, "micro_batch": 4, "steps": 3,
       "optimizers": {"actor": {"learning_rate": 1e-3}}}  # fmt: skip
REWARD = {"algorithm": "reward", "batch": 4, "micro_batch": 2, "steps": 3,
          "optimizers": {"reward": {"learning_rate": 1e-3}}}  # fmt: skip
PPO = {
    "algorithm": {"name": "ppo", "epochs": 2, "generation_batches": 2}, "batch": 4,
    "micro_batch": 2, "steps": 3, "sampling": {"response_tokens": 12},
    "optimizers": {"actor": {"learning_rate": 1e-3}, "critic": {"learning_rate": 1e-3}},
}  # fmt: skip
TIMES = ("seconds", "memory", "tokens_per_s", "mfu", "time", "predicted")
"""Metrics of time and memory begin so; they differ from run to run."""


def tiny_plan(folder: Path, *stages: dict[str, Any], model: Any = LLAMA, **more: Any) -> Plan:
    """A plan over a little of the demo's text; stages default to all three."""
    if not (folder / "answers.jsonl").exists():
        write_demo(folder, answers=200, pairs=80, prompts=60)
    sets = [
        {"path": "answers.jsonl"}, {"path": "preferences.jsonl"}, {"path": "prompts.jsonl"},
    ]  # fmt: skip
    data = {
        "sets": sets, "prompt_tokens": 40, "answer_tokens": 40, "held_out": 0.1,
        "tokenizer": {"vocabulary": 300},
    }  # fmt: skip
    plan = {
        "name": "tiny", "roles": {"actor": {"model": model}}, "data": data,
        "stages": list(stages or (SFT, REWARD, PPO)), "checkpoint": {"every": 1, "keep": 2},
        "watch": {"samples": 2, "evaluation_rows": 4, "tensorboard": False},
    }  # fmt: skip
    return located(Plan(**{**plan, **more}), folder)


def write_plan(plan: Plan, path: Path) -> Path:
    """The plan as a file."""
    path.write_text(plan.text(), encoding="utf-8")
    return path


def command(*arguments: str | Path) -> list[str]:
    """The `rlhf` command line of this interpreter."""
    return [sys.executable, "-m", "rlhf.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    """One thread a process, no network."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def rlhf(*arguments: str | Path, code: int = 0, timeout: float = 300) -> str:
    """Run a command that must end with this code; what it printed."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=timeout, check=False,
        env=environment(), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed[-4000:]
    return printed


def curves(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what is time or memory."""
    return [
        {name: value for name, value in line.items() if not name.startswith(TIMES)}
        for line in read_metrics(run)
    ]
