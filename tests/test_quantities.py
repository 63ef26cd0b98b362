"""Numbers with units."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwopt import quantities as q
from hwopt.errors import QuantityError


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (q.parse_bytes, "64 KiB", 65536),
        (q.parse_bytes, "1.5MB", 1.5e6),
        (q.parse_bytes, "16 bit", 2),
        (q.parse_bytes, 4096, 4096),
        (q.parse_bytes_per_s, "1.2 TB/s", 1.2e12),
        (q.parse_bytes_per_s, "800 Gb/s", 1e11),
        (q.parse_bytes_per_s, "1 GiB/s", 2**30),
        (q.parse_hz, "200 MHz", 2e8),
        (q.parse_seconds, "5 us", 5e-6),
        (q.parse_seconds, "5 µs", 5e-6),
        (q.parse_joules, "0.56 pJ", 0.56e-12),
        (q.parse_watts, "15 mW", 0.015),
        (q.parse_square_metres, "40 mm2", 4e-5),
        (q.parse_square_metres, "1200 um2", 1.2e-9),
    ],
)
def test_suffixes(parse, text, value):
    """Each unit and prefix is what the SI says (b is a bit, B a byte, Ki is 1024)."""
    assert parse(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "bad", ["64 KiBB", "", "many", "-1 KiB", "nan", "inf", float("nan"), -3, True, None, [], "1 Hz"]
)
def test_refused(bad):
    """Anything else is one clear error with the value in it."""
    with pytest.raises(QuantityError):
        q.parse_bytes(bad)


@given(st.floats(1e-14, 1e17))
def test_shown_values_read_back(value):
    """What is shown to people parses back to the same value within the digits shown."""
    assert q.parse_joules(q.show(value, "J", digits=6)) == pytest.approx(value, rel=2e-3 / 9)


def test_show():
    """Three digits, engineering prefixes, zero and infinity included."""
    assert q.show(2.5e-3, "s") == "2.50 ms"
    assert q.show(999.9, "s") == "1.00 ks"
    assert q.show(0.0, "J") == "0 J"
    assert q.show(math.inf, "s") == "inf s"
    assert q.show_bytes(65536) == "64.0 KiB"
    assert q.show_area(4e-5) == "40.0 mm2"
