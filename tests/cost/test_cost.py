"""Whole programs on machines: bounds, monotonicity, units, reports."""

import json
import math

import pytest

from hwopt.cost.cost import evaluate
from hwopt.cost.tasks import FUSIONS
from hwopt.errors import HwoptError
from hwopt.hardware.accelerator import Memory
from hwopt.ir.op import Op, Opaque

SHAPES = [(8, 16, 32), (5, 7, 11), (1, 24, 24)]


def changed(accelerator, name, **update):
    """The machine with one level changed."""
    levels = tuple(
        level.model_copy(update=update) if level.name == name else level
        for level in accelerator.levels
    )
    return accelerator.model_copy(update={"levels": levels})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_no_less_than_the_rooflines(make, shape, fusion):
    """Never faster than all lanes busy, nor than the compulsory bytes over the DRAM's port."""
    program, machine = make.layer(*shape), make.machine()
    cost = evaluate(program, machine, fusion=fusion)
    m, n, k = shape
    compulsory = 4 * (m * k + n * k + 2 * m * n)
    moved = sum(sum(ways.values()) for ways in cost.traffic["DRAM"].values())
    assert moved >= compulsory
    assert cost.seconds >= cost.macs / machine.peak_macs_per_s
    assert cost.seconds >= compulsory / 1e9
    assert 0 < cost.utilisation <= 1
    assert cost.macs == program.graph.macs


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("objective", ["latency", "energy", "edp"])
def test_fusion_never_hurts(make, shape, objective):
    """Fused groups are no worse than apart, the best partition no worse than either."""
    program, machine = make.layer(*shape), make.machine(launch_seconds=1e-7)
    metric = {
        "latency": lambda c: c.seconds, "energy": lambda c: c.joules,
        "edp": lambda c: c.seconds * c.joules,
    }[objective]  # fmt: skip
    off, groups, optimal = (
        metric(evaluate(program, machine, fusion=f, objective=objective)) for f in FUSIONS
    )
    assert groups <= off * (1 + 1e-12)
    assert optimal <= groups * (1 + 1e-12)


def test_the_best_partition_falls_back_where_fusing_does_not_pay(make):
    """Where attention in blocks fetches keys again and again, spilling the scores is cheaper."""
    program = make.attention(1, 64, 8, 64)
    machine = make.machine(buffer_bytes=1200.0)
    groups = evaluate(program, machine, fusion="groups")
    optimal = evaluate(program, machine, fusion="optimal")
    assert optimal.seconds <= groups.seconds
    assert optimal.seconds <= evaluate(program, machine, fusion="off").seconds


@pytest.mark.parametrize("shape", SHAPES)
def test_more_of_anything_is_never_slower(make, shape):
    """Twice the clock, DRAM bandwidth or buffer capacity."""
    program, machine = make.layer(*shape), make.machine(buffer_bytes=512.0)
    base = evaluate(program, machine).seconds * (1 + 1e-12)
    assert evaluate(program, machine.model_copy(update={"clock_hz": 2e9})).seconds <= base
    assert evaluate(program, changed(machine, "DRAM", bytes_per_s=2e9)).seconds <= base
    assert evaluate(program, changed(machine, "GLB", capacity_bytes=1024.0)).seconds <= base


def test_units_scale(make):
    """Everything ten times as fast: a tenth of the time; energies ten times: ten times."""
    program = make.layer()
    slow = make.machine(launch_seconds=1e-6)
    fast = make.machine(dram_bytes_per_s=1e10, clock_hz=1e10, launch_seconds=1e-7)
    assert evaluate(program, slow).seconds == pytest.approx(10 * evaluate(program, fast).seconds)
    resolved = slow.resolved()
    tenfold = resolved.model_copy(
        update={
            "levels": tuple(
                level.model_copy(update={
                    key: 10 * getattr(level, key)
                    for key in ("read_joules_per_byte", "write_joules_per_byte", "leakage_watts")
                }) if isinstance(level, Memory) else level
                for level in resolved.levels
            ),
            "compute": resolved.compute.model_copy(update={
                "joules_per_mac": 10 * resolved.compute.joules_per_mac,
                "leakage_watts": 10 * resolved.compute.leakage_watts,
            }),
            "vector": resolved.vector.model_copy(
                update={"joules_per_operation": 10 * resolved.vector.joules_per_operation}
            ),
        }
    )  # fmt: skip
    once, ten = evaluate(program, resolved), evaluate(program, tenfold)
    assert ten.seconds == pytest.approx(once.seconds)
    assert ten.joules == pytest.approx(10 * once.joules)


def test_a_batch_costs_no_more_than_its_parts(make):
    """16 rows at once move the weights no more often than 8 rows twice."""
    machine = make.machine()
    whole, half = (evaluate(make.layer(m=m), machine) for m in (16, 8))
    assert whole.macs == 2 * half.macs
    assert whole.seconds <= 2 * half.seconds * (1 + 1e-12)
    assert whole.joules <= 2 * half.joules * (1 + 1e-12)


def test_totals_are_the_sums_of_the_rows(make):
    """Seconds, joules, MACs; each row says what binds it and how it is carried out."""
    cost = evaluate(make.layer(), make.machine(), fusion="off")
    assert cost.seconds == pytest.approx(sum(row.seconds for row in cost.rows))
    assert cost.joules == pytest.approx(sum(row.joules for row in cost.rows))
    assert cost.macs == sum(row.macs for row in cost.rows)
    moved = sum(sum(ways.values()) for ways in cost.traffic["DRAM"].values())
    assert moved == pytest.approx(sum(row.outer_bytes for row in cost.rows))
    assert {row.bound for row in cost.rows} <= {"compute", "vector", "DRAM bandwidth",
                                                "GLB bandwidth", "launch"}  # fmt: skip


def test_launches_are_paid_per_task(make):
    """Three operators apart start three kernels, fused one."""
    machine = make.machine(launch_seconds=1.0)
    free = make.machine()
    for fusion, launches in (("off", 3), ("groups", 1)):
        slower = evaluate(make.layer(), machine, fusion=fusion).seconds
        assert slower - evaluate(make.layer(), free, fusion=fusion).seconds == pytest.approx(
            launches
        )


def test_static_operators_are_reported_apart(make):
    """They run once at load: named, not counted."""
    t = make.tensor
    tensors = [t("x", 4, 4, role="input"), t("w", 4, 4, role="parameter"), t("s", 4, 4),
               t("y", 4, 4)]  # fmt: skip
    ops = [make.pointwise("scale", ["w"], "s", 4, 4), make.pointwise("add", ["x", "s"], "y", 4, 4)]
    cost = evaluate(make.program("p", tensors, ops, ["y"]), make.machine())
    assert cost.static_ops == ("scale",)
    assert [row.name for row in cost.rows] == ["add"]
    assert "run once at load" in cost.table()


def test_opaque_operators_make_a_lower_bound(make):
    """Marked in the answer and in the text."""
    t = make.tensor
    op = Op("what", "opaque", Opaque("aten.what"), "memory", ("x",), ("y",))
    program = make.program("p", [t("x", 8, role="input"), t("y", 8)], [op], ["y"])
    cost = evaluate(program, make.machine())
    assert cost.is_bound
    assert cost.to_json()["is_bound"]
    assert "LOWER BOUND" in cost.table()


def test_answers_as_json_frame_and_text(make):
    """All three hold the same rows; JSON is plain."""
    cost = evaluate(make.layer(), make.machine())
    data = json.loads(json.dumps(cost.to_json()))
    assert data["seconds"] == cost.seconds
    assert [row["name"] for row in data["rows"]] == ["mm"]
    frame = cost.frame()
    assert list(frame["seconds"]) == [row.seconds for row in cost.rows]
    assert "mm" in cost.table()
    assert "of 4 lanes" in cost.table()


@pytest.mark.parametrize(("option", "value"), [("objective", "beauty"), ("fusion", "some")])
def test_unknown_options_are_one_clear_error(make, option, value):
    """The allowed words are listed."""
    with pytest.raises(HwoptError, match="allowed"):
        evaluate(make.layer(), make.machine(), **{option: value})


def test_objectives_differ_where_they_should(make):
    """Energy is never higher under "energy" than under "latency", and the other way round."""
    program, machine = make.layer(), make.machine(buffer_bytes=600.0)
    fast, frugal = (evaluate(program, machine, objective=o) for o in ("latency", "energy"))
    assert fast.seconds <= frugal.seconds * (1 + 1e-12)
    assert frugal.joules <= fast.joules * (1 + 1e-12)
    assert math.isfinite(fast.area_m2)
