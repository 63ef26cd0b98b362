"""Designs as Timeloop's files."""

from hwopt.files import parse_yaml
from hwopt.hardware.library import load, names
from hwopt.mapping.fixed import price_fixed
from hwopt.report.timeloop import architecture_text, write_design


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


def test_every_machine_of_the_library_has_an_architecture():
    """None has more than two dimensions of fan-out below one memory."""
    for name in names():
        assert f"name: {load(name).memories[0].name}" in architecture_text(load(name))


def test_a_design_with_the_mappings_of_its_models(study, tmp_path):
    """Every distinct nest has a file that prices as the cost says, or a note says why not."""
    notes = write_design(study, "chosen", tmp_path / "files")
    machine = study.accelerator("chosen")
    assert notes[0].endswith("architecture.yaml")
    files = sorted((tmp_path / "files" / "lm").glob("*.yaml"))
    assert len(files) == sum(note.startswith("wrote") for note in notes) - 1
    assert len(notes) > 5
    for note in notes:
        assert note.startswith("wrote") or "Timeloop cannot express" in note
    for file in files:
        assert price_fixed(file, machine).price.feasible
