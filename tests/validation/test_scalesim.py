"""Systolic cycles against SCALE-Sim's recorded figures."""

import pytest

from hwopt.errors import FileFormatError
from hwopt.validation.harness import REFERENCE, validate

HEADER = "layer,M,N,K,array,dataflow,total_cycles\n"


@pytest.mark.parametrize("file", ["scalesim.csv", "scalesim_arrays.csv"])
def test_every_row_is_equal(file):
    """Square and oblong arrays, products and convolutions, three dataflows: equal cycles, SRAM
    reads and utilisations; output writes too, but for the slip that the file's docstring names.
    """
    outcome = validate("scalesim", REFERENCE / file)
    assert len(outcome.rows) in (36, 45)
    assert outcome.metrics["exact_share"] == 1
    assert outcome.baseline["mape_percent"] > 50
    for row in outcome.rows:
        for column in ("sram_ifmap_reads", "sram_filter_reads"):
            assert row[column][0] == row[column][1]
        writes = row["with_slip" if row["dataflow"] == "os" else "sram_ofmap_writes"]
        assert writes[0] == writes[1]
        for column in ("overall_util_pct", "mapping_eff_pct"):
            assert row[column][0] == pytest.approx(row[column][1], rel=1e-12)


def test_a_row_that_differs_is_listed(tmp_path):
    """Only the required columns; a wrong figure lowers the share and is named."""
    path = tmp_path / "other.csv"
    path.write_text(HEADER + "a,32,32,32,32x32,os,93\nb,32,32,32,32x32,WS,126\n")
    outcome = validate("scalesim", path)
    assert outcome.metrics["exact_share"] == 0.5
    assert outcome.notes == ("b ws on 32x32: 125 cycles, published 126",)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("a,32,32,32,32by32,os,93", "ROWSxCOLUMNS"),
        ("a,32,32,32,0x32,os,93", "ROWSxCOLUMNS"),
        ("a,32,32,32,32x32,rs,93", "dataflow"),
        ("a,32,32,none,32x32,os,93", "row 2, K"),
        ("a,32,32,32,32x32,os,", "total_cycles"),
        ("a,32", "array"),
    ],
)
def test_bad_cells(tmp_path, row, match):
    """Each is one error that names the file, the row and what is allowed."""
    path = tmp_path / "other.csv"
    path.write_text(HEADER + row + "\n")
    with pytest.raises(FileFormatError, match=match):
        validate("scalesim", path)
