"""Affine expressions and accesses."""

from hypothesis import given
from hypothesis import strategies as st

from hwopt.ir.access import Affine, parse_affine

AXES = ("p", "q", "r2", "_s")
affines = st.builds(
    Affine.of,
    st.dictionaries(st.sampled_from(AXES), st.integers(-9, 9)),
    st.integers(-99, 99),
)
points = st.fixed_dictionaries({axis: st.integers(0, 20) for axis in AXES})


def value(affine: Affine, point: dict[str, int]) -> int:
    """The oracle: plain evaluation."""
    return affine.offset + sum(c * point[name] for name, c in affine.terms)


@given(affines)
def test_text_round_trip(affine):
    """parse(str(a)) == a."""
    assert parse_affine(str(affine)) == affine


@given(affines, affines, st.integers(-5, 5), points)
def test_arithmetic_is_pointwise(a, b, factor, point):
    """Sums and multiples evaluate as sums and multiples."""
    assert value(a + b, point) == value(a, point) + value(b, point)
    assert value(a * factor, point) == factor * value(a, point)
    assert value(a + 7, point) == value(a, point) + 7


@given(affines, st.dictionaries(st.sampled_from(AXES), affines), points)
def test_substitution(a, replacements, point):
    """Substituting axes is evaluating them first."""
    moved = point | {name: value(affine, point) for name, affine in replacements.items()}
    assert value(a.substitute(replacements), point) == value(a, moved)


@given(affines, st.fixed_dictionaries({axis: st.integers(1, 4) for axis in AXES}))
def test_bounds_are_tight(a, sizes):
    """The bounds are the extreme values over the box."""
    values = {a.offset}
    for name, coefficient in a.terms:
        values = {v + coefficient * i for v in values for i in range(sizes[name])}
    assert a.bounds(sizes) == (min(values), max(values))
