"""Pipelines as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwopt.errors import PassError, UnknownNameError
from hwopt.passes.canonicalize import Canonicalize
from hwopt.passes.dataflow import Dataflow
from hwopt.passes.decompose import Decompose
from hwopt.passes.fuse import Fuse
from hwopt.passes.manager import parse_pipeline, passes
from hwopt.passes.pipeline import print_pipeline
from hwopt.passes.tile import Tile

STEPS = st.one_of(
    st.builds(Canonicalize, st.booleans(), st.booleans()),
    st.builds(Decompose, st.lists(st.text(max_size=4)).map(tuple)),
    st.builds(Fuse, st.booleans(), st.booleans()),
    st.builds(Dataflow, st.sampled_from(("weight", "row", "searched"))),
    st.builds(Tile, st.sampled_from(("any", "perfect")), st.lists(st.text(max_size=6)).map(tuple)),
)


@given(st.lists(STEPS, min_size=1, max_size=4))
def test_round_trip(steps):
    """parse(print(p)) == p, whatever the options."""
    assert parse_pipeline(print_pipeline(steps)) == steps


def test_only_changed_options_are_printed():
    """Defaults are left out; blanks do not matter."""
    text = "fuse{attention=False},tile{factors=perfect,largest=[GLB.k:64]}"
    assert print_pipeline(parse_pipeline(text)) == text
    assert parse_pipeline(" fuse { attention = False } , tile{factors=perfect, "
                          "largest=[ GLB.k:64 ]}") == parse_pipeline(text)  # fmt: skip
    assert print_pipeline([passes[name]() for name in passes]) == ",".join(passes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected the name of a pass"),
        ("fuse,", "expected the name of a pass"),
        ("fuse tile", "column 6"),
        ("fuse{", "expected an option"),
        ("fuse{attention}", "'='"),
        ("fuse{attention=maybe}", "valid boolean"),
        ("fuse{attention=1}", "valid boolean"),
        ("fuse{depth=3}", "attention, epilogues, pointwise"),
        ("fuse{attention=True,attention=True}", "given twice"),
        ("classify{a=1}", "no options"),
        ("tile{factors=some}", "'any' or 'perfect'"),
        ("tile{largest=GLB}", "tuple"),
        ("tile{largest=[[[[[[[[[[[[[1]]]]]]]]]]]]]}", "too deeply"),
        ('tile{largest=["\\x"]}', "malformed text"),
        ("fuse;import os", "column 5"),
    ],
)
def test_mistakes(text, words):
    """One error with the column, what is allowed, and nothing evaluated."""
    with pytest.raises(PassError) as caught:
        parse_pipeline(text)
    assert words in str(caught.value)


def test_unknown_pass():
    """The nearest names are listed."""
    with pytest.raises(UnknownNameError, match="canonicalize"):
        parse_pipeline("canonicalise")


@given(st.text(max_size=30))
def test_arbitrary_text(text):
    """Nothing but our own errors."""
    with pytest.raises((PassError, UnknownNameError)):
        parse_pipeline("?" + text)
