"""Attention in blocks: every block once, the work between shared out, scores resident."""

import pytest

from hwopt.cost.cost import evaluate
from hwopt.cost.tasks import op_table


def blocks(program):
    (task,) = op_table(program, {}).tasks
    return [a for a in task.alternatives if a.label.startswith("blocks")]


@pytest.mark.parametrize("sizes", [(2, 8, 8, 4), (3, 10, 7, 5), (1, 1, 9, 4), (5, 33, 2, 1)])
def test_blocks_cover_all_rows_once(make, sizes):
    """MACs, vector work and bytes of all blocks add up to those of the whole, edges included."""
    ways = blocks(make.attention(*sizes))
    whole = ways[0]
    assert sum(s.count for s in whole.stages) == 2
    for way in ways:
        assert sum(s.points * s.count for s in way.stages) == 2 * sizes[0] * sizes[1] * (
            sizes[2] * sizes[3]
        )
        work = sum(s.side.vector_operations * s.count for s in way.stages)
        assert abs(work - 5 * sizes[0] * sizes[1] * sizes[2]) <= sum(s.count for s in way.stages)
        assert sum(s.launches * s.count for s in way.stages) == pytest.approx(1)
        residents = [s.request.resident for s in way.stages]
        assert residents == [("output",), ("input",)] * (len(residents) // 2)
    assert set(ways[-1].label.removeprefix("blocks of ")) <= set("1x")


def test_heads_shrink_before_queries(make):
    """4 heads of 16 queries: 4x16, 1x16, 1x4, 1x1."""
    labels = [way.label.removeprefix("blocks of ") for way in blocks(make.attention(4, 16, 8, 4))]
    assert labels == ["4x16", "1x16", "1x4", "1x1"]


def test_scores_stay_on_the_chip_and_small_buffers_take_small_blocks(make):
    """With room the scores never cross DRAM; with less the block shrinks; with none they spill."""
    program = make.attention(2, 16, 16, 4)
    scores = 2 * 16 * 16 * 4
    compulsory = 4 * (2 * 16 * 4) * 4  # q, k, v, o
    roomy = evaluate(program, make.machine(buffer_bytes=64 * 1024.0))
    assert roomy.tasks[0].alternative.label == "blocks of 2x16"
    assert outer(roomy) == compulsory
    tight = evaluate(program, make.machine(buffer_bytes=600.0))
    assert tight.tasks[0].alternative.label in ("blocks of 1x4", "blocks of 1x1")
    assert compulsory <= outer(tight) < compulsory + 2 * scores
    tiny = evaluate(program, make.machine(buffer_bytes=24.0))
    assert tiny.tasks[0].alternative.label == "apart"
    assert outer(tiny) >= compulsory + 4 * scores
    assert roomy.seconds <= tight.seconds <= tiny.seconds


def outer(cost):
    return sum(sum(ways.values()) for ways in cost.traffic["DRAM"].values())
