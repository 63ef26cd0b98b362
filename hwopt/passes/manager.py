"""The pass manager: runs passes in order, verified, timed and counted.

    program, log = PassManager([Canonicalize(), Fuse()]).run(graph, target=chip)
    print(log)

A failure writes a *reproducer*, one text file with the pipeline, the target and the graph that it
started from, which `reproduce(path)` runs again, and raises `PassError` that names it.
"""

from __future__ import annotations

import abc
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TextIO

from hwopt.errors import FileFormatError, HwoptError, PassError
from hwopt.ir.graph import Graph
from hwopt.ir.program import Program
from hwopt.ir.text import parse, print_graph
from hwopt.ir.verify import verify
from hwopt.passes.legality import verify_program
from hwopt.passes.pipeline import parse_pipeline, print_pass, print_pipeline
from hwopt.registry import Registry

if TYPE_CHECKING:
    from hwopt.hardware.accelerator import Accelerator

__all__ = ["Counts", "Log", "Pass", "PassManager", "Row", "parse_pipeline", "passes", "reproduce"]


@dataclass(frozen=True)
class Pass(abc.ABC):
    """Base of all passes: a frozen dataclass whose fields are its options, with defaults.

    `requires` and `ensures` are properties of programs ("canonical", "fused", "classified"):
    the manager refuses to run a pass whose requirements no pass before has ensured. A pass that
    changes the graph drops the properties that its change may break (`Program.properties`).
    A pass may read the target's shape (levels, kept operands, fan-outs), never sizes or prices.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    ensures: ClassVar[frozenset[str]] = frozenset()

    @property
    def name(self) -> str:
        """The name that the pass is registered under."""
        return name_of(type(self))

    @abc.abstractmethod
    def run(self, program: Program, target: Accelerator | None) -> Program:
        """The rewritten program."""


passes: Registry[type[Pass]] = Registry("pass", "hwopt.passes")


def name_of(kind: type[Pass]) -> str:
    """The name that a pass is registered under (its class name where it is not)."""
    return next((name for name in passes if passes[name] is kind), kind.__name__)


@dataclass(frozen=True, slots=True)
class Counts:
    """Size of a program: operators that are not views, MACs, bytes moved operator by operator."""

    operators: int
    macs: int
    moved_bytes: int

    @staticmethod
    def of(program: Program) -> Counts:
        """Counts of a program's graph; static operators run once at load and are left out."""
        graph = program.graph
        live = [op for op in graph.ops if not op.is_view and op.name not in graph.static]
        macs = sum(op.macs for op in live if op.phase != "recompute")
        return Counts(len(live), macs, sum(graph.op_bytes(op) for op in live))


@dataclass(frozen=True, slots=True)
class Row:
    """One pass of a log: its text, its time without verification, counts before and after."""

    text: str
    seconds: float
    before: Counts
    after: Counts


@dataclass(frozen=True, slots=True)
class Log:
    """What the passes did; prints as a table."""

    rows: tuple[Row, ...] = ()
    verify_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Time of all passes and of verification."""
        return sum(row.seconds for row in self.rows) + self.verify_seconds

    def __str__(self) -> str:
        lines = [f"{'pass':<28}{'ms':>9}  {'operators':<17}{'MACs':<31}bytes moved"]
        for row in self.rows:
            cells = [
                _change(getattr(row.before, name), getattr(row.after, name))
                for name in ("operators", "macs", "moved_bytes")
            ]
            shown = row.text if len(row.text) <= 27 else row.text[:24] + "..."
            line = f"{shown:<28}{row.seconds * 1e3:>9.1f}  {cells[0]:<17}{cells[1]:<31}{cells[2]}"
            lines.append(line)
        lines.append(f"{'verification':<28}{self.verify_seconds * 1e3:>9.1f}")
        return "\n".join(lines)


def _change(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"


class PassManager:
    """Runs a pipeline. `print_after`: names of passes after which the graph is printed to `stream`
    (stderr); "all" stands for every one. `reproducers`: folder for the files written on failure
    (default: `reproducers` in the cache folder).
    """

    def __init__(
        self,
        pipeline: Sequence[Pass],
        *,
        print_after: Sequence[str] = (),
        stream: TextIO | None = None,
        reproducers: str | Path | None = None,
    ) -> None:
        self.pipeline = tuple(pipeline)
        known = {step.name for step in self.pipeline} | {"all"}
        for name in print_after:
            if name not in known:
                raise PassError(
                    "no such pass in the pipeline", where="print_after", value=name,
                    allowed=", ".join(sorted(known)),
                )  # fmt: skip
        self._print_after = frozenset(print_after)
        self._stream = stream
        self._reproducers = reproducers

    def run(self, start: Program | Graph, target: Accelerator | None = None) -> tuple[Program, Log]:
        """The program after all passes, and the log.

        Raises the graph's own error if it is illegal from the start, and `PassError` if a pass
        fails, breaks the IR, or lacks what it requires.
        """
        program = start if isinstance(start, Program) else Program(start)
        first = program
        began = time.perf_counter()
        _verify(program)
        verifying = time.perf_counter() - began
        rows: list[Row] = []
        counts = Counts.of(program)
        for number, step in enumerate(self.pipeline):
            try:
                _check_requirements(step, program)
                began = time.perf_counter()
                after = step.run(program, target)
                seconds = time.perf_counter() - began
                after = replace(after, properties=after.properties | step.ensures)
                began = time.perf_counter()
                _verify(after)
                verifying += time.perf_counter() - began
            except Exception as error:
                raise self._failure(step, number, first, target, error) from error
            new = counts if after.graph is program.graph else Counts.of(after)
            rows.append(Row(print_pass(step), seconds, counts, new))
            program, counts = after, new
            if self._print_after & {step.name, "all"}:
                stream = self._stream or sys.stderr
                stream.write(f"// after {print_pass(step)}\n{print_graph(program.graph)}")
        return program, Log(tuple(rows), verifying)

    def _failure(
        self, step: Pass, number: int, first: Program, target: Accelerator | None, error: Exception
    ) -> PassError:
        """The error that names the reproducer, which is written here."""
        steps = print_pipeline(self.pipeline[: number + 1])
        kept = f"run: {type(error).__name__}"
        try:
            path = self._write_reproducer(steps, first, target)
            kept = f"hwopt.passes.manager.reproduce({str(path)!r}) runs it again"
        except HwoptError as unwritten:
            kept = f"the reproducer could not be written: {unwritten}"
        kind = "" if isinstance(error, HwoptError) else f"{type(error).__name__}: "
        return PassError(
            f"{kind}{error}", where=f"pass {number + 1} of {steps!r} ({step.name})", fix=kept
        )

    def _write_reproducer(self, steps: str, first: Program, target: Accelerator | None) -> Path:
        from hwopt.files import cache_dir, write_text

        folder = Path(self._reproducers or cache_dir() / "reproducers")
        path = folder / f"{first.graph.digest[:12]}-{len(steps.split(','))}.ir"
        machine = "" if target is None else target.model_dump_json()
        header = {"pipeline": steps, "properties": sorted(first.properties)}
        write_text(
            path, f"// {json.dumps(header)}\n// target {machine}\n{print_graph(first.graph)}"
        )
        return path


def reproduce(path: str | Path) -> tuple[Program, Log]:
    """Run the file that a failed run has left: the same graph, passes and target."""
    from hwopt.files import parse_json, read_text
    from hwopt.hardware.accelerator import Accelerator

    text = read_text(path)
    lines = text.split("\n", 2)
    if len(lines) < 3 or not lines[0].startswith("// {") or not lines[1].startswith("// target"):
        raise FileFormatError("not a reproducer", where=str(path))
    header = parse_json(lines[0][3:], where=str(path))
    machine = lines[1].removeprefix("// target").strip()
    target = Accelerator.model_validate_json(machine) if machine else None
    program = Program(parse(text), properties=frozenset(header.get("properties", ())))
    return PassManager(parse_pipeline(str(header.get("pipeline", "")))).run(program, target)


def _verify(program: Program) -> None:
    verify(program.graph)
    verify_program(program)


def _check_requirements(step: Pass, program: Program) -> None:
    missing = step.requires - program.properties
    if missing:
        providers = [name for name in passes if passes[name].ensures & missing]
        raise PassError(
            f"pass {step.name!r} requires {', '.join(sorted(missing))}",
            fix=f"run {' or '.join(providers) or 'what ensures it'} before",
        )
