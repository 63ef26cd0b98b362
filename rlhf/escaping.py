r"""Text of a model or a file made safe to print: what a terminal would obey is shown instead.

    "\x1b[2J" -> "\\x1b[2J"    "\u202e" -> "\\u202e"    "\n", "\t" stay

A model can produce, or be trained on, any bytes: escape sequences move the cursor, change the title
or answer for the user; bidirectional controls reorder what is read. Surrogates cannot be encoded.
"""

from __future__ import annotations

import unicodedata

_KEPT = {"\n", "\t"}
_JOINERS = {"\u200c", "\u200d"}
"""Format characters that scripts and emoji need."""


def visible(text: str, *, lines: bool = True) -> str:
    r"""The text with controls, format characters and surrogates as `\x1b`, `\u202e`, `\U000e0001`.

    `lines` false: newlines and tabs too, for text that must stay on its line. The backslash itself
    stays, so this is for people and not to be parsed back.
    """
    return "".join(character if _safe(character, lines) else _name(character) for character in text)


def _safe(character: str, lines: bool) -> bool:
    if character in _KEPT:
        return lines
    category = unicodedata.category(character)
    # Cc control, Cf format (bidirectional, tags), Cs surrogate, Zl and Zp separators
    return category not in {"Cc", "Cf", "Cs", "Zl", "Zp"} or character in _JOINERS


def _name(character: str) -> str:
    code = ord(character)
    if character in _KEPT:
        return "\\n" if character == "\n" else "\\t"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
