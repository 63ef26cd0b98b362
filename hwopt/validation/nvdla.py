"""Cycles per layer against NVDLA's own performance sheet (AlexNet, ResNet-50).

The model is `nvdla_sheet`. What the file's columns do not say about a network is `_NETWORKS`: which
layers pool their output, which send it to DRAM although there is an SRAM, and the sheet's habits.
Other networks are priced by the general rules, and a note says so.

Elementwise layers: rows whose `op` names a sum ("eltwise"); without MACs of their own they are the
sum alone. Where a ResNet-50 has no such row, the sum is part of the last convolution of its block
(branch2c).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwopt.validation.harness import Outcome, comparison, count, number, read_rows, score
from hwopt.validation.nvdla_sheet import FC_BATCH, STRIPE, Habits, Layer, Stage, bound, nv_full

_SIZES = ("C", "H", "W", "K", "R", "S", "stride", "P", "Q")
_SYSTEMS: dict[str, tuple[str, str, Callable[[Layer], tuple[Stage, ...]]]] = {
    "4 MB SRAM": ("max_cycles_4MB_cvsram", "bound_4MB", Layer.with_sram),
    "no SRAM": ("max_cycles_no_cvsram", "bound_no", Layer.without_sram),
}
"""Column of cycles, column of what bounds them, stages."""
_MAC_CYCLES = "mac_cycles_4MB_cvsram"
_COLUMNS = (
    "network", "layer", "op", *_SIZES, "macs", *(system[0] for system in _SYSTEMS.values()),
)  # fmt: skip


@dataclass(frozen=True)
class _Network:
    """Facts about a network: height and width of pooled outputs by layer, and which layers send
    their output to DRAM.
    """

    habits: Habits
    pooled: Mapping[str, int]
    spills: Callable[[str], bool]
    adds: Callable[[str], bool]


_BLOCK = re.compile(r"res(\d)([a-z])(?:branch(\d[a-z]?))?")


def _place(layer: str) -> tuple[str, ...]:
    """Where a layer of a ResNet stands in the order of execution; a block's sum comes last."""
    match = _BLOCK.fullmatch(layer)
    return (match[1], match[2], match[3] or "3") if match else ()


_GENERAL = _Network(Habits(), {}, lambda _: False, lambda _: False)
_NETWORKS = {
    "alexnet": _Network(
        Habits(spread_weights=True),
        pooled={"1": 27, "2": 13, "5": 6},
        spills=lambda layer: layer == "5",
        adds=lambda _: False,
    ),
    "resnet50": _Network(
        Habits(kernel_group=128, batch_weights=False, rereads=True),
        pooled={"1": 56, "res5cbranch2c": 1},
        spills=lambda layer: ("2", "b", "2b") <= _place(layer) <= ("5", "c", "2c"),
        adds=lambda layer: _place(layer)[2:] == ("2c",),
    ),
}


@comparison("nvdla", "nvdla_perf_layers.csv")
def nvdla(data: Path) -> Outcome:
    """Cycles and bound of each layer against NVDLA's performance sheet, with and without SRAM."""
    cells = read_rows(data, _COLUMNS)
    places = [f"{data}, row {line}" for line in range(2, len(cells) + 2)]
    summed = {_network(row["network"]) for row in cells if _is_sum(row)}
    rows = [
        _compared(row, where, sums_named=_network(row["network"]) in summed)
        for row, where in zip(cells, places, strict=True)
    ]
    sides = [row[system] for row in rows for system in _SYSTEMS]
    published = [side["published"] for side in sides]
    metrics = score([side["predicted"] for side in sides], published)
    metrics["within_1_cycle_share"] = sum(
        abs(side["predicted"] - side["published"]) <= 1 for side in sides
    ) / len(sides)
    ideal = [row["ideal"] for row in rows for _ in _SYSTEMS]
    return Outcome(
        "nvdla", "nvdla-sheet", "nothing", rows, metrics, score(ideal, published),
        f"MACs / {nv_full().macs:,}", _notes(rows),
    )  # fmt: skip


def _network(name: str | None) -> str:
    """A key of `_NETWORKS` where the name begins with one, else the plain name."""
    plain = _plain(name)
    return next((known for known in _NETWORKS if plain.startswith(known)), plain)


def _plain(name: str | None) -> str:
    return re.sub(r"[^a-z0-9]", "", (name or "").lower())


def _is_sum(cells: dict[str, str]) -> bool:
    """Whether a row says that a second tensor is added."""
    return re.search(r"elt|elementwise|^add$|^sum$", _plain(cells["op"])) is not None


def _layer(cells: dict[str, str], where: str, *, sums_named: bool) -> Layer:
    """A row as a layer of its network; a sum by itself need not name a kernel."""
    unnamed = _is_sum(cells) and not cells["macs"]
    weighted = not unnamed and number(cells, "macs", where) > 0
    if not weighted:
        blank = {"K": cells["C"], "R": "1", "S": "1", "stride": "1"}
        cells = {name: cell or blank.get(name, cell) for name, cell in cells.items()}
    size = {name: count(cells, name, where, least=int(name not in "RS")) for name in _SIZES}
    network = _NETWORKS.get(_network(cells["network"]), _GENERAL)
    name = _plain(cells["layer"]).removeprefix("conv")
    side = network.pooled.get(name)
    three = size["R"] == size["S"] == 3
    return Layer(
        size["C"], size["H"], size["W"], size["K"], (size["R"], size["S"]), size["stride"],
        (size["P"], size["Q"]), (side, side) if side else (size["P"], size["Q"]),
        fully_connected=_plain(cells["op"]) == "fc",
        winograd=weighted and (
            number(cells, "winograd", where) > 0 if cells.get("winograd") else three
        ),
        weighted=weighted,
        adds=_is_sum(cells) or (network.adds(name) and not sums_named),
        spills=network.spills(name),
        habits=network.habits,
    )  # fmt: skip


def _compared(cells: dict[str, str], where: str, *, sums_named: bool) -> dict[str, Any]:
    """One row: both systems, predicted beside published."""
    layer = _layer(cells, where, sums_named=sums_named)
    row: dict[str, Any] = {
        "network": cells["network"], "layer": cells["layer"],
        "ideal": number(cells, "macs", where) / nv_full().macs if layer.weighted else 0.0,
        "mac_cycles": layer.mac_cycles(STRIPE),
        "known": _network(cells["network"]) in _NETWORKS,
    }  # fmt: skip
    if cells.get(_MAC_CYCLES):
        row["published_mac_cycles"] = number(cells, _MAC_CYCLES, where)
    for system, (cycles, limit, stages) in _SYSTEMS.items():
        slowest = bound(stages(layer))
        row[system] = {
            # The file prints fractions of a cycle with a few digits.
            "predicted": round(slowest.cycles, 6),
            "published": round(number(cells, cycles, where, least=1), 6),
            "bound": slowest.name, "published_bound": (cells.get(limit) or "").strip(),
            "stages": [str(stage) for stage in stages(layer)],
        }  # fmt: skip
    return row


def _notes(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """What bounds each row, whether the sheet agrees, networks without facts."""
    notes = []
    for system in _SYSTEMS:
        named = [row[system] for row in rows if row[system]["published_bound"]]
        same = sum(
            side["bound"].split()[0] == side["published_bound"].split()[0].upper() for side in named
        )
        notes.append(f"{system}: the bound agrees in {same} of {len(named)} rows")
    macs = [row for row in rows if "published_mac_cycles" in row]
    close = sum(abs(row["mac_cycles"] - row["published_mac_cycles"]) <= 1 for row in macs)
    notes.append(f"MAC cycles alone: {close} of {len(macs)} rows within 1 cycle")
    for row in rows:
        for system in _SYSTEMS:
            side = row[system]
            off = side["predicted"] - side["published"]
            wrong = f"; published {side['published']:,.10g}" if abs(off) > 1 else ""
            notes.append(
                f"{row['network']} {row['layer']}, {system}: bound by {side['bound']}: "
                f"{'; '.join(side['stages'])}{wrong}"
            )
    if unknown := sorted({row["network"] for row in rows if not row["known"]}):
        notes.append(
            f"{', '.join(unknown)}: general rules only (no pooling, outputs stay in SRAM, fully "
            f"connected weights shared by {FC_BATCH} samples)"
        )
    return tuple(notes)
