"""Lowerings: one file per operator family, from ATen calls to IR operators."""
