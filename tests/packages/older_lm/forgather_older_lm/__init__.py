"""The older_lm definition."""
