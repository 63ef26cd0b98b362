"""What a run records of itself survives kills, resumes and numbers that are none."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

from rlhf.algorithm import Loss
from rlhf.errors import RunError
from rlhf.metrics import (
    METRICS,
    Aggregate,
    MetricsWriter,
    Throughput,
    read_metrics,
    read_samples,
    series,
)
from rlhf.plan import Watch

QUIET = Watch(tensorboard=False)


def writer(run: Path, watch: Watch = QUIET) -> MetricsWriter:
    return MetricsWriter(run, watch, active=True)


def test_lines_are_readable_while_the_run_goes_on(tmp_path: Path) -> None:
    """Each line is on disk when `write` returns, in order, with stage, step and time."""
    record = writer(tmp_path)
    for step in range(3):
        record.write("sft", step, {"loss": 3.0 - step})
        assert read_metrics(tmp_path)[-1]["loss"] == 3.0 - step
    record.sample("sft", 2, [{"prompt": "p", "answer": "a\x1b[31m\ud800", "score": 1.0}])
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert all(row["stage"] == "sft" and row["time"] > 1e9 for row in rows)
    assert read_samples(tmp_path)[0]["answer"] == "a\x1b[31m\ud800"


def test_only_the_active_process_writes(tmp_path: Path) -> None:
    """The other ranks leave no file."""
    record = MetricsWriter(tmp_path / "run", Watch(wandb="p"), active=False)
    record.write("sft", 0, {"loss": 1.0})
    record.sample("sft", 0, [{"prompt": "p", "answer": "a"}])
    record.rewind("sft", 0)
    record.close()
    assert not (tmp_path / "run").exists()


def test_not_a_number_is_strict_json_and_comes_back(tmp_path: Path) -> None:
    """A diverged loss is neither dropped nor written as something JSON readers refuse."""
    record = writer(tmp_path)
    record.write("ppo", 1, {"a": math.nan, "b": math.inf, "c": -math.inf})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((tmp_path / METRICS).read_text(), parse_constant=refuse)
    (row,) = read_metrics(tmp_path)
    assert math.isnan(row["a"])
    assert row["b"] == math.inf
    assert row["c"] == -math.inf


def test_a_torn_last_line_is_passed_over_and_then_removed(tmp_path: Path) -> None:
    """A kill in the middle of a line costs that line alone, now and after the resume."""
    record = writer(tmp_path)
    record.write("sft", 0, {"loss": 1.0})
    record.close()
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"stage": "sft", "step": 1, "lo' + "x" * 200_000)
    assert [row["step"] for row in read_metrics(tmp_path)] == [0]
    record = writer(tmp_path)
    record.write("sft", 1, {"loss": 0.5})
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 0.5]


def test_a_broken_line_in_the_middle_is_an_error_with_its_place(tmp_path: Path) -> None:
    """What no kill explains is not passed over."""
    (tmp_path / METRICS).write_text('{"stage": "sft", "step": 0}\nnonsense\n{"step": 1}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl:2"):
        read_metrics(tmp_path)
    (tmp_path / METRICS).write_text('{"step": 1}\n')
    with pytest.raises(RunError, match="without stage"):
        read_metrics(tmp_path)


def test_rewind_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    """Later steps of the stage and whole later stages go; earlier stages and the step stay."""
    record = writer(tmp_path)
    for stage in ("sft", "reward", "ppo"):
        for step in range(4):
            record.write(stage, step, {"loss": float(step)})
        record.sample(stage, 3, [{"prompt": "p", "answer": "a"}])
    record.rewind("reward", 1)
    left = [(row["stage"], row["step"]) for row in read_metrics(tmp_path)]
    assert left == [("sft", s) for s in range(4)] + [("reward", 0), ("reward", 1)]
    assert [row["stage"] for row in read_samples(tmp_path)] == ["sft"]
    record.write("reward", 2, {"loss": 9.0})
    assert series(read_metrics(tmp_path), "reward", "loss")[-1] == (2, 9.0)


def test_series_takes_the_last_of_a_step_written_twice() -> None:
    """A step evaluated again after a resume counts once."""
    rows = [
        {"stage": "a", "step": 1, "x": 1.0}, {"stage": "a", "step": 0, "x": 0.0},
        {"stage": "a", "step": 1, "x": 2.0}, {"stage": "b", "step": 5, "x": 3.0},
        {"stage": "a", "step": 2, "y": 3.0},
    ]  # fmt: skip
    assert series(rows, "a", "x") == [(0, 0.0), (1, 2.0)]


def test_names_of_the_place_are_refused(tmp_path: Path) -> None:
    """A metric called "step" would overwrite the step."""
    with pytest.raises(ValueError, match="step"):
        writer(tmp_path).write("sft", 0, {"step": 1.0})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    """`/dev/full` answers every write with "no space left"."""
    record = writer(tmp_path)
    (tmp_path / METRICS).symlink_to("/dev/full")
    with pytest.raises(RunError, match="No space left") as error:
        record.write("sft", 0, {"loss": 1.0})
    assert "resume" in error.value.fix


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_what_was_written_and_purges_on_rewind(tmp_path: Path) -> None:
    """TensorBoard's own reader sees the resumed curve once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = writer(tmp_path, Watch())
    for step in range(5):
        first.write("ppo", step, {"reward": float(step)})
        first.write("sft", step, {"loss": 1.0})
    first.sample("ppo", 4, [{"prompt": "p", "answer": "a"}])
    first.close()
    second = writer(tmp_path, Watch())
    second.rewind("ppo", 2)
    second.write("ppo", 3, {"reward": 30.0})
    second.close()
    events = EventAccumulator(str(tmp_path / "tensorboard/ppo")).Reload()
    got = [(event.step, event.value) for event in events.Scalars("ppo/reward")]
    assert got == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0)]
    # sft began after ppo here, so it is run again from its beginning
    assert not (tmp_path / "tensorboard/sft").exists()


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_wandb_without_its_package_names_the_extra(tmp_path: Path) -> None:
    """Asked for and missing is an error at the start, not a run that records nothing."""
    with pytest.raises(RunError, match="wandb") as error:
        writer(tmp_path, Watch(wandb="project"))
    assert "hwopt[wandb]" in error.value.fix


def loss(values: list[float]) -> Loss:
    tensor = torch.tensor(values)
    count = torch.tensor(float(len(values)))
    return Loss(tensor.sum(), {"kl": (tensor.sum(), count)}, {"ratio_max": tensor.max()})


def test_aggregate_is_the_mean_over_tokens_however_they_are_split() -> None:
    """8 x 1, 1 x 8 and two processes give the same numbers; a mean of means would not."""
    values = [1.0, 2.0, 3.0, 10.0, -4.0, 0.5, 7.0, 8.0]
    expected = {"kl": sum(values) / 8, "ratio_max": 10.0}
    whole, single, left, right = (Aggregate() for _ in range(4))
    whole.add(loss(values))
    for value in values:
        single.add(loss([value]))
    left.add(loss(values[:3]))
    right.add(loss(values[3:5]))
    right.add(loss(values[5:]))
    assert whole.result() == pytest.approx(expected)
    assert single.result() == pytest.approx(expected)

    def both(mine: Aggregate, other: Aggregate) -> dict[str, float]:
        return mine.result(
            lambda sums: sums + torch.stack([other._sums[n] for n in sorted(other._sums)]),
            lambda top: torch.maximum(top, torch.stack(list(other._largest.values()))),
        )

    assert both(left, right) == pytest.approx(expected)
    assert both(right, left) == pytest.approx(expected)


def test_aggregate_leaves_out_what_counted_nothing_and_shows_nan() -> None:
    """No mean of nothing; a NaN is not hidden by a maximum."""
    total = Aggregate()
    zero = torch.tensor(0.0)
    total.add(Loss(zero, {"empty": (zero, zero)}, {"worst": torch.tensor(1.0)}))
    total.add(Loss(zero, {}, {"worst": torch.tensor(math.nan)}))
    result = total.result()
    assert set(result) == {"worst"}
    assert math.isnan(result["worst"])


def test_throughput_is_not_wrong_by_world_size() -> None:
    """DeepSpeed-Chat's defect "throughput wrong by world size": it takes one process's tokens
    times (or not times) the number of processes. Here 3 processes that did 100, 40 and 60 tokens in
    2 seconds did 100 tokens/s, whichever of them is asked.
    """
    tokens = [100, 40, 60]
    peak = 1e6
    rates = [Throughput(3, peak).metrics(sum(tokens), 2.0, 1.2e6) for _ in tokens]
    assert all(rate == {"tokens_per_s": 100.0, "mfu": pytest.approx(0.2)} for rate in rates)
    alone = Throughput(1, peak).metrics(200, 2.0, 1.2e6)
    assert alone["tokens_per_s"] == 100.0  # the same work in the same time is the same rate
    assert alone["mfu"] == pytest.approx(0.6)  # and uses one device as much as three devices would


def test_no_utilisation_without_a_peak() -> None:
    """An unknown device has no invented MFU; no time, no rate."""
    assert Throughput(1).metrics(10, 1.0, 5.0) == {"tokens_per_s": 10.0}
    assert Throughput(1, 1.0).metrics(10, 0.0, 5.0) == {}
