"""Our nests, priced by ZigZag's own cost model and beside the nests that ZigZag finds.

For each network that ZigZag ships: our nest of each layer by latency and by EDP goes to
`zigzag_resnet18.py --nests`, and what ZigZag's code says must be what our accounting says.

    python benchmarks/peers/zigzag_prices_ours.py [-o benchmarks/results/zigzag.json]
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import live

from hwopt.files import write_json
from hwopt.validation.harness import REFERENCE
from hwopt.validation.zigzag import Row, choose, read_layers
from hwopt.validation.zigzag_links import Nest
from hwopt.validation.zigzag_search import front, starts

VERSION = "PyPI zigzag-dse 3.9.1"


def ours(rows: list[Row]) -> dict[str, tuple[Nest, float, float]]:
    """By layer: our nest, its picojoules and cycles by our accounting."""
    found = {}
    for row in rows:
        points = front(starts(row.layer, row.array), row.layer, row.array, row.release)
        point, _ = choose(points, row)
        found[row.key[-1]] = (point.nest, point.cost.energy, point.cost.latency)
    return found


def priced(nests: dict[str, tuple[Nest, float, float]], workload: str) -> dict[str, object] | None:
    """ZigZag's answer for these nests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nests.csv"
        with path.open("w", newline="") as file:
            write = csv.writer(file)
            write.writerow(("layer", "loops", "O", "W", "I"))
            for layer, (nest, _, _) in nests.items():
                loops = " ".join(f"{loop}:{size}" for loop, size in nest.loops)
                held = ["/".join(map(str, nest.held[name])) for name in ("O", "W", "I")]
                write.writerow((layer, loops, *held))
        return live.zigzag(workload, nests=path)


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/zigzag.json"))
    options = parser.parse_args()
    if not live.available():
        print(live.HOW)
        return
    rows, _ = read_layers(REFERENCE / "zigzag_layers.csv")
    networks = sorted({row.key[1:3] for row in rows if row.key[0] == VERSION})
    results = []
    for workload, objective in networks:
        chosen = [row for row in rows if row.key[:3] == (VERSION, workload, objective)]
        nests = ours(chosen)
        answer = priced(nests, workload.removesuffix(".onnx"))
        assert answer is not None
        layers = {layer["layer"]: layer for layer in answer["layers"]}  # type: ignore[attr-defined]
        equal = sum(
            layers[name]["latency_cycles"] == cycles
            and abs(layers[name]["energy_pj"] / energy - 1) < 1e-9
            for name, (_, energy, cycles) in nests.items()
        )
        theirs = [
            sum(row.theirs.latency for row in chosen),
            sum(row.theirs.energy for row in chosen),
        ]
        print(
            f"{workload} {objective}: ours, priced by ZigZag {answer['version']}: "
            f"{answer['latency_cycles']:,.0f} cycles {answer['energy_pj']:,.0f} pJ; ZigZag's own: "
            f"{theirs[0]:,.0f} cycles {theirs[1]:,.0f} pJ; {equal} of {len(nests)} layers are "
            "priced as by our accounting"
        )
        results.append({
            "workload": workload, "objective": objective, "version": answer["version"],
            "ours_cycles": answer["latency_cycles"], "ours_pj": answer["energy_pj"],
            "theirs_cycles": theirs[0], "theirs_pj": theirs[1],
            "layers": len(nests), "layers_priced_equal": equal,
        })  # fmt: skip
    write_json(options.output, results)


if __name__ == "__main__":
    main()
