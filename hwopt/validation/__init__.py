"""Comparisons with measured data and with other tools."""
