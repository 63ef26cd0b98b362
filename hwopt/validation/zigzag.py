"""Our mappings against ZigZag's, layer by layer, on its machine and by its own accounting.

Both are priced by `zigzag_accounting`, which takes the conventions that the file's figures were
made with: words of full port width, stalls, first and last tiles, partial sums, no halo kept. It is
checked first: where `zigzag_nests.csv` has the nest that ZigZag chose for a row, its energy,
latency, stall, onload and offload must come out as published (`exact_share`). The spatial mapping
is the file's: K and C over the array. Ours are tiles and loop orders of `zigzag_search`.

A row is worse when no nest of ours needs neither more cycles nor more energy at once. Of those that
do not, the row shows the one that is best by the row's own objective (`opt`).

Strides and input sizes are not columns of the file: they come from `zigzag_shapes.csv`, by network
and layer (read from the ONNX files that ZigZag ships). A layer that is not there is taken to have
stride 1 and as many inputs as outputs along x and y, and a note says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwopt.errors import FileFormatError
from hwopt.files import parse_json
from hwopt.mapping.analysis import Objective
from hwopt.validation.harness import REFERENCE, Outcome, comparison, read_rows
from hwopt.validation.zigzag_accounting import RELEASES, Accountant, Cost, Release
from hwopt.validation.zigzag_links import Nest, as_holds
from hwopt.validation.zigzag_machine import LOOPS, Array, Layer, read_array
from hwopt.validation.zigzag_search import KEYS, Point, front, plain, starts

COLUMNS = (
    "version", "workload", "hw", "opt", "layer", "type", "dims", "energy_pj", "latency_cycles",
    "stall_cycles", "onload_cycles", "offload_cycles",
)  # fmt: skip
ROUNDING = 1e-9
"""Energies are sums of floats in another order: equal within this part."""
OBJECTIVE: dict[str, Objective] = {"latency": "latency", "energy": "energy", "EDP": "edp"}


@dataclass(frozen=True)
class Row:
    """One row of the file, and its layer, machine and release."""

    key: tuple[str, str, str, str]
    layer: Layer
    array: Array
    release: Release
    objective: Objective
    theirs: Cost


@comparison("zigzag", "zigzag_layers.csv")
def zigzag(data: Path) -> Outcome:
    """Our best mapping of each layer against ZigZag's, by ZigZag's accounting, on its machine."""
    rows, guessed = read_layers(data)
    known = _nests(REFERENCE / "zigzag_nests.csv")
    search = _Search()
    found: list[dict[str, Any]] = []
    exact, simple = [], []
    for row in rows:
        accountant = Accountant(row.layer, row.array, row.release)
        points = search.front(row)
        chosen, worse = choose(points, row)
        reference = accountant.price(plain(row.layer, row.array))
        if (nest := known.get(row.key)) is not None:
            exact.append(same(accountant.price(nest), row.theirs))
        simple.append(reference)
        version, workload, opt, layer = row.key
        found.append({
            "version": version, "workload": workload, "opt": opt, "layer": layer,
            "theirs_cycles": row.theirs.latency, "ours_cycles": chosen.cost.latency,
            "theirs_pj": row.theirs.energy, "ours_pj": chosen.cost.energy,
            "least_cycles": points[0].cost.latency, "least_pj": points[-1].cost.energy,
            "worse": worse, "port_cycles": port_cycles(row.layer, row.array),
            "nest": str(chosen.nest),
        })  # fmt: skip
    metrics = {"worse_rows": float(sum(bool(row["worse"]) for row in found)), **totals(found)}
    if exact:
        metrics["exact_share"] = sum(exact) / len(exact)
    return Outcome(
        "zigzag", "zigzag: one memory's whole tile per period, its ports, first and last tiles",
        "nothing", found, metrics, _baseline(rows, found, simple),
        "one fixed nest, no search", tuple(_notes(found, len(exact), guessed)),
    )  # fmt: skip


class _Search:
    """Fronts, found once for layers that are alike."""

    def __init__(self) -> None:
        self.begun: dict[str, tuple[Nest, ...]] = {}
        self.done: dict[str, tuple[Point, ...]] = {}

    def front(self, row: Row) -> tuple[Point, ...]:
        """What `zigzag_search.front` finds for the row's layer, machine and release."""
        layer = f"{row.layer} {row.array.name}"
        if layer not in self.begun:
            self.begun[layer] = starts(row.layer, row.array)
        both = f"{layer} {row.release.name}"
        if both not in self.done:
            points = front(self.begun[layer], row.layer, row.array, row.release)
            self.done[both] = points
        return self.done[both]


def choose(points: tuple[Point, ...], row: Row) -> tuple[Point, bool]:
    """The best point by the row's objective among those no worse than the peer in latency and in
    energy; among all (and True) where there is none.
    """
    fair = [
        point
        for point in points
        if point.cost.latency <= row.theirs.latency
        and point.cost.energy <= row.theirs.energy * (1 + ROUNDING)
    ]
    key = KEYS[row.objective]
    return min(fair or points, key=lambda point: key(point.cost)), not fair


def same(ours: Cost, theirs: Cost) -> bool:
    """Whether two costs agree in every figure."""
    cycles = all(
        getattr(ours, name) == getattr(theirs, name)
        for name in ("latency", "stall", "onload", "offload")
    )
    return cycles and math.isclose(ours.energy, theirs.energy, rel_tol=ROUNDING)


def port_cycles(layer: Layer, array: Array) -> int:
    """Cycles in which the outermost memory's busiest port moves each tensor once: no nest can be
    faster on the machine, though a figure of the accounting may be.
    """
    busiest = 0
    for port in array.stores[-1].ports:
        names = {name for name, way in port.serves if way in ("tl", "fl")} & set(layer.operands)
        bits = sum(layer.tile(name, layer.sizes) * layer.bits[name] for name in names)
        busiest = max(busiest, math.ceil(bits / port.width_bits))
    return busiest


def totals(found: list[dict[str, Any]]) -> dict[str, float]:
    """Ours over theirs for whole networks: of all, the one that looks worst for us."""
    sums: dict[tuple[str, str, str], list[float]] = {}
    for row in found:
        network = sums.setdefault((row["version"], row["workload"], row["opt"]), [0.0] * 4)
        for place, column in enumerate(("ours_cycles", "theirs_cycles", "ours_pj", "theirs_pj")):
            network[place] += row[column]
    return {
        "worst_network_latency_ratio": max(ours / theirs for ours, theirs, _, _ in sums.values()),
        "worst_network_energy_ratio": max(ours / theirs for _, _, ours, theirs in sums.values()),
    }


def _baseline(rows: list[Row], found: list[dict[str, Any]], simple: list[Cost]) -> dict[str, float]:
    """The same metrics of the fixed nest."""
    beside = [
        {**row, "ours_cycles": cost.latency, "ours_pj": cost.energy}
        for row, cost in zip(found, simple, strict=True)
    ]
    worse = [
        cost.latency > row.theirs.latency or cost.energy > row.theirs.energy * (1 + ROUNDING)
        for row, cost in zip(rows, simple, strict=True)
    ]
    return {"worse_rows": float(sum(worse)), **totals(beside)}


def _notes(found: list[dict[str, Any]], checked: int, guessed: list[str]) -> Iterator[str]:
    networks: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in found:
        networks.setdefault((row["version"], row["workload"], row["opt"]), []).append(row)
    for (version, workload, opt), rows in networks.items():
        cycles, pj = ([sum(r[f"{who}_{unit}"] for r in rows) for who in ("ours", "theirs")]
                      for unit in ("cycles", "pj"))  # fmt: skip
        yield (
            f"{workload}, {opt}, {version}: {cycles[0]:,.0f} cycles (theirs {cycles[1]:,.0f}), "
            f"{pj[0] / 1e6:,.1f} µJ (theirs {pj[1] / 1e6:,.1f}); by itself, least "
            f"{sum(r['least_cycles'] for r in rows):,.0f} cycles, "
            f"{sum(r['least_pj'] for r in rows) / 1e6:,.1f} µJ"
        )
    gains = sorted(found, key=lambda r: r["ours_cycles"] / r["theirs_cycles"])
    for row in [r for r in found if r["worse"]] or gains[:3]:
        yield (
            f"{'worse' if row['worse'] else 'most gained'}: {row['workload']} {row['layer']}: "
            f"{row['ours_cycles']:,.0f} cycles (theirs {row['theirs_cycles']:,.0f}), "
            f"{row['ours_pj'] / 1e6:.2f} µJ (theirs {row['theirs_pj'] / 1e6:.2f}): {row['nest']}"
        )
    yield f"exact_share: {checked} of ZigZag's own nests priced, against all figures of their rows"
    fast = [row for row in found if row["theirs_cycles"] < row["port_cycles"]]
    if fast:
        yield (
            f"{len(fast)} published latencies are below the cycles in which the outermost memory "
            f"can move each tensor once (the accounting lets the first tiles overlap), such as "
            f"{fast[0]['layer']}: {fast[0]['theirs_cycles']:,.0f} below {fast[0]['port_cycles']:,}"
        )
    if guessed:
        yield f"no strides known, taken as 1: {', '.join(sorted(set(guessed)))}"


def read_layers(path: Path) -> tuple[list[Row], list[str]]:
    """Rows of a layer file, with the machine file beside it (or the project's), and the layers
    whose strides had to be assumed. Raises `FileFormatError`.
    """
    beside = path.parent / "zigzag_hw.json"
    machines = beside if beside.is_file() else REFERENCE / "zigzag_hw.json"
    shapes = _shapes(REFERENCE / "zigzag_shapes.csv")
    arrays: dict[str, Array] = {}
    rows, guessed = [], []
    for number, raw in enumerate(read_rows(path, COLUMNS), 2):
        where = f"{path}:{number}"
        machine = raw["hw"].removesuffix(".yaml")
        if machine not in arrays:
            arrays[machine] = read_array(machines, machine)
        sizes = _sizes(raw["dims"], where)
        shape = shapes.get((raw["workload"].removesuffix(".onnx"), raw["layer"]))
        if shape is None and "OX" in sizes:
            guessed.append(f"{raw['workload']} {raw['layer']}")
        objective = OBJECTIVE.get(raw["opt"])
        if objective is None:
            raise FileFormatError(
                "no such objective", where=f"{where} at opt", value=raw["opt"],
                allowed=", ".join(OBJECTIVE),
            )  # fmt: skip
        rows.append(Row(
            (raw["version"], raw["workload"], raw["opt"], raw["layer"]),
            _layer(raw["type"], sizes, shape), arrays[machine],
            _release(raw["version"], where), objective, _figures(raw, where),
        ))  # fmt: skip
    if not rows:
        raise FileFormatError("the file has no rows", where=str(path))
    return rows, guessed


def _layer(kind: str, sizes: dict[str, int], shape: tuple[int, ...] | None) -> Layer:
    if shape is None:
        same_size = sizes.get("OX", 1), sizes.get("OY", 1)
        return Layer(kind, sizes, input_size=same_size)
    return Layer(kind, sizes, (shape[0], shape[1]), (shape[2], shape[3]), (shape[4], shape[5]))


def _sizes(text: str, where: str) -> dict[str, int]:
    found = parse_json(text, where=f"{where} at dims")
    if not isinstance(found, dict) or not all(
        loop in LOOPS and isinstance(size, int) and size > 0 for loop, size in found.items()
    ):
        raise FileFormatError(
            "not loop sizes", where=f"{where} at dims", value=text,
            allowed=f"positive integers for {' '.join(LOOPS)}",
        )  # fmt: skip
    return found


def _release(version: str, where: str) -> Release:
    """The accounting of a version: 3.9 and later, or before (the repository's head of January 2026
    counts like 3.8.5).
    """
    number = re.search(r"(\d+)\.(\d+)", version.split("(", maxsplit=1)[0])
    if number is not None:
        return RELEASES["3.9" if (int(number[1]), int(number[2])) >= (3, 9) else "3.8"]
    if "HEAD" in version:
        return RELEASES["3.8"]
    raise FileFormatError(
        "no such version", where=f"{where} at version", value=version,
        allowed="a number such as 3.9.1, or a head of the repository",
    )  # fmt: skip


def _figures(raw: dict[str, str], where: str) -> Cost:
    values = {}
    for column in COLUMNS[-5:]:
        try:
            values[column] = float(raw[column])
        except (TypeError, ValueError) as error:
            raise FileFormatError(
                "not a number", where=f"{where} at {column}", value=raw[column]
            ) from error
        if not 0 <= values[column] < math.inf:
            raise FileFormatError(
                "not a count", where=f"{where} at {column}", value=raw[column], allowed=">= 0"
            )
    energy, latency, stall, onload, offload = values.values()
    if not energy or not latency:
        raise FileFormatError("energy and latency must be positive", where=where)
    return Cost(energy, latency, 0, stall, onload, offload)


def _shapes(path: Path) -> dict[tuple[str, str], tuple[int, ...]]:
    columns = ("stride_x", "stride_y", "dilation_x", "dilation_y", "input_x", "input_y")
    return {
        (row["workload"], row["layer"]): tuple(int(row[column]) for column in columns)
        for row in read_rows(path, ("workload", "layer", *columns))
    }


def _nests(path: Path) -> dict[tuple[str, str, str, str], Nest]:
    """By version, workload, objective and layer: "FX:7 FY:7" and, by operand, "2/6/6"."""
    found = {}
    for row in read_rows(path, ("version", "workload", "opt", "layer", "loops", "O", "W", "I")):
        loops = tuple(
            (part.split(":")[0], int(part.split(":")[1])) for part in row["loops"].split()
        )
        held = {name: [int(end) for end in row[name].split("/")] for name in ("O", "W", "I")}
        key = (row["version"], row["workload"], row["opt"], row["layer"])
        found[key] = Nest(loops, as_holds(held))
    return found
