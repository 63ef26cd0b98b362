"""Active PEs and processing latency of the Eyeriss chip, layer by layer.

Predicted by `row_stationary.best` on the library's `eyeriss`, with nothing fitted: the cells of the
file are recalled from the paper, and only their totals agree with its abstract. Shapes of layers
come from `mac_counts.csv`; images in a batch from the row's MACs. The published processing latency
does not wait for DRAM, and neither does the prediction.

No number is fitted, but the rule that picks a mapping was seen beside these five layers. Three were
tried: fewest cycles (taken: it is the ordinary latency objective); least energy among the fewest
steps, which gives CONV2 two sets of 14 rows, 140 PEs instead of 135; and whole sets before strips,
then least energy, which also meets all active PEs (latency 6.8 % off) but has a poor mapping
wherever a whole set crowds the buffer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwopt.errors import FileFormatError
from hwopt.hardware.accelerator import Accelerator
from hwopt.hardware.library import load
from hwopt.validation.harness import REFERENCE, Outcome, comparison, count, number, read_rows, score
from hwopt.validation.row_stationary import Convolution, best

_COLUMNS = ("layer", "processing_latency_ms", "macs_g", "active_pes")
_SHAPES = ("C", "K", "P", "Q", "R", "S", "groups")
_NETWORKS = ("AlexNet(grouped)", "VGG-16")
"""Networks that the paper measures; names of their layers differ."""
_STRIDES = {"CONV1": 4}
"""Of AlexNet's first layer; every other layer of the two has stride 1 and keeps its size."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """A layer by its published shape: one group, and how many there are."""

    group: Convolution
    groups: int
    macs: int


@comparison("eyeriss", "eyeriss_v1_alexnet_recalled.csv")
def eyeriss(data: Path) -> Outcome:
    """Active PEs and processing latency of AlexNet's layers on the Eyeriss chip."""
    chip, shapes = load("eyeriss").resolved(), _shapes()
    rows: list[dict[str, Any]] = []
    totals: list[dict[str, Any]] = []
    for line, cells in enumerate(read_rows(data, _COLUMNS), 2):
        where = f"{data}, row {line}"
        if (cells["layer"] or "").strip().upper() == "TOTAL":
            totals.append(_total(cells, where, rows))
        else:
            rows.append(_row(cells, where, shapes, chip))
    if not rows:
        raise FileFormatError("no layers beside the total", where=str(data))
    published = [row["published_ms"] for row in rows]
    metrics = score([row["predicted_ms"] for row in rows], published)
    baseline = score([row["busy_ms"] for row in rows], published)
    metrics["exact_share"] = _share(rows, "active_pes")
    baseline["exact_share"] = _share(rows, "all_pes")
    notes = ["exact_share: active PEs (baseline: all of them); the rest: processing latency",
             "nothing fitted, but one of three rules for picking a mapping, seen on these layers",
             *map(_explained, rows), *map(_summed, totals)]  # fmt: skip
    return Outcome(
        "eyeriss", "native", "nothing", rows, metrics, baseline, "MACs / published active PEs",
        tuple(notes),
    )  # fmt: skip


def _shapes() -> dict[str, _Shape]:
    """Shapes of the layers of both networks, by name."""
    path = REFERENCE / "mac_counts.csv"
    found = {}
    for line, cells in enumerate(read_rows(path, ("network", "layer", "macs", *_SHAPES)), 2):
        if cells["network"] in _NETWORKS and cells["C"]:
            where = f"{path}, row {line}"
            c, k, p, q, r, s, groups = (count(cells, name, where) for name in _SHAPES)
            stride = _STRIDES.get(cells["layer"], 1)
            group = Convolution(1, k // groups, c // groups, p, q, r, s, stride)
            found[cells["layer"]] = _Shape(group, groups, count(cells, "macs", where))
    return found


def _row(
    cells: dict[str, str], where: str, shapes: dict[str, _Shape], chip: Accelerator
) -> dict[str, Any]:
    """One layer: predicted beside published."""
    name = (cells["layer"] or "").strip().upper()
    if name not in shapes:
        raise FileFormatError("no such layer", where=where, value=cells["layer"],
                              allowed=", ".join(shapes))  # fmt: skip
    shape, active = shapes[name], count(cells, "active_pes", where)
    images = max(1, round(number(cells, "macs_g", where) * 1e9 / shape.macs))
    run = best(replace(shape.group, images=images), chip)
    milliseconds = 1e3 / chip.clock_hz
    return {
        "layer": name, "images": images, "run": run,
        "active_pes": run.active_pes, "published_active_pes": active, "all_pes": chip.lanes,
        "predicted_ms": run.cycles * shape.groups * milliseconds,
        "published_ms": number(cells, "processing_latency_ms", where, least=1e-9),
        "busy_ms": shape.macs * images / active * milliseconds,
    }  # fmt: skip


def _total(cells: dict[str, str], where: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum over the layers before it; active PEs are a mean over time."""
    predicted = sum(row["predicted_ms"] for row in rows)
    over_time = sum(row["active_pes"] * row["predicted_ms"] for row in rows)
    return {
        "active_pes": round(over_time / predicted) if rows else 0,
        "published_active_pes": count(cells, "active_pes", where),
        "predicted_ms": predicted,
        "published_ms": number(cells, "processing_latency_ms", where, least=1e-9),
    }


def _share(rows: list[dict[str, Any]], column: str) -> float:
    equal = [bool(row[column] == row["published_active_pes"]) for row in rows]
    return sum(equal) / len(equal)


def _explained(row: dict[str, Any]) -> str:
    """One layer: its sets, its passes, what its time is made of."""
    choice = row["run"].choice
    streams = row["run"].streams
    loads = row["run"].load_cycles / row["run"].cycles
    wide = f" in {choice.segments} segments" if choice.segments > 1 else ""
    r, t = math.prod(choice.channel_sets), math.prod(choice.kernel_sets)
    tall = row["active_pes"] // (choice.strip * r * t)
    return (
        f"{row['layer']}: {row['active_pes']} PEs = {tall} kernel rows x "
        f"{choice.strip} output rows{wide} x r {r} x t {t} "
        f"(published {row['published_active_pes']}); p {choice.pass_kernels}, "
        f"q {choice.pass_channels}, n {choice.pass_images}, m {choice.held_kernels}; "
        f"{row['predicted_ms']:.2f} ms, bound by {max(streams, key=streams.__getitem__)}, "
        f"{loads:.0%} loading weights (published {row['published_ms']:g})"
    )


def _summed(total: dict[str, Any]) -> str:
    return (
        f"TOTAL: {total['active_pes']} PEs on average (published "
        f"{total['published_active_pes']}), {total['predicted_ms']:.1f} ms (published "
        f"{total['published_ms']:g})"
    )
