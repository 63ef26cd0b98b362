"""What a newcomer runs: the demo, from nothing to a policy that is better than what it began with.

Margins are those of the noise: three standard errors for a share, several deviations over seeds
(`test_over_seeds` measures them) for the reward.
"""

import statistics
import subprocess
from pathlib import Path

import pytest

from hwopt.files import read_json
from rlhf.data.demo import demo_plan
from rlhf.metrics import read_metrics, read_samples, series
from tests.rlhf.plans import command, environment, rlhf, write_plan

ACCURACY = 0.15
"""The reward model's held-out accuracy rises by at least this: three standard errors of the
difference of two shares, 0.6 and 0.9, each of 128 pairs. (Where it starts is chance: an untrained
head.)"""
REWARD = 0.4
"""So does the policy's mean reward on held-out prompts, in deviations of the reward model's scores
over the answers that it was trained on."""


def _gain(run: Path, stage: str, name: str) -> float:
    """From before a stage to after it."""
    values = [value for _, value in series(read_metrics(run), stage, name)]
    return values[-1] - values[0]


def test_the_demo_teaches(tmp_path):
    """One seed: accuracy and reward rise on held-out rows, and answers still say something."""
    run = tmp_path / "run"
    rlhf("train", "-o", run, timeout=1200)
    assert _gain(run, "reward", "held_out/accuracy") >= ACCURACY
    assert _gain(run, "ppo", "held_out/reward") >= REWARD
    lengths = [v for _, v in series(read_metrics(run), "ppo", "held_out/response_length")]
    assert lengths[-1] >= 10
    before, after = (
        [row["answer"] for row in read_samples(run) if (row["stage"], row["step"]) == ("ppo", step)]
        for step in (0, 24)
    )
    assert len(before) == len(after) > 0
    rlhf("evaluate", run, "--against", "sft")
    (beside,) = read_json(run / "evaluation.json")["wins"]
    assert (beside["policy"], beside["over"]) == ("ppo", "sft")
    assert beside["interval"][0] > 0.5
    assert (rlhf("report", run), (run / "report.html").stat().st_size)[1] > 10_000
    talk = subprocess.run(
        command("chat", run), input="Where is the red key?\n", text=True, capture_output=True,
        env=environment(), timeout=120, check=True,
    )  # fmt: skip
    assert talk.stdout.strip()


@pytest.mark.slow
def test_over_seeds(tmp_path):
    """Three seeds: every gain is above the margin, and the margin above three deviations."""
    gains: dict[str, list[float]] = {"accuracy": [], "reward": []}
    starts, ends = [], []
    for seed in (1, 2, 3):
        plan = demo_plan(tmp_path / "data").model_copy(update={"seed": seed})
        run = tmp_path / f"run-{seed}"
        rlhf("train", write_plan(plan, tmp_path / f"{seed}.yaml"), "-o", run, timeout=1200)
        gains["accuracy"].append(_gain(run, "reward", "held_out/accuracy"))
        accuracies = series(read_metrics(run), "reward", "held_out/accuracy")
        starts.append(accuracies[0][1])
        ends.append(accuracies[-1][1])
        gains["reward"].append(_gain(run, "ppo", "held_out/reward"))
    print(gains, starts, ends)
    for name, margin in (("accuracy", ACCURACY), ("reward", REWARD)):
        assert min(gains[name]) >= margin, gains
        assert statistics.mean(gains[name]) >= 3 * statistics.stdev(gains[name]), gains
    assert min(ends) > max(starts) + statistics.stdev(ends), (starts, ends)
