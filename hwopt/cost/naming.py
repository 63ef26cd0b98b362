"""Operators and tensors of a priced program by name, also by a part of the name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwopt.errors import UnknownNameError
from hwopt.hardware.accelerator import ROLES, OperandRole

if TYPE_CHECKING:
    from hwopt.cost.reference import TaskCost
    from hwopt.cost.tables import OpTable, Stage

MOST_NAMES = 8
"""Names that an error lists at most."""


def find_task(table: OpTable, tasks: Sequence[TaskCost], operator: str) -> TaskCost:
    """The task of an operator: of that name, or with it as a part of its name.

    Several operators fit as one where they are all carried out by one task. Raises
    `UnknownNameError` with the names that fit, or with the nearest ones where none does.
    """
    by_name = {cost.task.name: cost for cost in tasks}
    task_of = {**{name: name for name in by_name}, **table.members}
    for cost in tasks:
        task_of |= dict.fromkeys(cost.task.ops, cost.task.name)
    if operator in task_of:
        return by_name[task_of[operator]]
    fitting = [name for name in task_of if operator and operator in name]
    found = {task_of[name] for name in fitting}
    if len(found) == 1:
        return by_name[found.pop()]
    if found:
        raise UnknownNameError(
            f"{len(fitting)} operators have this in their names", value=operator,
            allowed=_listed(fitting), fix="give more of the name",
        )  # fmt: skip
    near = difflib.get_close_matches(operator, task_of, n=MOST_NAMES, cutoff=0.4)
    costly = sorted(by_name, key=lambda name: -by_name[name].seconds)
    raise UnknownNameError(
        "no such operator", value=operator, allowed=_listed(near or costly),
        fix="`hwopt cost MODEL --on HARDWARE` lists the operators",
    )  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def tensors_of(table: OpTable, operators: Sequence[str], stage: Stage) -> dict[OperandRole, str]:
    """The tensor of each operand of a stage's nest.

    Of the operators that a task joins, a stage is named after the first that it carries out, which
    may come before the product. Empty for nests inside an operator (recurrent layers, experts),
    whose operands are parts of tensors.
    """
    start = operators.index(stage.name) if stage.name in operators else 0
    for name in (stage.name, *operators[start:]):
        if name in table.tensors:
            return dict(zip(ROLES, table.tensors[name], strict=False))
    return {}
