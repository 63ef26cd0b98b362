"""Quality from a user's CSV: exact at points, exact for what the method assumes, never silent."""

import itertools
import math

import pytest

from hwopt.dse.quality import Shape, quality_source
from hwopt.dse.space import ModelChoice
from hwopt.errors import FileFormatError, HwoptError, StudyError


def source(path, **options):
    """The csv source of a file."""
    return quality_source(
        ModelChoice(model="m", quality={"source": "csv", "file": str(path), **options})
    )


def law(width, depth):
    """A power law in two knobs."""
    return 3.0 * width**-0.2 * depth**-0.1


@pytest.fixture
def grid(tmp_path):
    """A full grid of the power law."""
    lines = ["width,depth,quality"]
    lines += [f"{w},{d},{law(w, d)!r}" for w, d in itertools.product((256, 512, 1024), (4, 8))]
    path = tmp_path / "points.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def predict(found, **knobs):
    """The prediction at knob values."""
    return found.predict(Shape(knobs, 10**6, 10**9))


def test_grid_is_exact_at_its_points(grid):
    """Interpolation returns the numbers of the file."""
    found = source(grid)
    for width, depth in itertools.product((256, 512, 1024), (4, 8)):
        assert predict(found, width=width, depth=depth).value == law(width, depth)


def test_grid_between_points_is_linear_in_logarithms(grid):
    """Half-way between 256 and 512 by ratio is the mean of the two values."""
    middle = math.sqrt(256 * 512)
    found = source(grid).points.interpolated([middle, 4.0])
    assert found == pytest.approx((law(256, 4) + law(512, 4)) / 2, rel=1e-12)


def test_power_law_is_recovered(grid):
    """Points that obey a power law are fitted exactly, also between them, with residual 0."""
    found = source(grid, method="power-law")
    assert predict(found, width=700, depth=6).value == pytest.approx(law(700, 6), rel=1e-10)
    assert found.points.residual < 1e-12
    assert "largest residual" in found.note()


def test_residual_is_stated(tmp_path):
    """One point 10 % off shows up in the residual."""
    path = tmp_path / "noisy.csv"
    path.write_text("parameters,quality\n1e6,1.0\n1e7,1.1\n1e8,1.0\n")
    found = source(path, method="power-law")
    assert 0.03 < found.points.residual < 0.1


def test_features_may_be_totals(tmp_path):
    """`parameters` needs no knob."""
    path = tmp_path / "p.csv"
    path.write_text("parameters,accuracy\n1e5,0.5\n1e7,0.7\n")
    found = source(path, value="accuracy", direction="max")
    assert found.predict(Shape({}, 10**6, 1)).value == pytest.approx(0.6)


def test_outside_is_refused_or_marked(grid):
    """Extrapolation is an error naming the range, or an edge value that is marked."""
    with pytest.raises(StudyError, match="256 to 1024"):
        predict(source(grid), width=2048, depth=4)
    marked = predict(source(grid, outside="mark"), width=2048, depth=4)
    assert marked.extrapolated
    assert marked.value == law(1024, 4)


def test_holes_in_a_grid_are_named(tmp_path):
    """A missing combination is said, not invented."""
    path = tmp_path / "holes.csv"
    path.write_text("width,depth,quality\n1,1,1\n1,2,1\n2,1,1\n")
    with pytest.raises(StudyError, match="full grid"):
        predict(source(path), width=1, depth=1)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("width,quality\n", "no points"),
        ("width,loss\n1,2\n", "bad header"),
        ("width,quality\n1\n", "cells"),
        ("width,quality\n1,nan\n", "positive"),
        ("width,quality\n1,-2\n", "positive"),
        ("width,quality\n1,two\n", "positive"),
        ("width,width,quality\n1,1,2\n", "bad header"),
    ],
)
def test_malformed_files(tmp_path, text, match):
    """Each broken file is one error with its line."""
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=match):
        predict(source(path), width=1)


def test_missing_file_and_missing_feature(tmp_path, grid):
    """A file that is not there; a column that the model does not have."""
    with pytest.raises(HwoptError, match="No such file"):
        predict(source(tmp_path / "none.csv"), width=1)
    with pytest.raises(StudyError, match="depth"):
        predict(source(grid), width=256)
