"""Files with one fixed mapping."""

from pathlib import Path

import pytest

from hwopt.errors import FileFormatError, HwoptError, MappingError
from hwopt.hardware.library import load
from hwopt.mapping.fixed import price_fixed
from hwopt.mapping.mapping import parse_mapping
from hwopt.mapping.simulate import simulate

EXAMPLE = Path(__file__).parents[2] / "benchmarks" / "mappings" / "conv3x3_nvdla.yaml"


def test_hand_computed_counts():
    """64 x 64 channels over 32 x 64 lanes: two passes of 9 x 56 x 56 steps; weights and inputs
    come from DRAM once; partial sums are read and written at each of the 9 kernel positions.
    """
    priced = price_fixed(EXAMPLE, load("nvdla"))
    assert priced.analysis.steps == 2 * 9 * 56 * 56
    flows = priced.analysis.flows
    assert flows["DRAM"]["input"].total_read == 64 * 56 * 56
    assert flows["DRAM"]["weight"].total_read == 64 * 64 * 9
    assert flows["DRAM"]["output"].total_write == 64 * 56 * 56
    assert flows["CACC"]["output"].total_write == 9 * 64 * 56 * 56
    assert priced.price.seconds == pytest.approx(56_448 / 1e9)
    assert "100.0% of lanes" in str(priced)


def test_a_small_one_equals_the_simulator(tmp_path):
    """Counts printed for a file are those of the defining simulator."""
    text = EXAMPLE.read_text().replace("56", "5").replace("64", "6").replace("of 32", "of 3")
    path = tmp_path / "small.yaml"
    path.write_text(text.replace("of 15", "of 2"))
    priced = price_fixed(path, load("nvdla"))
    assert priced.analysis == simulate(priced.problem, priced.mapping, priced.accelerator)


@pytest.mark.parametrize(
    ("old", "new", "error", "word"),
    [
        ("k: 64", "k: 0", HwoptError, "at least 1"),
        ("p + r - 1", "p * r", HwoptError, "index"),
        ("[k, c, r, s]", "[k, z, r, s]", HwoptError, "unknown axes"),
        ("[k, c, r, s]", "[k, c, r]", HwoptError, "rank"),
        ("bits: 8", "bits: eight", FileFormatError, "bits"),
        ("for k in tiles of 32", "fork k", MappingError, "line 3"),
        ("for k in tiles of 32", "for k in tiles of 0", MappingError, "tile"),
        ("spread k in tiles of 1", "spread k in tiles of 16", MappingError, "cut"),
        ("keep input weight in CBUF", "keep input weight in NOWHERE", MappingError, "NOWHERE"),
        ("axes:", "axis:", FileFormatError, "axes"),
    ],
)
def test_bad_files(tmp_path, old, new, error, word):
    """Each mistake is one clear error."""
    path = tmp_path / "bad.yaml"
    path.write_text(EXAMPLE.read_text().replace(old, new, 1))
    with pytest.raises(error, match=word):
        price_fixed(path, load("nvdla"))


def test_what_does_not_fit_is_said(tmp_path):
    """A tile larger than its memory is priced as impossible, with both numbers."""
    path = tmp_path / "large.yaml"
    path.write_text(EXAMPLE.read_text().replace("tiles of 15", "tiles of 56"))
    priced = price_fixed(path, load("nvdla"))
    assert not priced.price.feasible
    assert "CACC needs 98.0 KiB, has 32.0 KiB" in str(priced)


def test_mapping_text_round_trip():
    """A mapping reads back what it prints."""
    mapping = price_fixed(EXAMPLE, load("nvdla")).mapping
    assert parse_mapping(str(mapping)) == mapping
