"""The search loop and its directory: exact resume after any interruption, no time in results."""

import shutil
import signal

import numpy as np
import pytest

from hwopt.dse.front import non_dominated
from hwopt.dse.study import Study, identity, run
from hwopt.dse.text import comparison_text, front_text
from hwopt.errors import InfeasibleError, StudyError
from hwopt.files import write_json


def go(evaluator, file, path, *, resume=False):
    """Run and write the result, as `search` does."""
    history = run(evaluator, file.search, path, file, resume=resume)
    study = Study(path, file, evaluator.goals, history)
    write_json(path / "study.json", study.to_json())
    return study


def bytes_of(path):
    """The files whose bytes are promised."""
    return [(path / name).read_bytes() for name in ("study.json", "journal.jsonl", "study.yaml")]


@pytest.mark.parametrize("optimizer", ["nsga2", "random", "enumerate"])
def test_same_seed_same_bytes(tmp_path, make_file, analytic, optimizer):
    """Two runs agree byte for byte; another seed gives other designs (enumeration has none)."""
    options = {"population": 16, "budget": 100, "optimizer": optimizer}
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        file = make_file(search={**options, "seed": seed})
        go(analytic(file), file, tmp_path / name)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    if optimizer != "enumerate":
        assert bytes_of(tmp_path / "a")[1] != bytes_of(tmp_path / "c")[1]


@pytest.mark.parametrize("stop", [0, 1, 2, 7, 9])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, file, analytic, stop):
    """Ctrl-C after any generation, then resume: the same bytes as without."""
    go(analytic(file), file, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(analytic(file, stop_after=stop), file.search, tmp_path / "cut", file)
    go(analytic(file), file, tmp_path / "cut", resume=True)
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("lost", [0, 1, 30])
def test_killed_between_journal_and_checkpoint(tmp_path, file, analytic, lost):
    """A checkpoint older than the journal, whose last line is torn: the same bytes again."""
    go(analytic(file), file, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(analytic(file, stop_after=4), file.search, tmp_path / "cut", file)
    shutil.copy(tmp_path / "cut" / "checkpoint.json", tmp_path / "old.json")
    with pytest.raises(KeyboardInterrupt):
        run(analytic(file, stop_after=2), file.search, tmp_path / "cut", file, resume=True)
    shutil.copy(tmp_path / "old.json", tmp_path / "cut" / "checkpoint.json")
    journal = tmp_path / "cut" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[: -lost or None])
    go(analytic(file), file, tmp_path / "cut", resume=True)
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


def test_killed_before_the_first_checkpoint(tmp_path, file, analytic):
    """Only a header, or not even that: resume begins at the beginning."""
    go(analytic(file), file, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(analytic(file, stop_after=0), file.search, tmp_path / "cut", file)
    assert not (tmp_path / "cut" / "checkpoint.json").exists()
    go(analytic(file), file, tmp_path / "cut", resume=True)
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


def test_resuming_a_finished_run_prices_nothing(tmp_path, file, analytic):
    """The budget is spent: the result is there already."""
    go(analytic(file), file, tmp_path / "a")
    again = analytic(file)
    before = bytes_of(tmp_path / "a")
    go(again, file, tmp_path / "a", resume=True)
    assert again.calls == 0
    assert bytes_of(tmp_path / "a") == before


def test_front_equals_exhaustive_front(tmp_path, make_file, analytic):
    """NSGA-II with a budget of 60 % of the space finds the front that enumeration finds."""
    every = make_file(search={"optimizer": "enumerate", "population": 100, "budget": 10_000})
    assert every.size == 768
    truth = go(analytic(every), every, tmp_path / "every")
    assert len(truth.history.codes) == 768
    some = make_file(search={"population": 24, "budget": 460, "seed": 3})
    found = go(analytic(some), some, tmp_path / "some")
    assert [d.values for d in found.front()] == [d.values for d in truth.front()]
    assert found.chosen.values == truth.chosen.values


def test_front_is_feasible_and_non_dominated(tmp_path, file, analytic):
    """Each design of the front runs, holds the constraint, and is beaten by nothing priced."""
    study = go(analytic(file), file, tmp_path / "a")
    values = np.array([[d.values[g.name] for g in study.goals] for d in study.front()])
    assert (values[:, 2] <= 4.5e-6).all()
    assert np.isfinite(values).all()
    assert len(non_dominated(values)) == len(values)
    assert sorted(values[:, 0]) == values[:, 0].tolist()


def test_load_gives_the_same_study(tmp_path, file, analytic):
    """What is read from the directory equals what the search returned."""
    study = go(analytic(file), file, tmp_path / "a")
    loaded = Study.load(tmp_path / "a")
    assert loaded.to_json() == study.to_json()
    assert front_text(loaded) == front_text(study)
    assert loaded.design("chosen") == study.chosen
    assert loaded.design("0").number == 0
    assert loaded.accelerator("0").name == "analytic-0"
    with pytest.raises(StudyError, match="no such design"):
        loaded.design("9999")


def test_unfinished_runs_can_be_read(tmp_path, file, analytic):
    """The front so far is there after an interruption."""
    with pytest.raises(KeyboardInterrupt):
        run(analytic(file, stop_after=3), file.search, tmp_path / "cut", file)
    assert len(Study.load(tmp_path / "cut").history.codes) == 48
    assert Study.load(tmp_path / "cut").front()


def test_nothing_feasible_is_an_infeasible_error(tmp_path, file, analytic):
    """The report says what the best of each objective was."""
    evaluator = analytic(file)
    price = evaluator.evaluate

    def strict(codes):
        result = price(codes)
        result.violations[:] = 1.0
        return result

    evaluator.evaluate = strict
    study = go(evaluator, file, tmp_path / "a")
    assert study.front() == ()
    assert study.to_json()["chosen"] is None
    with pytest.raises(InfeasibleError, match="best of each objective"):
        study.chosen  # noqa: B018 - the property raises
    assert "no design that was priced holds every constraint" in front_text(study)


def test_a_finished_run_is_replaced_and_an_unfinished_one_moved_aside(tmp_path, file, analytic):
    """Starting anew loses no work that was not finished."""
    path = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt):
        run(analytic(file, stop_after=3), file.search, path, file)
    unfinished = (path / "journal.jsonl").read_bytes()
    go(analytic(file), file, path)
    assert (path / "previous" / "journal.jsonl").read_bytes() == unfinished
    first = bytes_of(path)
    go(analytic(file), file, path)
    assert bytes_of(path) == first
    assert (path / "previous" / "journal.jsonl").read_bytes() == unfinished


def test_resume_needs_the_same_study(tmp_path, file, make_file, analytic):
    """A changed seed is another study; an empty directory has nothing to resume."""
    go(analytic(file), file, tmp_path / "a")
    other = make_file(search={"population": 16, "budget": 160, "seed": 6})
    assert identity(other) != identity(file)
    with pytest.raises(StudyError, match="another study"):
        run(analytic(other), other.search, tmp_path / "a", other, resume=True)
    with pytest.raises(StudyError, match="nothing to resume"):
        run(analytic(file), file.search, tmp_path / "empty", file, resume=True)


def test_interrupt_waits_for_a_safe_point(tmp_path, file, analytic):
    """Ctrl-C inside an evaluation lets it finish and be saved; resumed, nothing is lost."""
    whole = run(analytic(file), file.search, tmp_path / "whole", file)
    evaluator = analytic(file)
    plain, finished = evaluator.evaluate, []

    def interrupted(codes):
        signal.raise_signal(signal.SIGINT)
        finished.append(plain(codes))
        return finished[-1]

    evaluator.evaluate = interrupted
    with pytest.raises(KeyboardInterrupt):
        run(evaluator, file.search, tmp_path / "a", file)
    assert len(finished) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = run(analytic(file), file.search, tmp_path / "a", file, resume=True)
    assert np.array_equal(resumed.codes, whole.codes)


def test_identity_covers_files_and_the_order_of_knobs(tmp_path, make_file):
    """Other points in a CSV, or knobs in another order (other codes), are another study."""
    points = tmp_path / "points.csv"
    points.write_text("width,quality\n1,2\n")
    quality = {"source": "csv", "file": str(points)}
    knobs = {"width": [1, 2], "depth": [1, 2]}
    file = make_file(models=[{"model": "m", "knobs": knobs, "quality": quality}])
    before = identity(file)
    points.write_text("width,quality\n1,3\n")
    assert identity(file) != before
    turned = {name: knobs[name] for name in reversed(knobs)}
    other = make_file(models=[{"model": "m", "knobs": turned, "quality": quality}])
    assert identity(other) != identity(file)


def test_two_searches_in_one_directory_are_refused(tmp_path, file, analytic):
    """The second does not touch the files of the first."""
    evaluator = analytic(file)
    price = evaluator.evaluate

    def nested(codes):
        with pytest.raises(StudyError, match="another search"):
            run(analytic(file), file.search, tmp_path / "a", file)
        return price(codes)

    evaluator.evaluate = nested
    run(evaluator, file.search, tmp_path / "a", file)


def test_comparison_of_two_runs(tmp_path, make_file, analytic):
    """A run compared with itself ties; a longer one is not beaten by a shorter one of its seed."""
    short = make_file(search={"population": 16, "budget": 48, "seed": 5})
    long = make_file(search={"population": 16, "budget": 400, "seed": 5})
    first, second = (
        go(analytic(file), file, tmp_path / str(file.search.budget)) for file in (short, long)
    )
    lines = {line[:24].strip(): line.split() for line in comparison_text(first, second).split("\n")}
    assert lines["of them beaten by the ot"][-1] == "0"
    volumes = [float(v) for v in lines["hypervolume (scaled, lar"][-2:]]
    assert volumes[1] > volumes[0]
    assert "  0" in comparison_text(first, first)
