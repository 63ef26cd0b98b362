"""The page of a run: curves, phases predicted beside measured, evaluations, samples, data, plan."""

from __future__ import annotations

from pathlib import Path

PAGE = "report.html"


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write one self-contained HTML page about a run, finished or not, and return its path.

    `output`: another place than `run/report.html`. Raises `RunError` when `run` is not a run.
    """
    raise NotImplementedError
