"""The frame of a command line: errors become one message and an exit code, results go to stdout.

Both `hwopt` and `rlhf` are made of it. Exit codes: 0 done, 1 our bug, 2 bad input, 3 infeasible,
130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
import typer.core
from rich.console import Console

from hwopt import __version__
from hwopt.errors import HwoptError

out = Console(highlight=False, soft_wrap=True)
"""Results, for people."""
err = Console(stderr=True, highlight=False, soft_wrap=True)
"""What people should know that is not the result."""


class Commands(typer.core.TyperGroup):
    """The group of commands, with one place where errors become messages and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except HwoptError as error:
            err.print(f"error: {error}", markup=False, style="red")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            err.print("interrupted", style="yellow")
            raise typer.Exit(130) from error


def command_line(name: str, about: str) -> typer.Typer:
    """An application without commands yet, but with `--version`."""
    app = typer.Typer(
        name=name, cls=Commands, no_args_is_help=True, add_completion=False,
        pretty_exceptions_enable=False, help=about,
    )  # fmt: skip

    @app.callback(invoke_without_command=True)
    def _version(
        version: bool = typer.Option(False, "--version", help="print the version"),
    ) -> None:
        if version:
            out.print(f"{name} {__version__}")
            raise typer.Exit

    return app


def run_command_line(application: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    try:
        application(arguments)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 1
    return 0


@contextmanager
def steps(console: Console, what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A function that is told (steps done, steps in all, name of the next): a bar on terminals."""
    if not console.is_terminal:
        yield lambda _done, _total, _name: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(what + ", {task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("")

        def show(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name)

        yield show


def print_json(data: Any) -> None:
    """Machine output: sorted keys on stdout, and nothing else there."""
    sys.stdout.write(json.dumps(data, indent=2, sort_keys=True, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """Scalars of numpy and arrays, paths: what json does not know."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not JSON: {type(value)}")
