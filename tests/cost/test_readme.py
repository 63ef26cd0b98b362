"""Every assumption of the cost model names tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "hwopt" / "cost" / "README.md").read_text()


def test_assumptions_are_numbered_and_each_names_its_tests():
    """1, 2, 3 ... and at least one test each."""
    items = re.split(r"^(\d+)\. ", TEXT, flags=re.MULTILINE)[1:]
    numbers = [int(number) for number in items[::2]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert all("::" in body for body in items[1::2])


def test_every_named_test_exists():
    """File and function are there."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) >= 25
    for path, function in named:
        tree = ast.parse((ROOT / path).read_text())
        assert function in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, (
            f"{path}::{function}"
        )
