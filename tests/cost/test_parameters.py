"""Changed machines: given figures follow the laws, whatever a file states."""

import pytest

from hwopt.cost.parameters import following, parameters
from hwopt.hardware.library import load, names
from hwopt.hardware.technology import sram_area_m2, sram_joules_per_byte


def by_name(machine):
    return {parameter.name: parameter for parameter in parameters(machine)}


def test_given_figures_follow_the_law(make):
    """A given area and energy of a buffer are those of the law, times what they were of it."""
    machine = make.machine(buffer_bytes=8192.0)
    glb = machine.levels[1].model_copy(update={"area_m2": 1e-6})
    machine = machine.model_copy(update={"levels": (machine.levels[0], glb, machine.levels[2])})
    grown = by_name(machine)["GLB.capacity"].scaled(2.0).level("GLB")
    nm = machine.technology_nm
    area = sram_area_m2(16384.0, 64, 1, nm) / sram_area_m2(8192.0, 64, 1, nm)
    energy = sram_joules_per_byte(16384.0, nm) / sram_joules_per_byte(8192.0, nm)
    assert grown.capacity_bytes == 16384
    assert grown.area_m2 == pytest.approx(1e-6 * float(area))
    assert grown.read_joules_per_byte == pytest.approx(1e-12 * float(energy))


def test_figures_that_nothing_changes_stay(make):
    """Another clock moves no figure; a scaled energy is just that, its area stays."""
    machine = load("eyeriss")
    assert by_name(machine)["clock"].scaled(2.0) == machine.model_copy(
        update={"clock_hz": 2 * machine.clock_hz}
    )
    dearer = by_name(machine)["GLB.energy"].scaled(2.0)
    assert dearer.level("GLB").read_joules_per_byte == pytest.approx(10.6e-12)
    assert dearer.resolved().area_m2 == machine.resolved().area_m2


def test_a_given_overhead_grows_by_what_the_law_grows(make):
    """8/65 of the parts that are added, and the interface of a wider DRAM."""
    machine = make.machine(overhead_area_m2=5e-6)
    faster = by_name(machine)["DRAM.bandwidth"].scaled(2.0)
    more = make.machine(dram_bytes_per_s=2e9).resolved().overhead_area_m2
    less = make.machine().resolved().overhead_area_m2
    assert faster.overhead_area_m2 == pytest.approx(5e-6 + more - less)
    assert following(machine, machine) == machine


@pytest.mark.parametrize("name", names())
def test_area_answers_to_every_part_of_every_machine(name):
    """Capacity, bandwidth of the DRAM, copies and lanes cost area, however much a file states."""
    machine = load(name)
    before = machine.resolved().area_m2
    dram = machine.memories[0].name
    for parameter in parameters(machine):
        kind = parameter.name.rpartition(".")[2]
        part = parameter.name.rpartition(".")[0]
        costs = (
            (kind == "capacity" and part != dram)
            or parameter.name in ("vector.lanes", f"{dram}.bandwidth", "compute.width")
            or part in {fanout.name for fanout in machine.fanouts}
        )
        if costs:
            assert parameter.scaled(2.0).resolved().area_m2 > before, parameter.name


def test_nodes_without_data_are_none():
    """65 nm: twice is 130, four times is not cited; 7 nm has no half."""
    eyeriss = by_name(load("eyeriss"))["technology"]
    assert eyeriss.scaled(2.0).technology_nm == 130
    assert eyeriss.scaled(4.0) is None
    assert by_name(load("a100"))["technology"].scaled(0.5) is None


def test_counts_stay_whole(make):
    """Half of one lane is one lane; widths the machine does not impose are the program's."""
    machine = make.machine()
    vector = machine.vector.model_copy(update={"lanes": 1})
    machine = machine.model_copy(update={"vector": vector})
    assert by_name(machine)["vector.lanes"].scaled(0.5).vector.lanes == 1
    assert "input.width" not in by_name(machine)
    imposed = {p.name: p for p in parameters(machine, {"input": 32})}
    assert imposed["input.width"].scaled(0.5).bits == {"input": 16}
