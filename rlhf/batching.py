"""Micro-batches of rows of like length, so that little padding is computed."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.experience import Experience


def micro_batches(experience: Experience, micro_groups: int) -> list[list[int]]:
    """Groups in micro-batches of at most `micro_groups`, longest first.

    A group (a chosen and a rejected row) is as long as its longest row and is never split. Groups
    are sorted by length and cut into runs; when they do not divide evenly, the one smaller
    micro-batch goes where it pads least. No partition into micro-batches of these sizes pads less:
    in any of them, the micro-batches from the k-th longest on hold all but s groups (s: those
    before), so the k-th is at least as long as the group at place s of the sorted order, which is
    what it costs here.

    The number of micro-batches depends on the number of groups alone, so it is the same on all
    processes; equal lengths stay in their order, so the answer is always the same. The longest come
    first: what does not fit in memory fails at once.
    """
    if micro_groups < 1:
        raise ValueError("micro_groups must be 1 or more")
    lengths = experience.lengths.reshape(experience.groups, experience.group).amax(1).tolist()
    order = sorted(range(len(lengths)), key=lambda group: (-lengths[group], group))
    whole, rest = divmod(len(order), micro_groups)
    if rest == 0:
        return _runs(order, [micro_groups] * whole)
    place = _best_place([lengths[group] for group in order], micro_groups)
    return _runs(order, [micro_groups] * place + [rest] + [micro_groups] * (whole - place))


def _best_place(lengths: Sequence[int], micro_groups: int) -> int:
    """Before which whole micro-batch the smaller one goes; lengths fall.

    Moving it one place on puts a whole micro-batch at its start and itself `micro_groups` later.
    """
    whole, rest = divmod(len(lengths), micro_groups)
    best = change = place = 0
    for i in range(whole):
        start, after = i * micro_groups, (i + 1) * micro_groups
        change += micro_groups * (lengths[start] - lengths[start + rest])
        change += rest * (lengths[after] - lengths[start])
        if change < best:
            best, place = change, i + 1
    return place


def padded_tokens(lengths: Sequence[int], runs: Sequence[Sequence[int]]) -> int:
    """Columns times groups that micro-batches compute, padding included (one row per group)."""
    return sum(len(run) * max(lengths[group] for group in run) for run in runs)


def _runs(order: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """Neighbours in `order`, so many at a time."""
    runs, start = [], 0
    for size in sizes:
        runs.append(list(order[start : start + size]))
        start += size
    return runs
