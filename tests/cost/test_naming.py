"""Operators by name or part of a name, and the tensors of their operands."""

import pytest

from hwopt.cost.cost import evaluate
from hwopt.cost.naming import find_task, tensors_of
from hwopt.errors import UnknownNameError
from hwopt.ir.program import Group


def two_layers(make):
    """Products "first.mm" and "second.mm" with a pointwise operator before each."""
    t = make.tensor
    tensors = [
        t("x", 4, 8, role="input"), t("a", 4, 8), t("w", 8, 8, role="parameter"), t("y", 4, 8),
        t("b", 4, 8), t("v", 8, 8, role="parameter"), t("z", 4, 8),
    ]  # fmt: skip
    ops = [
        make.pointwise("first.relu", ["x"], "a", 4, 8),
        make.matmul("first.mm", "a", "w", "y", 4, 8, 8),
        make.pointwise("second.relu", ["y"], "b", 4, 8),
        make.matmul("second.mm", "b", "v", "z", 4, 8, 8),
    ]
    groups = [Group(("first.relu", "first.mm"), "first.mm")]
    return evaluate(make.program("p", tensors, ops, ["z"], groups), make.machine())


def find(cost, name):
    return find_task(cost.table_of_tasks, cost.tasks, name)


def test_a_part_of_a_name_is_enough_where_it_means_one_task(make):
    """Whole names, parts, and several operators of one group."""
    cost = two_layers(make)
    assert find(cost, "second.mm").task.ops == ("second.mm",)
    assert find(cost, "d.mm").task.ops == ("second.mm",)
    assert find(cost, "first").task.ops == ("first.relu", "first.mm")
    assert find(cost, "first.mm") is find(cost, "first.relu")


def test_what_means_several_is_refused_with_their_names(make):
    """No guess among tasks."""
    with pytest.raises(UnknownNameError, match="2 operators have this") as caught:
        find(two_layers(make), ".mm")
    assert "first.mm" in caught.value.allowed
    assert "second.mm" in caught.value.allowed


def test_unknown_names_get_the_nearest(make):
    """A typo is answered with what was meant first; nonsense with the costliest."""
    cost = two_layers(make)
    with pytest.raises(UnknownNameError, match="no such operator") as caught:
        find(cost, "secnod.mm")
    assert caught.value.allowed.startswith("second.mm")
    for name in ("", "?"):
        with pytest.raises(UnknownNameError, match=r"first\.mm, second"):
            find(cost, name)


def test_tensors_of_a_group_are_those_of_its_product(make):
    """The stage is named after the pointwise operator before the product."""
    cost = two_layers(make)
    task = find(cost, "first.mm")
    stage = task.stages[0].stage
    assert stage.name == "first.relu"
    tensors = tensors_of(cost.table_of_tasks, task.task.ops, stage)
    assert tensors == {"input": "a", "weight": "w", "output": "y"}
