"""Costs as text for people: the table of tasks, and how one operator is carried out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hwopt.cost.bottleneck import Lever, Priced, lanes_of, levers, priced
from hwopt.cost.naming import find_task, tensors_of
from hwopt.hardware.accelerator import Memory
from hwopt.mapping.best import Best
from hwopt.mapping.mapping import Keep, Loop
from hwopt.quantities import show, show_area, show_bytes

if TYPE_CHECKING:
    from hwopt.cost.cost import Cost
    from hwopt.cost.reference import TaskCost
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


def _aligned(cells: list[tuple[str, ...]], left: int = 1) -> list[str]:
    """Columns, the first `left` of them flush left."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for row in cells:
        parts = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return lines


def mapping_text(cost: Cost, operator: str) -> str:
    """Each stage that carries out the operator: loop nest, tiles, traffic, why it is not faster.

    `operator` may be a part of one name. Raises `UnknownNameError` where no name or several fit.
    """
    task = find_task(cost.table_of_tasks, cost.tasks, operator)
    return "\n\n".join(
        "\n".join(_stage_lines(cost, task, part.stage, _best(cost, part.stage)))
        for part in task.stages
    )


def mapping_json(cost: Cost, operator: str) -> dict[str, Any]:
    """The same as plain data, for `hwopt cost --show-mapping OP --json`."""
    task = find_task(cost.table_of_tasks, cost.tasks, operator)
    return {
        "task": task.task.name, "kind": task.task.kind, "operators": list(task.task.ops),
        "count": task.task.count, "how": task.alternative.label,
        "stages": [
            _stage_json(cost, task, part.stage, _best(cost, part.stage)) for part in task.stages
        ],
    }  # fmt: skip


def _best(cost: Cost, stage: Stage) -> Best | None:
    return None if stage.request is None else cost.mappings[stage.request]


def _stage_lines(cost: Cost, task: TaskCost, stage: Stage, best: Best | None) -> list[str]:
    now = priced(stage, cost.accelerator, best)
    if best is None or stage.request is None:
        what = "no nest to map, it runs on the vector unit or only moves data"
        first = f"{stage.name} x {stage.count}: {what}; {show(now.seconds, 's')}"
        return [first, *_why(now, levers(cost, stage, now))]
    problem = stage.request.problem
    axes = ", ".join(f"{axis.name}={axis.size}" for axis in problem.axes)
    lanes = lanes_of(cost, stage, best)
    price = f"{show(best.seconds, 's')}, {show(best.joules, 'J')}{_beside(best, now)}"
    return [
        f"{stage.name} x {stage.count}: {axes}; {problem.points:,} MACs",
        *_nest_lines(stage, best),
        *_memory_lines(cost, task, stage, best),
        f"{price}; {best.certificate}",
        f"{lanes.used:.0%} of lanes used: {lanes}",
        *_why(now, levers(cost, stage, now)),
    ]


def _beside(best: Best, now: Priced) -> str:
    """What the work beside a nest adds, where it does."""
    if math.isclose(best.seconds, now.seconds, rel_tol=1e-9):
        return ""
    return f" ({show(now.seconds, 's')} with launch and the work beside it)"


def _nest_lines(stage: Stage, best: Best) -> list[str]:
    """The loop nest: what each memory keeps from there on, how often each loop runs."""
    assert stage.request is not None, "only mapped stages are printed"
    lines, depth, extent = [], 0, dict(stage.request.problem.sizes)
    for node in best.mapping.nodes:
        if isinstance(node, Keep):
            flows = best.analysis.flows[node.memory]
            sizes = [
                f"{role} {show_bytes(flows[role].footprint * best.analysis.bits[role] / 8)}"
                for role in node.roles
                if role in flows
            ]
            note = ", ".join(sizes)
        else:
            trips = -(-extent[node.axis] // node.tile)
            note = f"{trips} {'times' if isinstance(node, Loop) else 'copies'}"
            extent[node.axis] = min(extent[node.axis], node.tile)
        lines.append(f"{'  ' * (depth + 1)}{node}   # {note}")
        depth += not isinstance(node, Keep)
    return lines


def _memory_lines(cost: Cost, task: TaskCost, stage: Stage, best: Best) -> list[str]:
    """Per memory and tensor: its largest tile, its share of the capacity, bytes of all copies."""
    cells: list[tuple[str, ...]] = [("memory", "tensor", "tile", "of capacity", "read", "written")]
    for row in _memory_rows(cost, task, stage, best):
        share = row["capacity_share"]
        cells.append((
            row["memory"], f"{row['role']} {row['tensor'] or ''}".rstrip(),
            show_bytes(row["tile_bytes"]), "-" if share is None else f"{share:.1%}",
            show(row["read_bytes"], "B"), show(row["written_bytes"], "B"),
        ))  # fmt: skip
    return _aligned(cells, left=2)


def _memory_rows(cost: Cost, task: TaskCost, stage: Stage, best: Best) -> list[dict[str, Any]]:
    """Rows of `_memory_lines` as plain data; a memory of several tensors has a row for them all."""
    tensors = tensors_of(cost.table_of_tasks, task.task.ops, stage)
    rows: list[dict[str, Any]] = []
    for memory in cost.accelerator.memories:
        kept: list[dict[str, Any]] = []
        for role, flow in best.analysis.flows[memory.name].items():
            size = best.analysis.bits[role] / 8
            if not (flow.footprint or flow.total_read or flow.total_write):
                continue
            kept.append({
                "memory": memory.name, "role": role, "tensor": tensors.get(role),
                "tile_bytes": flow.footprint * size,
                "capacity_share": _share(memory, flow.footprint * size),
                "read_bytes": flow.total_read * size, "written_bytes": flow.total_write * size,
            })  # fmt: skip
        rows += kept
        if len(kept) > 1 and math.isfinite(memory.usable_bytes):
            total = {key: sum(row[key] for row in kept)
                     for key in ("tile_bytes", "read_bytes", "written_bytes")}  # fmt: skip
            share = _share(memory, total["tile_bytes"])
            rows.append({"memory": memory.name, "role": "all", "tensor": None,
                         "capacity_share": share, **total})  # fmt: skip
    return rows


def _share(memory: Memory, size: float) -> float | None:
    """Of what a tile may take (half of a double-buffered memory)."""
    return size / memory.usable_bytes if math.isfinite(memory.usable_bytes) else None


def _why(now: Priced, found: list[Lever]) -> list[str]:
    busy = ", ".join(f"{wait.resource} {show(wait.seconds, 's')}" for wait in now.waits)
    lines = [f"why not faster: bound by {now.bound} (busy: {busy})"]
    lines += [f"  {lever}" for lever in found]
    if not found:
        lines.append("  twice of any one part brings nothing")
    return lines


def _stage_json(cost: Cost, task: TaskCost, stage: Stage, best: Best | None) -> dict[str, Any]:
    now = priced(stage, cost.accelerator, best)
    data: dict[str, Any] = {
        "operator": stage.name, "count": stage.count, "seconds": now.seconds, "bound": now.bound,
        "busy_seconds": {wait.resource: wait.seconds for wait in now.waits},
        "levers": [lever.to_json() for lever in levers(cost, stage, now)],
    }  # fmt: skip
    if best is None or stage.request is None:
        return data
    lanes = lanes_of(cost, stage, best)
    return {
        **data,
        "axes": dict(stage.request.problem.sizes),
        "macs": stage.request.problem.points,
        "mapping": str(best.mapping).splitlines(),
        "memories": _memory_rows(cost, task, stage, best),
        "lanes_used": lanes.used,
        "fanouts": [
            {"dim": name, "used": used, "size": size, "axes": list(axes)}
            for name, used, size, axes in lanes.dims
        ],
        "full_tiles_share": dict(lanes.edges),
        "certificate": {"text": str(best.certificate), "gap": best.certificate.gap},
    }
