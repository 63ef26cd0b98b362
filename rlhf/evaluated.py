"""What an evaluation found as tables, the same for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from rlhf.console import answer_cell, cut, figure
from rlhf.escaping import visible

if TYPE_CHECKING:
    from rich.console import Console

Table: TypeAlias = tuple[str, list[str], list[list[str]]]
"""Title, header, rows."""
NORMAL_95 = 1.959964
"""Of the standard normal distribution: 95% lie within so many deviations."""


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """95% interval of a share (Wilson, J. Am. Stat. Assoc. 22, 1927); 0 to 1 of no trials.

    `successes` may count a tie as half; the interval is then a little wider than it need be.
    """
    if trials == 0:
        return 0.0, 1.0
    z2 = NORMAL_95**2
    share = successes / trials
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = NORMAL_95 / (1 + z2 / trials)
    half *= math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    # rounding must not put the share itself outside
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def result_tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of what `evaluate_run` returned that have anything in them."""
    made = [_policies(result), _wins(result), _reward_model(result), _answers(result)]
    return [table for table in made if table[2]]


def print_evaluation(result: Mapping[str, Any], console: Console) -> None:
    """Tables of what `evaluate_run` returned, for people."""
    from rich.table import Table as Rich
    from rich.text import Text

    for title, header, rows in result_tables(result):
        answers = title == "Answers"
        table = Rich(title=Text(title), title_justify="left", show_lines=answers)
        for at, name in enumerate(header):
            numbers = bool(at) and not answers
            table.add_column(Text(name), justify="right" if numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for note in result.get("notes", ()):
        console.print(f"note: {visible(str(note))}", markup=False, style="yellow")


def _policies(result: Mapping[str, Any]) -> Table:
    """One row a policy, one column a figure that any of them has."""
    columns = {
        "mean_reward": "mean reward", "exact_match": "exact match", "perplexity": "perplexity",
        "response_length": "response tokens", "eos_rate": "ended",
    }  # fmt: skip
    policies = result.get("policies", [])
    having = [name for name in columns if any(policy.get(name) is not None for policy in policies)]
    rows = [
        [visible(policy["name"], lines=False), *(_cell(policy, name) for name in having)]
        for policy in policies
    ]
    header = ["policy", *(columns[name] for name in having)]
    return f"Policies on {result.get('rows', 0)} held-out prompts", header, rows


def _cell(policy: Mapping[str, Any], name: str) -> str:
    value = policy.get(name)
    if value is None:
        return "-"
    if name == "mean_reward":
        return f"{figure(value)} ± {figure(policy['reward_error'])}"
    if name == "exact_match":
        return f"{value:.1%} {_interval(policy['exact_match_interval'])}"
    return f"{value:.1%}" if name == "eos_rate" else figure(value)


def _interval(bounds: Sequence[float]) -> str:
    return f"({bounds[0]:.1%} to {bounds[1]:.1%})"


def _wins(result: Mapping[str, Any]) -> Table:
    rows = [
        [
            visible(f"{win['policy']} over {win['over']}", lines=False), f"{win['rate']:.1%}",
            _interval(win["interval"]), str(win["wins"]), str(win["ties"]), str(win["losses"]),
        ]
        for win in result.get("wins", [])
    ]  # fmt: skip
    header = ["policy", "win rate", "95% interval", "wins", "ties (half)", "losses"]
    return f"Win rate, judged by {result.get('judge', '-')}", header, rows


def _reward_model(result: Mapping[str, Any]) -> Table:
    found = result.get("reward_model")
    if not found:
        return "Reward model", [], []
    interval = _interval(found["accuracy_interval"])
    rows = [
        ["accuracy", f"{found['accuracy']:.1%} {interval}"],
        ["margin (chosen - rejected)", figure(found["margin"])],
        ["calibration error", figure(found["calibration_error"])],
        ["correlation of score and length", figure(found["length_correlation"])],
        ["loss", figure(found["loss"])],
    ]
    return f"Reward model on {found['pairs']} held-out pairs", ["", "value"], rows


def _answers(result: Mapping[str, Any]) -> Table:
    names = [policy["name"] for policy in result.get("policies", [])]
    known = any(sample.get("reference") is not None for sample in result.get("samples", []))
    header = ["prompt", *(["reference"] if known else []), *(visible(n) for n in names)]
    rows = [
        [
            cut(sample["prompt"]),
            *([cut(str(sample.get("reference") or ""))] if known else []),
            *(answer_cell(sample["answers"][name]) for name in names),
        ]
        for sample in result.get("samples", [])
    ]
    return "Answers", header, rows
