"""The causal_lm definition."""
