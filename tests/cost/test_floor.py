"""The lower bound: by hand, and never above what the mapper finds."""

import pytest

from hwopt.cost.cost import evaluate
from hwopt.cost.floor import lower_bound
from hwopt.cost.tasks import FUSIONS

SHAPES = [(8, 16, 32), (5, 7, 11), (1, 24, 24)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_never_above_evaluate(make, shape, fusion):
    """An ideal mapping is no slower, moves no more, and does the same work."""
    program, machine = make.layer(*shape), make.machine(launch_seconds=1e-7)
    bound, cost = (
        lower_bound(program, machine, fusion=fusion),
        evaluate(program, machine, fusion=fusion),
    )
    moved = sum(sum(ways.values()) for ways in cost.traffic["DRAM"].values())
    assert 0 < bound.seconds <= cost.seconds * (1 + 1e-12)
    assert 0 < bound.moved_bytes <= moved * (1 + 1e-12)
    assert bound.macs == cost.macs


def test_a_product_by_hand(make):
    """The longer of points over lanes and bytes over the port; each element moves once."""
    program = make.program(
        "one",
        [make.tensor("x", 8, 32, role="input"), make.tensor("w", 16, 32, role="parameter"),
         make.tensor("y", 8, 16)],
        [make.matmul("mm", "x", "w", "y", 8, 16, 32)], ["y"],
    )  # fmt: skip
    machine = make.machine()
    bound = lower_bound(program, machine)
    bytes_once = 4 * (8 * 32 + 16 * 32 + 8 * 16)
    steps = -(-8 * 16 * 32 // machine.lanes) * max(1, 32 // machine.compute.bits)
    assert bound.moved_bytes == bytes_once
    assert bound.seconds == pytest.approx(max(steps / machine.clock_hz, bytes_once / 1e9))
    assert bound.by_phase == {"forward": (pytest.approx(bound.seconds), bytes_once)}


def test_wide_operands_take_more_steps(make):
    """float32 on units of 16 bits takes two steps where 32-bit units take one."""

    def seconds(bits):
        compute = make.machine().compute.model_copy(update={"bits": bits})
        machine = make.machine().model_copy(update={"compute": compute, "clock_hz": 1e3})
        return lower_bound(make.layer(), machine).seconds

    assert seconds(16) == pytest.approx(2 * seconds(32))
    assert seconds(64) == seconds(32)


@pytest.mark.parametrize("room", [64.0, 256.0, 4096.0])
def test_scores_stay_where_they_fit(make, room):
    """Attention block by block moves queries, keys, values and result; never less than that, and
    never more than `evaluate` finds.
    """
    program, machine = make.attention(), make.machine(buffer_bytes=room)
    bound, cost = lower_bound(program, machine), evaluate(program, machine)
    moved = sum(sum(ways.values()) for ways in cost.traffic["DRAM"].values())
    assert 4 * 2 * 8 * 4 * 4 <= bound.moved_bytes <= moved
    assert bound.seconds <= cost.seconds * (1 + 1e-12)
