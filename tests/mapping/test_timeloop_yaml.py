"""Timeloop's problem and mapping sections."""

import pytest

from hwopt.errors import FileFormatError, HwoptError
from hwopt.files import parse_yaml
from hwopt.hardware.library import load
from hwopt.mapping.fixed import price_fixed, read_fixed
from hwopt.mapping.forms import write_form
from hwopt.mapping.mapping import parse_mapping
from hwopt.mapping.timeloop_problem import read_problem, write_problem

FILE = """
problem:
  version: 0.3
  shape:
    name: strided
    dimensions: [C, M, R, S, P, Q]
    coefficients: [{name: stride, default: 1}]
    data-spaces:
      - {name: Filters, projection: [[[C]], [[M]], [[R]], [[S]]]}
      - {name: Ifmaps, projection: [[[C]], [[P, stride], [R]], [[Q], [S]]]}
      - {name: Psums, projection: [[[M]], [[P]], [[Q]]], read-write: true}
  instance: {C: 8, M: 16, R: 3, S: 1, P: 7, Q: 10, stride: 2}
mapping:
  - {target: DRAM, type: temporal, factors: M=2 C=2, permutation: CM}
  - {target: GLB, type: datatype, keep: [Ifmaps, Psums], bypass: [Filters]}
  - {target: GLB, type: temporal, factors: P7 Q=5, permutation: QPRSCM}
  - {target: GLB, type: spatial, factors: Q=2 C=4 M=8, permutation: QCM, split: 2}
  - {target: output_spad, type: temporal, factors: [R=0], permutation: "R"}
"""
NEST = """
keep input weight output in DRAM
for M in tiles of 8
  for C in tiles of 4
    keep input output in GLB
    for P in tiles of 1
      for Q in tiles of 2
        spread M in tiles of 1 over PE.x
          spread C in tiles of 1 over PE.y
            spread Q in tiles of 1 over PE.y
              keep input in input_spad
              keep weight in weight_spad
              keep output in output_spad
              for R in tiles of 1
"""


def written(tmp_path, text: str):
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    return path


def test_a_file_of_timeloop(tmp_path):
    """Inside-out permutations, the split over X and Y, bypass by name, factor 0, strides."""
    problem, mapping = read_fixed(written(tmp_path, FILE), load("eyeriss"))
    assert mapping == parse_mapping(NEST)
    assert problem.sizes == {"C": 8, "M": 16, "R": 3, "S": 1, "P": 7, "Q": 10}
    assert [str(part) for part in problem.operand["input"].access.index] == [
        "C",
        "2*P + R",
        "Q + S",
    ]
    assert problem.operand["input"].shape == (8, 15, 10)
    assert problem.operand["input"].bits == 16


def test_price_under_both_conventions(tmp_path):
    """Timeloop's counts under its name: no drain is read at the scratchpad, ours is."""
    path = written(tmp_path, FILE)
    ours, theirs = (price_fixed(path, load("eyeriss"), c) for c in ("native", "timeloop"))
    assert ours.analysis.steps == theirs.analysis.steps == 2 * 2 * 7 * 5 * 3
    flows = theirs.analysis.flows["output_spad"]["output"]
    assert flows.busiest_write - flows.busiest_read < ours.analysis.steps
    assert theirs.conventions == "timeloop"


def test_our_files_are_timeloops(tmp_path):
    """What we write is directives with all axes; padding is kept in our own keys."""
    machine = load("eyeriss")
    problem, mapping = read_fixed(written(tmp_path, FILE), machine)
    data = parse_yaml(write_form(problem, mapping, machine, "timeloop"))
    assert data["mapping"][0] == {
        "target": "DRAM", "type": "bypass", "keep": ["Inputs", "Weights", "Outputs"], "bypass": [],
    }  # fmt: skip
    spatial = next(d for d in data["mapping"] if d["type"] == "spatial")
    assert spatial == {
        "target": "GLB", "type": "spatial", "factors": "Q=2 C=4 M=8 R=1 S=1 P=1",
        "permutation": "QCMRSP", "split": 2,
    }  # fmt: skip
    assert data["problem"]["instance"]["stride2"] == 2
    padded = """
axes: {K: 4, P: 6, R: 3}
input: {index: [P + R - 1], shape: [6]}
weight: {index: [K, R], shape: [4, 3]}
output: {index: [K, P], shape: [4, 6]}
mapping: [{target: DRAM, type: temporal, factors: K=4 P=6 R=3, permutation: RPK}]
"""
    problem, mapping = read_fixed(written(tmp_path, padded), machine)
    text = write_form(problem, mapping, machine, "timeloop")
    assert "P + R - 1" in text
    assert read_fixed(written(tmp_path, text), machine) == (problem, mapping)


def test_problem_sections_round_trip():
    """A nest without padding is fully said by Timeloop's section."""
    section = parse_yaml(FILE)["problem"]
    problem = read_problem(section, "problem", {"input": 16})
    again = read_problem(write_problem(problem), "problem", {"input": 16})
    assert again.operands == problem.operands


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("M=2 C=2", "M=3 C=2", "multiply up"), ("M=2 C=2", "M=2 D=2", "no such axis"),
        ("M=2 C=2", "M~2", "not factors"), ("M=2 C=2", "M=2 M=2", "two factors"),
        ("M=2 C=2", "'M=2 C=2,3'", "remainder"),
        ("permutation: CM", "permutation: CMC", "an axis twice"),
        ("target: output_spad", "target: nowhere", "no such level"),
        ("target: output_spad", "target: DRAM", "two temporal directives"),
        ("type: datatype", "type: dataflow", "unknown type"),
        ("keep: [Ifmaps, Psums]", "keep: [Ofmaps]", "no such data space"),
        ("keep: [Ifmaps, Psums]", "keep: Ifmaps", "not a list of data spaces"),
        ("split: 2", "split: two", "not a number of loops"),
        ("split: 2", "spilt: 2", "unknown keys"),
        ("target: GLB, type: spatial", "target: DRAM, type: spatial", "no such fan-out"),
        ("Q=2 C=4 M=8", "'Q=2 C=4 M=8,7'", "multiply up"),
        ("factors: Q=2 C=4 M=8", "factors: Q=2 C=4 M=16", "multiply up"),
        ("[Q], [S]", "[Q], [T]", "not a term"), ("[P, stride]", "[P, hop]", "without a value"),
        ("P: 7, Q", "P: 0, Q", "at least 1"), ("read-write: true", "read-write: false", "product"),
        ("dimensions: [", "dims: [", "not a list"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path, old, new, word):
    """Each mistake is one clear error."""
    assert old in FILE
    with pytest.raises(HwoptError, match=word):
        read_fixed(written(tmp_path, FILE.replace(old, new, 1)), load("eyeriss"))


def test_descriptions_must_agree(tmp_path):
    """Our axes beside Timeloop's problem may not say other sizes."""
    keys = (
        "axes: {C: 9, M: 16}\ninput: {index: [C], shape: [9]}\n"
        "weight: {index: [C, M], shape: [9, 16]}\noutput: {index: [M], shape: [16]}\n"
    )
    with pytest.raises(FileFormatError, match="differ"):
        read_fixed(written(tmp_path, keys + FILE), load("eyeriss"))
