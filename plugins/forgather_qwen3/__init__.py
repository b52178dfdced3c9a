"""The qwen3 definition."""
