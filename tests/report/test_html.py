"""Pages stand alone, hold what they promise, and are proof against names with markup."""

import json
import re
from html.parser import HTMLParser

import pytest

from hwopt.report.html import study_page, write_page
from hwopt.report.rooflines import outer_bytes_per_s, roofline
from hwopt.report.svg import Dot, Line, Scale, chart, number

VOID = {"meta", "br", "line", "circle", "polyline"}


class Balanced(HTMLParser):
    """Fails on an end tag that does not match."""

    def __init__(self):
        super().__init__()
        self.stack = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Self-closing elements open nothing."""

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop() == tag


def data_of(page):
    """The JSON that the page's script draws."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_page_is_one_balanced_document(study):
    """Tags match, and nothing is loaded from anywhere."""
    page = study_page(study)
    parser = Balanced()
    parser.feed(page)
    assert parser.stack == []
    assert not re.search(r"(src|href)\s*=|@import|url\(", page)
    assert set(re.findall(r"https?://[^\s'\"<]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert len(page) < 1_000_000


def test_page_has_every_design_of_the_front(study):
    """The interactive picture's data are the front's values and knobs; the chosen is marked."""
    page = study_page(study)
    data = data_of(page)
    assert [row["n"] for row in data["rows"]] == [d.number for d in study.front()]
    assert data["rows"][0]["v"][0] == pytest.approx(study.front()[0].values["latency"], rel=1e-5)
    assert data["chosen"] == study.chosen.number
    assert f'<tr id="d{study.chosen.number}" class="chosen">' in page
    assert [goal["name"] for goal in data["goals"]] == ["latency", "energy", "area", "quality"]


def test_page_says_what_must_not_be_missed(study):
    """Extrapolated quality, lower bounds, the source of quality and the rule of choice."""
    page = study_page(study)
    assert "(extrapolated)" in page
    assert "lower bound" in page
    assert "arXiv 2203.15556" in page
    assert "nearest to the ideal point" in page


def test_markup_in_names_is_text(study):
    """Names from files cannot inject elements or end the script."""
    page = study_page(study)
    assert "invented &lt;/script&gt; &amp; co" in page
    assert "conv&lt;1&gt;" in page
    assert page.count("</script>") == 2


def test_page_is_written(study):
    """`report.html` appears in the study's directory, the same bytes each time."""
    write_page(study)
    first = (study.path / "report.html").read_bytes()
    write_page(study)
    assert (study.path / "report.html").read_bytes() == first


def test_roofline_of_tasks(study):
    """Tasks with MACs are dots; the roof has its knee at peak over bandwidth."""
    machine = study.accelerator().resolved()
    picture = roofline(study.model_costs()[0]["rows"], machine)
    assert picture.count("<circle") == 1
    assert "bound by compute" in picture
    assert outer_bytes_per_s(machine) == pytest.approx(25.6e9)
    assert roofline([], machine) == "<p>no matrix work</p>"


@pytest.mark.parametrize("logarithmic", [False, True])
def test_scale_maps_ends_and_ticks_are_inside(logarithmic):
    """The ends of the range are the ends of the axis; ticks are round and inside."""
    scale = Scale(2.0, 700.0, 10.0, 110.0, logarithmic)
    assert scale(2.0) == pytest.approx(10.0)
    assert scale(700.0) == pytest.approx(110.0)
    ticks = scale.ticks()
    assert 3 <= len(ticks) <= 12
    assert all(2 <= tick <= 700 for tick in ticks)


def test_chart_without_data_and_with_equal_values():
    """Nothing to show is said; a single value does not divide by zero."""
    assert "nothing" in chart("x", "y", [Line([])])
    assert "<circle" in chart("x", "y", [], [Dot(1.0, 1.0, "only")])
    assert "NaN" not in chart("x", "y", [Line([(0.0, 5.0), (1.0, 5.0)])])


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1500, "1.5k"), (2e-3, "2m"), (3e9, "3G"), (1e-12, "1e-12")]
)
def test_numbers(value, text):
    """Short numbers with prefixes."""
    assert number(value) == text
