"""Memory of weights, gradients and optimizer, beside what DeepSpeed's own estimators say."""

import csv
from itertools import pairwise
from pathlib import Path

import pytest

from rlhf.deepspeed_config import LARGEST_BUCKET, effective_stage
from rlhf.footprint import gathered_bytes, running_stage, states, step_bytes
from rlhf.forms import Facts
from rlhf.plan import Engine, Offload

ROWS = Path(__file__).parents[2] / "benchmarks/reference/deepspeed_memory.csv"
T5_3B = Facts(2_851_598_336, 2_851_598_336, 32_128 * 1024, 1024, 32128, True, ())
"""The model of the recorded outputs (which say 2851M and 32M)."""
GIB = 2**30


def small(parameters=1000, trained=None):
    """Counts of a small model."""
    return Facts(parameters, parameters if trained is None else trained, 100, 8, 64, True, ())


def engine(zero, dtype="bf16", optimizer=False, parameters=False):
    """An engine with offload."""
    return Engine(
        zero=zero, dtype=dtype, offload=Offload(optimizer=optimizer, parameters=parameters)
    )


@pytest.mark.parametrize(
    "row", list(csv.DictReader(ROWS.read_text().splitlines())), ids=lambda r: r["gpu_formula"]
)
def test_states_equal_deepspeeds_estimators(row):
    """Bytes per GPU, two decimals, of T5-3B on eight GPUs.

    Our buffers replace its terms for them: at stage 2 it counts the 16-bit gradients of the whole
    model (2 P), where we count a bucket; at stage 3 two copies of the largest layer.
    """
    stage = int(row["estimator"][-1])
    offloaded = row["offload_optimizer"] == "cpu"
    held = states(
        T5_3B, engine(stage, optimizer=offloaded, parameters=row["offload_param"] == "cpu"), 8,
        trains=True,
    )  # fmt: skip
    total = held.total - held.buffers
    if stage == 3:
        total += 4 * T5_3B.largest_layer
    elif not offloaded:
        total += 2 * T5_3B.parameters
    assert total / GIB == pytest.approx(float(row["per_gpu_gb"]), abs=0.006)


@pytest.mark.parametrize(
    ("zero", "dtype", "weights", "gradients", "optimizer"),
    [
        (0, "fp32", 4000, 4000, 8000),
        (1, "fp32", 4000, 4000, 3000),
        (2, "fp32", 4000, 1000, 3000),
        (3, "fp32", 1000, 1000, 3000),
        (0, "bf16", 2000, 2000 + 1000, 3000),
        (1, "fp16", 2000, 2000 + 1000, 3000),
        (2, "bf16", 2000, 1000, 3000),
        (3, "bf16", 500, 1000, 3000),
    ],
)
def test_parts_by_stage_and_type(zero, dtype, weights, gradients, optimizer):
    """1000 parameters on four processes."""
    held = states(small(), engine(zero, dtype), 4, trains=True, is_host=True)
    assert (held.weights, held.gradients, held.optimizer) == (weights, gradients, optimizer)
    frozen = states(small(), engine(zero, dtype), 4, trains=False, is_host=True)
    assert (frozen.weights, frozen.gradients, frozen.optimizer) == (weights, 0, 0)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("processes", [1, 2, 8])
def test_a_higher_stage_never_holds_more(dtype, offload, processes):
    """Weights, gradients and optimizer of stages 1 to 3 in falling order."""
    sizes = []
    for zero in (1, 2, 3):
        held = states(small(), engine(zero, dtype, optimizer=offload), processes, trains=True)
        sizes.append(held.weights + held.gradients + held.optimizer)
    assert all(a >= b for a, b in pairwise(sizes))


def test_adapters_alone_have_gradients():
    """1000 parameters, 40 of them trained."""
    held = states(small(1000, 40), engine(1), 1, trains=True)
    assert (held.weights, held.gradients, held.optimizer) == (2000, 2 * 40 + 4 * 40, 12 * 40)


def test_offload_moves_to_the_host_and_nowhere_on_it():
    """What leaves the device is on the host; where they are one, nothing leaves."""
    plain = states(small(), engine(3), 4, trains=True)
    away = states(small(), engine(3, optimizer=True, parameters=True), 4, trains=True)
    assert away.total + away.host == plain.total
    assert away.host == plain.weights + plain.gradients + plain.optimizer
    same = states(small(), engine(3, optimizer=True), 4, trains=True, is_host=True)
    assert same.host == 0
    assert same.optimizer == plain.optimizer


def test_buffers_are_what_deepspeed_is_told():
    """A bucket as large as the model, at most DeepSpeed's; gathered weights at stage 3."""
    large = Facts(10 * LARGEST_BUCKET, 10 * LARGEST_BUCKET, 10, 1, 1, True, ())
    host = states(large, engine(2), 2, trains=True, is_host=True)
    assert host.buffers == 2 * LARGEST_BUCKET
    assert states(large, engine(2), 2, trains=True).buffers == 4 * LARGEST_BUCKET
    assert gathered_bytes(large, engine(3)) == 2 * 1_000_000_000
    assert gathered_bytes(small(), engine(3)) == 2 * 1000
    assert gathered_bytes(small(), engine(2)) == 0


def test_stages_are_the_engines():
    """16 bits at stage 0 run as stage 1 here as there."""
    for zero in range(4):
        for dtype in ("fp32", "bf16", "fp16"):
            assert running_stage(engine(zero, dtype)) == effective_stage(engine(zero, dtype))


def test_a_step_moves_each_number_once():
    """Gradient, weight and moments read, three written, and the 16-bit copy."""
    assert step_bytes(small(), engine(2), 4) == 250 * (16 + 12 + 2)
    assert step_bytes(small(), engine(0, "fp32"), 4) == 1000 * 28
