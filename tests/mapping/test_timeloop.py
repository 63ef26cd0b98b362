"""Mappings in Timeloop's form: written, read back, and refused where it has no words for them."""

import json
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hwopt.errors import MappingError
from hwopt.files import write_text
from hwopt.hardware.accelerator import ROLES, Accelerator, Fanout, FanoutDim, Memory
from hwopt.hardware.conventions import CONVENTIONS
from hwopt.ir.access import Axis, parse_access
from hwopt.mapping.fixed import read_fixed
from hwopt.mapping.forms import FORMS, write_form
from hwopt.mapping.mapping import Mapping, parse_mapping
from hwopt.mapping.problem import Operand, Problem
from hwopt.mapping.simulate import simulate
from hwopt.mapping.timeloop import (
    Bound,
    TimeloopLevel,
    from_levels,
    rename,
    spatial_dims,
)
from hwopt.mapping.timeloop_levels import to_levels
from hwopt.mapping.traffic import analyse
from hwopt.mapping.verify import verify_mapping
from hwopt.testing import machines, mappings, problems

MATMUL = Problem(
    (Axis("m", 6), Axis("k", 4), Axis("n", 10)),
    (
        Operand("input", parse_access("m", "k"), (6, 4), 8),
        Operand("weight", parse_access("k", "n"), (4, 10), 8),
        Operand("output", parse_access("m", "n"), (6, 10), 8),
    ),
)
MACHINE = Accelerator(
    name="small", clock_hz=1e9,
    levels=(
        Memory(name="DRAM"), Memory(name="GLB", bypass=("weight",)),
        Fanout(name="PE", dims=(FanoutDim(name="x", size=5), FanoutDim(name="y", size=4))),
        Memory(name="spad", bypass=ROLES),
    ),
)  # fmt: skip
PLAIN = Accelerator(
    name="plain", clock_hz=1e9,
    levels=(
        Memory(name="DRAM"), Memory(name="GLB", bypass=ROLES),
        Fanout(name="PE", dims=(FanoutDim(name="x", size=2),)),
    ),
)  # fmt: skip
TEXT = """
keep input weight output in DRAM
for n in tiles of 4
  keep input output in GLB
  for m in tiles of 2
    spread k in tiles of 2 over PE.y
      spread n in tiles of 1 over PE.x
        keep input weight output in spad
        for k in tiles of 1
          for m in tiles of 1
"""


@st.composite
def timeloop_mappings(
    draw: st.DrawFn, problem: Problem, machine: Accelerator, *, perfect: bool = False
) -> Mapping:
    """Mappings that Timeloop can express, drawn from the inside out, with remainders outermost."""
    left, levels = dict(problem.sizes), []
    for memory in reversed(machine.memories):
        places, spatial = spatial_dims(machine, memory.name), []
        sizes = {(f.name, d.name): d.size for f in machine.fanouts for d in f.dims}
        for fanout, dim in places:
            axis = draw(st.sampled_from(list(left)))
            free = axis not in {loop.axis for loop in spatial}
            bound = draw(st.integers(1, min(left[axis], sizes[fanout, dim])))
            if free and bound > 1 and (left[axis] % bound == 0 or not perfect):
                spatial.insert(0, (axis, bound, fanout, dim))
                left[axis] = -(-left[axis] // bound)
                spatial[0] = Bound(axis, bound, bound, fanout, dim)
        temporal = []
        for axis in draw(st.permutations(list(left))):
            outermost = memory is machine.memories[0]
            bound = left[axis] if outermost else draw(st.integers(1, left[axis]))
            if bound > 1 and (left[axis] % bound == 0 or not perfect):
                temporal.append(Bound(axis, bound, bound))
                left[axis] = -(-left[axis] // bound)
        kept = tuple(r for r in memory.keeps if r not in memory.bypass or draw(st.booleans()))
        levels.insert(0, TimeloopLevel(memory.name, kept, tuple(temporal), tuple(spatial)))
    return from_levels(_with_remainders(tuple(levels), problem), problem)


def _with_remainders(levels, problem):
    """Remainders that make the bounds end at the problem's sizes: a mixed-radix subtraction."""
    done = []
    over = {axis: size - 1 for axis, size in problem.sizes.items()}
    for level in reversed(levels):
        loops = {}
        for kind in ("spatial", "temporal"):
            loops[kind] = []
            for loop in reversed(getattr(level, kind)):
                last = over[loop.axis] % loop.bound
                over[loop.axis] //= loop.bound
                loops[kind].insert(0, replace(loop, remainder=last + 1))
        done.insert(0, TimeloopLevel(level.memory, level.keeps, tuple(loops["temporal"]),
                                     tuple(loops["spatial"])))  # fmt: skip
    return tuple(done)


@given(st.data())
def test_what_timeloop_can_say_round_trips(data: st.DataObject) -> None:
    """Remainders, bypass and fan-outs: levels read back to the same counts, in all forms."""
    problem, machine = data.draw(problems(points=300)), data.draw(machines())
    mapping = data.draw(timeloop_mappings(problem, machine))
    verify_mapping(problem, mapping, machine)
    back = from_levels(to_levels(problem, mapping, machine), problem)
    assert analyse(problem, back, machine) == analyse(problem, mapping, machine)


@given(st.data())
def test_any_mapping_keeps_its_counts_or_is_refused(data: st.DataObject) -> None:
    """Keeps that slide over loops and loops that join change no count, whatever the mapping."""
    problem, machine = data.draw(problems(points=200)), data.draw(machines())
    mapping = data.draw(mappings(problem, machine))
    levels = refusal = None
    try:
        levels = to_levels(problem, mapping, machine)
    except MappingError as error:
        refusal = str(error)
    if levels is None:
        assert "Timeloop cannot express" in str(refusal)
        return
    back = from_levels(levels, problem)
    verify_mapping(problem, back, machine)
    assert simulate(problem, back, machine) == simulate(problem, mapping, machine)


@settings(max_examples=25)
@given(data=st.data(), form=st.sampled_from(FORMS))
def test_files_round_trip(data: st.DataObject, form: str, tmp_path_factory) -> None:
    """Write, read: the same analysis under native conventions, in every form of file."""
    problem, machine = data.draw(problems(points=200)), data.draw(machines())
    fits = max((len(fanout.dims) for fanout in machine.fanouts), default=0) <= 2
    assume(fits)
    mapping = data.draw(timeloop_mappings(problem, machine))
    path = tmp_path_factory.mktemp("form") / f"mapping.{'json' if form == 'json' else 'yaml'}"
    write_text(path, write_form(problem, mapping, machine, form))
    back_problem, back = read_fixed(path, machine)
    assert analyse(back_problem, back, machine) == analyse(problem, mapping, machine)


def test_a_mapping_by_hand():
    """Tiles become bounds, edge tiles remainders: n runs 4, 4, 2 columns, so 3 = 2 x 4 + 2."""
    levels = to_levels(MATMUL, parse_mapping(TEXT), MACHINE)
    assert [level.keeps for level in levels] == [ROLES, ("input", "output"), ROLES]
    assert [str(loop) for loop in levels[0].temporal] == ["n=3"]
    assert [str(loop) for loop in levels[1].temporal] == ["m=3"]
    assert [str(loop) for loop in levels[1].spatial] == ["k=2", "n=4,2"]
    assert [str(loop) for loop in levels[2].temporal] == ["k=2", "m=2"]
    assert from_levels(levels, MATMUL) == parse_mapping(TEXT)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("keep input output in GLB", "keep input in GLB\nfor m in tiles of 3\nkeep output in GLB",
         "different depths"),
        ("spread n in tiles of 1 over PE.x",
         "spread n in tiles of 2 over PE.x\nfor n in tiles of 1", "different depths"),
        ("for m in tiles of 2\n", "for m in tiles of 2\nfor n in tiles of 2\nfor m in tiles of 1\n",
         "two loops of m"),
        ("for n in tiles of 4", "for n in tiles of 5\nfor n in tiles of 2", "tiles of 5 cut in"),
    ],
)  # fmt: skip
def test_what_timeloop_cannot_express_is_refused(old, new, word):
    """One message each, saying what: uneven keeps, an axis twice, tiles that do not divide."""
    text = TEXT.replace(old, new)
    assert text != TEXT
    mapping = parse_mapping(text)
    with pytest.raises(MappingError, match=word):
        to_levels(MATMUL, mapping, MACHINE)


WINDOW = Problem(
    (Axis("p", 8), Axis("r", 3)),
    (
        Operand("input", parse_access("p + r"), (10,), 8),
        Operand("weight", parse_access("r"), (3,), 8),
        Operand("output", parse_access("p"), (8,), 8),
    ),
)


def test_a_window_with_two_loops_along_it_is_refused():
    """Joined, the two loops would slide the window all along: 10 words where there are 12. Above a
    keep of other operands they may join.
    """
    text = "keep input weight output in DRAM\nfor p in tiles of 4\nfor p in tiles of 2\n"
    rest = "in GLB\nfor r in tiles of 1\nfor p in tiles of 1"
    with pytest.raises(MappingError, match="two loops of p at DRAM"):
        to_levels(WINDOW, parse_mapping(f"{text}keep input weight output {rest}"), PLAIN)
    levels = to_levels(WINDOW, parse_mapping(f"{text}keep weight output {rest}"), PLAIN)
    assert [str(loop) for loop in levels[0].temporal] == ["p=4"]


def test_a_window_spread_above_its_keep_is_refused():
    """The keep fetches it whole; with the spatial loop below, in Timeloop's order, it slides."""
    text = """keep input weight output in DRAM
for p in tiles of 2
spread p in tiles of 1 over PE.x
keep input weight output in GLB
for r in tiles of 1"""
    with pytest.raises(MappingError, match="a spatial loop along a window"):
        to_levels(WINDOW, parse_mapping(text), PLAIN)
    below = text.replace("spread p in tiles of 1 over PE.x\n", "")
    below = below.replace("output in GLB", "output in GLB\nspread p in tiles of 1 over PE.x")
    assert len(to_levels(WINDOW, parse_mapping(below), PLAIN)[1].spatial) == 1


def test_bounds_that_do_not_multiply_up():
    """The message names the axis, the size reached and where its loops stand."""
    levels = to_levels(MATMUL, parse_mapping(TEXT), MACHINE)
    bad = (replace(levels[0], temporal=(Bound("n", 4, 4),)), *levels[1:])
    with pytest.raises(MappingError, match=r"(?s)n: bounds.*14.*n=4 at DRAM"):
        from_levels(bad, MATMUL)


def test_letters():
    """Axes take their first letter where it is free, or the one a fan-out knows; counts stay."""
    problem = Problem((Axis("b_m", 6), Axis("b", 4)), (
        Operand("input", parse_access("b_m", "b"), (6, 4), 8),
        Operand("weight", parse_access("b"), (4,), 8),
        Operand("output", parse_access("b_m"), (6,), 8),
    ))  # fmt: skip
    mapping = parse_mapping("keep input weight output in DRAM\nfor b_m in tiles of 1\n"
                            "for b in tiles of 1")  # fmt: skip
    machine = Accelerator(name="m", clock_hz=1, levels=(Memory(name="DRAM"),))
    named, renamed = rename(problem, mapping, machine)
    assert [axis.name for axis in named.axes] == ["A", "B"]
    assert simulate(named, renamed, machine) == simulate(problem, mapping, machine)
    rows = Fanout(name="rows", dims=(FanoutDim(name="x", size=2, axes=("m",)),))
    machine = Accelerator(name="m", clock_hz=1, levels=(Memory(name="DRAM"), rows))
    named, _ = rename(problem, mapping, machine)
    assert [axis.name for axis in named.axes] == ["m", "B"]


def test_an_axis_over_both_dimensions_is_laid_out_anew():
    """Four of k over 2 x 2 copies lie along x alone, n beside it along y: the same counts. Eight of
    n over 4 x 2 copies have no room along one dimension.
    """
    both = "spread k in tiles of 2 over PE.y\nspread k in tiles of 1 over PE.x"
    text = TEXT.replace("spread k in tiles of 2 over PE.y", both)
    text = text.replace("spread n in tiles of 1 over PE.x", "spread n in tiles of 2 over PE.x")
    text = text.replace("for k in tiles of 1", "for n in tiles of 1")
    mapping = parse_mapping(text)
    levels = to_levels(MATMUL, mapping, MACHINE)
    assert [(str(loop), loop.dim) for loop in levels[1].spatial] == [("k=4", "x"), ("n=2,1", "y")]
    back = from_levels(levels, MATMUL)
    assert simulate(MATMUL, back, MACHINE) == simulate(MATMUL, mapping, MACHINE)
    both = "spread n in tiles of 2 over PE.x\nspread n in tiles of 1 over PE.y"
    text = TEXT.replace("n in tiles of 4", "n in tiles of 8")
    mapping = parse_mapping(text.replace("spread n in tiles of 1 over PE.x", both))
    with pytest.raises(MappingError, match=r"n=4,1 along x, n=2 along y"):
        to_levels(MATMUL, mapping, MACHINE)


def test_json_form_is_plain():
    """Each node is an object that says what it does."""
    data = json.loads(write_form(MATMUL, parse_mapping(TEXT), MACHINE, "json"))
    assert data["axes"] == {"m": 6, "k": 4, "n": 10}
    assert data["mapping"][:3] == [
        {"keep": ["input", "weight", "output"], "in": "DRAM"}, {"for": "n", "tile": 4},
        {"keep": ["input", "output"], "in": "GLB"},
    ]  # fmt: skip
    assert {"spread": "k", "tile": 2, "over": "PE.y"} in data["mapping"]
    assert "timeloop" in CONVENTIONS
