"""One operator on one machine: mappings, traffic, steps, the mapper."""
