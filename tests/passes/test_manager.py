"""The manager: verification, log, printing, requirements, reproducers."""

import io
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from hwopt.errors import CycleError, FileFormatError, PassError, UndefinedTensorError
from hwopt.hardware.accelerator import Accelerator, Memory
from hwopt.ir.program import Group, Program
from hwopt.ir.text import parse, print_graph
from hwopt.passes.eliminate import Eliminate
from hwopt.passes.fuse import Fuse
from hwopt.passes.manager import Pass, PassManager, passes, reproduce

GRAPH = parse("""
graph "mlp"
  %x : float32[4, 6] input
  %w : float32[5, 6] parameter
  $0 = nest (m=4, n=5, k=6) reads ([m, k], [n, k]) writes [m, n] sum mul(#0, #1)
  %h : float32[4, 5] = matmul on matrix $0(%x, %w)
  $1 = nest (m=4, n=5) reads ([m, n]) writes [m, n] none maximum(#0, 0.0)
  %y : float32[4, 5] = relu on vector $1(%h)
  %z : float32[4, 5] = relu on vector $1(%h)
return %y
""")
CHIP = Accelerator(name="chip", clock_hz=1e9, levels=(Memory(name="DRAM", kind="dram"),))


@pytest.fixture
def temporary():
    """Register a pass for one test."""
    taken = []

    def add(name, kind):
        passes.register(name)(kind)
        taken.append(name)
        return kind()

    yield add
    for name in taken:
        passes.remove(name)


@dataclass(frozen=True)
class Breaks(Pass):
    """Drops the operators and keeps the output."""

    def run(self, program, target):
        return program.with_graph(replace(program.graph, ops=()))


@dataclass(frozen=True)
class Crashes(Pass):
    """Divides by zero, given a target."""

    def run(self, program, target):
        if target is not None:
            raise ZeroDivisionError("by zero")
        return program


@dataclass(frozen=True)
class Demanding(Pass):
    """Wants groups."""

    requires: ClassVar[frozenset[str]] = frozenset({"fused"})

    def run(self, program, target):
        return program


def test_log_counts_and_prints():
    """Operators, MACs and bytes before and after; the graph is left alone."""
    program, log = PassManager([Eliminate(), Fuse()]).run(GRAPH)
    first, second = log.rows
    assert (first.text, second.text) == ("eliminate", "fuse")
    assert (first.before.operators, first.after.operators) == (3, 2)
    assert first.before.macs == first.after.macs == 120
    # the dead relu moved 2 x 20 words of 4 bytes
    assert first.before.moved_bytes - first.after.moved_bytes == 160
    assert second.before == second.after == first.after
    assert "3 -> 2" in str(log)
    assert "verification" in str(log)
    assert log.seconds > 0
    assert program.properties == {"fused"}
    assert len(GRAPH.ops) == 3


def test_print_after():
    """The graph after the named passes, or after all."""
    stream = io.StringIO()
    program, _ = PassManager([Eliminate(), Fuse()], print_after=["eliminate"], stream=stream).run(
        GRAPH
    )
    assert stream.getvalue() == f"// after eliminate\n{print_graph(program.graph)}"
    stream = io.StringIO()
    PassManager([Eliminate(), Fuse()], print_after=["all"], stream=stream).run(GRAPH)
    assert stream.getvalue().count("// after") == 2
    with pytest.raises(PassError, match="eliminate, fuse"):
        PassManager([Eliminate(), Fuse()], print_after=["tile"])


def test_an_illegal_graph_is_not_blamed_on_a_pass():
    """The graph's own error comes out."""
    with pytest.raises(UndefinedTensorError):
        PassManager([Eliminate()]).run(replace(GRAPH, ops=GRAPH.ops[1:]))
    circle = replace(GRAPH.ops[1], reads=("y",))
    with pytest.raises(CycleError):
        PassManager([Eliminate()]).run(replace(GRAPH, ops=(GRAPH.ops[0], circle)))


def test_requirements(temporary):
    """A pass that needs groups says which pass gives them."""
    demanding = temporary("demanding", Demanding)
    with pytest.raises(PassError, match="run fuse before"):
        PassManager([demanding]).run(GRAPH)
    program, _ = PassManager([Fuse(), demanding]).run(GRAPH)
    assert program.groups


def test_a_broken_graph_names_pass_and_reproducer(temporary, tmp_path):
    """The file runs again, and fails again in the same way."""
    breaks = temporary("breaks", Breaks)
    with pytest.raises(PassError) as caught:
        PassManager([Eliminate(), breaks, Fuse()], reproducers=tmp_path).run(GRAPH)
    message = str(caught.value)
    assert "pass 2 of 'eliminate,breaks' (breaks)" in message
    assert "an output that nothing defines" in message
    (path,) = tmp_path.iterdir()
    assert str(path) in message
    with pytest.raises(PassError, match="an output that nothing defines"):
        reproduce(path)


def test_a_crash_keeps_the_target(temporary, tmp_path):
    """Errors of any type are wrapped; the target is part of the reproducer."""
    crashes = temporary("crashes", Crashes)
    with pytest.raises(PassError, match="ZeroDivisionError") as caught:
        PassManager([crashes], reproducers=tmp_path).run(GRAPH, CHIP)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    (path,) = tmp_path.iterdir()
    with pytest.raises(PassError, match="ZeroDivisionError"):
        reproduce(path)
    path.write_text(path.read_text().replace("crashes", "eliminate"))
    program, _ = reproduce(path)
    assert len(program.graph.ops) == 2


def test_an_unwritable_reproducer_does_not_hide_the_failure(temporary, tmp_path):
    """Both troubles are told."""
    breaks = temporary("breaks", Breaks)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(PassError, match="could not be written"):
        PassManager([breaks], reproducers=blocked / "x").run(GRAPH)


def test_not_a_reproducer(tmp_path):
    """Any other file is refused."""
    path = tmp_path / "a.ir"
    path.write_text(print_graph(GRAPH))
    with pytest.raises(FileFormatError, match="not a reproducer"):
        reproduce(path)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (Program(GRAPH, groups=(Group(("h", "y"), "h"),)), "partition"),
        (Program(GRAPH, groups=(Group(("y", "h"), "h"), Group(("z",), "z"))), "graph order"),
        (Program(GRAPH, groups=(Group(("h", "y"), "z"), Group(("z",), "z"))), "hold its anchor"),
        (Program(GRAPH, groups=(Group(("h", "q"), "h"),)), "not there"),
        (Program(GRAPH, groups=(Group(("h", "y"), "h"), Group(("y", "z"), "z"))), "two groups"),
        (Program(GRAPH, class_of={"q": "h"}), "a class for an operator"),
        (Program(GRAPH, class_of={"y": "h"}), "first operator differs"),
        (Program(GRAPH, constraints={"q": None}), "a constraint for an operator"),
    ],
)
def test_illegal_programs(program, words):
    """Groups, classes and constraints have rules of their own."""
    with pytest.raises(Exception, match=words):
        PassManager([Eliminate()]).run(program)


def test_circular_groups_are_refused():
    """A path that leaves a group and comes back."""
    graph = parse("""
graph "circle"
  %x : float32[2] input
  $0 = nest (i=2) reads ([i]) writes [i] none neg(#0)
  %a : float32[2] = neg on vector $0(%x)
  %b : float32[2] = neg on vector $0(%a)
  $1 = nest (i=2) reads ([i], [i]) writes [i] none add(#0, #1)
  %c : float32[2] = add on vector $1(%a, %b)
return %c
""")
    program = Program(graph, groups=(Group(("a", "c"), "a"), Group(("b",), "b")))
    with pytest.raises(Exception, match="wait for one another"):
        PassManager([Eliminate()]).run(program)
