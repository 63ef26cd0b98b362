"""Adapters by name and from other packages."""

import pytest

from rlhf.data.adapters import adapter_source, adapters, find_adapter
from rlhf.errors import DataError


def test_named() -> None:
    """The ones of this package are found by name."""
    assert {"gsm8k", "gsm8k-plain", "gsm8k-preferences", "gsm8k-preferences-plain"} <= set(adapters)


def test_of_another_package() -> None:
    """`package.module:function`, with the text of its file for the cache's key."""
    assert find_adapter("json:loads", "set").__name__ == "loads"
    assert "def loads" in adapter_source(find_adapter("json:loads", "set"))
    assert adapter_source(len) == "'len'"
    assert "def problem" in adapter_source(adapters["gsm8k"])


@pytest.mark.parametrize(
    "name", ["gsm9k", "no_such_module:f", "json:nothing", "json:__name__", ":f"]
)
def test_unknown(name: str) -> None:
    """What is no adapter is named with the set."""
    with pytest.raises(DataError, match="the set"):
        find_adapter(name, "the set")
