"""Mappings on one line."""

import pytest

from hwopt.errors import FileFormatError, MappingError
from hwopt.hardware.library import load
from hwopt.mapping.fixed import price_fixed, read_fixed
from hwopt.mapping.forms import write_form
from hwopt.mapping.timeloop import Bound
from hwopt.mapping.timeloop_text import on_machine, parse_text, print_text

LINE = "L3[WIO] C8 K32 S3 - L2[WI] N1 K4X - L1[O] K2 R3 C4 Q13 C8X - L0[W] P13"


def test_levels_of_a_line():
    """Operands, temporal and spatial loops, outermost first; bounds with remainders."""
    levels = parse_text(LINE.replace("Q13", "Q13,5"))
    assert [level.memory for level in levels] == ["L3", "L2", "L1", "L0"]
    assert [level.keeps for level in levels][1:] == [("input", "weight"), ("output",), ("weight",)]
    assert [str(loop) for loop in levels[2].temporal] == ["K=2", "R=3", "C=4", "Q=13,5"]
    assert levels[2].spatial == (Bound("C", 8, 8, "spatial", "X"),)


def test_a_line_as_a_file(tmp_path):
    """A file with nothing but a line is a convolution as large as its bounds."""
    path = tmp_path / "line.txt"
    path.write_text(LINE + "\n")
    priced = price_fixed(path, load("gemmini"), "timeloop")
    assert priced.problem.sizes == {"C": 256, "K": 256, "R": 3, "S": 3, "N": 1, "P": 13, "Q": 13}
    assert priced.analysis.steps == 256 * 256 * 9 * 169 // 32
    assert priced.analysis.flows["scratchpad"]["input"].busiest_read == priced.analysis.steps * 8


def test_lines_print_as_they_are_read():
    """Without loops that run once, a line reads back as written."""
    machine, line = load("gemmini"), LINE.replace(" N1", "")
    levels = on_machine(parse_text(line), machine, list("CKRSNPQ"))
    assert print_text(levels, machine) == line


def test_names_of_memories_and_axes(tmp_path):
    """Memories by their own names, axes in either case; memories may be left out."""
    path = tmp_path / "mapping.yaml"
    path.write_text(
        "axes: {k: 8, c: 4}\ninput: {index: [c], shape: [4]}\n"
        "weight: {index: [k, c], shape: [8, 4]}\noutput: {index: [k], shape: [8]}\n"
        "mapping: DRAM[WIO] K2 - scratchpad[wi] k4X - "
        "accumulator[O] C4X - weight_register[W]\n"
    )
    problem, mapping = read_fixed(path, load("gemmini"))
    assert "spread k in tiles of 1 over columns.column" in str(mapping)
    assert "mapping: L3[WIO] K2 - L2[WI] K4X - L1[O] C4X - L0[W]" in write_form(
        problem, mapping, load("gemmini"), "text"
    )


@pytest.mark.parametrize(
    ("line", "error", "word"),
    [
        ("L3[WIO] C8 K3Z2", FileFormatError, "not a level"),
        ("L3[WXO] C8", FileFormatError, "not a level"),
        ("L9[WIO] C8", MappingError, "no such level"),
        ("L2[WI] C8 - L3[WIO] C8", MappingError, "outermost first"),
        ("L3[WIO] C4X", MappingError, "temporal loops only"),
        ("L3[WIO] C4 - L2[WI] C4Y", MappingError, "columns.column"),
        ("L3[WIO] Z4", MappingError, "no such axis"),
    ],
)  # fmt: skip
def test_bad_lines(line, error, word):
    """Each mistake is one clear error."""
    with pytest.raises(error, match=word):
        on_machine(parse_text(line), load("gemmini"), list("CKRSNPQ"))
