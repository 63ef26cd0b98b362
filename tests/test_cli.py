"""The command line: exit codes, streams, one clear message for bad input."""

import json
import re

import pytest

from hwopt.cli import app
from hwopt.commandline import run_command_line as run


@pytest.fixture
def hwopt(capsys):
    """Run `hwopt ARGS...`; gives (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(app, [str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_trace_prints_totals(hwopt, tmp_path):
    """Counts of ResNet-18 are the published ones; -o writes a graph that reads back."""
    from hwopt import parse

    code, out, _ = hwopt("trace", "resnet18", "-o", tmp_path / "g.txt")
    assert code == 0
    assert "11,689,512 parameters" in out
    assert "1,814,073,344 MACs" in out
    assert parse((tmp_path / "g.txt").read_text()).macs == 1_814_073_344


def test_trace_json(hwopt, tmp_path):
    """With --json stdout is JSON and nothing else; -o graph.json is JSON under the schema."""
    import jsonschema

    from hwopt.catalogue import schemas

    code, out, _ = hwopt("trace", "resnet18", "--json", "-o", tmp_path / "graph.json")
    assert code == 0
    assert json.loads(out)["parameters"] == 11_689_512
    jsonschema.validate(json.loads((tmp_path / "graph.json").read_text()), schemas()["graph"])


def test_cost(hwopt, tmp_path):
    """Latency, energy, bounds and a loop nest; JSON and a Perfetto timeline."""
    code, out, _ = hwopt("cost", "resnet18", "--on", "eyeriss")
    assert code == 0
    assert "DRAM" in out
    code, out, _ = hwopt("cost", "resnet18", "--on", "eyeriss", "--json",
                         "--timeline", tmp_path / "t.json")  # fmt: skip
    assert code == 0
    result = json.loads(out)
    assert result["seconds"] > 1_814_073_344 / (168 * 250e6)
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    operator = next(row["name"] for row in result["rows"] if row["macs"])
    code, out, _ = hwopt("cost", "resnet18", "--on", "eyeriss", "--show-mapping", operator)
    assert code == 0
    assert re.search(r"for \w+ in tiles of \d+", out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("trace", "resnet51"),
        ("trace", "no.such.module:factory"),
        ("trace", "./absent.onnx"),
        ("trace", "resnet18", "--mode", "backwards"),
        ("trace", "resnet18", "--set", "width"),
        ("trace", "resnet18", "--set", "nosuchknob=3"),
        ("trace", "resnet18", "--batch", "0"),
        ("cost", "resnet18", "--on", "nosuchchip"),
        ("cost", "resnet18", "--on", "eyeriss", "--passes", "nosuchpass"),
        ("cost", "resnet18", "--on", "eyeriss", "--fusion", "maybe"),
        ("cost", "resnet18", "--on", "eyeriss", "--objective", "beauty"),
        ("cost", "resnet18", "--on", "eyeriss", "--show-mapping", "nosuchop"),
        ("cost", "resnet18"),
        ("search",),
        ("search", "absent.yaml"),
        ("report", "absent"),
        ("validate", "nosuch"),
        ("list", "nosuch"),
        ("nosuchcommand",),
    ],
    ids=" ".join,
)
def test_bad_input_is_exit_code_2(hwopt, arguments):
    """One message on stderr, nothing on stdout, no traceback."""
    code, out, err = hwopt(*arguments)
    assert code == 2
    assert out == ""
    assert err.strip()
    assert "Traceback" not in err


def test_list_and_validate(hwopt):
    """Every kind can be listed; a validation prints metrics beside its baseline."""
    code, out, _ = hwopt("list")
    assert code == 0
    for kind in out.split():
        code, names, _ = hwopt("list", kind, "--json")
        assert code == 0
        assert json.loads(names)
    code, out, _ = hwopt("validate", "mac-counts", "--json")
    assert code == 0
    outcome = json.loads(out)
    assert outcome["metrics"]["exact_share"] == 1.0
    assert outcome["baseline"]["exact_share"] == 0.0


def test_version(hwopt):
    """`hwopt --version` prints it."""
    assert hwopt("--version")[:2] == (0, "hwopt 0.1.0\n")
