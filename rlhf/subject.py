"""What is evaluated: a plan, its tokenizer, its held-out rows, and where its models come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from rlhf import processes
from rlhf.algorithm import Data
from rlhf.data import TokenizedSet, load_data
from rlhf.errors import DataError, ModelError, RunError
from rlhf.experience import Experience
from rlhf.models import build_model
from rlhf.plan import Engine, Plan, RoleModel, Stage
from rlhf.runs import Run
from rlhf.sources import VALUE_HEAD, find_source
from rlhf.tokenizer import load_tokenizer

ModelSource: TypeAlias = Path | str | dict[str, Any]
BASE = "base"
"""The name of the actor as it was before any training."""


@dataclass
class Subject:
    """What is evaluated: the plan, the tokenizer, and where models come from."""

    run: Run | None
    plan: Plan
    tokenizer: Any
    reward: str | None
    notes: list[str] = field(default_factory=list)

    def stage_of(self, *kinds: Data) -> Stage:
        """The last stage that eats the first of these kinds that any stage eats."""
        for kind in kinds:
            having = [s for s in self.plan.stages if s.algorithm.data == kind]
            if having:
                return having[-1]
        return self.plan.stages[-1]

    def source(self, name: str, role: str) -> ModelSource:
        """Where a model is, from a stage's title, "base" or a folder."""
        if name == BASE:
            model = self.plan.roles.actor.model
            if model is not None:
                return model
            raise RunError("the plan names no actor to begin with", value=name)
        if self.run is not None and name in self.run.titles:
            return self.run.model(role, name)
        folder = Path(name).expanduser()
        if (folder / "config.json").is_file():
            return folder
        titles = self.run.stages_with(role) if self.run is not None else ()
        raise RunError(
            f"no such {role}", value=name,
            allowed=", ".join([*titles, BASE, "a Hugging Face folder"]),
        )  # fmt: skip

    def model(self, name: str, role: str) -> tuple[Any, ModelSource]:
        """The model, in float32 on this process's device, and where it came from."""
        source = self.source(name, role)
        self._check_vocabulary(source)
        if role == "reward" and find_source(source, self.tokenizer).value_head is None:
            raise ModelError(
                "not a reward model: it has no value head, and a new one would judge at random",
                where=str(source), allowed=f"a folder with {VALUE_HEAD}",
            )  # fmt: skip
        module = build_model(
            source, "policy" if role == "actor" else "value", engine=Engine(zero=0),
            role=RoleModel(), seed=self.plan.seed, device=processes.device(),
            tokenizer=self.tokenizer,
        )  # fmt: skip
        return module.eval(), source

    def _check_vocabulary(self, source: ModelSource) -> None:
        """A folder with another tokenizer would be asked in words that it does not know."""
        from transformers import AutoTokenizer

        if not isinstance(source, Path) or not (source / "tokenizer.json").is_file():
            return
        own = AutoTokenizer.from_pretrained(source, local_files_only=True)
        if own.get_vocab() != self.tokenizer.get_vocab():
            raise ModelError(
                "its tokenizer is another than the run's", where=str(source),
                value=f"{len(own)} tokens", allowed=f"the same {len(self.tokenizer)} tokens",
                fix="compare models of one vocabulary",
            )  # fmt: skip

    def held_out(self, kind: Data) -> TokenizedSet | None:
        """Held-out rows of a kind; None, and a note, where the plan has none."""
        try:
            _, found = load_data(self.plan, self.stage_of(kind), self.tokenizer, kind=kind)
        except DataError as error:
            self.notes.append(error.what)
            return None
        if not len(found):
            self.notes.append(f"no held-out {kind}")
        return found if len(found) else None

    def experience(self, kind: Data, rows: int) -> Experience | None:
        """At most so many of them, on this process's device."""
        found = self.held_out(kind)
        if found is None:
            return None
        return found.experience(range(min(rows, len(found)))).to(processes.device())


def find_subject(
    run: Path | None, plan: Plan | None, actor: str | None, reward: str | None
) -> Subject:  # fmt: skip
    """The subject of `evaluate_run`; raises `RunError` where it is neither run nor plan."""
    if run is not None:
        opened = Run(Path(run))
        plan = plan or opened.plan
        return Subject(opened, plan, load_tokenizer(plan, opened.tokenizer), reward)
    if plan is None or actor is None:
        raise RunError("nothing to evaluate", allowed="a run, or a plan with an actor's folder")
    folder = Path(actor)
    own = folder if (folder / "tokenizer.json").is_file() else None
    return Subject(None, plan, load_tokenizer(plan, own), reward)
