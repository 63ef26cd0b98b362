"""Whether a mapping is legal for a problem and a machine.

Rules: it begins by keeping every operand in the outermost memory; the keeps of one operand follow
the machine's order, and so do the spreads of one axis; a `Spread` of an axis stands above the
keeps,
in memories below its fan-out, of operands that the axis indexes; a memory keeps an operand at most
once, only one it may hold, and skips only one it may skip; tiles are positive
and an axis may be spread only where the fan-out lets it; the copies in use do not exceed the
fan-out; the nodes cut every axis down to 1; sequential axes are walked in time, outermost, in
order. Capacities are not checked here: a price does that.
"""

from __future__ import annotations

from hwopt.errors import MappingError
from hwopt.hardware.accelerator import ROLES, Accelerator, Fanout, Memory, OperandRole
from hwopt.mapping.mapping import Keep, Loop, Mapping, Spread
from hwopt.mapping.problem import Problem, may_spread


def verify_mapping(problem: Problem, mapping: Mapping, accelerator: Accelerator) -> None:
    """Raise `MappingError` naming the node and the rule that it breaks."""
    roles = tuple(role for role in ROLES if role in problem.operand)
    order = {level.name: index for index, level in enumerate(accelerator.levels)}
    _verify_top(mapping, accelerator, roles)
    extent = dict(problem.sizes)
    used: dict[tuple[str, str], int] = {}
    depths: dict[str, int] = {}
    kept = set[tuple[str, OperandRole]]()
    waiting = list(problem.sequential)
    for number, node in enumerate(mapping.nodes):
        where = f"node {number}: {node}"
        if isinstance(node, Keep):
            _verify_keep(node, accelerator, order, depths, where)
            for role in node.roles:
                if role not in problem.operand:
                    raise MappingError("the problem has no such operand", where=where, value=role)
                if (node.memory, role) in kept:
                    raise MappingError("an operand is kept twice", where=where, value=role)
                kept.add((node.memory, role))
            continue
        if node.axis not in extent:
            raise MappingError(
                "no such axis", where=where, value=node.axis, allowed=", ".join(extent)
            )
        if node.tile < 1:
            raise MappingError("a tile must be positive", where=where, value=node.tile)
        count = -(-extent[node.axis] // node.tile)
        if count > 1:
            waiting = _verify_sequential(node, waiting, problem.sequential, extent, where)
        if isinstance(node, Spread):
            _verify_spread(node, accelerator, order, depths, where)
            if count > 1:
                _verify_above(node, problem, order, depths, where)
            key = (node.fanout, node.dim)
            used[key] = used.get(key, 1) * count
        extent[node.axis] = min(extent[node.axis], node.tile)
    _verify_end(extent, used, kept, accelerator, roles)


def _verify_top(mapping: Mapping, accelerator: Accelerator, roles: tuple[OperandRole, ...]) -> None:
    outer, found = accelerator.memories[0].name, set[OperandRole]()
    for node in mapping.nodes:
        if not isinstance(node, Keep) or node.memory != outer:
            break
        found.update(node.roles)
    if found != set(roles):
        raise MappingError(
            "a mapping begins by keeping every operand in the outermost memory",
            value=str(mapping.nodes[0]) if mapping.nodes else "no nodes",
            fix=f"keep {' '.join(roles)} in {outer}",
        )


def _verify_keep(
    node: Keep, accelerator: Accelerator, order: dict[str, int], depths: dict[str, int], where: str
) -> None:
    level = accelerator.level(node.memory) if node.memory in order else None
    if not isinstance(level, Memory):
        raise MappingError("no such memory", where=where, value=node.memory)
    if any(order[node.memory] < depths.get(role, 0) for role in node.roles):
        raise MappingError("keeps of an operand must follow the machine's order", where=where)
    if not node.roles or any(role not in level.keeps for role in node.roles):
        raise MappingError(
            "the memory does not hold this operand", where=where, allowed=", ".join(level.keeps)
        )
    depths.update(dict.fromkeys(node.roles, order[node.memory]))


def _verify_spread(
    node: Spread, accelerator: Accelerator, order: dict[str, int], depths: dict[str, int],
    where: str,
) -> None:  # fmt: skip
    level = accelerator.level(node.fanout) if node.fanout in order else None
    if not isinstance(level, Fanout):
        raise MappingError("no such fan-out", where=where, value=node.fanout)
    if order[node.fanout] < depths.get(f"axis {node.axis}", 0):
        raise MappingError("spreads of an axis must follow the machine's order", where=where)
    depths[f"axis {node.axis}"] = order[node.fanout]
    dim = next((dim for dim in level.dims if dim.name == node.dim), None)
    if dim is None:
        raise MappingError("no such dimension of the fan-out", where=where, value=node.dim)
    if not may_spread(node.axis, dim.axes):
        raise MappingError(
            "the axis may not be spread here", where=where, allowed=", ".join(dim.axes)
        )


def _verify_above(
    node: Spread, problem: Problem, order: dict[str, int], depths: dict[str, int], where: str
) -> None:
    """What stands below a fan-out and is indexed by an axis holds its own part of a spread."""
    for role, operand in problem.operand.items():
        if node.axis in operand.access.axes and depths.get(role, 0) > order[node.fanout]:
            raise MappingError(
                "the axis must be spread above the keeps below its fan-out that it indexes",
                where=where, value=role,
            )  # fmt: skip


def _verify_sequential(
    node: Loop | Spread, waiting: list[str], sequential: tuple[str, ...],
    extent: dict[str, int], where: str,
) -> list[str]:  # fmt: skip
    """Sequential axes come first, one step at a time, in time; returns those still to come."""
    if node.axis in sequential:
        if isinstance(node, Spread) or node.tile != 1:
            raise MappingError("a sequential axis is walked in time, in tiles of 1", where=where)
        waiting = [axis for axis in waiting if extent[axis] > 1]
        if waiting and waiting[0] != node.axis:
            raise MappingError("sequential axes out of order", where=where, value=node.axis)
        return waiting[1:]
    if any(extent[axis] > 1 for axis in waiting):
        raise MappingError("sequential axes must be outermost", where=where, value=node.axis)
    return waiting


def _verify_end(
    extent: dict[str, int], used: dict[tuple[str, str], int],
    kept: set[tuple[str, OperandRole]], accelerator: Accelerator, roles: tuple[OperandRole, ...],
) -> None:  # fmt: skip
    left = {axis: size for axis, size in extent.items() if size != 1}
    if left:
        raise MappingError("the nodes do not cut every axis down to 1", value=left)
    for fanout in accelerator.fanouts:
        for dim in fanout.dims:
            if used.get((fanout.name, dim.name), 1) > dim.size:
                raise MappingError(
                    "more copies in use than the fan-out has", where=f"{fanout.name}.{dim.name}",
                    value=used[fanout.name, dim.name], allowed=f"at most {dim.size}",
                )  # fmt: skip
    for memory in accelerator.memories[1:]:
        for role in roles:
            must = role in memory.keeps and role not in memory.bypass
            if must and (memory.name, role) not in kept:
                raise MappingError(
                    "the memory does not let this operand pass by", where=memory.name, value=role
                )
