"""The library of models by name: one file per family, no weights, no network."""
