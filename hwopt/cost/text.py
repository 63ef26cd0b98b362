"""Costs as text for people: the table of tasks, and the loop nest of one operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwopt.errors import InfeasibleError
from hwopt.hardware.accelerator import Accelerator, Memory
from hwopt.mapping.best import Best, best_mapping
from hwopt.mapping.mapping import Keep, Loop
from hwopt.quantities import show, show_area, show_bytes

if TYPE_CHECKING:
    from hwopt.cost.cost import Cost
    from hwopt.cost.tables import Stage

_HEADER = ("operator", "kind", "count", "latency", "energy", "MACs", "lanes used", "DRAM", "bound",
           "how")  # fmt: skip


def cost_text(cost: Cost, most: int = 40) -> str:
    """Totals, traffic per memory, and the tasks by falling latency (the first `most`)."""
    rows = sorted(cost.rows, key=lambda row: -row.seconds)
    cells = [
        (row.name, row.kind, str(row.count), show(row.seconds, "s"), show(row.joules, "J"),
         show(row.macs, "") if row.macs else "-", f"{row.utilisation:.0%}" if row.macs else "-",
         show(row.outer_bytes, "B"), row.bound, row.how)
        for row in rows[:most]
    ]  # fmt: skip
    lines = _aligned([_HEADER, *cells])
    if len(rows) > most:
        rest = sum(row.seconds for row in rows[most:])
        lines.append(f"... and {len(rows) - most} more tasks, {show(rest, 's')} together")
    lines += ["", *_traffic_lines(cost), "", _summary(cost)]
    return "\n".join(lines)


def _summary(cost: Cost) -> str:
    text = (
        f"{cost.name} on {cost.accelerator.name}: {show(cost.seconds, 's')}, "
        f"{show(cost.joules, 'J')}, {show_area(cost.area_m2)}, {show(cost.macs, 'MAC')}, "
        f"{cost.utilisation:.1%} of {cost.accelerator.lanes} lanes"
    )
    if cost.static_ops:
        text += (
            f"\n{len(cost.static_ops)} operators on parameters alone run once at load: not counted"
        )
    if cost.is_bound:
        text += "\na LOWER BOUND: the graph has operators that are not understood (opaque)"
    return text


def _traffic_lines(cost: Cost) -> list[str]:
    roles = ("input", "weight", "output", "side")
    cells = [("memory", *(f"{role} read/write" for role in roles))]
    for memory, by_role in cost.traffic.items():
        values = (by_role.get(role, {"read": 0.0, "write": 0.0}) for role in roles)
        cells.append(
            (memory, *(f"{show(v['read'], 'B')} / {show(v['write'], 'B')}" for v in values))
        )
    return _aligned(cells)


def _aligned(cells: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for row in cells:
        parts = [row[0].ljust(widths[0])]
        parts += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(parts).rstrip())
    return lines


def mapping_text(cost: Cost, operator: str) -> str:
    """Each nest that carries out the operator: loops, tiles, footprints, what would be faster."""
    parts = [_nest_text(cost, stage, best) for stage, best in cost.best(operator)]
    if not parts:
        return f"{operator} has no nest to map: it runs on the vector unit or only moves data"
    return "\n\n".join(parts)


def _nest_text(cost: Cost, stage: Stage, best: Best) -> str:
    assert stage.request is not None, "only mapped stages are printed"
    problem = stage.request.problem
    axes = ", ".join(f"{axis.name}={axis.size}" for axis in problem.axes)
    lines = [f"{stage.name} x {stage.count}: {axes}; {problem.points:,} MACs"]
    depth = 0
    extent = dict(problem.sizes)
    for node in best.mapping.nodes:
        note = ""
        if isinstance(node, Keep):
            flows = best.analysis.flows[node.memory]
            sizes = [
                f"{role} {show_bytes(flows[role].footprint * best.analysis.bits[role] / 8)}"
                for role in node.roles
                if role in flows
            ]
            note = "   # " + ", ".join(sizes)
        else:
            trips = -(-extent[node.axis] // node.tile)
            note = f"   # {trips} {'times' if isinstance(node, Loop) else 'copies'}"
            extent[node.axis] = node.tile
        lines.append("  " * (depth + 1) + str(node) + note)
        depth += not isinstance(node, Keep)
    lines.append(
        f"{show(best.seconds, 's')}, {show(best.joules, 'J')}, "
        f"{problem.points / (best.analysis.steps * cost.accelerator.lanes):.0%} of lanes used; "
        f"{best.certificate}"
    )
    lines += _levers(cost, stage, best)
    return "\n".join(lines)


def _levers(cost: Cost, stage: Stage, best: Best) -> list[str]:
    """Why not faster: what twice of the binding resource, or of each buffer, would bring."""
    assert stage.request is not None, "only mapped stages are printed"
    lines = [f"why not faster: bound by {best.bound}"]
    for index, level in enumerate(cost.accelerator.levels):
        if not isinstance(level, Memory):
            continue
        for what, keys in (
            ("capacity", ("capacity_bytes",)),
            ("bandwidth", ("bytes_per_s", "read_bytes_per_s", "write_bytes_per_s")),
        ):
            update = {k: 2 * v for k in keys if (v := getattr(level, k)) is not None}
            if not update:
                continue
            better = _seconds(cost, stage, _changed(cost.accelerator, index, update))
            if better < best.seconds * 0.999:
                lines.append(f"  twice the {what} of {level.name}: {show(better, 's')}")
    return lines


def _changed(accelerator: Accelerator, index: int, update: dict[str, float]) -> Accelerator:
    levels = list(accelerator.levels)
    levels[index] = levels[index].model_copy(update=update)
    return accelerator.model_copy(update={"levels": tuple(levels)})


def _seconds(cost: Cost, stage: Stage, accelerator: Accelerator) -> float:
    from hwopt.cost.cost import homes_of

    assert stage.request is not None, "only mapped stages are printed"
    request = stage.request
    try:
        return best_mapping(
            request.problem, accelerator, objective=cost.objective,
            conventions=cost.conventions, constraint=request.constraint,
            resident=homes_of(request, accelerator) or {},
        ).seconds  # fmt: skip
    except InfeasibleError:
        return float("inf")
