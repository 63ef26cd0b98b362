"""One operator with one mapping as a file, in the forms that `hwopt cost-mapping` reads and writes.

* "yaml": our own file, the mapping as a loop nest in text (see `mapping`);
* "json": the same as JSON, each node of the mapping an object:
  `{"keep": ["input"], "in": "GLB"}`, `{"for": "k", "tile": 16}`,
  `{"spread": "k", "tile": 1, "over": "PE.x"}`;
* "timeloop": Timeloop's `problem:` and `mapping:` sections (see `timeloop_problem`,
  `timeloop_yaml`). What Timeloop's problem cannot say, padding above all, is added in our own keys,
  which Timeloop ignores;
* "text": our keys with the mapping on one line (see `timeloop_text`).

The last two name axes by letters, and refuse what Timeloop cannot express.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast, get_args

from hwopt.errors import FileFormatError, HwoptError, MappingError
from hwopt.files import dump_yaml
from hwopt.hardware.accelerator import ROLES, Accelerator, OperandRole
from hwopt.mapping.mapping import Keep, Loop, Mapping, Node, Spread
from hwopt.mapping.problem import Problem
from hwopt.mapping.timeloop import rename
from hwopt.mapping.timeloop_levels import to_levels
from hwopt.mapping.timeloop_problem import read_problem, write_problem
from hwopt.mapping.timeloop_text import print_text
from hwopt.mapping.timeloop_yaml import print_directives
from hwopt.mapping.verify import verify_mapping

Form: TypeAlias = Literal["yaml", "json", "timeloop", "text"]
FORMS: tuple[Form, ...] = get_args(Form)


def write_form(problem: Problem, mapping: Mapping, accelerator: Accelerator, form: str) -> str:
    """The text of a file that reads back to the same nest and tiles.

    Raises `HwoptError` for an unknown form, `MappingError` for what Timeloop cannot express.
    """
    if form not in FORMS:
        raise HwoptError("unknown form", where="--to", value=form, allowed=", ".join(FORMS))
    return _WRITERS[form](problem, mapping, accelerator)


def _yaml(problem: Problem, mapping: Mapping, accelerator: Accelerator) -> str:
    del accelerator  # a nest in text says all
    return dump_yaml(keys_of(problem)) + _block(str(mapping))


def _block(text: str) -> str:
    """A nest as a literal block, so that it stays readable."""
    return "mapping: |\n" + "".join(f"  {line}\n" for line in text.splitlines())


def _json(problem: Problem, mapping: Mapping, accelerator: Accelerator) -> str:
    del accelerator
    data = {**keys_of(problem), "mapping": [_node_to_json(node) for node in mapping.nodes]}
    return json.dumps(data, indent=2) + "\n"


def _timeloop(problem: Problem, mapping: Mapping, accelerator: Accelerator) -> str:
    problem, mapping = _lettered(problem, mapping, accelerator)
    levels = to_levels(problem, mapping, accelerator)
    section = write_problem(problem)
    bits = {role: accelerator.bits.get(role, 8) for role in ROLES}
    own = {} if read_problem(section, "problem", bits) == problem else keys_of(problem)
    directives = print_directives(levels, problem, accelerator)
    return dump_yaml({"problem": section, **own, "mapping": directives})


def _lettered(
    problem: Problem, mapping: Mapping, accelerator: Accelerator
) -> tuple[Problem, Mapping]:
    """Axes as letters that the machine's fan-outs still take."""
    problem, mapping = rename(problem, mapping, accelerator)
    verify_mapping(problem, mapping, accelerator)
    return problem, mapping


def _text(problem: Problem, mapping: Mapping, accelerator: Accelerator) -> str:
    problem, mapping = _lettered(problem, mapping, accelerator)
    line = print_text(to_levels(problem, mapping, accelerator), accelerator)
    return dump_yaml({**keys_of(problem), "mapping": line})


_WRITERS: dict[Form, Callable[[Problem, Mapping, Accelerator], str]] = {
    "yaml": _yaml, "json": _json, "timeloop": _timeloop, "text": _text,
}  # fmt: skip


def keys_of(problem: Problem) -> dict[str, Any]:
    """The keys of our file that describe the operator (see `fixed`)."""
    data: dict[str, Any] = {"axes": problem.sizes}
    for operand in problem.operands:
        data[operand.role] = {
            "index": [str(part) for part in operand.access.index],
            "shape": list(operand.shape), "bits": operand.bits,
        }  # fmt: skip
    if problem.sequential:
        data["sequential"] = list(problem.sequential)
    return data


def _node_to_json(node: Node) -> dict[str, Any]:
    if isinstance(node, Keep):
        return {"keep": list(node.roles), "in": node.memory}
    if isinstance(node, Loop):
        return {"for": node.axis, "tile": node.tile}
    return {"spread": node.axis, "tile": node.tile, "over": f"{node.fanout}.{node.dim}"}


def nodes_from_json(data: list[Any]) -> Mapping:
    """The mapping that a list of node objects describes; raises `MappingError` with the node."""
    nodes: list[Node] = []
    for number, item in enumerate(data):
        keys = frozenset(item) if isinstance(item, dict) else frozenset()
        where = f"mapping[{number}]"
        if keys == {"keep", "in"} and isinstance(item["keep"], list):
            unknown = [role for role in item["keep"] if role not in ROLES]
            if unknown:
                raise MappingError("no such operand", where=where, value=unknown,
                                   allowed=", ".join(ROLES))  # fmt: skip
            roles = cast("tuple[OperandRole, ...]", tuple(item["keep"]))
            nodes.append(Keep(str(item["in"]), roles))
        elif keys == {"for", "tile"}:
            nodes.append(Loop(str(item["for"]), _tile(item, where)))
        elif keys == {"spread", "tile", "over"} and "." in str(item["over"]):
            fanout, _, dim = str(item["over"]).rpartition(".")
            nodes.append(Spread(fanout, dim, str(item["spread"]), _tile(item, where)))
        else:
            raise FileFormatError(
                "not a node of a mapping", where=where, value=item,
                allowed='{"keep": [ROLES], "in": MEMORY}, {"for": AXIS, "tile": N}, '
                '{"spread": AXIS, "tile": N, "over": "FANOUT.DIM"}',
            )  # fmt: skip
    return Mapping(tuple(nodes))


def _tile(item: dict[str, Any], where: str) -> int:
    tile = item["tile"]
    if not isinstance(tile, int) or isinstance(tile, bool) or tile < 1:
        raise MappingError("a tile must be positive", where=where, value=tile)
    return tile
