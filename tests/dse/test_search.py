"""`search` as a user calls it: a real study from file to report, resumed, on several processes."""

import pytest
from rich.console import Console

import hwopt
from hwopt.dse.space import DesignSpace
from hwopt.dse.study import run_study, search
from hwopt.errors import InfeasibleError, StudyError
from hwopt.files import read_json, write_yaml
from hwopt.hardware.library import load

STUDY = {
    "models": [
        {"model": "opt-125m", "name": "lm", "mode": "prefill", "seq": 16,
         "knobs": {"width": [128, 192], "depth": [1, 2], "vocabulary": 512},
         "quality": {"source": "besiroglu", "tokens": 1e10}},
    ],
    "hardware": {"template": "systolic", "knobs": {
        "rows": [8, 16], "columns": [8, 16], "buffer": ["32 KiB", "128 KiB"],
        "accumulator": "32 KiB", "clock": "700 MHz", "bandwidth": ["6.4 GB/s", "25.6 GB/s"],
        "vector_lanes": 16}},
    "objectives": ["latency", "energy", "area", "quality"],
    "constraints": ["area <= 1.5 mm2"],
    "search": {"population": 12, "budget": 48, "seed": 2},
}  # fmt: skip
FILES = ("study.json", "report.html", "pareto.png", "chosen.yaml", "costs.json")


@pytest.fixture
def study(tmp_path):
    """A study file."""
    path = tmp_path / "tiny.yaml"
    write_yaml(path, STUDY)
    return path


def test_from_file_to_report(study, tmp_path, capsys):
    """All files are there, the chosen machine reads back, the table is printed."""
    done = run_study(study, tmp_path / "run", resume=False, workers=1, console=Console(quiet=True))
    assert all((tmp_path / "run" / name).stat().st_size > 0 for name in FILES)
    assert "designs in the Pareto set" in capsys.readouterr().out
    machine = load(str(tmp_path / "run" / "chosen.yaml"))
    assert machine.resolved().area_m2 == pytest.approx(done.chosen.values["area"], rel=1e-9)
    result = read_json(tmp_path / "run" / "study.json")
    assert result["designs_priced"] == 48
    assert result["chosen"] == done.chosen.number
    assert {d["knobs"]["lm"]["width"] for d in result["front"]} <= {128, 192}
    costs = read_json(tmp_path / "run" / "costs.json")
    assert costs[0]["model"] == "lm"
    assert costs[0]["seconds"] <= done.chosen.details["lm.seconds"] * (1 + 1e-9)


def test_front_equals_exhaustive_front(study, tmp_path):
    """Of 64 real designs NSGA-II prices 44 and finds the front of all."""
    objectives = ["latency", "area"]
    found = search(study, objectives, budget=44, path=tmp_path / "some", population=8)
    truth = search(study, objectives, budget=1000, path=tmp_path / "all", optimizer="enumerate")
    assert len(truth.history.codes) == 64
    assert [d.values for d in found.front()] == [d.values for d in truth.front()]


def test_interrupted_search_resumes_to_the_same_bytes(study, tmp_path, monkeypatch):
    """Ctrl-C while pricing the second generation, then --resume."""
    from hwopt.dse.codesign import CoDesign

    search(study, path=tmp_path / "whole")
    price = CoDesign.evaluate
    calls = []

    def interrupted(self, codes):
        calls.append(len(codes))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return price(self, codes)

    monkeypatch.setattr(CoDesign, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(study, path=tmp_path / "cut", console=Console(quiet=True))
    monkeypatch.setattr(CoDesign, "evaluate", price)
    search(study, path=tmp_path / "cut", resume=True)
    for name in (*FILES, "journal.jsonl", "checkpoint.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_from_python(tmp_path):
    """The library's interface: a space, objectives by name, keyword options."""
    space = DesignSpace(models=STUDY["models"], hardware=STUDY["hardware"])
    done = hwopt.search(
        space, objectives=["latency", "area"], budget=20, seed=7, path=tmp_path / "run",
        population=8, constraints=["area <= 2 mm2"],
    )  # fmt: skip
    assert len(done.history.codes) == 20
    assert [goal.name for goal in done.goals] == ["latency", "area"]
    assert all(design.values["area"] <= 2e-6 for design in done.front())


def test_impossible_constraint(study, tmp_path):
    """Exit code 3 and the best of each objective; the run is kept."""
    with pytest.raises(InfeasibleError, match="best of each objective") as caught:
        search(study, path=tmp_path / "run", constraints=["area <= 0.001 mm2"], budget=8)
    assert caught.value.exit_code == 3
    assert read_json(tmp_path / "run" / "study.json")["front"] == []


def test_unknown_options_are_refused(study, tmp_path):
    """A misspelt keyword is not silently dropped."""
    with pytest.raises(hwopt.HwoptError, match="bugdet"):
        search(study, path=tmp_path / "run", bugdet=8)


@pytest.mark.slow
def test_several_processes_give_the_same_bytes(study, tmp_path):
    """Two dask workers, and two mapping helpers with an empty cache: as one process."""
    search(study, path=tmp_path / "one")
    search(study, path=tmp_path / "two", workers=2)
    for name in ("study.json", "journal.jsonl", "checkpoint.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_workers_without_dask(study, tmp_path, monkeypatch):
    """Several workers need the extra; the error says which."""
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(StudyError, match=r"hwopt\[distributed\]"):
        search(study, path=tmp_path / "run", workers=2)
