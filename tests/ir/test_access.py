"""Affine expressions and accesses."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hwopt.ir.access import Access, Affine, parse_access, parse_affine, touched_elements

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


@given(
    st.lists(affines, max_size=2),
    st.fixed_dictionaries({axis: st.integers(1, 4) for axis in AXES}),
    st.integers(1, 40),
)
def test_touched_elements(index, sizes, extent):
    """Distinct elements inside the tensor: exact where the dimensions share no axis, else at most
    the points and at least what is touched.
    """
    access, shape = Access(tuple(index)), (extent,) * len(index)
    points = itertools.product(*(range(sizes[axis]) for axis in AXES))
    places = {
        tuple(value(affine, dict(zip(AXES, point, strict=True))) for affine in index)
        for point in points
    }
    inside = sum(all(0 <= i < extent for i in place) for place in places)
    found = touched_elements(access, shape, sizes)
    shared = len(index) == 2 and set(index[0].axes) & set(index[1].axes)
    assert found >= inside if shared else found == inside


def test_touched_elements_of_layers():
    """A stride-2 1x1 convolution touches a quarter, a padded 3x3 all, a slice its part."""
    sizes = {"p": 4, "q": 4, "r": 3, "s": 3}
    quarter = parse_access("2*p", "2*q")
    assert touched_elements(quarter, (8, 8), sizes) == 16
    whole = parse_access("2*p + r - 1", "2*q + s - 1", fill=0.0)
    assert touched_elements(whole, (8, 8), sizes) == 64
    assert touched_elements(parse_access("p + 4"), (8,), sizes) == 4
    assert touched_elements(parse_access("p", "p"), (8, 8), sizes) == 4
