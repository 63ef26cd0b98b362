"""Each rule of a legal mapping, broken once."""

from dataclasses import replace

import pytest

from hwopt.errors import MappingError
from hwopt.hardware.accelerator import Accelerator, Fanout, FanoutDim, Memory
from hwopt.ir.access import Axis, parse_access
from hwopt.mapping.mapping import parse_mapping
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.verify import verify_mapping

MACHINE = Accelerator(
    name="m", clock_hz=1e9,
    levels=(
        Memory(name="DRAM"),
        Memory(name="GLB", keeps=("input", "output"), bypass=("input",)),
        Fanout(name="PE", dims=(FanoutDim(name="x", size=2, axes=("n",)),)),
    ),
)  # fmt: skip
PROBLEM = Problem(
    (Axis("m", 4), Axis("k", 4), Axis("n", 4)),
    (
        Operand("input", parse_access("m", "k"), (4, 4), 8),
        Operand("weight", parse_access("k", "n"), (4, 4), 8),
        Operand("output", parse_access("m", "n"), (4, 4), 8),
    ),
    ("m",),
)
TOP, LOOPS = "keep input weight output in DRAM", "for k in tiles of 1\nfor n in tiles of 1"
GOOD = f"{TOP}\nfor m in tiles of 1\nkeep output in GLB\n"


def test_a_legal_mapping_passes() -> None:
    """Bypass of the input, a spread, sequential axis first."""
    text = f"{GOOD}for n in tiles of 2\nspread n in tiles of 1 over PE.x\nfor k in tiles of 1"
    verify_mapping(PROBLEM, parse_mapping(text), MACHINE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins by keeping every operand"),
        ("keep input in DRAM\nfor m in tiles of 1", "begins by keeping every operand"),
        (f"{TOP}\nkeep output in L9", "no such memory"),
        (f"{TOP}\nkeep output in PE", "no such memory"),
        (f"{TOP}\nkeep weight in GLB", "does not hold this operand"),
        (f"{GOOD}keep output in GLB\n{LOOPS}", "kept twice"),
        (f"{GOOD}keep input in DRAM\n{LOOPS}", "kept twice"),
        (f"{TOP}\nfor z in tiles of 1", "no such axis"),
        (f"{TOP}\nfor m in tiles of 0", "must be positive"),
        (f"{GOOD}spread k in tiles of 2 over PE.x", "may not be spread here"),
        (f"{GOOD}spread n in tiles of 2 over PE.y", "no such dimension"),
        (f"{GOOD}spread n in tiles of 2 over GLB.x", "no such fan-out"),
        (f"{GOOD}spread n in tiles of 1 over PE.x\nfor k in tiles of 1", "more copies in use"),
        (f"{GOOD}for k in tiles of 1", "down to 1"),
        (f"{TOP}\nfor m in tiles of 1\n{LOOPS}", "does not let this operand pass by"),
        (f"{TOP}\n{LOOPS}\nfor m in tiles of 1\nkeep output in GLB", "must be outermost"),
        (f"{TOP}\nfor m in tiles of 2\nfor m in tiles of 1", "in tiles of 1"),
    ],
)
def test_each_rule(text: str, message: str) -> None:
    """One clear error with the node that breaks it."""
    with pytest.raises(MappingError, match=message):
        verify_mapping(PROBLEM, parse_mapping(text), MACHINE)


DEEP = Accelerator(
    name="deep", clock_hz=1e9,
    levels=(
        Memory(name="DRAM"), Memory(name="GLB"),
        Fanout(name="PE", dims=(FanoutDim(name="x", size=2),)),
        Fanout(name="MAC", dims=(FanoutDim(name="x", size=2),)),
        Memory(name="reg"),
    ),
)  # fmt: skip
ALL = "input weight output"


def test_keeps_of_different_operands_may_stand_in_any_order() -> None:
    """A register's keep above the buffer's keep of another operand."""
    verify_mapping(
        replace(PROBLEM, sequential=()),
        parse_mapping(
            f"{TOP}\nkeep weight in GLB\nkeep weight in reg\nfor m in tiles of 1\n"
            f"keep input output in GLB\nkeep input output in reg\n{LOOPS}"
        ),
        DEEP,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"keep input in reg\nkeep {ALL} in GLB", "keeps of an operand must follow"),
        ((f"keep {ALL} in GLB\nspread k in tiles of 2 over MAC.x\n"
          "spread k in tiles of 1 over PE.x"), "spreads of an axis must follow"),
        (f"keep {ALL} in GLB\nkeep weight in reg\nspread k in tiles of 2 over PE.x",
         "spread above the keeps below its fan-out"),
    ],
)  # fmt: skip
def test_each_rule_of_order(text: str, message: str) -> None:
    """What one operand or one axis meets follows the machine."""
    with pytest.raises(MappingError, match=message):
        verify_mapping(replace(PROBLEM, sequential=()), parse_mapping(f"{TOP}\n{text}"), DEEP)
