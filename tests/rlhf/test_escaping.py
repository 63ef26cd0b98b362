"""No text of a model reaches a terminal as something that it obeys."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from rlhf.escaping import visible


def test_controls_are_shown_and_text_stays() -> None:
    """Escape sequences, bidirectional controls and surrogates become their names."""
    assert visible("a\x1b[2J\x07b") == "a\\x1b[2J\\x07b"
    assert visible("\x9b31m\x7f\r") == "\\x9b31m\\x7f\\x0d"
    assert visible("\u202eabc\u2066\ud800\U000e0041") == "\\u202eabc\\u2066\\ud800\\U000e0041"
    assert visible("\u2028\ufeff") == "\\u2028\\ufeff"
    assert visible("zwj: 👩\u200d🔬, grüße 日本\n\tx") == "zwj: 👩\u200d🔬, grüße 日本\n\tx"


def test_a_line_stays_a_line() -> None:
    """Without `lines`, newlines and tabs are shown as well."""
    assert visible("a\nb\tc\\n", lines=False) == "a\\nb\\tc\\n"


@given(st.text(st.characters(codec=None)))
def test_whatever_comes_in_is_printable_and_encodable(text: str) -> None:
    """Of any text, nothing is left but what is safe to write to a UTF-8 terminal."""
    for character in visible(text, lines=False).encode().decode():
        assert unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"}
        assert not "\u202a" <= character <= "\u202e"
        assert not "\u2060" <= character <= "\u206f"
