"""The picture of elasticities: which parameter moves latency, energy and area, and how much.

One panel per metric on a common list of parameters, those that matter most to latency on top: bars
to the left fall with the parameter, bars to the right grow with it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from hwopt.cost.sensitivity import METRICS, Elasticity
from hwopt.errors import PathError
from hwopt.files import write_text
from hwopt.report.page import document, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf", ".html")
LESS, MORE, EDGE = "#1f6fb4", "#d1792b", "#444444"
AXIS = "elasticity (d ln metric / d ln parameter)"


def check(path: Path) -> None:
    """Raises `PathError` for a kind of file that cannot be plotted (before hours of pricing)."""
    if path.suffix.lower() not in SUFFIXES:
        raise PathError(
            "not a kind of picture", where=str(path), value=path.suffix or "no suffix",
            allowed=", ".join(SUFFIXES),
        )  # fmt: skip


def plot(rows: Sequence[Elasticity], path: Path, title: str = "") -> None:
    """Write the picture; a page (.html) has the numbers beside it."""
    check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".html":
        write_text(path, page(rows, title))
        return
    _save(figure(rows, title), path, path.suffix[1:].lower())


def _save(drawn: Figure, target: Path | io.StringIO, kind: str) -> None:
    """The same bytes every time."""
    import matplotlib as mpl

    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context({"svg.hashsalt": "hwopt"}):
        drawn.savefig(target, format=kind, dpi=150, metadata=dated.get(kind))


def figure(rows: Sequence[Elasticity], title: str = "") -> Figure:
    """The picture as a matplotlib figure."""
    from matplotlib.figure import Figure

    known = [row for row in rows if row.is_known]
    drawn = Figure(figsize=(10.5, 1.3 + 0.23 * max(len(known), 3)), layout="constrained")
    panels = drawn.subplots(1, len(METRICS), sharey=True)
    for column, (axes, metric) in enumerate(zip(panels, METRICS, strict=True)):
        values = [row.elasticity[column] for row in known]
        axes.barh(range(len(known)), values, 0.72, color=[LESS if v < 0 else MORE for v in values])
        reach = max(1.0, *(abs(value) for value in values)) if values else 1.0
        axes.set_xlim(-1.28 * reach, 1.28 * reach)
        for index, value in enumerate(values):
            if abs(value) >= 0.005:
                axes.annotate(
                    f"{value:+.2f}", (value, index), (math.copysign(3, value), 0),
                    textcoords="offset points", va="center",
                    ha="left" if value > 0 else "right", fontsize=7, color=EDGE,
                )  # fmt: skip
        axes.axvline(0, color=EDGE, linewidth=0.8)
        axes.set_title(metric, fontsize=10)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0, labelsize=8)
    panels[0].set_yticks(range(len(known)), [f"{row.parameter} = {row.value}" for row in known])
    panels[0].set_ylim(len(known) - 0.4, -0.6)
    drawn.supxlabel(AXIS, fontsize=9)
    drawn.suptitle(title, fontsize=11)
    return drawn


def page(rows: Sequence[Elasticity], title: str = "") -> str:
    """A page that stands alone: the picture as inline SVG, and the numbers."""
    buffer = io.StringIO()
    _save(figure(rows), buffer, "svg")
    text = buffer.getvalue()
    picture = text[text.index("<svg") :]
    cells = [(row.parameter, row.value, *row.shown(), row.note) for row in rows]
    about = (
        "An elasticity of -1 means: twice the parameter, half the metric; 0: it does not matter. "
        "Measured between half and twice the value, mapped anew at each."
    )
    return document(
        f"Sensitivity: {title}",
        [f'<p class="note">{escape(about)}</p>', picture,
         table(("parameter", "value", *METRICS, ""), cells)],
        "svg{max-width:100%;height:auto}",
    )  # fmt: skip
