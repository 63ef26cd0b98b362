"""The numpy meaning of gathers and scans, one file per family; `routines.ROUTINES` joins them.

A routine takes the attributes, the arrays read, and shape and element type of each array to be
written; it returns the arrays written, in order. The caller converts their element type.
"""
