"""Results kept on disk."""

import pytest

from rlhf.kept import code_digest, kept


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("HWOPT_CACHE", str(tmp_path))
    return tmp_path / "profiles"


def test_made_once(cache):
    """By kind and key; another key is another result."""
    made = []

    def make():
        made.append(1)
        return {"value": len(made)}

    assert kept("a", [1, "x"], make) == kept("a", [1, "x"], make) == {"value": 1}
    assert kept("a", [2, "x"], make) == {"value": 2}
    assert kept("b", [1, "x"], make) == {"value": 3}
    assert len(list(cache.glob("*.json"))) == 3


def test_a_damaged_entry_counts_as_absent(cache):
    """It is made and written again."""
    kept("a", 1, lambda: {"value": 1})
    (file,) = cache.glob("*.json")
    file.write_text("{")
    assert kept("a", 1, lambda: {"value": 2}) == {"value": 2}
    assert kept("a", 1, lambda: {"value": 3}) == {"value": 2}


def test_an_unusable_folder_is_no_failure(tmp_path, monkeypatch):
    """A file is where the folder should be."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HWOPT_CACHE", str(tmp_path / "file"))
    assert kept("a", 1, lambda: {"value": 1}) == {"value": 1}


def test_errors_of_the_maker_pass(cache):
    """Nothing is kept of a failure."""

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        kept("a", 1, fail)
    assert not list(cache.glob("*.json"))
    assert len(code_digest()) == 64
