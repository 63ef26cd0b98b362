"""Talk to a trained model in the terminal: `rlhf chat RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from rlhf.sampling import Sampling


def chat(
    run: Path | None,
    *,
    stage: str | None = None,
    role: str = "actor",
    folder: Path | None = None,
    sampling: Sampling | None = None,
    system: str | None = None,
    seed: int | None = None,
    device: str = "cpu",
    source: TextIO | None = None,
    out: TextIO | None = None,
) -> None:
    """A conversation with the policy of a run (`stage`: None: the newest) or of any HF `folder`.

    `source`, `out`: None: standard input and output; a source that is no terminal is read line by
    line, one message or command each. Raises `RunError` when there is no such model.
    """
    raise NotImplementedError
