"""Tasks of a program: what is moved, by hand arithmetic; fusion; identical groups."""

from dataclasses import replace

import pytest

from hwopt.cost.tasks import FUSIONS, op_table
from hwopt.errors import HwoptError
from hwopt.ir.access import Axis, parse_access
from hwopt.ir.graph import Graph
from hwopt.ir.op import Nest, Op, Opaque
from hwopt.ir.program import Constraint, Group, Program


def only(table):
    (task,) = table.tasks
    return task


def way(task, label):
    return next(a for a in task.alternatives if a.label == label)


def test_an_epilogue_reads_its_other_operands_and_keeps_what_is_between(make):
    """m=8, n=16: y and z stay; r is read (512 B); the result leaves in place of y."""
    task = only(op_table(make.layer(), {}))
    (stage,) = way(task, "fused").stages
    elements = 8 * 16
    assert stage.request.problem.points == 8 * 16 * 32
    assert stage.side.outer_read_bytes == 4 * elements  # r
    assert stage.side.outer_write_bytes == 0  # out leaves, y does not: the nest counts one of them
    assert stage.side.vector_operations == (2 + 1) * elements  # add and max, then max
    # through the vector unit: y, r, z read, z, out written; r comes in, out goes out
    assert stage.side.chip_read_bytes == 4 * elements * (3 + 1)
    assert stage.side.chip_write_bytes == 4 * elements * (2 + 1)
    assert stage.launches == 1


def test_apart_every_operator_goes_through_the_outermost_memory(make):
    """Off, and the second tier of groups: reads and writes of each, one launch each."""
    elements = 8 * 16
    table = op_table(make.layer(), {}, "off")
    assert [task.name for task in table.tasks] == ["mm", "add", "relu"]
    mm, add, relu = (only_stage(task) for task in table.tasks)
    assert (mm.side.outer_read_bytes, mm.side.outer_write_bytes) == (0, 0)
    assert (add.side.outer_read_bytes, add.side.outer_write_bytes) == (8 * elements, 4 * elements)
    assert (relu.side.outer_read_bytes, relu.side.outer_write_bytes) == (4 * elements, 4 * elements)
    task = only(op_table(make.layer(), {}))
    singles = [a for a in task.alternatives if a.label == "apart"]
    assert [a.span for a in singles] == [(0, 1), (1, 2), (2, 3)]
    assert all(a.tier == 1 for a in singles)
    assert [a.stages[0].side for a in singles] == [mm.side, add.side, relu.side]


def only_stage(task):
    ((stage,),) = (alternative.stages for alternative in task.alternatives)
    return stage


def test_optimal_offers_every_run(make):
    """Three operators: 3 singles, 2 runs of two, the whole, and all apart."""
    task = only(op_table(make.layer(), {}, "optimal"))
    spans = sorted(a.span for a in task.alternatives)
    assert spans == [(0, 1), (0, 2), (0, 3), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert {a.tier for a in task.alternatives} == {0}


def test_a_result_that_something_else_reads_leaves_the_chip(make):
    """Z is also an output: it is written as well."""
    program = make.layer()
    graph = replace(program.graph, outputs=("out", "z"))
    task = only(op_table(replace(program, graph=graph), {}))
    assert way(task, "fused").stages[0].side.outer_write_bytes == 4 * 8 * 16


def test_what_several_operators_of_a_group_read_is_fetched_once(make):
    """Both operators of a chain read r: 4 x 128 bytes, once."""
    t = make.tensor
    tensors = [t("r", 8, 16, role="input"), t("a", 8, 16), t("b", 8, 16)]
    ops = [make.pointwise("one", ["r"], "a", 8, 16), make.pointwise("two", ["a", "r"], "b", 8, 16)]
    program = make.program("p", tensors, ops, ["b"], [Group(("one", "two"), "one", "pointwise")])
    side = way(only(op_table(program, {})), "fused").stages[0].side
    assert (side.outer_read_bytes, side.outer_write_bytes) == (512, 512)


def test_machine_widths_hold_beside_the_nests_too(make):
    """On an 8-bit machine the residual operand is one byte per element."""
    bits = {"input": 8, "weight": 8, "output": 8}
    (stage,) = way(only(op_table(make.layer(), bits)), "fused").stages
    assert stage.side.outer_read_bytes == 8 * 16
    assert {operand.bits for operand in stage.request.problem.operands} == {8}


def test_views_and_static_operators_cost_nothing(make):
    """A view renames; an operator on parameters alone runs at load."""
    t = make.tensor
    tensors = [t("x", 8, 16, role="input"), t("w", 8, 16, role="parameter"), t("v", 8, 16),
               t("s", 8, 16), t("y", 8, 16)]  # fmt: skip
    identity = Nest((Axis("m", 8), Axis("n", 16)), (parse_access("m", "n"),),
                    parse_access("m", "n"))  # fmt: skip
    ops = [
        Op("view", "view", identity, "none", ("x",), ("v",)),
        make.pointwise("scale", ["w"], "s", 8, 16),
        make.pointwise("add", ["v", "s"], "y", 8, 16),
    ]
    table = op_table(make.program("p", tensors, ops, ["y"]), {})
    assert [task.name for task in table.tasks] == ["add"]
    assert set(table.members) == {"add"}


def test_a_tensor_read_through_a_view_outside_the_group_leaves(make):
    """The reader of the view is another operator: the bytes are written."""
    t = make.tensor
    tensors = [t("r", 4, 4, role="input"), t("a", 4, 4), t("v", 4, 4), t("b", 4, 4), t("c", 4, 4)]
    identity = Nest((Axis("m", 4), Axis("n", 4)), (parse_access("m", "n"),),
                    parse_access("m", "n"))  # fmt: skip
    ops = [
        make.pointwise("one", ["r"], "a", 4, 4),
        Op("view", "view", identity, "none", ("a",), ("v",)),
        make.pointwise("two", ["a"], "b", 4, 4),
        make.pointwise("far", ["v"], "c", 4, 4),
    ]
    groups = [Group(("one", "two"), "one", "pointwise")]
    table = op_table(make.program("p", tensors, ops, ["b", "c"], groups), {})
    side = way(table.tasks[0], "fused").stages[0].side
    assert side.outer_write_bytes == 2 * 64  # a for `far`, and b


def test_identical_groups_are_one_task(make):
    """Two equal layers of one class: a count of 2; unclassified they stay two."""
    program = make.layer()
    first = program.graph
    rename = {name: f"{name}2" for name in ("y", "z", "out")}
    rename |= {"x": "x2", "w": "w2", "r": "r2"}
    tensors = (*first.tensors, *(replace(t, name=rename[t.name]) for t in first.tensors))
    ops = (*first.ops, *(op.renamed(rename, f"{op.name}2") for op in first.ops))
    graph = Graph("two", tensors, ops, ("out", "out2"))
    groups = (*program.groups, Group(("mm2", "add2", "relu2"), "mm2"))
    classes = {op.name: op.name.removesuffix("2") for op in ops}
    table = op_table(Program(graph, groups, class_of=classes), {})
    assert [(task.name, task.count) for task in table.tasks] == [("mm", 2)]
    assert table.members["relu2"] == "mm"
    assert table.macs == graph.macs
    assert len(op_table(Program(graph, groups), {}).tasks) == 2


@pytest.mark.parametrize("fusion", FUSIONS)
def test_macs_are_conserved(make, fusion):
    """The table holds the graph's multiply-accumulates in every way to carry it out."""
    for program in (make.layer(5, 7, 11), make.attention(3, 10, 9, 4)):
        table = op_table(program, {}, fusion)
        assert table.macs == program.graph.macs
        for task in table.tasks:
            for alternative in task.alternatives:
                first, end = alternative.span
                macs = sum(program.graph.op[name].macs for name in task.ops[first:end])
                assert sum(s.points * s.count for s in alternative.stages) == macs


def test_constraints_follow_their_operator(make):
    """What narrows an operator's mapspace reaches its request and no other."""
    constraint = Constraint(factors="perfect")
    program = replace(make.layer(), constraints={"mm": constraint})
    (request,) = op_table(program, {}).requests
    assert request.constraint == constraint


def test_opaque_operators_move_everything_and_mark_the_table(make):
    """All operands once; every total is a bound."""
    t = make.tensor
    tensors = [t("x", 8, role="input"), t("y", 4)]
    op = Op("what", "opaque", Opaque("aten.what"), "memory", ("x",), ("y",))
    table = op_table(make.program("p", tensors, [op], ["y"]), {})
    assert table.is_bound
    side = only_stage(only(table)).side
    assert (side.outer_read_bytes, side.outer_write_bytes, side.vector_operations) == (32, 16, 0)


def test_two_products_never_run_as_one_epilogue(make):
    """A group with two products that is no attention is carried out apart."""
    t = make.tensor
    tensors = [t("x", 4, 4, role="input"), t("w", 4, 4, role="parameter"), t("a", 4, 4),
               t("b", 4, 4)]  # fmt: skip
    ops = [make.matmul("one", "x", "w", "a", 4, 4, 4), make.matmul("two", "a", "w", "b", 4, 4, 4)]
    program = make.program("p", tensors, ops, ["b"], [Group(("one", "two"), "one")])
    task = only(op_table(program, {}))
    assert {a.label for a in task.alternatives} == {"apart"}


def test_unknown_fusion_is_one_clear_error(make):
    """The allowed words are listed."""
    with pytest.raises(HwoptError, match="off, groups, optimal"):
        op_table(make.layer(), {}, "all")
