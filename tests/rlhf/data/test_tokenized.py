"""Views of a store: groups by entry, repeated entries, nothing held out."""

import numpy as np

from rlhf.data.report import DataReport
from rlhf.data.tokenized import TokenizedSet, TokenStore


def store() -> TokenStore:
    """Two pairs: prompts [1, 2] and [5], answers [3] [4, 4] and [6, 6, 6] [7]."""
    text = b'{"prompt": "p", "answers": ["a", "b"], "record": {}, "where": "f:1"}'
    return TokenStore(
        tokens=np.array([1, 2, 3, 4, 4, 5, 6, 6, 6, 7], np.int32),
        ends=np.array([2, 3, 5, 6, 9, 10]),
        texts=np.frombuffer(text * 2, np.uint8),
        text_ends=np.array([len(text), 2 * len(text)]),
        train=np.array([1, 0, 1]),
        held_out=np.array([], np.int64),
    )


def test_groups() -> None:
    """Padding, masks and lengths by hand."""
    data = TokenizedSet("pairs", DataReport("s", "pairs", ()), store(), store().train, pad=9)
    assert len(data) == 3
    assert data.lengths.tolist() == [4, 4, 4]
    experience = data.experience([1, 2])
    assert experience.tokens.tolist() == [
        [1, 2, 3, 9], [1, 2, 4, 4], [5, 6, 6, 6], [5, 7, 9, 9],
    ]  # fmt: skip
    assert experience.trained.int().tolist() == [
        [0, 0, 1, 0], [0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 0, 0],
    ]  # fmt: skip
    assert experience.attended.sum(1).tolist() == [3, 4, 4, 2]
    assert data.texts(0) == {"prompt": "p", "chosen": "a", "rejected": "b"}
    assert data.prompts([0])[0].tokens == (5,)


def test_empty() -> None:
    """An empty part has no groups and no lengths."""
    data = TokenizedSet("pairs", DataReport("s", "pairs", ()), store(), store().held_out, pad=9)
    assert (len(data), data.lengths.shape, data.prompts([])) == (0, (0,), [])
