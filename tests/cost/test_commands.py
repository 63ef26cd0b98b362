"""`hwopt cost` and `hwopt sensitivity` on a small model of its own."""

import json

import pytest

from hwopt.cli import app
from hwopt.commandline import run_command_line

MACHINE = """
name: tiny
clock_hz: 1 GHz
technology_nm: 45
levels:
  - {type: memory, name: DRAM, kind: dram, bytes_per_s: 1 GB/s}
  - {type: memory, name: GLB, capacity_bytes: CAPACITY, bytes_per_s: 16 GB/s}
  - {type: fanout, name: PE, dims: [{name: x, size: 4}]}
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
def machine(tmp_path):
    """The path of a small accelerator with a buffer of some size."""

    def write(capacity):
        path = tmp_path / "tiny.yaml"
        path.write_text(MACHINE.replace("CAPACITY", capacity))
        return path

    return write


SMALL = ("ptb-lstm", "--set", "width=8", "--set", "depth=1", "--set", "vocabulary=16", "--seq", "3")


def test_a_mapping_as_data(hwopt, machine):
    """`--show-mapping OP --json` prints that operator alone; a part of its name will do."""
    on = machine("4 KiB")
    code, out, _ = hwopt("cost", *SMALL, "--on", on, "--show-mapping", "head", "--json")
    assert code == 0
    data = json.loads(out)
    assert data["kind"] == "matmul"
    assert data["stages"][0]["memories"]


def test_infeasible_is_exit_code_3_with_a_report(hwopt, machine):
    """What does not fit is named on stderr, and on stdout as JSON where that is asked for."""
    on = machine("6 B")
    code, out, err = hwopt("cost", *SMALL, "--on", on)
    assert (code, out) == (3, "")
    assert "GLB needs 12 B, has 6 B" in err
    assert "fix:" in err
    code, out, err = hwopt("cost", *SMALL, "--on", on, "--json")
    assert code == 3
    assert json.loads(out)["shortages"][0]["memory"] == "GLB"
    assert "GLB needs 12 B" in err


def test_sensitivity_of_machine_and_model(hwopt, machine, tmp_path):
    """Rows of both, as JSON and as a table; the plot is written; nothing else on stdout."""
    on, plot = machine("4 KiB"), tmp_path / "plot.svg"
    code, out, err = hwopt("sensitivity", *SMALL, "--on", on, "--json", "-o", plot)
    assert code == 0
    rows = {row["parameter"]: row for row in json.loads(out)}
    assert rows["DRAM.bandwidth"]["latency"] == pytest.approx(-1, abs=0.05)
    assert rows["GLB.capacity"]["area"] > 0
    assert {"model.batch", "model.seq", "model.width", "model.depth"} <= set(rows)
    assert rows["model.depth"]["between"] == [1, 2]
    assert rows["model.width"]["latency"] > 1
    assert "<svg" in plot.read_text()
    assert str(plot) in err


def test_sensitivity_refuses_before_it_prices(hwopt, machine):
    """A kind of plot that there is not; a model that does not fit."""
    code, out, err = hwopt("sensitivity", *SMALL, "--on", machine("4 KiB"), "-o", "plot.doc")
    assert (code, out) == (2, "")
    assert ".html" in err
    code, out, err = hwopt("sensitivity", *SMALL, "--on", machine("6 B"))
    assert (code, out) == (3, "")
    assert "GLB needs 12 B" in err
    code, out, _ = hwopt("sensitivity", *SMALL, "--on", machine("6 B"), "--json")
    assert code == 3
    assert json.loads(out)["shortages"][0]["gap"] == 6
