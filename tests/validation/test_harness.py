"""The form of validations."""

import pytest

from hwopt.errors import FileFormatError, PathError, UnknownNameError
from hwopt.validation.harness import count, number, read_rows, score, validate


def test_scores():
    """Relative errors in percent, the share of equal rows, rank correlation."""
    metrics = score([1.0, 3.0, 4.0, 8.0], [1.0, 2.0, 4.0, 16.0])
    assert metrics["exact_share"] == 0.5
    assert metrics["mape_percent"] == pytest.approx((0 + 50 + 0 + 50) / 4)
    assert metrics["median_percent"] == 25
    assert metrics["max_percent"] == 50
    assert metrics["spearman"] == 1


def test_macs_of_published_networks(tmp_path):
    """Every layer and total of the reference file is met exactly; another file may be given."""
    outcome = validate("mac-counts")
    assert len(outcome.rows) == 16
    assert outcome.metrics["exact_share"] == 1
    other = tmp_path / "mac_counts.csv"
    other.write_text("network,layer,macs\nVGG-16,CONV1-1,86704129\n")
    assert validate("mac-counts", other).metrics["exact_share"] == 0


def test_bad_data(tmp_path):
    """Missing files and columns, and unknown names, are each one clear error."""
    with pytest.raises(PathError, match="--data"):
        validate("mac-counts", tmp_path / "absent.csv")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FileFormatError, match="layer"):
        validate("mac-counts", tmp_path / "x.csv")
    with pytest.raises(UnknownNameError):
        validate("nosuch")


def test_a_file_without_rows_is_refused(tmp_path):
    """A header alone compares nothing."""
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(FileFormatError, match="no rows"):
        read_rows(tmp_path / "x.csv", ("a",))


@pytest.mark.parametrize("text", ["", "many", "nan", "inf", "-1", "0", "1.5", None])
def test_cells_that_are_no_counts(text):
    """What is not a whole number of at least one is named with its place; numbers may be less."""
    with pytest.raises(FileFormatError, match=r"x\.csv, row 3, a"):
        count({"a": text}, "a", "x.csv, row 3")
    assert count({"a": "7.0"}, "a", "x.csv, row 3") == 7
    assert number({"a": "0"}, "a", "x.csv, row 3") == 0
