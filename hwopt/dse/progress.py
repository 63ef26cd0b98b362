"""A progress bar on terminals, and silence elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hwopt.dse.evaluator import Evaluation

if TYPE_CHECKING:
    from rich.console import Console

Show = Callable[[int, Evaluation], None]


def _silent(priced: int, batch: Evaluation) -> None:
    """Nobody is watching."""
    del priced, batch


@contextmanager
def progress(console: Console | None, total: int, done: int) -> Iterator[Show]:
    """A function that is told the designs priced so far and the latest batch."""
    if console is None or not console.is_terminal:
        yield _silent
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("designs, {task.fields[feasible]:.0%} of the last batch feasible"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("searching", total=total, completed=done, feasible=0.0)

        def show(priced: int, batch: Evaluation) -> None:
            share = float(batch.feasible.mean()) if len(batch.feasible) else 0.0
            bar.update(task, completed=priced, feasible=share)

        yield show


def say(console: Console | None, text: str) -> None:
    """One line for people, when someone listens."""
    if console is not None:
        console.print(text, highlight=False)
