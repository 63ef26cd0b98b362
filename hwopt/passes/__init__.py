"""Passes: rewrites of programs."""
