"""One PPO iteration side by side: this pipeline, and plain PyTorch as DeepSpeed-Chat does it.

The same models, prompts of uneven lengths, random numbers and therefore responses for both:

* rlhf: `PlainRollout` (rows leave the batch when they end, log-probs are captured while sampling),
  three scoring passes (reference, critic, reward) and training with real engines (ZeRO-2), in
  micro-batches by length;
* baseline: `model.generate` of transformers in the order of the data, padded to the longest of each
  micro-batch, finished rows kept until the last one ends; four scoring passes (log-probs of the
  actor are a pass of their own) and training over the padded rows, logits of every position
  (DeepSpeed-Chat, dschat/rlhf/ppo_trainer.py; it pads to the longest prompt *allowed*, which would
  be more still).

"computed / needed" counts token positions pushed through models over those of the rows themselves
(generation: all but the last token of a row; scoring: three passes; training: two roles).
Seconds are CPU seconds of the process, the least of the rounds; wall seconds beside them. Prompts
come from the questions of a JSONL file (`--data`, words and punctuation marks counted as tokens) or
have log-normal lengths fitted to GSM8K's (mean 52, deviation 20 tokens). Writes
`results/rollout.json`.

    python benchmarks/rollout.py [--data FILE.jsonl] [--rows N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from hwopt import write_json
from rlhf import processes
from rlhf.algorithms.ppo import PPO
from rlhf.batching import micro_batches
from rlhf.engine import RoleEngine, start_engine
from rlhf.experience import Experience
from rlhf.hybrid import Draws
from rlhf.models import build_model
from rlhf.phases import Role
from rlhf.plan import Engine, Optimizer, RoleModel
from rlhf.returns import score_from_heads, values_from_heads
from rlhf.rollout import Generated, PlainRollout, assembled, uniforms
from rlhf.sampling import Sampling

RESULTS = Path(__file__).parent / "results" / "rollout.json"
VOCABULARY = 4096
CONFIG = {
    "model_type": "opt", "hidden_size": 256, "word_embed_proj_dim": 256, "ffn_dim": 1024,
    "num_hidden_layers": 4, "num_attention_heads": 8, "vocab_size": VOCABULARY,
    "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
ENDS = tuple(range(2, 2 + VOCABULARY // 64))
"""At random weights an end comes with 1/64 per token: responses of uneven lengths, mean near 50."""
SAMPLING = Sampling(response_tokens=96)
MICRO_ROWS = 8
RATE = 1e-9
"""Too small to move a weight, so that every round has the same responses."""
ROLES: tuple[Role, ...] = ("actor", "critic", "reward", "reference")
PHASES = ("generate", "score", "train")


@dataclass
class Measured:
    """Of one pipeline: the least CPU and wall seconds of each phase, and tokens by phase."""

    cpu: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)
    computed: dict[str, int] = field(default_factory=dict)
    needed: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Inside is that phase."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu[name] = min(self.cpu.get(name, np.inf), time.process_time() - cpu)
        self.wall[name] = min(self.wall.get(name, np.inf), time.perf_counter() - wall)

    def row(self) -> dict[str, dict[str, float]]:
        """Everything by phase, for the results file."""
        return {
            name: {
                "cpu_seconds": round(self.cpu[name], 3),
                "wall_seconds": round(self.wall[name], 3),
                "computed_tokens": self.computed[name],
                "needed_tokens": self.needed[name],
                "computed_over_needed": round(self.computed[name] / self.needed[name], 4),
            }
            for name in PHASES
        }


def prompts_of(data: Path | None, rows: int, seed: int) -> list[list[int]]:
    """Prompts of realistic lengths; their ids do not matter to a model at random."""
    generator = np.random.default_rng(seed)
    if data is None:
        lengths = np.exp(generator.normal(3.881, 0.364, rows)).round().astype(int).clip(4, 256)
    else:
        questions = [json.loads(line)["question"] for line in data.read_text().splitlines()]
        chosen = generator.choice(len(questions), rows, replace=False)
        lengths = [len(re.findall(r"\w+|[^\w\s]", questions[i])) for i in chosen]
    return [generator.integers(ENDS[-1] + 1, VOCABULARY, n).tolist() for n in lengths]


def engines() -> dict[Role, RoleEngine]:
    """All four roles, as `rlhf train` starts them at ZeRO-2."""
    engine = Engine(zero=2)
    made = {}
    for seed, role in enumerate(ROLES):
        kind = "policy" if role in ("actor", "reference") else "value"
        module = build_model(CONFIG, kind, engine=engine, role=RoleModel(), seed=seed)
        trained = Optimizer(learning_rate=RATE) if role in ("actor", "critic") else None
        made[role] = start_engine(module, role=role, engine=engine, optimizer=trained)
    return made


def ours(
    roles: dict[Role, RoleEngine], prompts: list[list[int]], numbers: Tensor, into: Measured
) -> Generated:
    """One iteration of this project's pipeline."""
    ppo = PPO()
    with into.phase("generate"):
        plain = PlainRollout(roles["actor"].generation_module, ENDS)
        generated = plain.generate(prompts, SAMPLING, numbers, MICRO_ROWS)
    into.computed["generate"] = generated.computed_tokens
    into.needed["generate"] = generated.needed_tokens
    rows = generated.experience()
    parts = micro_batches(rows, MICRO_ROWS)
    padded = sum(rows.select(part).trimmed().tokens.numel() for part in parts)
    needed = int(rows.lengths.sum())
    with into.phase("score"):
        found: dict[str, Tensor] = {
            "reference_log_probs": torch.zeros_like(rows.known("log_probs")),
            "values": torch.zeros_like(rows.known("log_probs")),
            "score": torch.zeros(rows.rows),
        }
        for index in parts:
            part = rows.select(index).trimmed()
            time_ = part.tokens.shape[1]
            log_probs = roles["reference"].infer(part.tokens, part.attended).log_probs
            values = roles["critic"].infer(part.tokens, part.attended).heads
            heads = roles["reward"].infer(part.tokens, part.attended).heads
            assert log_probs is not None
            assert values is not None
            assert heads is not None
            found["reference_log_probs"][index, :time_] = log_probs
            found["values"][index, :time_] = values_from_heads(values)
            found["score"][index] = score_from_heads(heads, part.trained)
    into.computed["score"], into.needed["score"] = 3 * padded, 3 * needed
    with into.phase("train"):
        rows, _, _ = ppo.prepare(rows.with_(**found), ppo.start(), processes.sum)
        for role in ("actor", "critic"):
            weight = ppo.weight(role, rows)
            for index in parts:
                part = rows.select(index).trimmed()
                outputs = roles[role].forward(part.tokens, part.attended)
                roles[role].accumulate(ppo.loss(role, outputs, part).total / weight)
            roles[role].step()
    into.computed["train"], into.needed["train"] = 2 * padded, 2 * needed
    return generated


class Baseline:
    """The same four models in plain PyTorch."""

    def __init__(self) -> None:
        self.models = {}
        for seed, role in enumerate(ROLES):
            kind = "policy" if role in ("actor", "reference") else "value"
            self.models[role] = build_model(
                CONFIG, kind, engine=Engine(zero=0), role=RoleModel(), seed=seed
            )
        self.optimizers = {
            role: torch.optim.AdamW(self.models[role].parameters(), lr=RATE)
            for role in ("actor", "critic")
        }
        self.actor = self.models["actor"].model
        self.actor.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=list(ENDS), pad_token_id=0
        )

    def log_probs(self, role: str, tokens: Tensor, mask: Tensor) -> Tensor:
        """(rows, time): logits of every position, then their log-softmax at the tokens."""
        positions = (mask.cumsum(1) - mask).long()
        model = self.models[role].model
        logits = model(tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits
        found = torch.log_softmax(logits[:, :-1].float(), -1).gather(-1, tokens[:, 1:, None])
        return torch.nn.functional.pad(found[..., 0], (1, 0))

    def values(self, role: str, tokens: Tensor, mask: Tensor) -> Tensor:
        """(rows, time): the number after each token."""
        positions = (mask.cumsum(1) - mask).long()
        module = self.models[role]
        hidden = module.model(
            tokens, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        return module.head(hidden)[..., 0]

    def generate(
        self, prompts: list[list[int]], numbers: Tensor
    ) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Generated]:
        """Padded micro-batches (tokens, mask, response mask), and the responses."""
        batches, responses, computed = [], [], 0
        for start in range(0, len(prompts), MICRO_ROWS):
            given = prompts[start : start + MICRO_ROWS]
            width = max(map(len, given))
            tokens = torch.tensor([[0] * (width - len(p)) + p for p in given])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in given])
            draws = Draws(numbers[start : start + MICRO_ROWS], SAMPLING, ENDS)
            whole = self.actor.generate(
                tokens, attention_mask=mask, max_new_tokens=SAMPLING.response_tokens,
                logits_processor=LogitsProcessorList([draws]),
            )  # fmt: skip
            computed += len(given) * (whole.shape[1] - 1)
            rows = [draws.row(place)[0] for place in range(len(given))]
            responses += rows
            lengths = torch.tensor([len(row) for row in rows])
            answered = torch.arange(whole.shape[1] - width) < lengths[:, None]
            full = torch.cat([mask.bool(), answered], 1)
            trained = torch.cat([torch.zeros_like(mask).bool(), answered], 1)
            batches.append((whole, full.long(), trained))
        empty = [[0.0] * len(response) for response in responses]
        generated = assembled(
            prompts, responses, empty, ends=ENDS, pad=0, device=torch.device("cpu"),
            computed_tokens=computed,
        )  # fmt: skip
        return batches, generated

    def run(self, prompts: list[list[int]], numbers: Tensor, into: Measured) -> Generated:
        """One iteration."""
        with into.phase("generate"), torch.no_grad():
            batches, generated = self.generate(prompts, numbers)
        into.computed["generate"] = generated.computed_tokens
        into.needed["generate"] = generated.needed_tokens
        padded = sum(tokens.numel() for tokens, _, _ in batches)
        needed = int(generated.experience().lengths.sum())
        scored = []
        with into.phase("score"), torch.no_grad():
            for tokens, mask, trained in batches:
                old = self.log_probs("actor", tokens, mask)
                reference = self.log_probs("reference", tokens, mask)
                values = values_from_heads(self.values("critic", tokens, mask))
                score = score_from_heads(self.values("reward", tokens, mask), trained)
                scored.append((old, reference, values, score))
        into.computed["score"], into.needed["score"] = 4 * padded, 3 * needed
        with into.phase("train"):
            self.train(batches, scored)
        into.computed["train"], into.needed["train"] = 2 * padded, 2 * needed
        return generated

    def train(
        self,
        batches: list[tuple[Tensor, Tensor, Tensor]],
        scored: list[tuple[Tensor, Tensor, Tensor, Tensor]],
    ) -> None:
        """One optimizer step of actor and critic, over all micro-batches."""
        ppo, weight = PPO(), sum(int(trained.sum()) for _, _, trained in batches)
        for (tokens, mask, trained), (old, reference, values, score) in zip(
            batches, scored, strict=True
        ):
            rows = Experience(
                tokens, mask.bool(), trained, log_probs=old * trained,
                reference_log_probs=reference * trained, values=values * trained, score=score,
                finished=torch.ones(len(tokens), dtype=torch.bool),
            )  # fmt: skip
            rows, _, _ = ppo.prepare(rows, ppo.start(), processes.sum)
            ratio = (self.log_probs("actor", tokens, mask) - old).exp()
            advantages = rows.known("advantages")
            surrogate = torch.maximum(
                -advantages * ratio, -advantages * ratio.clamp(1 - 0.2, 1 + 0.2)
            )
            ((surrogate * trained).sum() / weight).backward()
            new = values_from_heads(self.values("critic", tokens, mask))
            returns = rows.known("returns")
            near = values + (new - values).clamp(-0.2, 0.2)
            error = torch.maximum((new - returns) ** 2, (near - returns) ** 2)
            ((error * trained).sum() * 0.5 / weight).backward()
        for role, optimizer in self.optimizers.items():
            torch.nn.utils.clip_grad_norm_(self.models[role].parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="JSONL with a column question")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    processes.start(threads=1)
    prompts = prompts_of(given.data, given.rows, seed=0)
    roles, baseline = engines(), Baseline()
    measured = {"rlhf": Measured(), "baseline": Measured()}
    for step in range(given.rounds):
        numbers = uniforms(0, step, slice(None), given.rows, SAMPLING.response_tokens)
        mine = ours(roles, prompts, numbers, measured["rlhf"])
        theirs = baseline.run(prompts, numbers, measured["baseline"])
        same = sum(mine.response(i) == theirs.response(i) for i in range(given.rows))
        print(f"round {step + 1}: {same} of {given.rows} responses are the same")
    processes.stop()
    tables = {name: pipeline.row() for name, pipeline in measured.items()}
    print(f"{'':<10}{'rlhf s':>9}{'baseline s':>12}{'times':>7}{'rlhf':>8}{'baseline':>10}")
    for phase in PHASES:
        a, b = tables["rlhf"][phase], tables["baseline"][phase]
        print(
            f"{phase:<10}{a['cpu_seconds']:>9.2f}{b['cpu_seconds']:>12.2f}"
            f"{b['cpu_seconds'] / a['cpu_seconds']:>7.2f}{a['computed_over_needed']:>8.3f}"
            f"{b['computed_over_needed']:>10.3f}"
        )
    totals = {name: total(pipeline) for name, pipeline in measured.items()}
    a, b = totals["rlhf"], totals["baseline"]
    print(
        f"{'together':<10}{a['cpu_seconds']:>9.2f}{b['cpu_seconds']:>12.2f}"
        f"{b['cpu_seconds'] / a['cpu_seconds']:>7.2f}{a['computed_over_needed']:>8.3f}"
        f"{b['computed_over_needed']:>10.3f}   tokens computed / needed (promised <= 1.15)"
    )
    write_json(RESULTS, {
        "benchmark": "rollout",
        "prompts": "GSM8K questions" if given.data else "log-normal lengths",
        "rows": given.rows, "micro_rows": MICRO_ROWS, "rounds": given.rounds,
        "response_tokens": SAMPLING.response_tokens, "model": CONFIG,
        "phases": tables, "together": totals,
    })  # fmt: skip


def total(pipeline: Measured) -> dict[str, float]:
    """All phases."""
    computed, needed = sum(pipeline.computed.values()), sum(pipeline.needed.values())
    return {
        "cpu_seconds": round(sum(pipeline.cpu.values()), 3),
        "computed_tokens": computed,
        "needed_tokens": needed,
        "computed_over_needed": round(computed / needed, 4),
    }


if __name__ == "__main__":
    main()
