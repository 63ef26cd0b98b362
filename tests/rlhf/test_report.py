"""The page of a run: everything recorded is on it, nothing on it can act."""

import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hwopt import write_json
from rlhf.curves import POINTS, curves, phase_bars, phase_figures, thinned
from rlhf.data.report import DataReport, Dropped, SetReport
from rlhf.errors import RunError
from rlhf.metrics import MetricsWriter
from rlhf.plan import Watch
from rlhf.report import write_report

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e & \"quotes\" </pre></td> 'x' \x00"
PLAN = """\
name: synthetic
roles: {actor: {model: {model_type: llama}}}
data: {sets: [{path: a.jsonl}]}
stages:
  - {algorithm: sft, batch: 8}
  - {algorithm: reward, batch: 8}
  - {algorithm: ppo, batch: 8, steps: 60}
"""
PHASES = {
    "sft": ("train actor",),
    "reward": ("train reward",),
    "ppo": ("generate actor", "score reference", "score reward", "score critic", "prepare",
            "train actor", "train critic"),
}  # fmt: skip


def synthetic(
    run: Path, *, steps: int = 60, stages: tuple[str, ...] = ("sft", "reward", "ppo")
) -> Path:
    """A run folder as training writes it."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "plan.yaml").write_text(PLAN)
    chance = random.Random(7)
    with MetricsWriter(run, Watch(tensorboard=False), active=True) as record:
        for stage in stages:
            for step in range(1, steps + 1):
                record.write(stage, step, metrics(stage, step / steps, chance))
            for step in (0, steps):
                better = step / steps
                record.write(stage, step, held_out(stage, better, chance))
                record.sample(stage, step, [
                    {"prompt": "Where is the red lantern?", "score": 2 * better - 1,
                     "answer": "Happy to help! It is in the old mill." if step else "Who cares?"},
                    {"prompt": HOSTILE, "answer": HOSTILE, "score": better},
                ])  # fmt: skip
            (run / "stages" / stage).mkdir(parents=True, exist_ok=True)
            if stage != stages[-1] or len(stages) == 3:
                write_json(run / "stages" / stage / "finished.json", {"steps": steps})
    sets = (
        SetReport("answers.jsonl", 120, 120, 110, 100, 10, 100, 0,
                  {"prompt too long": Dropped(10, (f"answers.jsonl:7 {HOSTILE}",))}, 3, 1, 900,
                  800),
        SetReport("other.jsonl", skipped="no pairs"),
    )  # fmt: skip
    reports = {stage: DataReport(stage, "answers", sets).to_json() for stage in stages}
    write_json(run / "data.json", reports)
    return run


def metrics(stage: str, x: float, chance: random.Random) -> dict[str, float]:
    noise = lambda: chance.gauss(0, 0.03)  # noqa: E731
    found = {
        "tokens_per_s": 5200 + 300 * noise(), "mfu": 0.31 + noise() / 4, "seconds": 1.4,
        "tokens_computed_over_needed": 1.06 + noise() / 9,
    }  # fmt: skip
    for phase in PHASES[stage]:
        found[f"seconds/{phase}"] = 0.05 + 0.3 * len(phase) / 15 + abs(noise())
        found[f"predicted_seconds/{phase}"] = 0.05 + 0.27 * len(phase) / 15
        found[f"memory/{phase}"] = 4e8 + 1e8 * len(phase) / 15
        found[f"predicted_memory/{phase}"] = 3.8e8 + 1e8 * len(phase) / 15
    role = "reward" if stage == "reward" else "actor"
    found[f"{role}/learning_rate"] = 3e-4 * (1 - x)
    found[f"{role}/gradient_norm"] = 0.5 + abs(noise()) * 6
    if stage != "ppo":
        found["loss"] = 3 * math.exp(-4 * x) + 0.6 + noise()
    if stage == "reward":
        found |= {"accuracy": 0.5 + 0.4 * x + noise(), "margin": 2 * x, "calibration_error": 0.05}
    if stage == "ppo":
        found |= {
            "reward": -0.5 + 1.8 * x + noise() * 4, "reward/shaped": -0.6 + 1.7 * x, "kl": 4 * x,
            "entropy": 1.5 - 0.6 * x, "clip_fraction": 0.06, "approx_kl": 0.004 + noise() / 90,
            "ratio_max": 1.4 + abs(noise()), "actor/loss": noise(), "critic/loss": 0.5 - 0.3 * x,
            "value_loss": 0.5 - 0.3 * x, "response_length": 22 + 6 * x, "eos_rate": 0.8 + 0.2 * x,
            "critic/learning_rate": 1e-3, "critic/gradient_norm": 1.1, "my_own": x,
        }  # fmt: skip
    return found


def held_out(stage: str, x: float, chance: random.Random) -> dict[str, float]:
    if stage == "sft":
        return {"held_out/loss": 3.6 - 2.8 * x, "held_out/perplexity": math.exp(3.6 - 2.8 * x)}
    if stage == "reward":
        return {"held_out/accuracy": 0.5 + 0.41 * x, "held_out/loss": 0.7 - 0.4 * x}
    return {"held_out/reward": -0.4 + 1.6 * x, "held_out/response_length": 22 + 5 * x}


class Page(HTMLParser):
    """What a browser would make of it: tags, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.values: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [f"{name}={value}" for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a finished synthetic run."""
    return write_report(synthetic(tmp_path_factory.mktemp("runs") / "full")).read_text()


def test_every_metric_stage_sample_and_report_is_on_the_page(page: str) -> None:
    """Curves of each stage, phases, held-out figures, answers, data, plan."""
    text = "\n".join(Page(page).texts)
    for wanted in (
        "Stage sft", "Stage reward", "Stage ppo", "finished", "held_out/reward", "my_own", "kl",
        "clip_fraction", "actor/learning_rate", "critic/gradient_norm", "mfu", "tokens_per_s",
        "generate actor", "measured / predicted", "Memory of a process", "ppo: reward",
        "Happy to help! It is in the old mill.", "Who cares?", "answers.jsonl", "prompt too long",
        "not used: no pairs", "name: synthetic",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_the_page_needs_and_loads_nothing(page: str) -> None:
    """No script, no address, no embedded file; small enough to send."""
    found = Page(page)
    allowed = {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "table",
        "tr", "td", "th", "svg", "line", "text", "polyline", "rect", "span", "pre",
    }  # fmt: skip
    assert set(found.tags) <= allowed
    assert not [v for v in found.values if v.startswith(("src=", "href=", "on"))]
    assert not re.search(r"https?://|@import|url\(", page)
    assert len(page) < 500_000


def test_hostile_text_is_text(page: str) -> None:
    """Markup is escaped; controls are named; quotes end no attribute."""
    text = "\n".join(Page(page).texts)
    shown = "<script>alert(1)</script>\\x1b[31m\\u202e & \"quotes\" </pre></td> 'x' \\x00"
    assert text.count(shown) >= 6 + 3
    assert not any(ord(c) < 32 and c != "\n" for c in page)
    assert "\u202e" not in page


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    """No metrics yet; and one stage half way, its later stages not started."""
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "plan.yaml").write_text(PLAN)
    assert "not started" in write_report(empty).read_text()
    half = synthetic(tmp_path / "half", steps=3, stages=("sft",))
    with (half / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "sft", "st')
    text = write_report(half, tmp_path / "elsewhere" / "page.html").read_text()
    assert "under way" in text
    assert "not started" in text
    assert not (half / "report.html").exists()


def test_no_run_is_a_clear_error(tmp_path: Path) -> None:
    """Not a page about nothing."""
    with pytest.raises(RunError, match="not a run"):
        write_report(tmp_path)


def test_values_that_are_not_finite_are_counted_and_leave_a_gap() -> None:
    """A diverged run shows where."""
    rows = [
        {"stage": "s", "step": i, "loss": math.nan if i in (3, 4) else float(i)} for i in range(9)
    ]
    shown = curves(rows, "s")
    assert "2 values are not finite" in shown
    assert shown.count("<polyline") == 2
    assert "nan" not in shown
    assert "nothing to show" in curves([{"stage": "s", "step": 0, "loss": math.inf}], "s")


def test_long_curves_are_thinned_to_means() -> None:
    """The mean stays, the number of points is bounded."""
    points = [(float(i), float(i % 7)) for i in range(12_345)]
    found = thinned(points)
    assert len(found) == POINTS
    assert sum(y for _, y in found) / POINTS == pytest.approx(3.0, abs=0.02)
    assert found[0][0] < found[-1][0]


def test_phase_figures_are_the_median_second_and_the_largest_memory() -> None:
    """One slow first step does not make a phase look slow; a peak is a peak."""
    rows = [
        {"stage": "s", "step": i, "seconds/train actor": s, "memory/train actor": m,
         "predicted_seconds/train actor": 2.0, "seconds": 9.0, "loss": 1.0}
        for i, (s, m) in enumerate([(50.0, 10.0), (2.0, 90.0), (3.0, 20.0)])
    ]  # fmt: skip
    assert phase_figures(rows, "s") == {
        "train actor": {"seconds": 3.0, "memory": 90.0, "predicted_seconds": 2.0}
    }
    bars = phase_bars(phase_figures(rows, "s"), "seconds")
    widths = [float(w) for w in re.findall(r'width="([\d.]+)" height="18"', bars)]
    assert widths == pytest.approx([560.0, 560 * 2 / 3], abs=0.1)
    assert phase_bars({}, "seconds") == ""


def test_a_broken_data_report_costs_its_section_alone(tmp_path: Path) -> None:
    """The page is for looking at runs that went wrong, too."""
    run = synthetic(tmp_path / "run", steps=2, stages=("sft",))
    (run / "data.json").write_text("{")
    (run / "plan.yaml").write_text("name: [of another version]\n")
    assert "Stage sft" in write_report(run).read_text()


def test_an_evaluation_is_shown(tmp_path: Path) -> None:
    """What `rlhf evaluate` left in the run folder."""
    run = synthetic(tmp_path / "run", steps=2)
    result = {
        "rows": 2, "judge": "the reward model (reward)", "notes": ["no held-out pairs"],
        "policies": [
            {"name": "ppo", "perplexity": 4.25, "mean_reward": 1.5, "reward_error": 0.1,
             "exact_match": 0.5, "exact_match_interval": [0.1, 0.9], "eos_rate": 1.0,
             "response_length": 20.0},
            {"name": "sft", "perplexity": None, "response_length": 20.0, "eos_rate": 0.5},
        ],
        "wins": [{"policy": "ppo", "over": "sft", "rate": 0.75, "interval": [0.3, 0.95],
                  "wins": 1, "ties": 1, "losses": 0}],
        "reward_model": {"accuracy": 0.9, "accuracy_interval": [0.8, 0.95], "pairs": 40,
                         "margin": 1.0, "calibration_error": 0.04, "length_correlation": 0.1,
                         "loss": 0.3},
        "samples": [{"prompt": HOSTILE, "reference": "72",
                     "answers": {"ppo": {"answer": HOSTILE, "score": 1.0}, "sft": {"answer": ""}}}],
    }  # fmt: skip
    (run / "evaluation.json").write_text(json.dumps(result))
    text = "\n".join(Page(write_report(run).read_text()).texts)
    for wanted in ("75.0%", "30.0% to 95.0%", "1.5 ± 0.1", "Reward model on 40 held-out pairs",
                   "no held-out pairs", "90.0% (80.0% to 95.0%)", "72",
                   "ppo over sft"):  # fmt: skip
        assert wanted in text, wanted
