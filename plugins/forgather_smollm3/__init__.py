"""The smollm3 definition."""
