"""Mappings written in every form by the command line."""

import json

import pytest

from hwopt.cli import app
from hwopt.commandline import run_command_line
from hwopt.errors import FileFormatError, MappingError
from hwopt.mapping.forms import FORMS, nodes_from_json
from hwopt.mapping.mapping import parse_mapping

MACHINE = """
name: tiny
clock_hz: 1 GHz
levels:
  - {type: memory, name: DRAM, kind: dram, bytes_per_s: 1 GB/s}
  - {type: memory, name: GLB, capacity_bytes: 4 KiB, bytes_per_s: 16 GB/s}
  - {type: fanout, name: PE, dims: [{name: x, size: 4}]}
"""
MAPPING = """
axes: {m: 6, k: 8}
input: {index: [k], shape: [8]}
weight: {index: [m, k], shape: [6, 8]}
output: {index: [m], shape: [6]}
mapping: |
  keep input weight output in DRAM
  for m in tiles of 4
    keep input weight output in GLB
    for k in tiles of 2
      spread k in tiles of 1 over PE.x
        for m in tiles of 1
"""


@pytest.fixture
def hwopt(capsys):
    """Run `hwopt ARGS...`; gives (exit code, stdout, stderr)."""

    def call(*arguments):
        code = run_command_line(app, [str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def files(tmp_path):
    """A small machine and a mapping on it."""
    machine, mapping = tmp_path / "tiny.yaml", tmp_path / "mapping.yaml"
    machine.write_text(MACHINE)
    mapping.write_text(MAPPING)
    return machine, mapping


@pytest.mark.parametrize("form", FORMS)
def test_every_form_prices_alike(hwopt, files, tmp_path, form):
    """Written to stdout or with -o, read again: the same seconds, joules and flows."""
    machine, mapping = files
    code, expected, _ = hwopt("cost-mapping", mapping, "--on", machine, "--json")
    assert code == 0
    code, text, _ = hwopt("cost-mapping", mapping, "--on", machine, "--to", form)
    assert code == 0
    path = tmp_path / f"written.{'json' if form == 'json' else 'yaml'}"
    code, out, err = hwopt("cost-mapping", mapping, "--on", machine, "--to", form, "-o", path)
    assert (code, out) == (0, "")
    assert "wrote" in err
    assert path.read_text() == text
    code, again, _ = hwopt("cost-mapping", path, "--on", machine, "--json")
    assert code == 0
    assert json.loads(again) == json.loads(expected)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--to", "latin"), "unknown form"), (("-o", "x.yaml"), "add --to"),
        (("--conventions", "timeloop"), "perfect bounds"),
        (("--conventions", "roman"), "unknown conventions"),
    ],
)  # fmt: skip
def test_bad_requests(hwopt, files, arguments, word):
    """One message and exit code 2."""
    machine, mapping = files
    code, out, err = hwopt("cost-mapping", mapping, "--on", machine, *arguments)
    assert (code, out) == (2, "")
    assert word in err


def test_what_timeloop_cannot_express(hwopt, files):
    """An uneven mapping is refused with the memory and its keeps."""
    machine, mapping = files
    mapping.write_text(MAPPING.replace("keep input weight output in GLB",
        "keep weight output in GLB\n    for k in tiles of 4\n    keep input in GLB"))  # fmt: skip
    code, _, err = hwopt("cost-mapping", mapping, "--on", machine, "--to", "timeloop")
    assert code == 2
    assert "GLB: Timeloop cannot express this mapping" in err
    assert "keep weight output in GLB; keep input in GLB" in err


@pytest.mark.parametrize(
    ("node", "error"),
    [
        ({"keep": ["bias"], "in": "GLB"}, MappingError),
        ({"keep": "input", "in": "GLB"}, FileFormatError),
        ({"for": "k", "tile": 0}, MappingError), ({"for": "k"}, FileFormatError),
        ({"spread": "k", "tile": 1, "over": "PE"}, FileFormatError), ("for k", FileFormatError),
        ({"for": "k", "tile": True}, MappingError),
    ],
)  # fmt: skip
def test_bad_nodes(node, error):
    """Each names its place in the list."""
    with pytest.raises(error, match=r"mapping\[1\]"):
        nodes_from_json([{"for": "k", "tile": 2}, node])


def test_nodes():
    """The three kinds of node."""
    mapping = nodes_from_json([
        {"keep": ["input", "output"], "in": "GLB"}, {"for": "k", "tile": 2},
        {"spread": "m", "tile": 1, "over": "PE.x"},
    ])  # fmt: skip
    assert mapping == parse_mapping(
        "keep input output in GLB\nfor k in tiles of 2\nspread m in tiles of 1 over PE.x"
    )


SMALL = ("ptb-lstm", "--set", "width=8", "--set", "depth=1", "--set", "vocabulary=16", "--seq", "4")


def test_the_mapping_of_an_operator(hwopt, files, tmp_path):
    """`hwopt cost --show-mapping OP --to FORM` writes a file that `cost-mapping` reads."""
    machine, _ = files
    code, text, _ = hwopt("cost", *SMALL, "--on", machine, "--show-mapping", "head", "--to", "json")
    assert code == 0
    path = tmp_path / "head.json"
    path.write_text(text)
    code, out, _ = hwopt("cost-mapping", path, "--on", machine, "--json")
    assert code == 0
    assert json.loads(out)["feasible"]
    assert json.loads(out)["macs"] == 4 * 8 * 16


def test_a_form_needs_an_operator(hwopt, files):
    """`--to` alone says nothing."""
    code, _, err = hwopt("cost", *SMALL, "--on", files[0], "--to", "json")
    assert code == 2
    assert "--show-mapping" in err
