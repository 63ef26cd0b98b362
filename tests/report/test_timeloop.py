"""Designs as Timeloop's files."""

import pytest
import torch

from hwopt.cost.cost import evaluate
from hwopt.errors import HardwareError
from hwopt.files import parse_yaml
from hwopt.frontend.capture import trace
from hwopt.hardware.library import load, names
from hwopt.mapping.fixed import price_fixed
from hwopt.mapping.timeloop import spatial_dims
from hwopt.passes.manager import PassManager, parse_pipeline
from hwopt.report.timeloop import architecture_text, write_design, write_mappings

NVDLA = load("nvdla")


def test_architecture_of_eyeriss():
    """Trees of arrays, words, ports in words per cycle, copies along X, and what is kept."""
    data = parse_yaml(architecture_text(load("eyeriss")))
    top = data["architecture"]["subtree"][0]
    assert top["local"][0]["class"] == "DRAM"
    glb = top["local"][1]
    assert glb["attributes"]["word-bits"] == 16
    assert glb["attributes"]["entries"] == 108_000 // 2
    assert glb["attributes"]["write_bandwidth"] == 3.2e9 / 2 / 200e6
    array = top["subtree"][0]
    assert array["name"] == "PE[0..167]"
    assert [part["attributes"]["meshX"] for part in array["local"]] == [12, 12, 12, 12]
    targets = data["architecture_constraints"]["targets"]
    assert targets[1] == {
        "target": "GLB", "type": "bypass", "keep": ["Inputs", "Outputs"], "bypass": ["Weights"],
    }  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_machines_of_the_library(name):
    """Every machine has an architecture, or more than two dimensions of fan-out at one memory."""
    machine = load(name)
    if max(len(spatial_dims(machine, memory.name)) for memory in machine.memories) > 2:
        with pytest.raises(HardwareError, match="two dimensions"):
            architecture_text(machine)
    else:
        assert f"name: {machine.memories[0].name}" in architecture_text(machine)


def test_mappings_of_a_cost(tmp_path):
    """Every distinct nest has a file that prices as the cost says, or a note says why not."""
    graph = trace(torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.Linear(40, 16)),
                  (torch.ones(8, 24),))  # fmt: skip
    program, _ = PassManager(parse_pipeline("canonicalize,classify,tile")).run(graph, target=NVDLA)
    cost = evaluate(program, NVDLA, fusion="off")
    notes = write_mappings(cost, tmp_path)
    files = sorted(tmp_path.glob("*.yaml"))
    assert len(notes) == len([best for best in cost.mappings.values() if best]) == 2
    assert len(files) == sum(note.startswith("wrote") for note in notes)
    for note in notes:
        assert note.startswith("wrote") or "Timeloop cannot express" in note
    seconds = [best.seconds for best in cost.mappings.values() if best]
    for file in files:
        price = price_fixed(file, NVDLA).price
        assert any(price.seconds == pytest.approx(value, rel=1e-12) for value in seconds)


@pytest.mark.slow
def test_a_design_with_the_mappings_of_its_models(study, tmp_path):
    """The accelerator, and a folder for each model."""
    notes = write_design(study, "chosen", tmp_path / "files")
    assert notes[0].endswith("architecture.yaml")
    assert len(notes) > 5
    machine = study.accelerator("chosen")
    for file in (tmp_path / "files" / "lm").glob("*.yaml"):
        assert price_fixed(file, machine).price.feasible
