"""Elasticities: what binds has -1 on latency, what does not has 0."""

import json
import math

import pytest

from hwopt.cost.cost import evaluate
from hwopt.cost.infeasibility import DoesNotFitError
from hwopt.cost.sensitivity import METRICS, Elasticity, elasticities, widths_of
from hwopt.errors import HwoptError


def table(program, machine, model=None):
    rows = elasticities(program, machine, model)
    return {row.parameter: dict(zip(METRICS, row.elasticity, strict=True)) for row in rows}


def test_a_product_bound_by_dram(make):
    """Half the bandwidth, twice the time; the clock does not matter."""
    rows = table(make.layer(1, 24, 24), make.machine(dram_bytes_per_s=1e6, buffer_bytes=65536.0))
    assert rows["DRAM.bandwidth"]["latency"] == pytest.approx(-1)
    assert rows["clock"]["latency"] == pytest.approx(0)
    assert rows["GLB.capacity"]["area"] > 0
    assert next(iter(rows)) == "DRAM.bandwidth"


def test_a_product_bound_by_its_lanes(make):
    """With bandwidth to spare, clock and lanes are what counts (bug: copies kept old levels)."""
    machine = make.machine(dram_bytes_per_s=1e15, buffer_bytes=65536.0, lanes=2)
    rows = table(make.layer(16, 16, 16), machine)
    assert rows["clock"]["latency"] == pytest.approx(-1)
    assert rows["PE.x"]["latency"] == pytest.approx(-1)
    assert rows["DRAM.bandwidth"]["latency"] == pytest.approx(0)


def test_model_dimensions(make):
    """Twice the rows of a compute-bound product take twice the time."""
    machine = make.machine(dram_bytes_per_s=1e15, buffer_bytes=65536.0)
    model = {"rows": (16, lambda m: make.layer(m, 16, 16))}
    rows = table(make.layer(16, 16, 16), machine, model)
    assert rows["model.rows"]["latency"] == pytest.approx(1)


def test_an_elasticity_is_the_slope_between_half_and_twice(make):
    """The definition, with two evaluations of one's own."""
    program, machine = make.layer(8, 16, 16), make.machine(buffer_bytes=256.0)
    rows = table(program, machine)
    seconds = {}
    for factor in (0.5, 2.0):
        levels = (machine.levels[0].model_copy(update={"bytes_per_s": 1e9 * factor}),
                  *machine.levels[1:])  # fmt: skip
        cost = evaluate(program, machine.model_copy(update={"levels": levels}))
        seconds[factor] = cost.seconds
    slope = math.log(seconds[2.0] / seconds[0.5]) / math.log(4)
    assert rows["DRAM.bandwidth"]["latency"] == pytest.approx(slope)
    assert -1 <= slope < 0


def test_every_number_of_the_machine_has_a_row(make):
    """Clock, node, widths, units, launch and fill, and all of each memory and fan-out."""
    rows = table(make.layer(4, 4, 4), make.machine(launch_seconds=1e-6, fill_cycles=2))
    assert set(rows) == {
        "clock", "technology", "input.width", "weight.width", "output.width", "compute.width",
        "compute.energy", "vector.lanes", "vector.energy", "launch", "fill", "DRAM.bandwidth",
        "DRAM.energy", "GLB.capacity", "GLB.bandwidth", "GLB.energy", "GLB.width", "GLB.banks",
        "PE.x",
    }  # fmt: skip
    for name in ("technology", "compute.width", "vector.lanes", "DRAM.bandwidth", "GLB.capacity",
                 "GLB.width", "GLB.banks", "PE.x"):  # fmt: skip
        assert rows[name]["area"] > 0, name
    for name in ("clock", "launch", "GLB.energy", "GLB.bandwidth"):
        assert rows[name]["area"] == 0, name
    assert rows["DRAM.energy"]["energy"] > rows["GLB.energy"]["energy"] > 0


def test_energies_add_up_to_the_whole(make):
    """Energy is a sum of terms, each in proportion to one price or to time: slopes are shares."""
    program, machine = make.layer(8, 8, 8), make.machine(buffer_bytes=65536.0)
    small = {}
    for row in elasticities(program, machine):
        small[row.parameter] = row.elasticity[1]
    prices = sum(small[f"{part}.energy"] for part in ("DRAM", "GLB", "compute", "vector"))
    # slopes over a factor of four of shares that are not small are near the shares, not equal
    assert prices == pytest.approx(1, abs=0.1)


def test_leakage_alone_is_not_mapped_again(make):
    """More banks leak: the energy is that of a whole evaluation (the short way is exact)."""
    program, machine = make.layer(8, 8, 8), make.machine(buffer_bytes=4096.0)
    (row,) = (r for r in elasticities(program, machine) if r.parameter == "GLB.banks")
    joules = {}
    for factor in (0.5, 2.0):
        banks = max(1, round(factor))
        glb = machine.levels[1].model_copy(update={"banks": banks})
        changed = machine.model_copy(update={"levels": (machine.levels[0], glb, machine.levels[2])})
        joules[factor] = evaluate(program, changed).joules
    assert row.elasticity[1] == pytest.approx(math.log(joules[2.0] / joules[0.5]) / math.log(4))
    assert row.elasticity[1] > 0


def test_what_cannot_be_halved_is_measured_upwards(make):
    """A buffer that just fits, a depth of one, a size that the model refuses."""

    def build(rows):
        if rows < 4:
            raise HwoptError("too few rows")
        return make.layer(rows, 4, 4)

    machine = make.machine(buffer_bytes=12.0)
    model = {
        "rows": (4, build),
        "one": (1, lambda n: make.layer(4, 4 * n, 4)),
        "odd": (3, lambda n: build(0 * n)),
        "idle": (5, lambda _: make.layer(4, 4, 4)),
    }
    rows = {row.parameter: row for row in elasticities(make.layer(4, 4, 4), machine, model)}
    for name in ("GLB.capacity", "model.rows", "model.one"):
        assert rows[name].factors == (1, 2)
        assert rows[name].note == "measured from x1 to x2 of it"
        assert rows[name].is_known
    assert not rows["model.odd"].is_known
    assert rows["model.odd"].shown() == ["-"] * 3
    assert rows["model.odd"].note == "no other value fits"
    assert json.loads(json.dumps(rows["model.odd"].to_json()))["latency"] is None
    assert "model.idle" not in rows, "it changes nothing about the program"
    assert next(reversed(rows)) == "model.odd"
    assert rows["clock"].note == ""


def test_progress_is_told(make):
    """How many are done, before each parameter."""
    told = []
    elasticities(make.layer(4, 4, 4), make.machine(), None, lambda *args: told.append(args))
    total = told[0][1]
    assert [done for done, _, _ in told] == list(range(total))
    assert {of for _, of, _ in told} == {total}
    assert told[0][2] == "clock"


def test_a_program_that_does_not_fit_is_refused(make):
    """The report on what does not fit, not a table of nothing."""
    with pytest.raises(DoesNotFitError):
        elasticities(make.layer(), make.machine(buffer_bytes=8.0))


def test_widths_are_those_of_the_products(make):
    """Roles whose element types differ between operators have no single width."""
    assert widths_of(make.layer().graph) == {"input": 32, "weight": 32, "output": 32}


def test_numbers_are_shown_short():
    """Two digits, and a plain zero."""
    assert Elasticity("a", "1", (-1.0, 0.004, 0.256)).shown() == ["-1.00", "0", "+0.26"]
