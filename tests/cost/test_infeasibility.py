"""What does not fit: the tensor, the memory, the bytes, and levers that do make it fit."""

import json

import pytest

from hwopt.cost.cost import evaluate
from hwopt.cost.infeasibility import DoesNotFitError
from hwopt.errors import InfeasibleError


def changed(machine, name, **update):
    """The machine with one level changed."""
    levels = tuple(
        level.model_copy(update=update) if level.name == name else level for level in machine.levels
    )
    return machine.model_copy(update={"levels": levels})


def refused(program, machine):
    """The error and its only shortage."""
    with pytest.raises(DoesNotFitError) as caught:
        evaluate(program, machine)
    (shortage,) = caught.value.shortages
    return caught.value, shortage


def test_a_buffer_below_one_element_each(make):
    """Tensors by role and name, demand, bound, gap; exit code 3; every lever named is true."""
    machine = make.machine(buffer_bytes=8.0)
    error, shortage = refused(make.layer(), machine)
    assert isinstance(error, InfeasibleError)
    assert error.exit_code == 3
    text = str(error)
    assert "mm (matmul) does not fit" in text
    assert "GLB needs 12 B, has 8 B: 4 B missing" in text
    assert "one element of weight w 4 B" in text
    assert (shortage.demand_bytes, shortage.bound_bytes, shortage.gap_bytes) == (12, 8, 4)
    assert shortage.levers == (
        "GLB.capacity_bytes of 12 B or more", "a bypass of GLB", "elements of 16 bits (now 32)"
    )  # fmt: skip
    assert evaluate(make.layer(), changed(machine, "GLB", capacity_bytes=12.0)).seconds > 0
    assert evaluate(make.layer(), changed(machine, "GLB", bypass=("input",))).seconds > 0
    narrow = machine.model_copy(update={"bits": dict.fromkeys(("input", "weight", "output"), 16)})
    assert evaluate(make.layer(), narrow).seconds > 0
    with pytest.raises(DoesNotFitError, match="11 B: 1 B missing"):
        evaluate(make.layer(), changed(machine, "GLB", capacity_bytes=11.0))


@pytest.mark.parametrize(("capacity", "named"), [(16.0, True), (8.0, False)])
def test_a_double_buffered_memory_offers_half(make, capacity, named):
    """Without double buffering it would fit, where it would; the capacity named is twice the need.

    16 bytes hold 12 in one buffer but not in two; 8 hold them in neither.
    """
    machine = changed(
        make.machine(), "GLB", capacity_bytes=capacity, double_buffered=True
    )  # fmt: skip
    _, shortage = refused(make.layer(), machine)
    assert shortage.levers[0] == "GLB.capacity_bytes of 24 B or more"
    assert ("GLB without double buffering" in shortage.levers) == named
    assert evaluate(make.layer(), changed(machine, "GLB", capacity_bytes=24.0)).seconds > 0


def test_an_outermost_memory_must_hold_whole_tensors(make):
    """m=8, n=16, k=32 in float32: 1024 + 2048 + 512 bytes; the sizes named are the largest."""
    program = make.program(
        "p",
        [make.tensor("x", 8, 32, role="input"), make.tensor("w", 16, 32, role="parameter"),
         make.tensor("y", 8, 16)],
        [make.matmul("mm", "x", "w", "y", 8, 16, 32)], ["y"],
    )  # fmt: skip
    machine = changed(make.machine(), "DRAM", capacity_bytes=3000.0)
    error, shortage = refused(program, machine)
    assert "DRAM needs 3.5 KiB" in str(error)
    assert "the whole of weight w 2.0 KiB" in str(error)
    assert [(need.role, need.tensor, need.demand_bytes) for need in shortage.needs] == [
        ("input", "x", 1024), ("weight", "w", 2048), ("output", "y", 512)
    ]  # fmt: skip
    assert shortage.sizes == (("m", 4, 8), ("n", 12, 16), ("k", 25, 32))
    assert "k of at most 25 (now 32)" in shortage.levers
    assert not any("bypass" in lever for lever in shortage.levers)
    sizes = {"m": 8, "n": 16, "k": 32}
    for axis, largest, _ in shortage.sizes:
        for size, fits in ((largest, True), (largest + 1, False)):
            m, n, k = {**sizes, axis: size}.values()
            assert (4 * (m * k + n * k + m * n) <= 3000) == fits
    assert evaluate(program, changed(machine, "DRAM", capacity_bytes=3584.0)).seconds > 0


def test_the_report_as_data(make):
    """JSON holds all of it."""
    error, shortage = refused(make.layer(), make.machine(buffer_bytes=8.0))
    data = json.loads(json.dumps(error.to_json()))
    assert data["operator"] == "mm"
    assert data["accelerator"] == "machine"
    (row,) = data["shortages"]
    assert row["memory"] == "GLB"
    assert (row["demand"], row["bound"], row["gap"], row["unit"]) == (12, 8, 4, "bytes")
    assert row["needs"][1] == {"role": "weight", "tensor": "w", "demand": 4, "whole": False}
    assert row["levers"] == list(shortage.levers)
    assert data["fix"] == error.fix
