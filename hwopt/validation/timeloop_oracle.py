"""Records of timeloop-model: fixed mappings with every count, as JSON.

The file holds architectures, problems and records. An architecture lists its memories outermost
first (operands kept, read and write words per cycle, picojoules per access) and names the memory
with the fan-out below it; a record names both, gives the loops of each memory from the outside in,
and what Timeloop counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwopt.errors import FileFormatError, HwoptError
from hwopt.files import parse_json, read_text
from hwopt.hardware.accelerator import ROLES, OperandRole
from hwopt.mapping.problem import Problem
from hwopt.mapping.timeloop import Bound, Levels, TimeloopLevel
from hwopt.mapping.timeloop_counts import (
    TIMELOOP_2025,
    Accesses,
    Port,
    TimeloopCounts,
    count,
    cycles,
    longest,
)
from hwopt.mapping.timeloop_problem import read_problem, roles_of
from hwopt.validation.timeloop_rows import Row

_COUNTS = {
    "reads": "reads_per_inst",
    "fills": "fills_per_inst",
    "updates": "updates_per_inst",
    "tile": "tile",
    "instances": "instances",
}
_FANOUT = "fanout"


def is_oracle(text: str) -> bool:
    """Whether a file looks like this kind."""
    return text.lstrip()[:1] == "{"


def oracle_rows(path: Path) -> list[Row]:
    """Every record, ours beside theirs. Raises `FileFormatError` for what is missing or wrong."""
    data = parse_json(read_text(path), str(path))
    try:
        arches, problems, records = data["arch"], data["problems"], data["records"]
        if not records:
            raise FileFormatError("no records", where=str(path))
        read = {name: _Problem(name, problem) for name, problem in problems.items()}
        return [_row(record, arches, read, str(path)) for record in records]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FileFormatError(
            "not a file of Timeloop records", where=str(path),
            value=f"{type(error).__name__}: {error}",
            allowed="arch, problems and records with mapping, levels and summary",
        ) from error  # fmt: skip


def _row(
    record: dict[str, Any], arches: dict[str, Any], problems: dict[str, _Problem], where: str
) -> Row:
    """One record; what is wrong with it names its case."""
    try:
        return _Record(record, arches[record["arch"]], problems[record["problem"]]).row()
    except HwoptError as error:
        raise FileFormatError(
            error.what, where=f"{where}, {record.get('case')}: {error.where}", value=error.value,
            allowed=error.allowed,
        ) from error  # fmt: skip


class _Problem:
    """A problem of the file: projections and sizes at one level, coefficients among the sizes."""

    def __init__(self, name: str, data: dict[str, Any]) -> None:
        spaces, instance = data["data_spaces"], data["instance"]
        terms = [term for space in spaces for dim in space["projection"] for term in dim]
        names = list(dict.fromkeys(term[0] for term in terms))
        shape = {"dimensions": names, "data_spaces": spaces}
        self.problem: Problem = read_problem({"shape": shape, "instance": instance}, name, {})
        roles = roles_of(spaces, name)
        self.role: dict[str, OperandRole] = {
            space["name"]: role for space, role in zip(spaces, roles, strict=True)
        }


class _Record:
    """One mapping on one architecture."""

    def __init__(self, record: dict[str, Any], arch: dict[str, Any], problem: _Problem) -> None:
        self.record, self.arch, self.problem = record, arch, problem
        self.memories = {level["name"]: level for level in arch["levels"]}

    def _levels(self) -> Levels:
        mapping, names = self.record["mapping"], list(self.memories)
        unknown = set(mapping["temporal"]) - set(names)
        if unknown:
            raise FileFormatError("no such memory", where="mapping.temporal", value=sorted(unknown))
        levels = []
        for name, level in self.memories.items():
            kept = {
                self.problem.role[space] for space in level["keep"] if space in self.problem.role
            }
            spatial: list[Bound] = []
            if name == self.arch["spatial_fanout"][0]:
                spatial = [
                    Bound(axis, int(bound), int(bound), _FANOUT, dim)
                    for dim in ("x", "y")
                    for axis, bound in mapping.get(f"spatial_{dim}", ())
                ]
            temporal = [Bound(a, int(b), int(b)) for a, b in mapping["temporal"].get(name, ())]
            keeps = tuple(role for role in ROLES if role in kept)
            levels.append(TimeloopLevel(name, keeps, tuple(temporal), tuple(spatial)))
        return tuple(levels)

    def row(self) -> Row:
        """Every published count and energy beside ours."""
        record = self.record
        counts = count(self._levels(), self.problem.problem, TIMELOOP_2025)
        ports = {
            name: Port(level.get("rbw"), level.get("wbw"))
            if record["bandwidth_limited"]
            else Port()
            for name, level in self.memories.items()
        }
        levels = cycles(counts, ports)
        took, bound = longest(levels, counts.steps)
        pairs = [*self._accesses(counts), *self._cycles(levels, took, counts.steps)]
        limited = ", limited" if record["bandwidth_limited"] else ""
        return Row(
            name=f"{record['case']}{limited}", cycles=took,
            their_cycles=int(record["summary"]["cycles"]),
            joules=self._joules(counts), their_joules=self._their_joules(), compared=len(pairs),
            different=tuple(f"{what} {a} for {b}" for what, a, b in pairs if a != b), bound=bound,
            macs=self.problem.problem.points, lanes=int(self.arch["mac"]["inst"]),
        )  # fmt: skip

    def _accesses(self, counts: TimeloopCounts) -> list[tuple[str, object, object]]:
        """What is counted, our count, the published one (None where one side has none)."""
        pairs: list[tuple[str, object, object]] = []
        ours = {
            (memory, role): accesses
            for memory, by_role in counts.accesses.items()
            for role, accesses in by_role.items()
        }
        for level in self.record["levels"]:
            for space, theirs in level.items():
                if not isinstance(theirs, dict):
                    continue
                accesses = ours.pop((level["level"], self.problem.role[space]), None)
                pairs += [
                    (f"{what} of {space} in {level['level']}", getattr(accesses, what, None),
                     theirs[key])
                    for what, key in _COUNTS.items()
                ]  # fmt: skip
        return pairs + [(f"{role} in {memory}", "counted", None) for memory, role in ours]

    def _cycles(
        self, levels: dict[str, int], took: int, steps: int
    ) -> list[tuple[str, object, object]]:
        """The same for cycles: in all, of each memory, and without limits."""
        record = self.record
        return [
            ("cycles", took, record["summary"]["cycles"]),
            ("steps", steps, record["mac"]["Cycles"]),
            *((f"cycles of {level['level']}", levels[level["level"]], level["cycles"])
              for level in record["levels"]),
        ]  # fmt: skip

    def _joules(self, counts: TimeloopCounts) -> float:
        """(reads + fills + updates) x copies x energy per access, and the MACs'."""

        def energy(name: str, accesses: Accesses) -> float:
            e = self.memories[name]["e"]
            each = (
                accesses.reads * e["read"] + accesses.fills * e["write"]
                + accesses.updates * e["update"]
            )  # fmt: skip
            return float(accesses.instances * each)

        moved = sum(
            energy(name, accesses)
            for name, by_role in counts.accesses.items()
            for accesses in by_role.values()
        )
        return 1e-12 * (moved + self.problem.problem.points * float(self.arch["mac"]["e"]))

    def _their_joules(self) -> float:
        """The sum of the published parts: the published total has two decimals only."""
        parts = sum(
            float(theirs["energy_total_pj"])
            for level in self.record["levels"]
            for theirs in level.values()
            if isinstance(theirs, dict)
        )
        return 1e-12 * (parts + float(self.record["mac"]["Energy (total)"]))
