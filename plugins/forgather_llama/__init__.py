"""The llama definition."""
