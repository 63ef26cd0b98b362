"""Scaling laws with their published constants and anchors; callables; constants."""

import csv
from pathlib import Path

import numpy as np
import pytest

from hwopt.dse.quality import Shape, qualities, quality_source
from hwopt.dse.space import ModelChoice
from hwopt.errors import StudyError, UnknownNameError


def source(**options):
    """The source of a model with these options."""
    return quality_source(ModelChoice(model="opt-125m", quality=options))


def shape(parameters, **knobs):
    """A model variant."""
    return Shape(knobs, parameters, 10**9)


@pytest.mark.parametrize("name", ["hoffmann", "besiroglu"])
def test_constants_are_the_published_ones(name):
    """Those of `benchmarks/reference/scaling_laws.csv`, which cites table and equation."""
    path = Path(__file__).parents[2] / "benchmarks" / "reference" / "scaling_laws.csv"
    with path.open(encoding="utf-8") as file:
        (row,) = [row for row in csv.DictReader(file) if row["name"] == name]
    kind = qualities[name]
    published = tuple(float(row[k]) for k in ("E", "A", "B", "alpha", "beta"))
    assert published == kind.CONSTANTS
    sizes = float(row["fewest_parameters"]), float(row["most_parameters"])
    tokens = float(row["fewest_tokens"]), float(row["most_tokens"])
    assert sizes == kind.FITTED_PARAMETERS
    assert tokens == kind.FITTED_TOKENS


def test_hoffmann_at_chinchilla():
    """Chinchilla itself, 70 B parameters on 1.4 T tokens: 1.69 + 0.083 + 0.163 by hand."""
    loss = 1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28
    found = source(source="hoffmann", tokens=1.4e12).predict(shape(70 * 10**9))
    assert found.value == pytest.approx(loss, rel=1e-12)
    assert found.value == pytest.approx(1.936, abs=2e-3)


def test_besiroglu_at_chinchilla():
    """The refit at the same point, by its published constants."""
    loss = 1.8172 + 482.01 / 70e9**0.3478 + 2085.43 / 1.4e12**0.3658
    found = source(source="besiroglu", tokens=1.4e12).predict(shape(70 * 10**9))
    assert found.value == pytest.approx(loss, rel=1e-12)


def test_besiroglu_supports_twenty_tokens_a_parameter():
    """Besiroglu et al.: at Chinchilla's compute the refit's optimum is near 20 tokens per
    parameter, while the constants of Hoffmann et al. ask for far more.
    """
    compute = 5.76e23
    sizes = np.geomspace(1e9, 1e12, 4000)
    ratios = {}
    for name in ("hoffmann", "besiroglu"):
        losses = [
            source(source=name, tokens=compute / (6 * n)).predict(shape(int(n))).value
            for n in sizes
        ]
        best = sizes[int(np.argmin(losses))]
        ratios[name] = compute / (6 * best) / best
    assert 15 < ratios["besiroglu"] < 30
    assert ratios["hoffmann"] > 2 * ratios["besiroglu"]


@pytest.mark.parametrize("name", ["hoffmann", "besiroglu"])
def test_more_parameters_or_tokens_never_hurt(name):
    """The laws fall in both arguments towards their floor."""
    losses = [source(source=name, tokens=1e10).predict(shape(n)).value
              for n in (10**8, 10**9, 10**10)]  # fmt: skip
    assert losses == sorted(losses, reverse=True)
    assert source(source=name, tokens=1e11).predict(shape(10**9)).value < losses[1]


def test_outside_the_fitted_range_is_marked():
    """The published fits cover 70 M to 16 B parameters and 5 B to 500 B tokens."""
    inside = source(source="besiroglu", tokens=2e10)
    assert not inside.predict(shape(10**9)).extrapolated
    assert inside.predict(shape(10**7)).extrapolated
    assert source(source="besiroglu", tokens=1e9).predict(shape(10**9)).extrapolated


def test_constant_and_direction():
    """A constant is the same for every shape; the user states the direction."""
    found = source(source="constant", value=0.76, direction="max")
    assert found.predict(shape(1)).value == found.predict(shape(10**9)).value == 0.76
    assert found.direction == "max"


def test_callable_sees_knobs_and_totals(tmp_path, monkeypatch):
    """Knobs, parameters and macs arrive as keywords."""
    (tmp_path / "own_quality.py").write_text(
        "def accuracy(width, parameters, macs):\n    return width / 1000 + parameters / macs\n"
        "def broken(**_):\n    return float('nan')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = source(source="callable", function="own_quality:accuracy", direction="max")
    assert found.predict(shape(10**8, width=512)).value == pytest.approx(0.612)
    with pytest.raises(StudyError, match="finite number"):
        source(source="callable", function="own_quality:broken").predict(shape(1))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"source": "kaplan"}, UnknownNameError, "unknown quality source"),
        ({"tokens": 1e9}, StudyError, "no source named"),
        ({"source": "hoffmann"}, StudyError, "tokens"),
        ({"source": "hoffmann", "tokens": -1}, StudyError, "greater than 0"),
        ({"source": "hoffmann", "tokens": 1e9, "direction": "max"}, StudyError, "min"),
        ({"source": "constant", "value": 1, "colour": "red"}, StudyError, "colour"),
    ],
)
def test_bad_options(options, error, match):
    """Unknown sources and options are one clear error each."""
    with pytest.raises(error, match=match):
        source(**options)


@pytest.mark.parametrize("function", ["nowhere:f", "math:nothing", "math", "math:pi"])
def test_bad_callables(function):
    """What cannot be imported or called is refused."""
    with pytest.raises(StudyError):
        source(source="callable", function=function).predict(shape(1))
