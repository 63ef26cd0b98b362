"""Accelerator templates: one file each, knobs to accelerators."""
