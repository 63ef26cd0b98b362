"""What the passes of a role's model take: FLOPs, bytes, seconds and memory, from traced graphs.

Two graphs are traced for a form, at marked sizes (`hwopt.marks`), and resized to whatever is asked:

* its backbone, forward and backward ("train"). The forward operators alone are the scoring pass and
  the prefill of generation. The head is added in closed form (`Head`), as the training code does
  not run transformers' own loss: a policy gathers log-probabilities of the tokens from its logits,
  a value model has one output. Adapters are part of the graph.
* for policies that generate, the whole model for one token against a cache ("decode"), without
  adapters, which are merged then. The cache has its true size (grouped-query attention), but it is
  counted whole where a sliding window would drop old tokens.

Seconds are those of `hwopt.lower_bound`: operators one after another, attention fused, all else
apart, as an eager framework runs them; peak rates. All results are kept on disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import hwopt
from hwopt import (
    Accelerator,
    Canonicalize,
    Classify,
    Fuse,
    Graph,
    Marks,
    Op,
    PassManager,
    TraceError,
    cache_dir,
    write_json,
)
from rlhf.activations import Activations, activations
from rlhf.forms import Form, facts_of, meta_model
from rlhf.kept import kept

Mode: TypeAlias = Literal["train", "decode"]
CHUNK_ELEMENTS = 2**24
"""Logits that `rlhf.log_probs` holds in float32 at once, twice."""


@dataclass(frozen=True)
class Work:
    """FLOPs (2 per multiply-accumulate of matrix products), bytes over the device's memory, seconds
    at the device's peak rates.
    """

    flops: int = 0
    moved_bytes: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.moved_bytes + other.moved_bytes,
            self.seconds + other.seconds,
        )

    def times(self, count: float) -> Work:
        """So often."""
        return Work(round(self.flops * count), self.moved_bytes * count, self.seconds * count)


@dataclass(frozen=True)
class Passes:
    """One micro-batch of a form's backbone: the forward pass, the backward pass, their memory."""

    forward: Work
    backward: Work
    memory: Activations


@dataclass(frozen=True)
class Polynomial:
    """`rows (a + b t + c t^2) + (d + e t + f t^2)` for t tokens: exact, in whole numbers."""

    per_row: tuple[int, int, int]
    fixed: tuple[int, int, int]

    def __call__(self, rows: int, tokens: int) -> int:
        """The value for so many rows and tokens."""
        return self._at(rows, (1, tokens, tokens**2))

    def total(self, rows: int, first: int, last: int) -> int:
        """The sum of the values for `first` to `last` tokens, both included; 0 for none."""
        if last < first:
            return 0
        return self._at(
            rows, tuple(b - a for a, b in zip(_sums(first - 1), _sums(last), strict=True))
        )

    def _at(self, rows: int, powers: tuple[int, ...]) -> int:
        return sum(
            (rows * own + shared) * power
            for own, shared, power in zip(self.per_row, self.fixed, powers, strict=True)
        )


def _sums(n: int) -> tuple[int, int, int]:
    """Sums of 1, t and t^2 for t from 1 to n."""
    return n, n * (n + 1) // 2, n * (n + 1) * (2 * n + 1) // 6


# ---- graphs ---------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _traced(form: Form, mode: Mode) -> tuple[Graph, Marks]:
    """The graph at marked sizes. `form` is what `_graph_form` made of it."""
    at = hwopt.marks(facts_of(form).dimensions, form.longest)
    seq = at.tokens if mode == "train" else at.tokens - 1
    with _quiet():
        try:
            return _trace(form, mode, at.rows, seq), at
        except TraceError:
            if form.dtype != "float32":
                raise
        # Experts' products exist in 16 bits alone: the same graph, with wider elements.
        graph = _trace(replace(form, dtype="bfloat16"), mode, at.rows, seq)
    wider = (replace(t, dtype="float32") if t.dtype == "bfloat16" else t for t in graph.tensors)
    return replace(graph, tensors=tuple(wider)), at


def _trace(form: Form, mode: Mode, rows: int, seq: int) -> Graph:
    """Models without adapters by a file of their configuration: those traces are kept on disk."""
    model: Any = meta_model(form, head=mode == "decode")
    if form.lora is None:
        model = str(_file(form, type(model).__name__))
    return hwopt.trace(
        model, mode=mode, batch=rows, seq=seq, optimizer="none", unsupported="opaque",
        dtype=form.dtype if form.lora is None else None,
    )  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, torch does not log the failures of a trace: they are raised, and may be mended."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _graph_form(form: Form, mode: Mode) -> Form:
    """The form whose graph serves: policies and value models share their backbone, and what
    generates has no adapters.
    """
    return Form(form.config, "policy", form.dtype, None if mode == "decode" else form.lora)


def _file(form: Form, architecture: str) -> Any:
    """A config.json of a form, by which traces are kept on disk."""
    import hashlib

    content = {**form.settings, "architectures": [architecture]}
    name = hashlib.sha256(repr(sorted(content.items(), key=str)).encode()).hexdigest()[:24]
    path = cache_dir() / "forms" / f"{name}.json"
    if not path.is_file():
        write_json(path, content)
    return path


def graph_of(form: Form, mode: Mode, *, rows: int, tokens: int) -> Graph:
    """The graph of a form for so many rows: of `tokens` columns (train), or for one more token that
    makes a sequence of `tokens` (decode). Raises the errors of `hwopt.trace`.
    """
    graph, at = _traced(_graph_form(form, mode), mode)
    return hwopt.resized(graph, at, rows=rows, tokens=max(2, tokens))


# ---- what is asked --------------------------------------------------------------------------


def passes(form: Form, rows: int, tokens: int, device: Accelerator) -> Passes:
    """The backbone's forward and backward of one micro-batch, priced on a device."""
    form = _graph_form(form, "train")

    def make() -> dict[str, Any]:
        graph = graph_of(form, "train", rows=rows, tokens=tokens)
        found = _price(graph, device)
        return {
            "forward": asdict(found["forward"]), "backward": asdict(found["backward"]),
            "memory": asdict(activations(graph)),
        }  # fmt: skip

    key = [form.key, rows, tokens, device.model_dump(mode="json")]
    found = kept("passes", key, make)
    return Passes(
        Work(**found["forward"]), Work(**found["backward"]), Activations(**found["memory"])
    )


def decode_step(form: Form, rows: int, tokens: int, device: Accelerator) -> Work:
    """One generated token of each row, which makes sequences of `tokens`."""
    form = _graph_form(form, "decode")

    def make() -> dict[str, Any]:
        graph = graph_of(form, "decode", rows=rows, tokens=tokens)
        return asdict(_price(graph, device)["forward"])

    key = [form.key, rows, tokens, device.model_dump(mode="json")]
    return Work(**kept("decode", key, make))


def cache_bytes(form: Form, rows: int, tokens: int) -> tuple[int, int]:
    """The key/value cache of so many rows and tokens: all of it, and its largest tensor."""
    form = _graph_form(form, "decode")

    def make() -> dict[str, Any]:
        graph, at = _traced(form, "decode")
        sizes = [t.nbytes for t in graph.sources if t.role == "cache"]
        growing = [size for size in sizes if size % (at.rows * (at.tokens - 1)) == 0]
        fixed = sum(sizes) - sum(growing)
        return {
            "per_token": sum(growing) // (at.rows * (at.tokens - 1)), "fixed": fixed // at.rows,
            "largest": max(growing, default=0) // (at.rows * (at.tokens - 1)),
        }  # fmt: skip

    found = kept("cache", form.key, make)
    total = rows * (tokens * found["per_token"] + found["fixed"])
    return total, rows * tokens * found["largest"]


def flops_of(form: Form) -> dict[str, Polynomial]:
    """FLOPs of a backbone, without head, by rows and tokens: "forward", and "train" with both."""
    form = _graph_form(form, "train")

    def count(part: Callable[[Graph], int]) -> dict[str, Any]:
        return asdict(_fit(lambda r, t: part(graph_of(form, "train", rows=r, tokens=t))))

    def make() -> dict[str, Any]:
        return {
            "train": count(lambda graph: graph.flops),
            "forward": count(lambda graph: _flops(graph.ops)),
        }

    return {name: _polynomial(data) for name, data in kept("flops", form.key, make).items()}


def decode_flops_of(form: Form) -> Polynomial:
    """FLOPs of one generated token by rows and the length of the sequence, head included."""
    form = _graph_form(form, "decode")

    def make() -> dict[str, Any]:
        return asdict(_fit(lambda r, t: graph_of(form, "decode", rows=r, tokens=t).flops))

    return _polynomial(kept("decode-flops", form.key, make))


# ---- how ------------------------------------------------------------------------------------


def _price(graph: Graph, device: Accelerator) -> dict[str, Work]:
    """The forward and the backward operators of a graph on a device, by its own FLOPs."""
    manager = PassManager([Canonicalize(), Fuse(epilogues=False, pointwise=False), Classify()])
    program, _ = manager.run(graph, target=device)
    bound = hwopt.lower_bound(program, device)
    found = {}
    for phase, flops in (("forward", _flops(graph.ops)),
                         ("backward", graph.flops - _flops(graph.ops))):  # fmt: skip
        seconds, moved = bound.by_phase.get(phase, (0.0, 0.0))
        found[phase] = Work(flops, moved, seconds)
    return found


def _flops(ops: Iterable[Op]) -> int:
    return sum(op.flops for op in ops if op.phase == "forward")


def _fit(count: Callable[[int, int], int]) -> Polynomial:
    """The polynomial through 1 and 2 rows of 2, 3 and 4 tokens."""
    lengths = (2, 3, 4)
    one = [count(1, t) for t in lengths]
    two = [count(2, t) for t in lengths]
    per_row = _quadratic([b - a for a, b in zip(one, two, strict=True)])
    fixed = _quadratic([2 * a - b for a, b in zip(one, two, strict=True)])
    return Polynomial(per_row, fixed)


def _quadratic(values: Sequence[int]) -> tuple[int, int, int]:
    """Coefficients from values at 2, 3 and 4, by differences."""
    at2, at3, at4 = values
    c = (at4 - 2 * at3 + at2) // 2
    b = at3 - at2 - 5 * c
    return at2 - 2 * b - 4 * c, b, c


def _polynomial(data: dict[str, Any]) -> Polynomial:
    return Polynomial(tuple(data["per_row"]), tuple(data["fixed"]))
