"""Hostile and broken files of every kind: one clear error, nothing executed, nothing written."""

import json
from itertools import pairwise

import pytest

from hwopt.cli import app
from hwopt.commandline import run_command_line as run

BAD_TEXT = {
    "empty": "",
    "not-a-mapping": "- 1\n- 2\n",
    "duplicate-key": "name: a\nname: b\n",
    "nan": "name: a\nclock_hz: .nan\n",
    "infinity": "name: a\nclock_hz: .inf\n",
    "huge-number": "name: a\nclock_hz: 1e400\n",
    "negative": "name: a\nclock_hz: -1\nlevels: []\n",
    "anchor-cycle": "a: &a [*a]\n",
    "billion-laughs": "a: &a [x,x,x,x,x,x,x,x]\n"
    + "".join(f"{c}: &{c} [{','.join(['*' + p] * 8)}]\n" for p, c in pairwise("abcdefgh")),
    "code": "!!python/object/apply:os.system ['touch pwned']\n",
    "unknown-key": "name: a\nclock_hz: 1e9\nlevels: []\nnosuchkey: 1\n",
    "binary": "\x00\x01\x02",
    "deep": "[" * 20_000,
}  # fmt: skip


def outcome(capsys, *arguments):
    """Exit code and stderr."""
    code = run(app, [str(a) for a in arguments])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("kind", BAD_TEXT)
@pytest.mark.parametrize("command", ["hardware", "study", "mapping"])
def test_bad_yaml(tmp_path, capsys, monkeypatch, kind, command):
    """As accelerator, study or mapping file: exit code 2, the file named, no side effect."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.yaml"
    path.write_text(BAD_TEXT[kind])
    arguments = {
        "hardware": ("cost", "resnet18", "--on", path),
        "study": ("search", path, "-o", tmp_path / "run"),
        "mapping": ("cost-mapping", path, "--on", "nvdla"),
    }[command]
    code, err = outcome(capsys, *arguments)
    assert code == 2
    assert "bad.yaml" in err
    assert "Traceback" not in err
    assert {p.name for p in tmp_path.iterdir()} <= {"bad.yaml", "hwopt-cache"}


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"model_type": "nosuch"}', '{"model_type": "opt", "hidden_size": -1}',
     '{"model_type": "opt", "hidden_size": "x"}', '{"a": 1, "a": 2}', "[" * 50_000],
)  # fmt: skip
def test_bad_huggingface_configuration(tmp_path, capsys, text):
    """A broken config.json is one message."""
    (tmp_path / "config.json").write_text(text)
    code, err = outcome(capsys, "trace", tmp_path / "config.json")
    assert code == 2
    assert "Traceback" not in err


def test_remote_code_is_never_run(tmp_path, capsys):
    """A folder that brings its own modelling code is refused, and its code not imported."""
    marker = tmp_path / "executed"
    (tmp_path / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    configuration = {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "modeling_evil.C", "AutoModelForCausalLM": "modeling_evil.M"},
    }
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    code, _ = outcome(capsys, "trace", tmp_path)
    assert code == 2
    assert not marker.exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b"])
def test_accelerator_names_do_not_leave_the_library(capsys, name):
    """A name is looked up in the library; a path must be an accelerator file."""
    code, err = outcome(capsys, "cost", "resnet18", "--on", name)
    assert code == 2
    assert "root:" not in err
