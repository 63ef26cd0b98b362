"""Laws that every mapping obeys, whatever the nest and the machine."""

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from hwopt.hardware.conventions import NATIVE
from hwopt.ir.access import Access, Affine, Axis
from hwopt.mapping.analysis import Analysis
from hwopt.mapping.best import best_mapping
from hwopt.mapping.mapping import Keep, Mapping, Spread
from hwopt.mapping.problem import Problem
from hwopt.mapping.traffic import analyse, touched
from hwopt.testing import machines, mappings, problems

FEW = settings(max_examples=40)


def _copies(mapping: Mapping, problem: Problem) -> int:
    """Copies in use: the product of the counts of all spreads."""
    extent, copies = dict(problem.sizes), 1
    for node in mapping.nodes:
        if not isinstance(node, Keep):
            if isinstance(node, Spread):
                copies *= -(-extent[node.axis] // node.tile)
            extent[node.axis] = min(extent[node.axis], node.tile)
    return copies


@FEW
@given(st.data())
def test_work_is_conserved(data: st.DataObject) -> None:
    """Steps times copies are at least the points; without copies they are the points."""
    problem, machine = data.draw(problems()), data.draw(machines())
    mapping = data.draw(mappings(problem, machine))
    analysis, copies = analyse(problem, mapping, machine), _copies(mapping, problem)
    assert problem.points <= analysis.steps * copies
    assert math.ceil(problem.points / copies) <= analysis.steps <= problem.points
    if copies == 1:
        assert analysis.steps == problem.points


@FEW
@given(st.data())
def test_compulsory_traffic(data: st.DataObject) -> None:
    """The outermost memory reads each operand that is used, and writes each result, once."""
    problem, machine = data.draw(problems()), data.draw(machines())
    flows = analyse(problem, data.draw(mappings(problem, machine)), machine).flows["DRAM"]
    for role in ("input", "weight"):
        assert flows[role].total_read >= touched(problem, role, NATIVE)
    assert flows["output"].total_write >= touched(problem, "output", NATIVE)
    first = flows["output"].total_write - flows["output"].total_read
    assert first == touched(problem, "output", NATIVE)


@FEW
@given(st.data())
def test_the_busiest_copy_has_at_least_the_average(data: st.DataObject) -> None:
    """One copy of a memory moves no more than all do, and all no more than copies times it."""
    problem, machine = data.draw(problems()), data.draw(machines())
    analysis = analyse(problem, data.draw(mappings(problem, machine)), machine)
    for memory in machine.memories:
        copies = machine.instances(memory.name)
        for role in ("input", "weight"):
            flow = analysis.flows[memory.name][role]
            assert flow.total_read <= copies * flow.busiest_read
            assert flow.total_write <= copies * flow.busiest_write
            if copies == 1:
                assert flow.total_read == flow.busiest_read


def _swapped(problem: Problem, mapping: Mapping) -> tuple[Problem, Mapping]:
    """Every axis under a new name, in the opposite order."""
    names = {axis.name: f"{axis.name}x" for axis in problem.axes}

    def access(old: Access) -> Access:
        return old.substitute({name: Affine.axis(new) for name, new in names.items()})

    axes = tuple(Axis(names[a.name], a.size) for a in reversed(problem.axes))
    operands = tuple(replace(o, access=access(o.access)) for o in problem.operands)
    nodes = tuple(
        n if isinstance(n, Keep) else replace(n, axis=names[n.axis]) for n in mapping.nodes
    )
    return Problem(axes, operands), Mapping(nodes)


@FEW
@given(st.data())
def test_names_and_order_of_axes_do_not_matter(data: st.DataObject) -> None:
    """Renaming and reordering axes (height for width) leaves every count."""
    problem, machine = data.draw(problems()), data.draw(machines())
    mapping = data.draw(mappings(problem, machine))
    assert analyse(*_swapped(problem, mapping), machine) == analyse(problem, mapping, machine)


@FEW
@given(st.data(), st.sampled_from([2, 4]))
def test_bits_scale_bytes_alone(data: st.DataObject, factor: int) -> None:
    """Wider elements: equal counts, bytes in proportion."""
    problem, machine = data.draw(problems()), data.draw(machines())
    mapping = data.draw(mappings(problem, machine))
    operands = tuple(replace(o, bits=o.bits * factor) for o in problem.operands)
    one: Analysis = analyse(problem, mapping, machine)
    two = analyse(replace(problem, operands=operands), mapping, machine)
    assert two.flows == one.flows
    assert (two.row(machine)[1:] == factor * one.row(machine)[1:]).all()


@settings(max_examples=8)
@given(st.data(), st.integers(2, 4))
def test_more_bandwidth_is_never_slower(data: st.DataObject, factor: int) -> None:
    """The same nest on a machine whose outermost memory is faster."""
    problem, machine = data.draw(problems(points=200)), data.draw(machines())
    slow = machine.levels[0].model_copy(update={"bytes_per_s": 1e9})
    fast = slow.model_copy(update={"bytes_per_s": 1e9 * factor})
    rest = machine.levels[1:]
    one = best_mapping(problem, machine.model_copy(update={"levels": (slow, *rest)}))
    mapped = analyse(problem, one.mapping, machine)
    assert mapped.flows == one.analysis.flows
    two = best_mapping(problem, machine.model_copy(update={"levels": (fast, *rest)}))
    if two.certificate.exhausted:
        assert two.seconds <= one.seconds
    assert two.seconds * factor >= one.seconds * (1 - 1e-12) or not one.certificate.exhausted


def test_a_batch_split_in_two_moves_the_same_activations() -> None:
    """Two halves of a batch: equal traffic of input and output, weights fetched twice."""
    from hwopt.hardware.accelerator import Accelerator, Memory
    from hwopt.ir.access import parse_access
    from hwopt.mapping.mapping import parse_mapping
    from hwopt.mapping.problem import Operand

    machine = Accelerator(name="m", clock_hz=1e9, levels=(Memory(name="DRAM"), Memory(name="GLB")))
    mapping = parse_mapping(
        "keep input weight output in DRAM\nfor k in tiles of 3\nkeep weight in GLB\n"
        "for m in tiles of 2\nkeep input output in GLB\nfor m in tiles of 1\nfor n in tiles of 1\n"
        "for k in tiles of 1"
    )

    def product(m: int) -> Analysis:
        operands = (
            Operand("input", parse_access("m", "k"), (m, 6), 8),
            Operand("weight", parse_access("k", "n"), (6, 5), 8),
            Operand("output", parse_access("m", "n"), (m, 5), 8),
        )
        return analyse(
            Problem((Axis("m", m), Axis("k", 6), Axis("n", 5)), operands), mapping, machine
        )

    whole, half = product(8).flows["DRAM"], product(4).flows["DRAM"]
    assert whole["input"].total_read == 2 * half["input"].total_read
    assert whole["output"].total_write == 2 * half["output"].total_write
    assert whole["weight"].total_read == half["weight"].total_read
