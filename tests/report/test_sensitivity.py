"""The picture of elasticities: every kind of file, every number, nothing but known bars."""

import math
import re

import pytest

from hwopt.cost.sensitivity import Elasticity
from hwopt.errors import PathError
from hwopt.report.sensitivity import check, figure, page, plot

ROWS = [
    Elasticity("DRAM.bandwidth", "1.00 GB/s", (-1.0, 0.0, 0.5)),
    Elasticity("model.<width>", "8", (1.6, 1.5, 0.0), (1.0, 2.0)),
    Elasticity("model.odd", "3", (math.nan,) * 3, (1.0, 1.0)),
]


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"),
                          ("html", b"<!doctype")]
)  # fmt: skip
def test_each_kind_of_file(tmp_path, suffix, start):
    """Written twice, it is the same bytes."""
    one, two = tmp_path / f"new/a.{suffix}", tmp_path / f"b.{suffix}"
    plot(ROWS, one, "net on chip")
    plot(ROWS, two, "net on chip")
    assert one.read_bytes().startswith(start)
    assert one.read_bytes() == two.read_bytes()


def test_other_kinds_are_refused(tmp_path):
    """Before anything is priced or written."""
    for name in ("plot.docx", "plot"):
        with pytest.raises(PathError, match=r"\.png, \.svg, \.pdf, \.html"):
            check(tmp_path / name)


def test_bars_are_the_numbers():
    """One panel per metric; bars of known rows, the first on top."""
    drawn = figure(ROWS, "net on chip")
    assert [axes.get_title() for axes in drawn.axes] == ["latency", "energy", "area"]
    for column, axes in enumerate(drawn.axes):
        assert [bar.get_width() for bar in axes.patches] == [
            row.elasticity[column] for row in ROWS[:2]
        ]
        assert axes.yaxis_inverted()
        left, right = axes.get_xlim()
        assert left < min(bar.get_width() for bar in axes.patches)
        assert right > max(bar.get_width() for bar in axes.patches)
    labels = [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    assert labels == ["DRAM.bandwidth = 1.00 GB/s", "model.<width> = 8"]


def test_nothing_known_is_an_empty_picture(tmp_path):
    """No rows at all."""
    plot([], tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0


def test_the_page_has_picture_and_numbers():
    """Names are escaped, notes are there, nothing is loaded."""
    text = page(ROWS, "net on <chip>")
    assert "<svg" in text
    assert "net on &lt;chip&gt;" in text
    assert "<td>model.&lt;width&gt;</td><td>8</td><td>+1.60</td>" in text
    assert "measured from x1 to x2 of it" in text
    assert not re.search(r"(src|href)\s*=\s*[\"']https?:|@import", text)
