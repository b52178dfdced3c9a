"""Compare a model with another implementation that has the same weights."""
