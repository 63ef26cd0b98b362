"""Rows, their masks, and how rows are taken apart and put together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.experience import Experience, concatenate, from_lists

ROWS = from_lists(
    [[5, 6, 7], [8, 9], [1, 2, 3, 4], [5, 5]],
    [[False, True, True], [False, True], [False, False, True, True], [False, True]],
    pad=5,
    group=2,
)


def test_masks_come_from_lengths_whatever_the_padding() -> None:
    """The padding id also stands in rows; lengths and masks do not care."""
    assert ROWS.tokens.tolist() == [[5, 6, 7, 5], [8, 9, 5, 5], [1, 2, 3, 4], [5, 5, 5, 5]]
    assert ROWS.lengths.tolist() == [3, 2, 4, 2]
    assert ROWS.response_lengths.tolist() == [2, 1, 2, 1]
    assert (ROWS.rows, ROWS.groups) == (4, 2)
    assert not (ROWS.trained & ~ROWS.attended).any()


def test_groups_are_selected_whole_and_in_order() -> None:
    """Every field follows, those of one number per row as well."""
    filled = ROWS.with_(score=torch.arange(4.0), values=torch.arange(16.0).view(4, 4))
    found = filled.select([1, 0, 1])
    assert found.score is not None
    assert found.score.tolist() == [2, 3, 0, 1, 2, 3]
    assert found.tokens[0].tolist() == [1, 2, 3, 4]
    assert found.known("values")[2].tolist() == [0, 1, 2, 3]
    assert found.group == 2
    assert filled.select(torch.tensor([1])).rows == 2


def test_trimming_drops_columns_that_no_row_attends_on_both_sides() -> None:
    """Fields keep their alignment."""
    attended = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]).bool()
    columns = torch.arange(5).expand(2, 5)
    score = torch.tensor([1.0, 2.0])
    rows = Experience(columns, attended, attended, values=columns.float(), score=score)
    found = rows.trimmed()
    assert found.tokens.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert found.known("values").tolist() == [[1, 2, 3], [1, 2, 3]]
    assert found.known("score").equal(score)
    empty = Experience(columns, attended & False, attended & False)
    assert empty.trimmed() is empty


def test_an_unfilled_field_is_named() -> None:
    """It is our bug, not the user's."""
    with pytest.raises(RuntimeError, match="returns"):
        ROWS.known("returns")


def test_concatenation_pads_to_the_longest() -> None:
    """What is added is neither attended nor trained."""
    short = from_lists([[1, 2]], [[False, True]]).with_(score=torch.tensor([7.0]))
    long = from_lists([[3, 4, 5]], [[False, False, True]]).with_(score=torch.tensor([8.0]))
    found = concatenate([short, long])
    assert found.lengths.tolist() == [2, 3]
    assert found.trained.tolist() == [[False, True, False], [False, False, True]]
    assert found.known("score").tolist() == [7, 8]
    assert found.values is None


lists = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=6)


@given(lists, st.integers(0, 9))
def test_rows_survive_being_taken_apart_and_put_together(rows: list[list[int]], pad: int) -> None:
    """Each row alone, trimmed to itself, then all together: the same tokens and masks."""
    trained = [[i > 0 for i in range(len(row))] for row in rows]
    whole = from_lists(rows, trained, pad=pad)
    parts = [whole.select([i]).trimmed() for i in range(whole.groups)]
    assert [part.tokens[0].tolist() for part in parts] == rows
    found = concatenate(parts)
    assert found.attended.equal(whole.attended)
    assert found.trained.equal(whole.trained)
    assert found.tokens[found.attended].equal(whole.tokens[whole.attended])
