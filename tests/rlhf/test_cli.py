"""The `rlhf` command: exit codes, streams, what a run needs to begin and to go on."""

import json
from pathlib import Path

import pytest

from hwopt.commandline import run_command_line as run
from rlhf import launch as launching
from rlhf.cli import app
from rlhf.errors import DivergedError
from rlhf.errors import OutOfMemoryError as DoesNotFit
from rlhf.plan import Plan, plan_schema

PLAN = "name: small\nroles: {actor: {model: opt-125m}}\ndata: {}\nstages: [{algorithm: sft}]\n"


@pytest.fixture
def rlhf(capsys, tmp_path, monkeypatch):
    """Run `rlhf ARGS...` in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = run(app, [str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def launched(monkeypatch):
    """What would have been started: (plan, run, resume) of each; `end` is what comes of it."""
    calls = []

    def launch(plan, run, resume, *, say):
        calls.append((plan, run, resume))
        if isinstance(calls.end, BaseException):
            raise calls.end
        return calls.end

    class Calls(list):
        end = 0

    calls = Calls()
    monkeypatch.setattr(launching, "launch", launch)
    return calls


def exported(folder, *roles):
    """A run whose stage `sft` has trained these roles."""
    folder.mkdir(parents=True)
    (folder / "plan.yaml").write_text(PLAN)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    for role in roles:
        made = folder / "stages" / "sft" / role
        made.mkdir(parents=True)
        (made / "config.json").write_text('{"model_type": "opt"}')
        (made / "model.safetensors").write_bytes(b"weights")
    return folder


def test_version_and_help(rlhf):
    """The version on stdout; without a command, help that names all of them."""
    assert rlhf("--version")[:2] == (0, "rlhf 0.1.0\n")
    _, out, err = rlhf()
    for command in ("train", "profile", "evaluate", "chat", "report", "export", "schema"):
        assert command in out + err


def test_train_a_plan(rlhf, launched):
    """The run is named after the plan, holds its plan, and says what to do next."""
    Path("plan.yaml").write_text(PLAN)
    code, out, err = rlhf("train", "plan.yaml", "--processes", 3, "--zero", 1)
    assert (code, out) == (0, "")
    assert "rlhf chat runs/small" in err
    ((plan, folder, resume),) = launched
    assert (folder, resume) == (Path("runs/small"), False)
    assert (plan.cluster.processes, plan.engine.zero) == (3, 1)
    assert Plan.load("runs/small/plan.yaml") == plan


def test_train_without_arguments_is_the_demo(rlhf, launched):
    """Its text is generated into the run, beside its plan."""
    assert rlhf("train")[0] == 0
    ((plan, folder, _),) = launched
    assert folder == Path("runs/rlhf-demo")
    for dataset in plan.data.sets:
        assert Path(dataset.path).is_relative_to(folder.resolve())
        assert Path(dataset.path).is_file()


def test_train_in_one_line(rlhf, launched, tmp_path):
    """--actor, --reward, --data and --deployment make a plan, written into the run."""
    Path("pairs.jsonl").touch()
    code, _, _ = rlhf("train", "--actor", "opt-1.3b", "--reward", "opt-350m",
                      "--data", "pairs.jsonl", "--deployment", "single-node", "--dtype", "fp32",
                      "--processes", 2, "-o", "here")  # fmt: skip
    assert code == 0
    plan = Plan.load("here/plan.yaml")
    assert [stage.title for stage in plan.stages] == ["sft", "reward", "ppo"]
    assert plan.data.sets[0].path == str(tmp_path / "pairs.jsonl")
    assert launched[0][0] == plan


def test_a_run_is_never_overwritten(rlhf, launched):
    """Exit code 2 and the way on, for a plan, the demo and the one-line form; a plan that failed
    before its first stage may be tried again.
    """
    Path("plan.yaml").write_text(PLAN)
    assert rlhf("train", "plan.yaml")[0] == 0
    assert rlhf("train", "plan.yaml")[0] == 0
    Path("runs/small/stages").mkdir()
    code, out, err = rlhf("train", "plan.yaml")
    assert (code, out) == (2, "")
    assert "--resume" in err
    assert rlhf("train")[0] == 0
    assert rlhf("train")[0] == 2
    Path("x.jsonl").touch()
    line = ("train", "--actor", "opt-125m", "--data", "x.jsonl", "-o", "runs/small")
    assert rlhf(*line)[0] == 2
    assert len(launched) == 3


def test_resume(rlhf, launched):
    """A run goes on with its own plan, found by the same arguments; the number of processes may
    change, the plan may not.
    """
    Path("plan.yaml").write_text(PLAN)
    rlhf("train", "plan.yaml")
    Path("runs/small/stages").mkdir()
    assert rlhf("train", "plan.yaml", "--resume")[0] == 0
    assert rlhf("train", "-o", "runs/small", "--resume", "--processes", 2)[0] == 0
    assert [resume for _, _, resume in launched] == [False, True, True]
    assert launched[-1][0].cluster.processes == 2
    Path("plan.yaml").write_text(PLAN + "seed: 5\n")
    code, _, err = rlhf("train", "plan.yaml", "--resume")
    assert code == 2
    assert "seed" in err
    code, _, err = rlhf("train", "--resume", "--actor", "opt-125m")
    assert code == 2
    assert "--actor" in err
    assert rlhf("train", "-o", "nowhere", "--resume")[0] == 2
    assert len(launched) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "no.yaml"), "no.yaml"),
        (("train", "--actor", "opt-125m"), "--data"),
        (("train", "--data", "x"), "--actor"),
        (("train", "--actor", "nobody", "--data", "x"), "nobody"),
        (("train", "--actor", "opt-125m", "--data", "x", "--deployment", "moon"), "single-gpu"),
        (("train", "--actor", "opt-125m", "--data", "x", "--deployment", "multi-node"), "hostfile"),
        (("train", "plan.yaml", "--actor", "x"), "--actor"),
        (("train", "plan.yaml", "--dtype", "int4"), "bf16"),
        (("train", "plan.yaml", "--hostfile", "nohosts"), "nohosts"),
        (("train", "bad.yaml"), "stages[0].batch"),
        (("profile", "bad.yaml"), "stages[0].batch"),
        (("evaluate", "nowhere"), "nowhere"),
        (("chat", "nowhere"), "nowhere"),
        (("report", "nowhere"), "nowhere"),
        (("export", "nowhere", "actor", "-o", "x"), "nowhere"),
    ],
)  # fmt: skip
def test_bad_input(rlhf, launched, arguments, says):
    """One message on stderr that names what is wrong, exit code 2, no traceback, empty stdout."""
    Path("plan.yaml").write_text(PLAN)
    Path("bad.yaml").write_text(PLAN.replace("algorithm: sft", "algorithm: sft, batch: 0"))
    code, out, err = rlhf(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert says in err
    assert "Traceback" not in err
    assert not launched
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("end", "code", "says"),
    [(130, 130, "--resume"), (KeyboardInterrupt(), 130, "interrupted"),
     (DoesNotFit("train actor does not fit"), 3, "does not fit"),
     (DivergedError("loss is NaN"), 2, "NaN")],
)  # fmt: skip
def test_exit_codes(rlhf, launched, end, code, says):
    """Interrupted and saved 130, killed 130, out of memory 3, diverged 2."""
    Path("plan.yaml").write_text(PLAN)
    launched.__class__.end = end
    ended, out, err = rlhf("train", "plan.yaml")
    assert (ended, out) == (code, "")
    assert says in err


def test_export(rlhf):
    """The folder of the role with the run's tokenizer; whole, never over another one."""
    exported(Path("runs/a"), "actor", "critic")
    assert rlhf("export", "runs/a", "actor", "-o", "out/model")[0] == 0
    made = {path.name for path in Path("out/model").iterdir()}
    assert made == {"config.json", "model.safetensors", "tokenizer.json"}
    assert [path.name for path in Path("out").iterdir()] == ["model"]
    code, _, err = rlhf("export", "runs/a", "actor", "-o", "out/model")
    assert code == 2
    assert "already" in err
    for role, says in [("reward", "no reward"), ("judge", "actor, critic")]:
        code, _, err = rlhf("export", "runs/a", role, "-o", "other")
        assert code == 2
        assert says in err
        assert not Path("other").exists()


def test_schema(rlhf, tmp_path):
    """Exactly the plan's schema."""
    assert rlhf("schema", "-o", tmp_path)[0] == 0
    written = json.loads((tmp_path / "plan.schema.json").read_text())
    assert written == json.loads(json.dumps(plan_schema()))
