"""FLOPs of the passes that a run really makes, for its utilisation.

A FLOP is a multiplication or an addition of a matrix product (two per multiply-accumulate), as
torch.utils.flop_counter counts; attention over all columns, causal or not. They are polynomials in
rows and tokens, taken exactly from graphs traced once: counting a pass is a few multiplications.
What gradient checkpointing computes again is not counted: utilisation is of the model's own work
(Chowdhery et al., PaLM, arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rlhf.forms import VALUE_ROLES, Facts, Form, facts_of, form_of
from rlhf.phases import Generate, Role
from rlhf.plan import Plan, Stage
from rlhf.traces import Polynomial, decode_flops_of, flops_of

if TYPE_CHECKING:
    from rlhf.meter import Pass, Work


class FlopCounter:
    """Counts the FLOPs of passes of the roles of one stage."""

    def __init__(self, plan: Plan, stage: Stage, *, tokenizer_size: int | None = None) -> None:
        sizes = plan.sizes(stage)
        generating = {p.role for p in stage.algorithm.phases(sizes) if isinstance(p, Generate)}
        self._roles = {
            role: _RoleCounter(form_of(plan, role, tokenizer_size), generates=role in generating)
            for role in stage.algorithm.roles(sizes)
        }

    def flops(
        self, role: Role, work: Work, rows: int, tokens: int, *, logits: int | None = None
    ) -> int:
        """Of one pass.

        forward, train: `rows` rows of `tokens` columns. `logits`: columns of a policy whose logits
        were computed; None: all but one. generate: one row, with a prompt of `rows` tokens and a
        response of `tokens`: its prefill, then a decode step for each token after the first.
        """
        counter = self._roles[role]
        if work == "generate":
            return counter.generate(rows, tokens)
        policy = role not in VALUE_ROLES
        columns = (tokens - 1 if policy else tokens) if logits is None else logits
        return counter.run(rows, tokens, columns, trains=work == "train")

    def of(self, passes: Iterable[Pass]) -> int:
        """Of several passes."""
        return sum(self.flops(p.role, p.work, p.rows, p.tokens, logits=p.logits) for p in passes)


class _RoleCounter:
    def __init__(self, form: Form, *, generates: bool) -> None:
        self._facts: Facts = facts_of(form)
        self._run = flops_of(form)
        self._plain = flops_of(form.plain)["forward"] if generates else None
        self._decode: Polynomial | None = decode_flops_of(form) if generates else None

    def run(self, rows: int, tokens: int, columns: int, *, trains: bool) -> int:
        """Backbone and head of a pass."""
        head = 2 * rows * columns * self._facts.head_inputs * self._facts.head_outputs
        times = (3 if self._facts.head_trained else 2) if trains else 1
        return self._run["train" if trains else "forward"](rows, tokens) + times * head

    def generate(self, prompt: int, response: int) -> int:
        """One row."""
        if self._plain is None or self._decode is None:
            raise ValueError("this role generates in no phase of the stage")
        if response < 1:
            return 0
        head = 2 * self._facts.head_inputs * self._facts.head_outputs
        steps = self._decode.total(1, prompt + 1, prompt + response - 1)
        return self._plain(1, prompt) + head + steps
