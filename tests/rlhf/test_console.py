"""What is shown of a run, on a terminal and in a log."""

import io
import math

import pytest
from rich.console import Console as Rich

from rlhf.console import Console, duration, figure, samples_table, sparkline, told


def watcher(*, terminal: bool = False, every: int = 10, active: bool = True) -> Console:
    rich = Rich(file=io.StringIO(), force_terminal=terminal, width=140, color_system=None)
    return Console(active=active, every=every, console=rich)


def text_of(console: Console) -> str:
    file = console.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_log_gets_a_plain_line_every_so_many_steps() -> None:
    """First, every tenth and last step; no control characters; stage begin and end."""
    console = watcher()
    console.stage_started("ppo", 25)
    for step in range(1, 26):
        console.step(step, {"reward": step / 10, "kl": 0.01, "seconds/generate actor": 1.0})
    console.evaluation(25, {"held_out/reward": 2.5})
    console.stage_finished({"reward": 2.5})
    lines = text_of(console).splitlines()
    assert lines[0] == "stage ppo: 25 steps"
    assert [line.split()[1] for line in lines if line.startswith("ppo ")][:-1] == [
        "1/25", "10/25", "20/25", "25/25"
    ]  # fmt: skip
    assert "reward 2.5  kl 0.01" in lines[4]
    assert "seconds/" not in lines[4]
    assert lines[5] == "ppo held out at step 25: held_out/reward 2.5"
    assert lines[6].startswith("stage ppo: done in")
    assert "\x1b" not in text_of(console)


def test_a_resumed_stage_says_so_and_counts_from_there() -> None:
    """The step after the checkpoint is the first that is told."""
    console = watcher()
    console.stage_started("sft", 100, start=42)
    console.step(43, {"loss": 1.0})
    assert "going on after step 42" in text_of(console)
    assert "sft 43/100" in text_of(console)


def test_a_terminal_gets_a_live_line_with_the_curve() -> None:
    """Step of steps, sparkline and metrics; messages are printed above it."""
    console = watcher(terminal=True)
    with console:
        console.stage_started("ppo", 20)
        for step in range(1, 11):
            console.step(step, {"reward": float(step), "kl": 0.5})
        assert console._progress is not None
        console._progress.refresh()
        console.notice("plain generation instead of the hybrid engine")
    shown = text_of(console)
    assert "10/20" in shown
    assert "reward ▁▁▂▃▄▅▆▇██" in shown
    assert "note: plain generation instead of the hybrid engine" in shown
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is shown again


def test_other_processes_print_nothing() -> None:
    """Only rank 0 speaks."""
    console = watcher(active=False, terminal=True)
    console.stage_started("sft", 2)
    console.step(1, {"loss": 1.0})
    console.evaluation(1, {"held_out/loss": 1.0})
    console.samples([{"prompt": "p", "answer": "a"}])
    console.notice("n")
    console.stage_finished({})
    assert text_of(console) == ""


def test_samples_show_before_and_after_and_escape_what_a_terminal_obeys() -> None:
    """The first answers of a stage stand beside the later ones; no escape sequence passes."""
    console = watcher()
    console.stage_started("ppo", 2)
    console.samples([{"prompt": "Why?", "answer": "\x1b]0;title\x07dunno", "score": -0.5}])
    console.samples([{"prompt": "Why?", "answer": "[bold]because[/bold]", "score": 1.25}])
    shown = text_of(console)
    first, second = shown.split("ppo: answers")[1:]
    assert "before" not in first
    assert "before" in second
    assert "after" in second
    assert "\\x1b]0;title\\x07dunno" in second
    assert "(score -0.5)" in second
    assert "[bold]because[/bold]" in second  # not markup
    assert "\x1b" not in shown
    console.stage_started("next", 1)
    console.samples([{"prompt": "Why?", "answer": "new"}])
    assert "before" not in text_of(console).split("next: answers")[1]


def test_notices_escape_and_are_not_markup() -> None:
    """A path or a model's name in a notice can not style or move anything."""
    console = watcher()
    console.notice("folder [red]x[/red] \x1b[2J")
    assert text_of(console) == "note: folder [red]x[/red] \\x1b[2J\n"


def test_long_texts_are_cut_with_their_length() -> None:
    """A table row stays readable."""
    rich = Rich(file=io.StringIO(), width=100)
    rich.print(samples_table([{"prompt": "p", "answer": "x" * 5000}], {}, title="t"))
    file = rich.file
    assert isinstance(file, io.StringIO)
    assert "5,000" in file.getvalue()
    assert len(file.getvalue()) < 3000


def test_sparkline() -> None:
    """Rising, flat, short, with gaps, empty."""
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([0.0, math.nan, 1.0]) == "▁ █"
    assert sparkline([math.nan]) == " "
    assert sparkline([]) == ""
    assert len(sparkline(list(range(1000)))) == 16


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.03124, "0.0312"), (12.34, "12.3"), (45120.4, "45,120"), (1.2e-5, "1.2e-05"),
        (math.nan, "nan"), (-math.inf, "-inf"), (3.0, "3"), (0.0, "0"), (3e12, "3e+12"),
    ],
)  # fmt: skip
def test_figures_are_short(value: float, text: str) -> None:
    """At most a few characters, no digits that nobody reads."""
    assert figure(value) == text


def test_durations_and_metrics_in_words() -> None:
    """Seconds, minutes, hours; unknown metrics are shown when no known one is there."""
    spans = [duration(s) for s in (0.25, 9.99, 45, 200, 7500)]
    assert spans == ["0.2 s", "10.0 s", "45 s", "3 min 20 s", "2 h 05 min"]
    assert told({"own": 1.0}) == "own 1"
    assert told({"own": 1.0, "loss": 2.0}) == "loss 2"
