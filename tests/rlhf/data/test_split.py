"""Splits, blends and batches: by content and seed, never by order."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data import batch_at, batches, share, split
from rlhf.data.columns import Example, Message
from rlhf.errors import DataError, PlanError
from rlhf.plan import DataSet, Plan

KEYS = [split.prompt_key(Example((Message("user", str(i)),), (), {}, "")) for i in range(4000)]
SHARES = {"sft": 2.0, "reward": 4.0, "ppo": 4.0}


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    return make_plan([], held_out=0.1)


def test_shares_of_stages(plan: Plan) -> None:
    """Each prompt has one stage, and the stages have their shares."""
    found = Counter(split.stage_of(plan, DataSet(path="x", stages=SHARES), key) for key in KEYS)
    assert {name: round(count / 4000, 1) for name, count in found.items()} == {
        "sft": 0.2, "reward": 0.4, "ppo": 0.4,
    }  # fmt: skip


def test_shares_do_not_depend_on_their_order(plan: Plan) -> None:
    """The plan's order of stages counts, not that in which shares are written."""
    turned = DataSet(path="x", stages=dict(reversed(SHARES.items())))
    for key in KEYS[:200]:
        assert split.stage_of(plan, turned, key) == split.stage_of(
            plan, DataSet(path="x", stages=SHARES), key
        )


def test_no_shares(plan: Plan) -> None:
    """Without shares every stage sees a row; a share of 0 is none; negative ones are refused."""
    assert split.stage_of(plan, DataSet(path="x"), KEYS[0]) is None
    only = DataSet(path="x", stages={"sft": 0, "ppo": 1})
    assert {split.stage_of(plan, only, key) for key in KEYS[:100]} == {"ppo"}
    for stages in ({"sft": -1.0, "ppo": 2.0}, {"sft": 0.0}, {}):
        with pytest.raises(PlanError, match="shares"):
            split.stage_of(plan, DataSet(path="x", stages=stages), KEYS[0])


def test_held_out_share(plan: Plan) -> None:
    """A tenth is held out, independently of the stage."""
    held = {key for key in KEYS if split.held_out(plan, key)}
    assert 0.08 < len(held) / 4000 < 0.12
    sft = {k for k in KEYS if split.stage_of(plan, DataSet(path="x", stages=SHARES), k) == "sft"}
    assert 0.06 < len(held & sft) / len(sft) < 0.14
    other = plan.model_copy(update={"seed": 5})
    assert held != {key for key in KEYS if split.held_out(other, key)}


@given(st.integers(0, 2**64), st.text(max_size=5))
def test_fraction_is_below_one(seed: int, key: str) -> None:
    """A held-out share of 0 holds out nothing, one of 1 would hold out all."""
    assert 0 <= split.fraction(seed, "p", key) < 1


@pytest.mark.parametrize(
    ("weight", "counts"),
    [(1, {1: 40}), (2, {2: 40}), (0.5, {0: 20, 1: 20}), (2.25, {2: 30, 3: 10}), (0.01, {0: 40})],
)
def test_weights(plan: Plan, weight: float, counts: dict[int, int]) -> None:
    """Whole parts repeat every row, the rest draws an exact share of them once more."""
    times = split.repeats(plan, DataSet(path="x", weight=weight), KEYS[:40])
    assert Counter(times) == counts


def test_weights_follow_content(plan: Plan) -> None:
    """The half that is drawn is the same half in any order of the rows."""
    dataset, keys = DataSet(path="x", weight=0.5), KEYS[:40]
    mixed = random.Random(1).sample(keys, len(keys))
    one = dict(zip(keys, split.repeats(plan, dataset, keys), strict=True))
    two = dict(zip(mixed, split.repeats(plan, dataset, mixed), strict=True))
    assert one == two


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 2**32), st.integers(0, 9))
def test_batches(groups: int, batch: int, seed: int, epoch: int) -> None:
    """Full batches of distinct groups; as many as there can be; found again by their index."""
    if groups < batch:
        with pytest.raises(DataError, match="fewer rows than one batch"):
            batches(groups, batch, seed=seed, epoch=epoch)
        return
    found = batches(groups, batch, seed=seed, epoch=epoch)
    drawn = [i for one in found for i in one]
    assert len(set(drawn)) == len(drawn) == groups // batch * batch
    assert set(drawn) <= set(range(groups))
    assert {len(one) for one in found} == {batch}
    for i, one in enumerate(found):
        assert batch_at(groups, batch, epoch * len(found) + i, seed=seed) == one


def test_epochs_differ() -> None:
    """Another epoch or seed is another order; the same is the same."""
    one = batches(50, 5, seed=1, epoch=0)
    assert one == batches(50, 5, seed=1, epoch=0)
    assert one != batches(50, 5, seed=1, epoch=1)
    assert one != batches(50, 5, seed=2, epoch=0)


@given(st.integers(1, 100), st.integers(1, 8), st.integers(1, 6))
def test_equal_batches_across_ranks(extra: int, world: int, each: int) -> None:
    """DeepSpeed-Chat's defect 'unequal batches across ranks': every process has the same number of
    batches and of rows in each, together they are the batch, whatever the number of rows.
    """
    batch = world * each
    for one in batches(batch + extra, batch, seed=3, epoch=1):
        shares = [share(one, rank, world) for rank in range(world)]
        assert {len(part) for part in shares} == {each}
        assert sorted(i for part in shares for i in part) == sorted(one)


def test_unequal_shares_are_refused() -> None:
    """A batch that processes cannot share evenly is an error before anything waits."""
    with pytest.raises(DataError, match="evenly"):
        share(list(range(5)), 0, 2)
