"""Design-space exploration: spaces, objectives, quality, the optimiser, studies."""
