"""Elasticities: what binds has -1 on latency, what does not has 0."""

import pytest

from hwopt.cost.sensitivity import METRICS, elasticities


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
