"""Timelines: a valid Chrome trace whose slices add up to the cost."""

import json

import pytest

from hwopt.cost.cost import evaluate


def test_slices_add_up(make, tmp_path):
    """Tasks follow one another without gaps and end at the total; resources are busy within."""
    cost = evaluate(make.layer(), make.machine(), fusion="off")
    cost.timeline(tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    tracks = {e["args"]["name"]: e["tid"] for e in events if e["ph"] == "M"}
    assert list(tracks) == ["tasks", "compute", "vector", "DRAM", "GLB"]
    slices = [e for e in events if e["ph"] == "X"]
    tasks = [e for e in slices if e["tid"] == tracks["tasks"]]
    assert [e["name"] for e in tasks] == ["mm", "add", "relu"]
    end = 0.0
    for event in tasks:
        assert event["ts"] == pytest.approx(end)
        end = event["ts"] + event["dur"]
    assert end == pytest.approx(cost.seconds * 1e6)
    for event in slices:
        assert event["ts"] >= 0
        assert event["ts"] + event["dur"] <= end * (1 + 1e-9)
    assert {e["name"] for e in slices if e["tid"] == tracks["compute"]} == {"mm"}


def test_many_repetitions_stay_readable(make):
    """A task of 1000 repetitions is drawn 200 times, the last slice standing for the rest."""
    from dataclasses import replace

    from hwopt.cost.timeline import events

    cost = evaluate(make.layer(), make.machine())
    many = replace(cost.tasks[0], task=replace(cost.tasks[0].task, count=1000))
    drawn = events(replace(cost, tasks=(many,)))
    tasks = [e for e in drawn if e["ph"] == "X" and e["tid"] == 0]
    assert len(tasks) == 200
    assert sum(e["args"]["repetitions"] for e in tasks) == 1000
    assert sum(e["dur"] for e in tasks) == pytest.approx(1000 * cost.seconds * 1e6)
