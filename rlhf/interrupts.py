"""Ctrl-C during a run: a wish to stop at the next safe point, known to all processes alike."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Self

import torch

from rlhf import processes


class Interrupts:
    """Inside the context SIGINT only notes the wish, which stays until the run has ended."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.asked = True

    def anywhere(self) -> bool:
        """Whether any process was asked; all call it together."""
        return bool(processes.maximum(torch.tensor(int(self.asked))))
