"""Every sentence of every assumption names tests that exist and say what they check."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "hwopt" / "cost" / "README.md").read_text()
NAMED = r"`(tests/[\w/]+\.py)::(\w+)`"
CLAIM = re.compile(
    rf"\s*(?P<sentence>[^()\s].*?)\s*\((?P<tests>{NAMED}(?:,\s*{NAMED})*)\)", re.DOTALL
)
ENDS = re.compile(r"[.!?](?=\s+[\"A-Z`]|\s*$)")


def items(text: str) -> dict[int, str]:
    """The numbered items of the page."""
    parts = re.split(r"^(\d+)\. ", text, flags=re.MULTILINE)[1:]
    bodies = (re.split(r"^#", body, flags=re.MULTILINE)[0] for body in parts[1::2])
    return dict(zip(map(int, parts[::2]), bodies, strict=True))


def claims(body: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """The sentences of an item with the tests behind each.

    Raises `ValueError` with what is left where a sentence has no test behind it, or where two
    sentences share theirs.
    """
    found, position = [], 0
    while match := CLAIM.match(body, position):
        sentence = " ".join(match["sentence"].split())
        if len(ENDS.findall(sentence)) != 1 or not ENDS.search(sentence[-1]):
            raise ValueError(f"not one sentence: {sentence}")
        found.append((sentence, re.findall(NAMED, match["tests"])))
        position = match.end()
    if body[position:].strip() or not found:
        raise ValueError(f"no test behind: {body[position:].strip()}")
    return found


@cache
def functions_of(path: str) -> dict[str, ast.FunctionDef]:
    """The functions of a test file by name."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_items_are_numbered_from_one():
    """1, 2, 3 ... over all sections; a number at the start of a line is an item."""
    assert list(items(TEXT)) == list(range(1, len(items(TEXT)) + 1))
    assert len(items(TEXT)) >= 50


@pytest.mark.parametrize("number", items(TEXT))
def test_every_sentence_names_tests_that_exist(number):
    """One sentence, then its tests in parentheses: files and functions are there and documented."""
    for sentence, tests in claims(items(TEXT)[number]):
        assert tests, sentence
        for path, name in tests:
            assert name in functions_of(path), f"{path}::{name} does not exist"
            assert name.startswith("test_")
            assert ast.get_docstring(functions_of(path)[name]), f"{path}::{name} says nothing"
            marks = [ast.unparse(mark) for mark in functions_of(path)[name].decorator_list]
            assert not any("skip" in mark or "xfail" in mark for mark in marks)


def test_nothing_is_claimed_outside_the_items():
    """Headings, one introduction, and at most one line of sources in a section."""
    outside = TEXT
    for number, body in items(TEXT).items():
        outside = outside.replace(f"{number}. {body}", "")
    paragraphs = [p for p in re.split(r"\n\s*\n", outside) if p.strip() and not p.startswith("#")]
    assert len(paragraphs) == 2
    assert "test_readme.py" in paragraphs[0]
    assert paragraphs[1].startswith("Sources are in")


@pytest.mark.parametrize(
    "body",
    [
        "A claim without a test.",
        "One claim. Another claim. (`tests/cost/test_readme.py::test_it`)",
        "One claim. (`tests/cost/test_readme.py::test_it`) A second one without.",
        "One claim (`tests/cost/test_readme.py::test_it`)",
        "",
    ],
)
def test_the_check_itself_can_fail(body):
    """A sentence without its own test, or that is none, is found."""
    with pytest.raises(ValueError, match=r"no test behind|not one sentence"):
        claims(body)
