"""Lowerings: one file per operator family, from ATen calls to IR operators."""

from hwopt.ops.builder import Builder, at
from hwopt.ops.lowering import Call, lower, lowering, lowerings, supported

__all__ = ["Builder", "Call", "at", "lower", "lowering", "lowerings", "supported"]
