"""Closed forms against the brute-force definition."""

from hypothesis import given
from hypothesis import strategies as st

from hwopt.hardware.conventions import NATIVE
from hwopt.mapping.mapping import Keep
from hwopt.mapping.simulate import simulate
from hwopt.mapping.traffic import analyse
from hwopt.testing import conventions, machines, mappings, problems


@given(st.data())
def test_closed_forms_equal_the_simulator(data: st.DataObject) -> None:
    """Any nest, machine and legal mapping, native conventions: equal integers everywhere."""
    problem, machine = data.draw(problems()), data.draw(machines())
    mapping = data.draw(mappings(problem, machine))
    assert analyse(problem, mapping, machine) == simulate(problem, mapping, machine, NATIVE)


@given(st.data())
def test_closed_forms_equal_the_simulator_under_all_conventions(data: st.DataObject) -> None:
    """The same under every combination of conventions."""
    problem, machine = data.draw(problems(points=300)), data.draw(machines())
    rules = data.draw(conventions())
    mapping = data.draw(mappings(problem, machine, ordered=rules.fetch != "hoisted"))
    expected = simulate(problem, mapping, machine, rules)
    assert analyse(problem, mapping, machine, rules) == expected


@given(st.data())
def test_closed_forms_equal_the_simulator_with_a_resident_operand(data: st.DataObject) -> None:
    """The same where one operand never leaves one of the memories that keep it."""
    problem, machine = data.draw(problems(points=300)), data.draw(machines())
    rules = data.draw(conventions())
    mapping = data.draw(mappings(problem, machine, ordered=rules.fetch != "hoisted"))
    homes = [(r, n.memory) for n in mapping.nodes if isinstance(n, Keep) for r in n.roles]
    resident = dict([data.draw(st.sampled_from(homes))])
    expected = simulate(problem, mapping, machine, rules, resident)
    assert analyse(problem, mapping, machine, rules, resident) == expected
