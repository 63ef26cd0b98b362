"""ZigZag's search on its own machine, or its prices of nests from elsewhere.

Runs in the environment that `make bench-peers` makes, with zigzag-dse alone. Network and machine
are the files that ZigZag ships (`resnet18.onnx`, `tpu_like.yaml`), or paths. The search is that of
its API (LOMA, at most 6 loop factors, 3 spatial mappings), without its files and plots.

    .venv-peers/bin/python benchmarks/peers/zigzag_resnet18.py [--workload resnet18]
        [--objective latency|energy|EDP] [--nests NESTS.csv]

Prints JSON: version, CPU seconds of the search, energy (pJ) and latency (cycles) of the network,
evaluations of its cost model, and the layers, each with what it costs and its nest (loops from the
inside out; for each operand how many of them each memory holds). `--nests` gives rows of layer,
loops, O, W and I as printed: these are priced by ZigZag's cost model, and nothing is searched.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import logging
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import zigzag
from zigzag.datatypes import LayerDim, LayerOperand
from zigzag.mapping.temporal_mapping import TemporalMapping, TemporalMappingType
from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
from zigzag.stages.main import MainStage
from zigzag.stages.mapping.spatial_mapping_generation import SpatialMappingGeneratorStage
from zigzag.stages.mapping.temporal_mapping_generator_stage import TemporalMappingGeneratorStage
from zigzag.stages.parser.accelerator_parser import AcceleratorParserStage
from zigzag.stages.parser.onnx_model_parser import ONNXModelParserStage
from zigzag.stages.results.reduce_stages import (
    MinimalEDPStage,
    MinimalEnergyStage,
    MinimalLatencyStage,
    SumStage,
)
from zigzag.stages.stage import Stage
from zigzag.stages.workload_iterator import WorkloadStage

INPUTS = Path(zigzag.__file__).parent / "inputs"
LEAST = {"latency": MinimalLatencyStage, "energy": MinimalEnergyStage, "EDP": MinimalEDPStage}


class Counted(CostModelStage):
    """The cost model, counting."""

    evaluations = 0

    def run(self) -> Iterator[Any]:
        """One evaluation."""
        Counted.evaluations += 1
        yield from super().run()


class Given(Stage):
    """Instead of a search: the nest that a layer is given."""

    nests: ClassVar[dict[str, dict[str, str]]] = {}

    def __init__(self, callables: list[Any], *, layer: Any, **rest: Any) -> None:
        super().__init__(callables, **rest)
        self.layer = layer

    def run(self) -> Iterator[Any]:
        """The price of that nest."""
        row = self.nests[self.layer.name]
        loops = [
            (LayerDim(part.split(":")[0]), int(part.split(":")[1])) for part in row["loops"].split()
        ]
        levels = {}
        for operand in self.layer.layer_operands:
            ends = [0, *(int(end) for end in row[operand.name].split("/"))]
            levels[LayerOperand(operand.name)] = [loops[a:b] for a, b in itertools.pairwise(ends)]
        mapping = TemporalMapping(levels, self.layer, TemporalMappingType.UNEVEN)
        rest = {**self.kwargs, "layer": self.layer, "temporal_mapping": mapping}
        stage = self.list_of_callables[0](self.list_of_callables[1:], **rest)
        for cost, extra in stage.run():
            yield cost, (mapping, extra)


def shipped(name: str, folder: str, suffix: str) -> str:
    """A file by path, or by name among those that ZigZag ships."""
    return name if Path(name).is_file() else str(INPUTS / folder / f"{name}{suffix}")


def run(workload: str, machine: str, objective: str, generator: type[Stage]) -> dict[str, Any]:
    """One network through ZigZag's stages."""
    least = LEAST[objective]
    stages = [
        ONNXModelParserStage, AcceleratorParserStage, SumStage, WorkloadStage, least,
        SpatialMappingGeneratorStage, least, generator, Counted,
    ]  # fmt: skip
    start, wall = time.process_time(), time.perf_counter()
    main = MainStage(
        list_of_callables=stages,
        accelerator=shipped(machine, "hardware", ".yaml"),
        workload=shipped(workload, "workload", ".onnx"),
        mapping=shipped(machine, "mapping", ".yaml"),
        loma_lpf_limit=6,
        loma_show_progress_bar=False,
        nb_mappings_generated=3,
        enable_mix_spatial_mapping_generation=False,
        access_same_data_considered_as_no_access=True,
        temporal_mapping_type=TemporalMappingType.UNEVEN,
    )
    total, layers = main.run()[0]
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    return {
        "peer": "ZigZag", "version": version("zigzag-dse"), "workload": workload, "hw": machine,
        "objective": objective, "searched": generator is not Given, "cpu_seconds": seconds,
        "wall_seconds": wall, "energy_pj": total.energy_total,
        "latency_cycles": total.latency_total2, "evaluations": Counted.evaluations,
        "layers": [priced(cost) for cost, _ in layers],
    }  # fmt: skip


def priced(cost: Any) -> dict[str, Any]:
    """A layer: its figures under the names of zigzag_layers.csv, and its nest."""
    levels = {str(op): found for op, found in cost.temporal_mapping.mapping_dic_origin.items()}
    held = {}
    for operand, found in levels.items():
        counts = [len(level) for level in found]
        held[operand] = "/".join(str(sum(counts[: i + 1])) for i in range(len(counts)))
    return {
        "layer": cost.layer.name, "type": cost.layer.type,
        "dims": {str(dim): int(size) for dim, size in cost.layer.layer_dim_sizes.items()},
        "energy_pj": cost.energy_total, "latency_cycles": cost.latency_total2,
        "stall_cycles": cost.stall_slack_comb, "onload_cycles": cost.data_onloading_cycle,
        "offload_cycles": cost.latency_total2 - cost.latency_total1,
        "loops": " ".join(f"{dim}:{size}" for level in levels["O"] for dim, size in level),
        **held,
    }  # fmt: skip


def main() -> None:
    """Search or price, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workload", default="resnet18")
    parser.add_argument("--machine", default="tpu_like")
    parser.add_argument("--objective", default="latency", choices=sorted(LEAST))
    parser.add_argument("--nests", type=Path)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    generator: type[Stage] = TemporalMappingGeneratorStage
    if options.nests:
        with options.nests.open() as file:
            Given.nests = {row["layer"]: row for row in csv.DictReader(file)}
        generator = Given
    print(json.dumps(run(options.workload, options.machine, options.objective, generator)))


if __name__ == "__main__":
    main()
