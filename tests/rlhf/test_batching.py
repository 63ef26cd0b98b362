"""`rlhf/batching.py`: micro-batches by length."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from rlhf.batching import micro_batches, padded_tokens
from rlhf.experience import Experience, from_lists


def experience(lengths: list[int], group: int = 1) -> Experience:
    """Rows of these lengths."""
    return from_lists([[1] * n for n in lengths], [[True] * n for n in lengths], group=group)


@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=25),
    group=st.sampled_from([1, 2]),
    size=st.integers(1, 8),
)
def test_is_a_partition_that_pads_no_more(
    lengths: list[tuple[int, int]], group: int, size: int
) -> None:
    """Every group once; as many micro-batches as in order; columns computed are never more."""
    rows = [n for pair in lengths for n in pair[:group]]
    made = experience(rows, group)
    runs = micro_batches(made, size)
    in_order = [list(range(made.groups))[i : i + size] for i in range(0, made.groups, size)]
    longest = [max(pair[:group]) for pair in lengths]
    assert sorted(itertools.chain(*runs)) == list(range(made.groups))
    assert len(runs) == len(in_order)
    assert max(map(len, runs)) <= size
    assert padded_tokens(longest, runs) <= padded_tokens(longest, in_order)
    trimmed = [made.select(run).trimmed().tokens.shape for run in runs]
    assert sum(rows * time for rows, time in trimmed) == group * padded_tokens(longest, runs)
    assert runs == micro_batches(made, size)


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), size=st.integers(1, 4))
def test_pads_least_of_all_orders(lengths: list[int], size: int) -> None:
    """Brute force: no order of the groups, with the smaller micro-batch anywhere, pads less."""
    sizes = [min(size, len(lengths) - i) for i in range(0, len(lengths), size)]
    best = min(
        padded_tokens(lengths, cut(order, turned))
        for turned in set(itertools.permutations(sizes))
        for order in itertools.permutations(range(len(lengths)))
    )
    assert padded_tokens(lengths, micro_batches(experience(lengths), size)) == best


def cut(order: tuple[int, ...], sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Neighbours, so many at a time."""
    ends = list(itertools.accumulate(sizes))
    return [order[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def test_longest_first() -> None:
    """What does not fit in memory fails at once."""
    assert micro_batches(experience([3, 9, 1, 7]), 2) == [[1, 3], [0, 2]]
