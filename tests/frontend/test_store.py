"""Graphs kept on disk: found again, never stale, never trusted when damaged."""

import pytest

import hwopt.frontend.pipeline as pipeline
from hwopt import trace
from hwopt.files import cache_dir
from hwopt.frontend.capture import Request
from hwopt.frontend.store import Store

OPTIONS = {"seq": 8, "overrides": {"width": 32, "heads": 4, "depth": 1, "vocabulary": 60}}


@pytest.fixture(autouse=True)
def private(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("HWOPT_CACHE", str(tmp_path))


def test_second_trace_comes_from_disk(monkeypatch):
    """The same graph, without tracing."""
    first = trace("gpt2", mode="train", **OPTIONS)
    assert len(list((cache_dir() / "traces").iterdir())) == 1
    monkeypatch.setattr(pipeline, "_trace", lambda *_, **__: pytest.fail("traced again"))
    again = trace("gpt2", mode="train", **OPTIONS)
    assert again == first
    assert again.digest == first.digest


def test_every_argument_is_part_of_the_key():
    """Another size, mode, type or model is another entry."""
    base = Request()
    keys = {Store("a", base)._path}
    for change in ({"mode": "train"}, {"batch": 2}, {"seq": 3}, {"dtype": "bfloat16"},
                   {"unsupported": "opaque"}, {"optimizer": "sgd"},
                   {"overrides": (("width", 3),)}):  # fmt: skip
        keys.add(Store("a", Request(**change))._path)
    keys.add(Store("b", base)._path)
    assert len(keys) == 9


def test_damaged_entry_is_traced_again():
    """Half a file, or another one's content, is replaced."""
    first = trace("gpt2", **OPTIONS)
    (entry,) = (cache_dir() / "traces").iterdir()
    entry.write_text(entry.read_text()[:1000])
    assert trace("gpt2", **OPTIONS) == first
    assert len(entry.read_text()) > 1000


def test_no_cache_writes_nothing():
    """`cache=False` leaves the disk alone."""
    trace("gpt2", cache=False, **OPTIONS)
    assert not (cache_dir() / "traces").exists()


def test_unwritable_cache_is_no_error(tmp_path, monkeypatch):
    """A cache folder that is a file."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HWOPT_CACHE", str(tmp_path / "file"))
    assert trace("gpt2", **OPTIONS).ops
