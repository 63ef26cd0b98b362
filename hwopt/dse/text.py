"""Pareto sets as text for people."""

from __future__ import annotations

from hwopt.dse import front as pareto
from hwopt.dse.constraints import show_value
from hwopt.dse.objectives import objectives
from hwopt.dse.study import Design, Study

ROWS = 24
"""Designs printed of a larger front, evenly chosen, with the chosen design among them."""


def front_text(study: Study, rows: int = ROWS) -> str:
    """The Pareto set as a table: objectives, then free knobs; the chosen design is marked."""
    designs = study.front()
    if not designs:
        return str(study.infeasible())
    chosen = study.chosen
    shown = spread(designs, rows, chosen)
    knobs = study.file.knobs
    header = ["", "#", *(goal.name for goal in study.goals), *(knob.label for knob in knobs)]
    table = [header]
    table += [[("*" if design is chosen else ""), *cells_of(study, design)] for design in shown]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in table]
    lines.insert(1, "-" * len(lines[0]))
    priced, feasible = len(study.history.codes), int(study.feasible.sum())
    count = (
        f"{len(designs)} designs in the Pareto set ({len(shown)} shown), "
        f"{priced:,} priced of {study.file.size:,}, {feasible:,} feasible"
    )
    lines += ["", count, f"* chosen: {pareto.KNEE_RULE}"]
    return "\n".join(line.rstrip() for line in lines)


def cells_of(study: Study, design: Design) -> list[str]:
    """Number, objectives with units, and free knobs of a design."""
    return [
        str(design.number),
        *(show_value(objectives[g.name], design.values[g.name]) for g in study.goals),
        *(str(design.knobs[knob.owner][knob.name]) for knob in study.file.knobs),
    ]


def spread(designs: tuple[Design, ...], rows: int, chosen: Design) -> list[Design]:
    """At most `rows` designs of a front, evenly by number, with both ends and the chosen one."""
    if len(designs) <= rows:
        return list(designs)
    last = len(designs) - 1
    numbers = {round(i * last / (rows - 2)) for i in range(rows - 1)} | {chosen.number}
    return [designs[number] for number in sorted(numbers)]


def comparison_text(first: Study, second: Study) -> str:
    """Two runs side by side: best of each objective, hypervolume, and who beats whom.

    Raises nothing for different spaces, but the objectives must be the same.
    """
    import numpy as np

    from hwopt.errors import StudyError

    names = [goal.name for goal in first.goals]
    if names != [goal.name for goal in second.goals]:
        raise StudyError(
            "the runs have different objectives", where=str(second.path),
            value=[goal.name for goal in second.goals], allowed=", ".join(names),
        )  # fmt: skip
    fronts = []
    for study in (first, second):
        if not study.front():
            raise study.infeasible()
        fronts.append(np.array([[d.values[n] for n in names] for d in study.front()]))
    larger = tuple(goal.larger_is_better for goal in first.goals)
    costs = [pareto.oriented(front, larger) for front in fronts]
    both = pareto.scaled(np.concatenate(costs))
    parts = both[: len(costs[0])], both[len(costs[0]) :]
    reference = np.full(len(names), 1.1)
    volumes = [pareto.hypervolume(part, reference) for part in parts]
    beaten = [_beaten(parts[1], parts[0]), _beaten(parts[0], parts[1])]
    rows = [["", str(first.path), str(second.path)]]
    for i, name in enumerate(names):
        best = [c[:, i].min() * (-1 if larger[i] else 1) for c in costs]
        rows.append([f"best {name}", *(show_value(objectives[name], v) for v in best)])
    rows.append(["designs in the front", *(str(len(front)) for front in fronts)])
    rows.append(["of them beaten by the other run", *map(str, beaten)])
    rows.append(["hypervolume (scaled, larger is better)", *(f"{v:.4f}" for v in volumes)])
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in rows
    )


def _beaten(by: object, front: object) -> int:
    """How many rows of `front` some row of `by` equals or beats everywhere and beats somewhere."""
    import numpy as np

    theirs, ours = np.asarray(by), np.asarray(front)
    return sum(
        bool(((theirs <= row).all(axis=1) & (theirs < row).any(axis=1)).any()) for row in ours
    )
