"""Registries: one file adds one entry."""

import pytest

from hwopt.errors import HwoptError, UnknownNameError
from hwopt.registry import Registry


def test_unknown_names_are_explained():
    """The error lists near names."""
    registry: Registry[int] = Registry("operator", "hwopt.ops")
    registry.register("resnet50")(1)
    with pytest.raises(UnknownNameError, match="resnet50"):
        registry["resnet5"]
    assert "resnet50" in registry
    assert "resnet5" not in registry


def test_a_name_is_taken_once():
    """Registering a second entry under one name is refused; the same entry again is not."""
    registry: Registry[str] = Registry("pass", "hwopt.ir")
    registry.register("fuse")("a")
    registry.register("fuse")("a")
    with pytest.raises(HwoptError, match="twice"):
        registry.register("fuse")("b")
    registry.remove("fuse")
    registry.register("fuse")("b")
    assert registry["fuse"] == "b"
