"""Why a stage is not faster: waits, idle lanes, and levers that hold what they promise."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwopt.cost.bottleneck import WORTH, lanes_of, levers, priced, slots
from hwopt.cost.cost import evaluate
from hwopt.hardware.accelerator import Fanout, FanoutDim
from hwopt.hardware.conventions import NATIVE, Conventions
from hwopt.mapping.simulate import simulate
from hwopt.testing import machines, mappings, problems


def found(cost, index=0):
    """The first stage of a cost, as it is, and its levers by part."""
    stage = cost.tasks[index].stages[0].stage
    best = None if stage.request is None else cost.mappings[stage.request]
    now = priced(stage, cost.accelerator, best)
    return stage, best, now, {lever.part: lever for lever in levers(cost, stage, now)}


def with_level(machine, name, **update):
    """The machine with one level changed."""
    levels = tuple(
        level.model_copy(update=update) if level.name == name else level for level in machine.levels
    )
    return machine.model_copy(update={"levels": levels})


@pytest.mark.parametrize("launch", [0.0, 1e-6])
def test_the_longest_wait_is_the_time(make, launch):
    """What overlaps takes as long as its longest; launch, fill and drain come on top."""
    machine = make.machine(dram_bytes_per_s=1e8, launch_seconds=launch, fill_cycles=7)
    cost = evaluate(make.layer(5, 7, 11), machine)
    _, _, now, _ = found(cost)
    overlapping = max(wait.seconds for wait in now.waits if wait.overlaps)
    rest = sum(wait.seconds for wait in now.waits if not wait.overlaps)
    assert rest == pytest.approx(launch + 7e-9)
    assert now.seconds == pytest.approx(overlapping + rest, rel=1e-12)
    assert now.seconds == pytest.approx(cost.seconds, rel=1e-12)
    assert now.bound == "DRAM port"


def test_side_work_waits_for_the_memory_of_the_vector_unit(make):
    """A slow buffer: what the epilogue reads and writes there counts with the product's bytes."""
    machine = with_level(make.machine(dram_bytes_per_s=1e15), "GLB", bytes_per_s=1e8)
    cost = evaluate(make.layer(5, 7, 11), machine)
    _, best, now, by_part = found(cost)
    assert now.bound == "GLB port"
    assert now.seconds == pytest.approx(cost.seconds, rel=1e-12)
    assert now.waits[0].seconds == pytest.approx(cost.seconds, rel=1e-12)
    assert now.waits[0].seconds > best.seconds
    assert by_part["GLB.bandwidth"].twice_seconds == pytest.approx(now.seconds / 2)


def test_bandwidth_helps_up_to_a_point(make):
    """At the point named, `evaluate` gives the time named; below it more, beyond it no less."""
    machine = make.machine(dram_bytes_per_s=1e8)
    program = make.layer(1, 24, 24)
    _, _, now, by_part = found(evaluate(program, machine))
    lever = by_part["DRAM.bandwidth"]
    assert now.bound == "DRAM port"
    assert lever.then == "compute"

    def seconds(rate):
        return evaluate(program, with_level(machine, "DRAM", bytes_per_s=rate)).seconds

    assert seconds(2e8) == pytest.approx(lever.twice_seconds)
    assert seconds(lever.enough) == pytest.approx(lever.least_seconds, rel=2 * WORTH)
    assert seconds(1e15) == pytest.approx(lever.least_seconds, rel=2 * WORTH)
    assert seconds(0.95 * lever.enough) > lever.least_seconds * (1 + WORTH)
    assert "then bound by compute" in str(lever)


@pytest.mark.parametrize(("capacity", "rate"), [(24.0, 8e9), (24.0, 3e10), (64.0, 2e9)])
def test_a_buffer_helps_up_to_a_point(make, capacity, rate):
    """The same for capacity: more than enough brings nothing, less is slower."""
    machine = make.machine(buffer_bytes=capacity, dram_bytes_per_s=rate)
    program = make.layer(16, 16, 16)
    _, _, now, by_part = found(evaluate(program, machine))
    lever = by_part["GLB.capacity"]

    def seconds(capacity):
        return evaluate(program, with_level(machine, "GLB", capacity_bytes=capacity)).seconds

    assert lever.least_seconds < now.seconds
    assert seconds(lever.enough) == pytest.approx(lever.least_seconds, rel=2 * WORTH)
    assert seconds(1e9) == pytest.approx(lever.least_seconds, rel=2 * WORTH)
    assert seconds(0.95 * lever.enough) > lever.least_seconds * (1 + WORTH)


def test_more_lanes_help_where_compute_binds(make):
    """Bandwidth to spare: twice the lanes are the one lever."""
    machine = make.machine(buffer_bytes=65536.0, dram_bytes_per_s=1e15)
    cost = evaluate(make.layer(16, 16, 16), machine)
    _, _, now, by_part = found(cost)
    assert now.bound == "compute"
    assert set(by_part) == {"PE.x"}
    assert by_part["PE.x"].twice_seconds == pytest.approx(now.seconds / 2)
    assert by_part["PE.x"].enough is None


def test_work_without_a_nest_waits_for_the_vector_unit_or_a_port(make):
    """A softmax on a slow vector unit: more lanes are the lever; it has no lanes of its own."""
    t = make.tensor
    tensors = [t("x", 64, role="input"), t("y", 64)]
    program = make.program("p", tensors, [make.softmax("s", "x", "y", 64, 3)], ["y"])
    machine = make.machine(dram_bytes_per_s=1e15)
    cost = evaluate(program, machine)
    _, best, now, by_part = found(cost)
    assert best is None
    assert now.bound == "vector unit"
    assert by_part["vector.lanes"].twice_seconds == pytest.approx(now.seconds / 2)
    assert "no nest to map" in cost.mapping_text("s")


@pytest.mark.parametrize("shape", [(5, 7, 11), (1, 24, 24), (13, 3, 2)])
@pytest.mark.parametrize("sizes", [(4,), (3, 5)])
def test_idle_lanes_are_explained_exactly(make, shape, sizes):
    """Copies at work over copies, times full tiles per axis, is the share of lanes used."""
    dims = tuple(FanoutDim(name=f"d{i}", size=size) for i, size in enumerate(sizes))
    machine = with_level(make.machine(dram_bytes_per_s=1e15), "PE", dims=dims)
    cost = evaluate(make.layer(*shape), machine)
    stage, best, _, _ = found(cost)
    lanes = lanes_of(cost, stage, best)
    share = math.prod(used / size for _, used, size, _ in lanes.dims)
    share *= math.prod(full for _, full in lanes.edges)
    assert share == pytest.approx(lanes.used, rel=1e-12)
    assert lanes.used == pytest.approx(math.prod(shape) / (best.analysis.steps * machine.lanes))


def test_idle_copies_name_the_axes(make):
    """Five columns over eight lanes, and a dimension that no axis may use."""
    machine = with_level(
        make.machine(dram_bytes_per_s=1e15), "PE",
        dims=(FanoutDim(name="x", size=8, axes=("n",)), FanoutDim(name="y", size=2, axes=("z",))),
    )  # fmt: skip
    assert isinstance(machine.levels[-1], Fanout)
    cost = evaluate(make.layer(4, 5, 4), machine)
    stage, best, _, _ = found(cost)
    text = str(lanes_of(cost, stage, best))
    assert "PE.x has 5 of 8 at work (n)" in text
    assert "PE.y has 1 of 2 at work (no axis is spread over it)" in text


@given(st.data())
def test_slots_along_each_axis_are_the_steps(data):
    """Any nest, machine and mapping: steps of the axes, edge tiles in their own size or padded,
    multiply to the steps that the simulator walks.
    """
    problem, machine = data.draw(problems(points=300)), data.draw(machines())
    mapping = data.draw(mappings(problem, machine))
    for rules in (NATIVE, Conventions("padded", edges="padded")):
        walked = slots(problem, mapping, padded=rules.edges == "padded")
        steps = simulate(problem, mapping, machine, rules).steps
        assert math.prod(steps_of for steps_of, _ in walked.values()) == steps
