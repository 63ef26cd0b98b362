"""Accelerators, clusters, technology: on what it is computed."""
