"""Passes and the manager that runs them: verified, timed, counted, reproducible.

A pass is a frozen dataclass: its fields are its options, in Python and in pipeline text alike:

    PassManager([Canonicalize(), Fuse(), Tile(factors="any")]).run(graph, target=chip)
    PassManager(parse_pipeline("canonicalize,fuse,tile{factors=any}")).run(graph, target=chip)

Adding a pass is one file in this package with one `@compiler_pass("name")` class.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import ClassVar, TypeVar, dataclass_transform

from hwopt.errors import HwoptError, PassError
from hwopt.files import write_text
from hwopt.hardware.accelerator import Accelerator
from hwopt.ir.graph import Graph
from hwopt.ir.program import Program
from hwopt.ir.text import parse, print_graph
from hwopt.ir.verify import verify
from hwopt.passes.pipeline import Invocation, parse_invocations, print_value
from hwopt.registry import Registry


class Pass(ABC):
    """A rewrite of programs. `requires`/`ensures` are properties of programs ("fused", ...)."""

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]] = frozenset()
    ensures: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def run(self, program: Program, target: Accelerator | None) -> Program:
        """The rewritten program. `target` gives levels and fan-outs; never read sizes or prices."""

    def __str__(self) -> str:
        """The pass as pipeline text, with the options that differ from their defaults."""
        options = [
            f"{name}={print_value(getattr(self, name))}"
            for name, field in getattr(self, "__dataclass_fields__", {}).items()
            if getattr(self, name) != field.default
        ]
        return f"{self.name}{{{','.join(options)}}}" if options else self.name


passes: Registry[type[Pass]] = Registry("pass", "hwopt.passes")

P = TypeVar("P", bound=Pass)


@dataclass_transform(frozen_default=True)
def compiler_pass(name: str) -> Callable[[type[P]], type[P]]:
    """Class decorator: make a frozen dataclass of it, name it, register it."""

    def add(cls: type[P]) -> type[P]:
        cls.name = name
        made = dataclass(frozen=True)(cls)
        passes.register(name)(made)
        return made

    return add


def parse_pipeline(text: str) -> list[Pass]:
    """The passes of a pipeline text such as `canonicalize,tile{factors=perfect}`.

    Raises `UnknownNameError` for an unknown pass and `PassError` for a wrong option or syntax.
    """
    return [_build(invocation) for invocation in parse_invocations(text)]


def print_pipeline(sequence: Sequence[Pass]) -> str:
    """What `parse_pipeline` reads."""
    return ",".join(str(each) for each in sequence)


def _build(invocation: Invocation) -> Pass:
    cls = passes[invocation.name]
    fields = getattr(cls, "__dataclass_fields__", {})
    for name, value in invocation.options.items():
        if name not in fields:
            raise PassError(
                f"pass {invocation.name} has no option {name!r}", value=value,
                allowed=", ".join(fields) or "no options",
            )  # fmt: skip
        expected = type(fields[name].default)
        if not isinstance(value, expected) or isinstance(value, bool) != (expected is bool):
            raise PassError(
                f"option {name!r} of pass {invocation.name} has the wrong type", value=value,
                allowed=expected.__name__,
            )  # fmt: skip
    return cls(**invocation.options)


@dataclass(frozen=True, slots=True)
class Entry:
    """What one pass did: seconds it took, and operators, MACs and bytes before and after."""

    name: str
    seconds: float
    operators: tuple[int, int]
    macs: tuple[int, int]
    moved_bytes: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Log:
    """The entries of one run, in order. Prints as a table."""

    entries: tuple[Entry, ...] = ()

    def __str__(self) -> str:
        lines = [f"{'pass':<34}{'ms':>9}{'operators':>18}{'MACs':>16}{'bytes moved':>34}"]
        lines += [
            f"{e.name:<34}{e.seconds * 1e3:>9.1f}{e.operators[0]:>8} -> {e.operators[1]:<6}"
            f"{e.macs[1]:>16,}{e.moved_bytes[0]:>16,} -> {e.moved_bytes[1]:<14,}"
            for e in self.entries
        ]
        return "\n".join(line.rstrip() for line in lines)


@dataclass(frozen=True)
class PassManager:
    """Runs passes in order, verifying the program before the first and after each.

    `print_after` names passes (or "all") after which the graph's text goes to `show`. A pass that
    raises or breaks the IR ends the run with `PassError`; the pipeline from there on and the graph
    it was given are written to `reproducer` first (run it again with `reproduce`).
    """

    passes: Sequence[Pass]
    print_after: tuple[str, ...] = ()
    show: Callable[[str], object] = print
    reproducer: Path = dataclass_field(default=Path("reproducer.txt"))

    def run(
        self, program: Program | Graph, target: Accelerator | None = None
    ) -> tuple[Program, Log]:
        """The rewritten program and the log."""
        if isinstance(program, Graph):
            program = Program(program)
        verify_program(program)
        entries: list[Entry] = []
        for position, each in enumerate(self.passes):
            missing = each.requires - program.properties
            if missing:
                raise PassError(
                    f"pass {each.name} requires a program that is {', '.join(sorted(missing))}",
                    value=print_pipeline(self.passes),
                    fix=f"run before it: {', '.join(_ensuring(missing))}",
                )
            start = time.perf_counter()
            try:
                after = each.run(program, target)
                verify_program(after)
            except Exception as error:
                raise self._failed(position, program, error) from error
            seconds = time.perf_counter() - start
            after = replace(after, properties=after.properties | each.ensures)
            entries.append(_entry(str(each), seconds, program.graph, after))
            if each.name in self.print_after or "all" in self.print_after:
                self.show(print_graph(after.graph))
            program = after
        return program, Log(tuple(entries))

    def _failed(self, position: int, program: Program, error: Exception) -> PassError:
        pipeline = print_pipeline(self.passes[position:])
        properties = ",".join(sorted(program.properties))
        text = f"pipeline: {pipeline}\nproperties: {properties}\n---\n{print_graph(program.graph)}"
        write_text(self.reproducer, text)
        what = error.what if isinstance(error, HwoptError) else f"{type(error).__name__}: {error}"
        return PassError(
            f"pass {self.passes[position].name} failed: {what}",
            where=getattr(error, "where", "") or program.graph.name,
            fix=f"the pipeline and the graph are in {self.reproducer}: "
            "hwopt.passes.manager.reproduce runs them again",
        )


def reproduce(path: Path | str, target: Accelerator | None = None) -> tuple[Program, Log]:
    """Run a reproducer again. Raises what the pass raised, as `PassError`."""
    from hwopt.files import read_text

    head, separator, graph = read_text(path).partition("\n---\n")
    lines = dict(line.partition(": ")[::2] for line in head.splitlines())
    if not separator or "pipeline" not in lines:
        raise PassError("not a reproducer", where=str(path))
    properties = frozenset(filter(None, lines.get("properties", "").split(",")))
    program = Program(parse(graph), properties=properties)
    manager = PassManager(parse_pipeline(lines["pipeline"]), reproducer=Path(path))
    return manager.run(program, target)


def verify_program(program: Program) -> None:
    """The graph's rules, and: groups, constraints and classes name operators that are there."""
    verify(program.graph)
    names = set(program.graph.op)
    grouped = [name for group in program.groups for name in group.ops]
    if len(set(grouped)) != len(grouped):
        raise PassError("an operator is in two groups", where=program.graph.name)
    for group in program.groups:
        if group.anchor not in group.ops:
            raise PassError("a group's anchor is not in it", where=group.anchor)
    named = {*grouped, *program.constraints, *program.class_of, *program.class_of.values()}
    if not named <= names:
        raise PassError(
            "a group, constraint or class names no operator", value=sorted(named - names)[:5]
        )


def _ensuring(properties: frozenset[str]) -> list[str]:
    return [name for name in passes if passes[name].ensures & properties]


def _entry(name: str, seconds: float, before: Graph, after: Program) -> Entry:
    graph = after.graph
    return Entry(
        name, seconds, (len(before.ops), len(graph.ops)), (before.macs, graph.macs),
        (before.moved_bytes, graph.moved_bytes), len(after.groups),
    )  # fmt: skip
