"""ZeRO 0 to 3 x 1 and 2 processes x element type x offload x adapters: one loss trajectory.

Each case trains the same tiny policy (OPT, 2 layers, width 32, random by seed) with a real
DeepSpeed engine in real processes, on the same rows, five optimizer steps of eight rows in
micro-batches of two. Every case is held against ZeRO 0, fp32, one process (with adapters or
without): the largest relative difference of a step's loss.

Tolerances: fp32 1e-4 (sums in another order). bf16 keeps 8 bits, so weights and activations are off
by up to 2^-9 = 0.2 % each; a loss is a mean over many: 0.2 %. fp16 keeps 11 bits: 0.05 %. fp16 on a
CPU without instructions for it is slow, so one case per stage is run.

Writes `results/zero_matrix.json`.

    python benchmarks/zero_matrix.py [--small] [-o FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwopt.files import write_json

RESULTS = Path(__file__).parent / "results" / "zero_matrix.json"
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-3, "fp16": 5e-4}
ROWS, TIME, STEPS, WORDS = 8, 12, 5, 300
CONFIG: dict[str, Any] = {
    "model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "word_embed_proj_dim": 32, "vocab_size": WORDS,
    "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One training. `offload`: "", "optimizer", or "all" (ZeRO-3: parameters as well)."""

    zero: int
    dtype: str
    offload: str = ""
    lora: bool = False


def cases() -> list[Case]:
    """The whole matrix, without what does not exist (offload needs ZeRO)."""
    found = [
        Case(zero, dtype, offload, lora)
        for zero, dtype, offload, lora in itertools.product(
            range(4), ("fp32", "bf16"), ("", "optimizer", "all"), (False, True)
        )
        if (not offload or zero > 0) and (offload != "all" or zero == 3)
    ]
    return found + [Case(zero, "fp16") for zero in range(4)]


def small() -> list[Case]:
    """A few that differ most, as `make test` runs them in two processes."""
    return [
        Case(0, "fp32"), Case(0, "fp32", lora=True), Case(3, "fp32"), Case(3, "fp32", "all", True),
        Case(2, "fp32", "optimizer"), Case(2, "bf16"),
    ]  # fmt: skip


def trajectory(case: Case) -> dict[str, Any]:
    """Losses and gradient norms of a case, by this process among all."""
    import torch

    from rlhf import processes
    from rlhf.engine import start_engine
    from rlhf.models import build_model
    from rlhf.plan import Engine, Lora, Offload, Optimizer, RoleModel

    engine = Engine(
        zero=case.zero, dtype=case.dtype, initial_scale_power=8,
        offload=Offload(optimizer=bool(case.offload), parameters=case.offload == "all"),
    )  # fmt: skip
    role = RoleModel(lora=Lora(rank=4) if case.lora else None)
    module = build_model(CONFIG, "policy", engine=engine, role=role, seed=3)
    held = start_engine(
        module, role="actor", engine=engine, total_steps=STEPS, micro_rows=2,
        optimizer=Optimizer(
            learning_rate=3e-3, lora_learning_rate=1e-2, weight_decay=0.1, warmup_steps=1,
            epsilon=1e-5,
        ),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, WORDS, (ROWS, TIME), generator=generator)
    attended = torch.arange(TIME) < torch.randint(6, TIME + 1, (ROWS, 1), generator=generator)
    count = attended[:, 1:].sum()
    losses, norms = [], []
    for _ in range(STEPS):  # the same rows again: the loss falls
        total = torch.zeros(())
        for rows in torch.arange(ROWS)[processes.rank() :: processes.world()].split(2):
            part = -held.forward(tokens[rows], attended[rows]).log_probs.sum() / count
            held.accumulate(part)
            total += part.detach()
        losses.append(float(processes.sum(total)))
        norms.append(held.step().gradient_norm)
    return {"losses": losses, "gradient_norms": norms}


def worker(given: str, answer: str) -> None:
    """One process: every case in turn; process 0 writes the answers."""
    from rlhf import processes

    processes.start(timeout_s=300, threads=1)
    found = [trajectory(Case(**case)) for case in json.loads(given)]
    if processes.rank() == 0:
        write_json(answer, found)
    processes.stop()


def run(chosen: list[Case], world: int) -> list[dict[str, Any]]:
    """The trajectories of cases in `world` processes."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        given, answer = json.dumps([asdict(case) for case in chosen]), f"{folder}/answer.json"
        started = []
        for rank in range(world):
            environment = {
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
                "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "",
            }  # fmt: skip
            command = [sys.executable, __file__, "--worker", given, answer]
            started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
        codes = [process.wait() for process in started]
        if any(codes):
            raise SystemExit(f"processes ended with {codes}")
        found: list[dict[str, Any]] = json.loads(Path(answer).read_text())
        return found


def difference(found: list[float], base: list[float]) -> float:
    """The largest of any step, relative."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, base, strict=True))


def compared(chosen: list[Case], by_world: dict[int, list[Any]]) -> list[dict[str, Any]]:
    """A row per case and number of processes: its trajectory and how far it is from the first."""
    table = []
    for world, found in by_world.items():
        for case, own in zip(chosen, found, strict=True):
            base = by_world[1][chosen.index(Case(0, "fp32", lora=case.lora))]
            away = difference(own["losses"], base["losses"])
            table.append({
                **asdict(case), "processes": world, **own, "largest_relative_difference": away,
                "tolerance": TOLERANCE[case.dtype], "within": away <= TOLERANCE[case.dtype],
            })  # fmt: skip
    return table


def main() -> None:
    """Run the matrix, print it, write it; exit code 1 where a case is outside its tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--small", action="store_true", help="what the gate runs")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
        return
    chosen = small() if options.small else cases()
    table = compared(chosen, {world: run(chosen, world) for world in (1, 2)})
    for row in table:
        name = f"zero {row['zero']} {row['dtype']} x {row['processes']}"
        more = [row["offload"] and f"offload {row['offload']}", "lora" if row["lora"] else ""]
        losses = f"{row['losses'][0]:.5f} -> {row['losses'][-1]:.5f}"
        away = f"{row['largest_relative_difference']:.1e}"
        said = "" if row["within"] else "  OUTSIDE"
        print(f"{name:16} {' '.join(filter(None, more)):24} {losses}  off by {away}{said}")
    write_json(options.output, {"tolerances": TOLERANCE, "rows": table})
    raise SystemExit(0 if all(row["within"] for row in table) else 1)


if __name__ == "__main__":
    main()
