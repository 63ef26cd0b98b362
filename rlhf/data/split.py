"""Which rows a stage sees, which are held out, how often each is drawn, and in which order.

Everything follows from the seed and the *content* of a prompt, never from the order of rows: a
shuffled or longer file splits as before. A prompt is hashed to a number in [0, 1), separately for
each purpose:

* it is held out, in every set and every stage, when its number is below the held-out share;
* of a set with `stages: {sft: 2, reward: 4, ppo: 4}` it belongs to sft when its number is below
  0.2, to reward below 0.6, else to ppo; so no prompt is in two stages. Shares of 0 are none;
* with `weight: 2.5` each row of a set is drawn twice an epoch, and the half of them with the lowest
  numbers once more: the same rows in every epoch. Held-out rows are always drawn once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np

from rlhf.data.columns import Example
from rlhf.errors import DataError, PlanError
from rlhf.plan import DataSet, Plan


def prompt_key(example: Example) -> str:
    """The content of the prompt, or of the whole text where there is no prompt."""
    turns = [[turn.role, turn.content] for turn in example.prompt]
    return hashlib.sha256(json.dumps(turns or example.answers).encode()).hexdigest()


def fraction(seed: int, purpose: str, key: str) -> float:
    """A number in [0, 1), uniform over keys."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{key}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def held_out(plan: Plan, key: str) -> bool:
    """Whether a prompt is kept for evaluation."""
    return fraction(plan.seed, "held out", key) < plan.data.held_out


def stage_of(plan: Plan, dataset: DataSet, key: str) -> str | None:
    """The one stage that sees a prompt of a set; None: every stage does."""
    if dataset.stages is None:
        return None
    shares = [(s.title, dataset.stages.get(s.title, 0.0)) for s in plan.stages]
    total = sum(share for _, share in shares)
    if min(share for _, share in shares) < 0 or not 0 < total < math.inf:
        raise PlanError("stage shares are not 0 or more, one above", where="data.sets",
                        value=dataset.stages)  # fmt: skip
    number = fraction(plan.seed, "stage", key) * total
    last = ""
    for title, share in shares:
        if share > 0:
            number, last = number - share, title
            if number < 0:
                break
    return last


def repeats(plan: Plan, dataset: DataSet, keys: Sequence[str]) -> list[int]:
    """How often an epoch draws each row of a set, by its weight."""
    whole = math.floor(dataset.weight)
    extra = round((dataset.weight - whole) * len(keys))
    order = sorted(range(len(keys)), key=lambda i: (fraction(plan.seed, "blend", keys[i]), i))
    more = set(order[:extra])
    return [whole + (i in more) for i in range(len(keys))]


def batches_per_epoch(groups: int, batch: int) -> int:
    """Full batches of an epoch. Raises `DataError` where there is none."""
    if groups < batch:
        raise DataError(
            "fewer rows than one batch", value=groups, allowed=f"{batch} or more",
            fix="give more rows, or a smaller batch in the stage",
        )  # fmt: skip
    return groups // batch


def batches(groups: int, batch: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Every group once in an order by (seed, epoch), in full batches; the rest of it is left out.

    The same on every process. Raises `DataError` where there is no full batch.
    """
    count = batches_per_epoch(groups, batch)
    order = _permutation(groups, seed, epoch)
    return [order[i * batch : (i + 1) * batch] for i in range(count)]


def batch_at(groups: int, batch: int, index: int, *, seed: int) -> list[int]:
    """Batch `index` of the endless sequence of epochs: what `batches` gives, without the others."""
    epoch, within = divmod(index, batches_per_epoch(groups, batch))
    return _permutation(groups, seed, epoch)[within * batch : (within + 1) * batch]


def share(batch: Sequence[int], rank: int, world: int) -> list[int]:
    """What one process takes of a batch: as many as every other.

    Raises `DataError` where the batch cannot be divided evenly: unequal shares would leave one
    process waiting for gradients that the others never send.
    """
    if len(batch) % world:
        raise DataError(
            "a batch cannot be divided evenly over the processes", value=len(batch),
            allowed=f"a multiple of {world}", fix="change the stage's batch or the processes",
        )  # fmt: skip
    return list(batch[rank::world])


def _permutation(groups: int, seed: int, epoch: int) -> list[int]:
    generator = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    return [int(i) for i in generator.permutation(groups)]
