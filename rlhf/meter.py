"""What each phase of an iteration took: seconds, peak memory, tokens, and the passes it made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from rlhf.experience import Experience
from rlhf.phases import Role
from rlhf.rollout import Generated

Work: TypeAlias = Literal["forward", "train", "generate"]


@dataclass(frozen=True)
class Pass:
    """One pass of a role's model, for counting its FLOPs.

    forward, train: `rows` rows of `tokens` columns, padding included; `logits`: the columns whose
    logits were computed (a policy's; None: a value model). generate: one row, a prompt
    of `rows` tokens and a response of `tokens`.
    """

    role: Role
    work: Work
    rows: int
    tokens: int
    logits: int | None = None


@dataclass
class Meter:
    """Adds up what the phases of one iteration took on this process."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    computed_tokens: int = 0
    needed_tokens: int = 0
    passes: list[Pass] = field(default_factory=list)

    def reset(self) -> None:
        """Begin a new iteration."""
        self.seconds, self.memory_bytes, self.passes = {}, {}, []
        self.computed_tokens = self.needed_tokens = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time and peak memory of what runs inside are added to the phase."""
        _reset_peak(self.device)
        began = time.perf_counter()
        try:
            yield
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
            self.memory_bytes[name] = max(self.memory_bytes.get(name, 0), peak_bytes(self.device))

    def took(
        self, role: Role, work: Literal["forward", "train"], part: Experience, first: int | None
    ) -> None:
        """A pass over the columns of a micro-batch, of which the attended ones were needed.

        first: the first column that a policy gives a log-prob for; None: a value model.
        """
        rows, tokens = part.tokens.shape
        logits = None if first is None else max(0, tokens - first)
        self.passes.append(Pass(role, work, rows, tokens, logits))
        self.computed_tokens += rows * tokens
        self.needed_tokens += int(part.attended.sum())

    def generated(self, role: Role, made: Generated) -> None:
        """A generation: the tokens of each row, prompt and response."""
        lengths = zip(made.prompt_lengths.tolist(), made.response_lengths.tolist(), strict=True)
        self.passes += [Pass(role, "generate", prompt, response) for prompt, response in lengths]
        self.computed_tokens += made.computed_tokens
        self.needed_tokens += made.needed_tokens

    def metrics(self) -> dict[str, float]:
        """seconds/PHASE and memory/PHASE."""
        return {
            **{f"seconds/{name}": value for name, value in self.seconds.items()},
            **{f"memory/{name}": float(value) for name, value in self.memory_bytes.items()},
        }


def peak_bytes(device: torch.device) -> int:
    """The most memory this process held since the last reset: of the GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # "5" resets VmHWM (proc(5), clear_refs)
            Path("/proc/self/clear_refs").write_text("5")
