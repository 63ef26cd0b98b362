"""A design of a run as Timeloop's files: `hwopt export RUN DESIGN --to timeloop -o DIR`.

    DIR/architecture.yaml            the accelerator
    DIR/MODEL/OPERATOR.yaml          problem and mapping of each distinct nest of each model

A mapping that Timeloop cannot express has no file; the notes say why.
"""

from __future__ import annotations

import re
from pathlib import Path

from hwopt.cost.cost import Cost, evaluate
from hwopt.dse.study import Study
from hwopt.dse.variants import Variants
from hwopt.errors import MappingError
from hwopt.files import dump_yaml, write_text
from hwopt.hardware.accelerator import Accelerator
from hwopt.mapping.forms import write_form
from hwopt.mapping.timeloop_architecture import write_architecture


def architecture_text(accelerator: Accelerator) -> str:
    """The accelerator's file."""
    return dump_yaml(write_architecture(accelerator))


def write_design(study: Study, design: str, folder: Path) -> list[str]:
    """Write a design's files; returns a note for each, and for each nest that has none."""
    machine = study.accelerator(design)
    write_text(folder / "architecture.yaml", architecture_text(machine))
    notes = [f"wrote {folder / 'architecture.yaml'}"]
    variants = Variants(study.file, machine)
    knobs = study.design(design).knobs
    for model in study.file.models:
        program = variants.program(model.label, knobs[model.label])
        cost = evaluate(program, machine, fusion=study.file.fusion, objective=study.file.mapping)
        notes += write_mappings(cost, folder / model.label)
    return notes


def write_mappings(cost: Cost, folder: Path) -> list[str]:
    """One file for each distinct nest of a cost, named after the first operator that has it."""
    notes, seen = [], set()
    for task in cost.tasks:
        for stage in (part.stage for part in task.stages):
            best = None if stage.request is None else cost.mappings[stage.request]
            if best is None or stage.request is None or stage.request in seen:
                continue
            seen.add(stage.request)
            path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', stage.name)}.yaml"
            try:
                text = write_form(stage.request.problem, best.mapping, cost.accelerator, "timeloop")
            except MappingError as error:
                notes.append(f"no file for {stage.name}: {error.what} ({error.value})")
                continue
            write_text(path, text)
            notes.append(f"wrote {path}")
    return notes
