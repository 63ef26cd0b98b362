"""The operator-graph IR: what is computed."""
