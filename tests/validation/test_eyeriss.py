"""The Eyeriss chip: active PEs and latency beside the recalled figures."""

import csv

import pytest

from hwopt.errors import FileFormatError
from hwopt.hardware.library import load
from hwopt.validation.harness import REFERENCE, validate

HEADER = "layer,processing_latency_ms,macs_g,active_pes\n"


@pytest.fixture(scope="module")
def alexnet():
    """The comparison on its own file."""
    return validate("eyeriss")


def test_active_pes_of_alexnet_are_exact(alexnet):
    """All five layers, and the mean over time; no other error is hidden in that share."""
    assert [row["active_pes"] for row in alexnet.rows] == [154, 135, 156, 156, 156]
    assert alexnet.metrics["exact_share"] == 1
    assert alexnet.baseline["exact_share"] == 0
    assert any("148 PEs on average (published 148)" in note for note in alexnet.notes)


def test_latency_error_beside_the_trivial_one(alexnet):
    """MACs over published active PEs are 11.8 % off; ours must be less in mean and maximum."""
    assert alexnet.baseline["mape_percent"] == pytest.approx(11.8, abs=0.1)
    assert alexnet.metrics["mape_percent"] < 8
    assert alexnet.metrics["max_percent"] < alexnet.baseline["max_percent"]
    for row in alexnet.rows:
        assert row["images"] == 4
        assert row["predicted_ms"] >= row["busy_ms"] * 0.999


def test_the_library_has_the_published_chip():
    """Grid, memories, clock and the ratio of energies, as far as they are published."""
    chip = load("eyeriss")
    with (REFERENCE / "eyeriss_chip.csv").open() as file:
        published = {row["quantity"]: float(row["value"]) for row in csv.DictReader(file)}
    sides = [dim.size for dim in chip.fanouts[0].dims]
    assert sides == [published["rows"], published["columns"]]
    assert chip.lanes == published["pes"]
    for memory in ("input_spad", "weight_spad", "output_spad"):
        assert chip.level(memory).capacity_bytes == published[memory]
    assert chip.level("GLB").capacity_bytes == published["buffer"]
    assert chip.clock_hz == published["clock"] * 1e6
    assert chip.level("DRAM").bytes_per_s == 8 * published["link_clock"] * 1e6
    word = chip.level("weight_spad").read_joules_per_byte
    for memory, name in (("GLB", "energy_buffer"), ("DRAM", "energy_dram")):
        assert chip.level(memory).read_joules_per_byte == pytest.approx(
            word * published[name], rel=0.01
        )


def test_another_file(tmp_path):
    """Layers of VGG-16 are known too; a wrong figure lowers the share."""
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + "CONV5-1,48,1.387,168\nconv5,10,0.3,155\n")
    outcome = validate("eyeriss", path)
    assert [row["images"] for row in outcome.rows] == [3, 4]
    assert outcome.metrics["exact_share"] == 0.5


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ("CONV9,1,1,1\n", "row 2: no such layer"),
        ("CONV5,10,0.3,many\n", "row 2, active_pes"),
        ("CONV5,0,0.3,156\n", "processing_latency_ms"),
        ("TOTAL,1,1,1\n", "no layers"),
        ("", "no rows"),
    ],
)
def test_bad_files(tmp_path, rows, match):
    """One error that names the file and what is wrong."""
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + rows)
    with pytest.raises(FileFormatError, match=match):
        validate("eyeriss", path)
