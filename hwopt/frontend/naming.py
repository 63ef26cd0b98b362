"""Names of operators and tensors that say where they come from, and do not depend on what else was
traced: `model.layers.3.self_attn.q_proj.linear_0` is the first `linear` of that module, and
`....grad.mm_1` the second `mm` of its backward pass.

Because each module counts its own operators, equal layers get equal names but for the layer's
number; expansion of repeated blocks rests on that.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import fx

from hwopt.ir.op import Source

WRAPPED = "wrapped"
"""Attribute under which every capture wraps the model."""

_PACKAGE = Path(__file__).parents[2]
_ROOT = re.compile(r"^L\['\w+'\]\.?")
_ITEM = re.compile(r"\['?(\w+)'?\]")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def module_path(stack: object) -> str | None:
    """The innermost module of a node's module stack, without our wrapper; None when unknown."""
    if not isinstance(stack, dict) or not stack:
        return None
    path = str(list(stack.values())[-1][0])
    path = _ITEM.sub(r".\1", _ROOT.sub("", path)).split("@")[0]
    return without_wrapper(path.replace("_modules.", ""))


def without_wrapper(path: str) -> str:
    """`wrapped.model.layers` is `model.layers`."""
    return "" if path == WRAPPED else path.removeprefix(WRAPPED + ".")


def source_line(trace: str | None) -> str:
    """`file:line` of the innermost frame outside torch (inside it where there is no other)."""
    frames = _FRAME.findall(trace or "")
    if not frames:
        return ""
    own = [f for f in frames if "/torch/" not in f[0]] or frames
    file, line = own[-1]
    if "site-packages/" in file:
        return f"{file.rpartition('site-packages/')[2]}:{line}"
    path = Path(file)
    for root in (_PACKAGE, Path.cwd()):
        if path.is_relative_to(root):
            return f"{path.relative_to(root).as_posix()}:{line}"
    return f"{file}:{line}"


class Names:
    """Hands out the names of one graph."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._counts: dict[str, int] = {}
        self._last = {False: "", True: ""}

    def place(self, node: fx.Node, *, backward: bool) -> tuple[str, Source]:
        """A name for the node's operator, and its source.

        A node without a module (the sum of two gradients) belongs to the module before it.
        """
        stack = node.meta.get("nn_module_stack")
        if backward:
            stack = node.meta.get("fwd_nn_module_stack") or stack
        path = module_path(stack)
        if path is None:
            path = self._last[backward]
        self._last[backward] = path
        base = str(node.target).split(".")[1].strip("_")
        stem = ".".join(part for part in (path, "grad" if backward else "", base) if part)
        source = Source(path, source_line(node.meta.get("stack_trace")), str(node.target))
        return self.fresh(stem), source

    def fresh(self, stem: str) -> str:
        """`stem_0`, `stem_1`, ...: the next that is free."""
        while True:
            count = self._counts.get(stem, 0)
            self._counts[stem] = count + 1
            if (name := f"{stem}_{count}") not in self._taken:
                self._taken.add(name)
                return name
