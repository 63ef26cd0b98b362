"""The picture of a front, and the texts printed of one."""

import numpy as np

from hwopt.dse.study import reports
from hwopt.report.pareto import comparison_text, front_text, plot_front, write_report


def test_picture_is_written(study):
    """A PNG of sensible size, the same bytes each time."""
    plot_front(study)
    first = (study.path / "pareto.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    plot_front(study)
    assert (study.path / "pareto.png").read_bytes() == first


def test_all_reports_are_written(study):
    """Everything that is registered."""
    write_report(study)
    assert set(reports) >= {"pareto.png", "report.html"}
    assert all((study.path / name).exists() for name in reports)


def test_table_of_the_front(study):
    """Objectives with units, knobs, the chosen design marked, ends included."""
    text = front_text(study, rows=6)
    lines = text.split("\n")
    assert lines[0].split()[:5] == ["#", "latency", "energy", "area", "quality"]
    assert "lm.width" in lines[0]
    marked = [line for line in lines if line.startswith("*") and "chosen" not in line]
    assert len(marked) == 1
    assert marked[0].split()[1] == str(study.chosen.number)
    assert f"{len(study.front())} designs in the Pareto set" in text
    last = str(study.front()[-1].number)
    assert any(line.split()[:1] == [last] for line in lines)


def test_comparison_with_itself(study):
    """A run ties with itself in every line."""
    for line in comparison_text(study, study).split("\n")[1:]:
        cells = line.split("  ")
        values = [cell.strip() for cell in cells if cell.strip()]
        assert values[-1] == values[-2]


def test_front_of_the_fixture_is_real(study):
    """The fixture has a front to show and dominated designs behind it."""
    assert 3 < len(study.front()) < int(np.sum(study.feasible))
