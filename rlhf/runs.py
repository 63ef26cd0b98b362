"""A run folder as others read it: its plan, its stages, and the models that it exported.

runs/x/plan.yaml                     the plan as it was resolved
runs/x/tokenizer/                    a Hugging Face tokenizer
runs/x/stages/<title>/<role>/        a Hugging Face model, written when the stage has finished
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hwopt import read_json
from rlhf.errors import RunError
from rlhf.phases import Role
from rlhf.plan import Plan
from rlhf.returns import ScoreScale

PLAN = "plan.yaml"
TOKENIZER = "tokenizer"
STAGES = "stages"
SCORE_SCALE = "score_scale.json"
"""Beside an exported reward model: gain and bias of its scores."""
ROLES: tuple[Role, ...] = ("actor", "critic", "reward", "reference", "ema")


@dataclass(frozen=True)
class Run:
    """A folder that `rlhf train` has begun to fill.

    Raises `RunError` where there is no such folder.
    """

    path: Path

    def __post_init__(self) -> None:
        """Refuse what is no run."""
        if not (self.path / PLAN).is_file():
            raise RunError(
                "not a run" if self.path.exists() else "there is no such run",
                where=str(self.path), allowed=f"a folder that `rlhf train` made, with a {PLAN}",
            )  # fmt: skip

    @cached_property
    def plan(self) -> Plan:
        """What was asked for."""
        return Plan.load(self.path / PLAN)

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer."""
        return self.path / TOKENIZER

    @property
    def titles(self) -> tuple[str, ...]:
        """Names of the plan's stages in order."""
        return tuple(stage.title for stage in self.plan.stages)

    def exported(self, title: str, role: str) -> Path | None:
        """The folder of what a stage made of a role, where it has finished and trained it."""
        folder = self.path / STAGES / title / role
        return folder if (folder / "config.json").is_file() else None

    def stages_with(self, role: str) -> tuple[str, ...]:
        """Stages that have exported a role, in order."""
        return tuple(title for title in self.titles if self.exported(title, role) is not None)

    def model(self, role: str, title: str | None = None) -> Path:
        """The folder of a role after a stage; None: after the last that has exported it.

        Raises `RunError`, which names the stages that have.
        """
        if role not in ROLES:
            raise RunError("no such role", where=str(self.path), value=role,
                           allowed=", ".join(ROLES))  # fmt: skip
        if title is not None and title not in self.titles:
            raise RunError("no such stage", where=str(self.path), value=title,
                           allowed=", ".join(self.titles))  # fmt: skip
        having = self.stages_with(role)
        wanted = title if title is not None else having[-1] if having else None
        folder = self.exported(wanted, role) if wanted is not None else None
        if folder is None:
            raise RunError(
                f"no {role} has been exported" + (f" by stage {title}" if title else " yet"),
                where=str(self.path), allowed=", ".join(having) or "a run with a finished stage",
                fix="a stage exports its models when it has finished: `rlhf train --resume`",
            )  # fmt: skip
        return folder


def load_scale(source: Path | str | dict[str, Any]) -> ScoreScale:
    """The scale kept in a reward model's folder; scores as they are where there is none."""
    path = Path(source) / SCORE_SCALE if isinstance(source, str | Path) else None
    return ScoreScale(**read_json(path)) if path is not None and path.is_file() else ScoreScale()
